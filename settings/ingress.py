"""The section `ingress`."""

import re
from typing import Annotated, Literal

from pydantic import Field

from settings.labels import label_problems
from settings.problem import Problem
from settings.section import Section, yaml_key
from settings.value_types import (
    UUID,
    DnsLabel,
    DnsSubdomain,
    Host,
    Network,
    QualifiedName,
    arn,
    everybody,
    matching,
)

NAMESPACES_OF_KUBERNETES = {"default", "kube-system", "kube-public", "kube-node-lease"}
"""Namespaces that every cluster has."""


class Ingress(Section):
    """The HAProxy ingress controller, its load balancer and TLS."""

    install: bool = True
    """True if the program installs the controller. False uses the controller that serves ``className`` already."""
    class_name: Annotated[
        DnsSubdomain,
        # Kubernetes takes 250 characters for `haproxy.org/ingress-controller/` and the name.
        matching(r".{1,219}", "write a Kubernetes name of at most 219 characters"),
    ] = "haproxy"
    """Ingress class."""
    namespace: DnsLabel = "haproxy"
    """Namespace of the controller."""
    chart_version: Annotated[str, matching(r"[0-9]{1,5}(\.[0-9]{1,5}){2}", "write a chart version such as 1.52.1")] = (
        "1.52.1"
    )
    """Version of haproxytech/kubernetes-ingress."""
    replicas: int = Field(default=2, ge=1, le=20)
    """Number of controller pods."""
    scheme: Literal["internal", "internet-facing"] = "internal"
    """Addresses of the load balancer: private (``internal``) or public. The manual guide's is public."""
    load_balancer_class: QualifiedName | None = Field(default=None, examples=["service.k8s.aws/nlb"])
    """Class of the load balancer. Default on EKS: ``service.k8s.aws/nlb`` (AWS Load Balancer Controller), with EKS Auto Mode
    ``eks.amazonaws.com/nlb``. Another class replaces the load balancer, which gets another address; so write the one in use before you turn
    on Auto Mode for a cluster."""
    allowed_cidrs: list[Network] = Field(default=[], examples=[["203.0.113.0/24"]])
    """Client networks that the load balancer accepts. Default: every network that can reach it."""
    address: Host | None = Field(default=None, examples=["ingress.example.com"])
    """Address of the load balancer of a controller with ``install: false``, for the DNS record."""
    proxy_protocol: bool | None = Field(default=None, examples=[True])
    """True if the load balancer tells HAProxy the addresses of clients, by proxy protocol. Limits for each client need them. Default: true
    with ``service.k8s.aws/nlb``, false with another class."""
    certificate_arn: (
        Annotated[
            str, arn("acm", rf"certificate/{UUID}", "write an ACM certificate's ARN, arn:aws:acm:…:certificate/…")
        ]
        | None
    ) = None
    """ACM certificate. The load balancer terminates TLS with it."""
    tls_secret_name: DnsSubdomain | None = Field(default=None, examples=["mlflow-tls"])
    """Name of a Secret with a certificate, in MLflow's namespace. HAProxy terminates TLS with it; until the Secret exists, HAProxy serves a
    self-signed certificate."""
    cluster_issuer: DnsSubdomain | None = Field(default=None, examples=["letsencrypt"])
    """Name of a ClusterIssuer of cert-manager. HAProxy terminates TLS with the certificate that it issues."""
    plain_http: bool = False
    """True for no TLS at all: passwords and data cross the network unencrypted. For a closed network only."""
    service_monitor: bool = False
    """True for a ServiceMonitor of HAProxy's metrics, which ``monitoring.enabled`` makes too. Needs the Prometheus operator."""
    service_monitor_labels: dict[str, str] = Field(default={}, examples=[{"release": "prometheus"}])
    """Labels of the ServiceMonitor. A Prometheus of kube-prometheus-stack selects the label ``release`` with the name of its own release."""
    namespaces: list[DnsLabel] = Field(default=[], examples=[["notebooks"]])
    """Further namespaces whose Ingresses the controller serves, in addition to MLflow's. Their Ingresses may name any host and path, MLflow's
    too."""

    @property
    def needs_cname(self) -> bool:
        """True if the address is not that of an AWS network load balancer, so that no alias record can point to it."""
        network = r".+\.elb\.[a-z0-9-]+\.amazonaws\.com(\.cn)?"
        return self.address is not None and re.fullmatch(network, self.address) is None

    @property
    def self_signed(self) -> bool:
        """True if HAProxy serves a self-signed certificate, which no client trusts."""
        return self.install and not (
            self.certificate_arn or self.tls_secret_name or self.cluster_issuer or self.plain_http
        )

    def problems(self) -> list[Problem]:
        """Reject two ways of TLS, and settings that would have no effect."""
        ways = {
            "certificateArn": self.certificate_arn,
            "tlsSecretName": self.tls_secret_name,
            "clusterIssuer": self.cluster_issuer,
            "plainHttp": self.plain_http,
        }
        chosen = [name for name, value in ways.items() if value]
        found: list[Problem] = []
        if len(chosen) > 1:
            found.append(Problem("", f"has {' and '.join(f'`{name}`' for name in chosen)}; choose one way of TLS"))
        if everybody(self.allowed_cidrs):
            found.append(Problem("allowedCidrs", "is every address; leave it out"))
        if not self.install:
            in_use = {
                "install",
                "class_name",
                "namespace",
                "address",
                "tls_secret_name",
                "cluster_issuer",
                "plain_http",
            }
            found += [
                Problem(
                    yaml_key(type(self), name),
                    "belongs to a controller that this program installs; drop it or `install: false`",
                    based_on=["install"],
                )
                for name in sorted(self.model_fields_set - in_use)
            ]
        elif self.address:
            found.append(
                Problem(
                    "address",
                    "is for a controller that this program does not install; drop it: the load balancer's address is read",
                    based_on=["install"],
                )
            )
        if self.service_monitor_labels and not self.service_monitor and self.install:
            found.append(
                Problem(
                    "serviceMonitorLabels",
                    "are labels of a ServiceMonitor, and there is none; write serviceMonitor: true, or drop them",
                    based_on=["serviceMonitor", "install"],
                )
            )
        found += label_problems("serviceMonitorLabels", self.service_monitor_labels)
        if self.namespace in NAMESPACES_OF_KUBERNETES and self.install:
            found.append(
                Problem("namespace", f"is {self.namespace}, which is Kubernetes's; write another, for example haproxy")
            )
        return found
