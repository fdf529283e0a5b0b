"""HaproxyIngress: the HAProxy ingress controller and its load balancer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as kubernetes

from .network_rules import ClusterAddresses, dns, namespaces, networks, tcp

CHART_REPOSITORY = "https://haproxytech.github.io/helm-charts"
RELEASE = "ha-proxy-ingress"
ANSWERING = 150
"""Seconds that a controller pod which takes no more connections may go on to answer. Transfers that last longer are cut off."""
FEWEST_DAYS = 21
"""Days before the end of the load balancer's certificate at which there is an alarm. ACM renews its own ones weeks before."""
REQUEST_BUFFER = 65536
"""Bytes of a request that HAProxy holds. With its default, a quarter of that, bodies of `log-batch` are longer than what HAProxy can wait
for and send a second time."""


@dataclass(frozen=True)
class HaproxyIngressArgs:
    """Arguments of `HaproxyIngress`."""

    class_name: str = "haproxy"
    """Ingress class that the controller serves, default ``haproxy``."""
    namespace: str = "haproxy"
    """Namespace of the controller, which the component creates. Default ``haproxy``. Two controllers in a cluster need two namespaces
    and two classes. In another namespace than the default the chart's objects are named after it, because ClusterRoles are among them."""
    chart_version: str = "1.52.1"
    """Version of haproxytech/kubernetes-ingress, default 1.52.1."""
    replicas: int = 2
    """Number of controller pods, default 2."""
    load_balancer_class: str | None = None
    """Class of an AWS load balancer, for example ``service.k8s.aws/nlb``. None: the cluster's default. Another class is another load balancer."""
    scheme: str = "internal"
    """Addresses of the load balancer, with a class only: ``internal`` (default) or ``internet-facing``."""
    allowed_cidrs: Sequence[str] = ()
    """Client networks that the load balancer accepts. Empty (default): every network that can reach it."""
    proxy_protocol_networks: Sequence[str] = ()
    """Networks of the load balancer, which then tells HAProxy each client's address by proxy protocol, version 2. HAProxy refuses other
    connections from these networks. Empty (default): HAProxy takes the load balancer for the client."""
    certificate_arn: str | None = None
    """ACM certificate. The load balancer then terminates TLS, HAProxy sees plain HTTP and must not redirect."""
    alarm_topic_arn: pulumi.Input[str] | None = None
    """SNS topic for the alarm on that certificate. None: no alarm."""
    https_port: int = 443
    """Port of the site for https, to which http is redirected, default 443."""
    service_monitor: bool = False
    """True for a ServiceMonitor of the metrics, default false."""
    service_monitor_labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Labels of the ServiceMonitor, by which a Prometheus selects it. Default: the chart's only."""
    metrics_namespace: str | None = None
    """Namespace of Prometheus, whose pods may read the metrics. None: pods of every namespace."""
    registry: str | None = None
    """Private registry for the image. None: the public one."""
    pull_secret: str | None = None
    """Name of the Secret for that registry, in the namespace."""
    namespaces: Sequence[str] = ("mlflow",)
    """Namespaces whose Ingresses the controller serves, and whose pods it may reach. Default ``mlflow``. Empty: every namespace."""
    cluster: ClusterAddresses | None = None
    """Addresses of the cluster, for the NetworkPolicy. None: the API server may be at any address, port 443 or 6443."""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    """Tags of the alarm."""

    @property
    def fullname(self) -> str:
        """Name of the chart's main objects, and beginning of the others' names, of which Kubernetes takes 63 characters."""
        return f"{RELEASE}-kubernetes-ingress" if self.namespace == "haproxy" else f"{self.namespace[:42]}-haproxy"


class HaproxyIngress(pulumi.ComponentResource):
    """Namespace and release of the controller. Its load balancer publishes ports 80 and 443 and nothing else.

    With an ACM certificate and a topic, a CloudWatch alarm tells when the certificate comes to its end.
    """

    class_name: pulumi.Output[str]
    """Ingress class, once the controller serves it."""
    address: pulumi.Output[str]
    """Host name or IP address of the load balancer; empty while it has none."""

    def __init__(self, name: str, args: HaproxyIngressArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mlflow-eks:index:HaproxyIngress", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        namespace = kubernetes.core.v1.Namespace(
            f"{name}-namespace",
            metadata={"name": args.namespace, "labels": namespace_labels(args)},
            opts=child,
        )
        kubernetes.networking.v1.NetworkPolicy(
            f"{name}-network-policy",
            metadata={"name": RELEASE, "namespace": namespace.metadata["name"]},
            spec=network_policy(args),
            opts=child,
        )
        release = kubernetes.helm.v3.Release(
            f"{name}-release",
            name=RELEASE,
            namespace=namespace.metadata["name"],
            chart="kubernetes-ingress",
            version=args.chart_version,
            repository_opts={"repo": CHART_REPOSITORY},
            values=haproxy_values(args),
            atomic=True,
            cleanup_on_fail=True,
            # Seconds. A network load balancer takes two to four minutes, and then up to three for each pod that is replaced.
            timeout=300 * max(2, args.replicas),
            opts=pulumi.ResourceOptions(
                parent=self,
                # Kubernetes refuses another class for a Service that exists.
                replace_on_changes=["values.controller.service.loadBalancerClass"],
                # In another namespace Helm refuses the IngressClass, which belongs to the old release as long as that exists.
                delete_before_replace=True,
            ),
        )
        if args.certificate_arn is not None and args.alarm_topic_arn is not None:
            aws.cloudwatch.MetricAlarm(
                f"{name}-certificate",
                alarm_description=f"MLflow's certificate: less than {FEWEST_DAYS} days left, and nothing has renewed it",
                namespace="AWS/CertificateManager",
                metric_name="DaysToExpiry",
                dimensions={"CertificateArn": args.certificate_arn},
                statistic="Minimum",
                period=86400,
                evaluation_periods=1,
                comparison_operator="LessThanThreshold",
                threshold=FEWEST_DAYS,
                # ACM reports twice a day, and nothing more after the end.
                treat_missing_data="ignore",
                alarm_actions=[args.alarm_topic_arn],
                ok_actions=[args.alarm_topic_arn],
                tags={**args.tags},
                opts=child,
            )
        service = kubernetes.core.v1.Service.get(
            f"{name}-service",
            # A first preview does not know the status, so it does not look for a Service that does not exist yet.
            release.status.apply(lambda status: f"{status.namespace}/{args.fullname}"),
            opts=child,
        )
        self.class_name = release.status.apply(lambda _: args.class_name)
        self.address = service.status.apply(_address)
        self.register_outputs({"className": self.class_name, "address": self.address})


def namespace_labels(args: HaproxyIngressArgs) -> dict[str, str]:
    """Return the labels of the namespace."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    if args.load_balancer_class == "service.k8s.aws/nlb":
        # A new pod counts as ready only when the load balancer sends connections to it. Else a rollout ends the old pods before.
        labels["elbv2.k8s.aws/pod-readiness-gate-inject"] = "enabled"
    return labels


def _pause(args: HaproxyIngressArgs) -> int:
    """Return the seconds for which new connections come to a pod that ends: until each node has learnt of it, or an AWS load balancer."""
    return 120 if args.load_balancer_class else 10


def _drain(args: HaproxyIngressArgs) -> str:
    """Return the script that a pod runs before it ends.

    After the pause HAProxy takes no more connections, and ends when the last request is answered. The signal is repeated, because HAProxy
    forgets one that comes while it loads another configuration. The image's supervisor starts another at once, which the script does not
    wait for.
    """
    return (
        f"sleep {_pause(args)}; running=$(pidof haproxy); kill -USR1 $running; "
        "for each in $running; do while kill -USR1 $each; do sleep 1; done; done 2>/dev/null"
    )


def _address(status: Any) -> str:
    points = status.load_balancer.ingress if status and status.load_balancer else None
    return (points[0].hostname or points[0].ip) if points else ""


def network_policy(args: HaproxyIngressArgs) -> kubernetes.networking.v1.NetworkPolicySpecArgsDict:
    """Allow clients of the site, and connections to the API server, DNS and the pods behind the Ingresses."""
    # The load balancer's targets are the pods, so clients have addresses of its subnets or their own.
    ingress: list[kubernetes.networking.v1.NetworkPolicyIngressRuleArgsDict] = [{"ports": tcp(8080, 8443)}]
    every_namespace: list[kubernetes.networking.v1.NetworkPolicyPeerArgsDict] = [{"namespace_selector": {}}]
    if args.service_monitor:
        peers = namespaces(args.metrics_namespace) if args.metrics_namespace else every_namespace
        ingress.append({"from_": peers, "ports": tcp(1024)})
    api: kubernetes.networking.v1.NetworkPolicyEgressRuleArgsDict = {"ports": tcp(443, 6443)}
    if args.cluster is not None:
        api = {"to": networks(*args.cluster.api_server), "ports": tcp(443)}
    return {
        # The controller's pods, and that of the job that installs its resource definitions.
        "pod_selector": {"match_labels": {"app.kubernetes.io/instance": RELEASE}},
        "policy_types": ["Ingress", "Egress"],
        "ingress": ingress,
        "egress": [dns(args.cluster), api, {"to": namespaces(*args.namespaces) or every_namespace}],
    }


def haproxy_values(args: HaproxyIngressArgs) -> dict[str, Any]:
    """Return the values of the chart. It has no schema and ignores a misspelt value, so tests compare what it makes of these."""
    tls_at_load_balancer = args.certificate_arn is not None
    service: dict[str, Any] = {
        "type": "LoadBalancer",
        # By default the chart publishes statistics, pprof and QUIC. AWS load balancers take no TCP and UDP on one port.
        # A network load balancer that terminates TLS cannot redirect, so port 80 would serve unencrypted: it is not published then.
        "enablePorts": {"http": not tls_at_load_balancer, "https": True, "quic": False, "stat": False, "admin": False},
    }
    if args.load_balancer_class:
        annotations = {"scheme": args.scheme, "nlb-target-type": "ip"}
        if args.proxy_protocol_networks:
            annotations["proxy-protocol"] = "*"
        if args.certificate_arn is not None:
            annotations |= {
                "ssl-cert": args.certificate_arn,
                "ssl-ports": "https",
                # TLS 1.3, and 1.2 with forward secrecy and authenticated ciphers only, as AWS recommends (ELB.17).
                "ssl-negotiation-policy": "ELBSecurityPolicy-TLS13-1-2-Res-2021-06",
            }
        service["loadBalancerClass"] = args.load_balancer_class
        service["annotations"] = {
            f"service.beta.kubernetes.io/aws-load-balancer-{key}": value for key, value in annotations.items()
        }
    if args.allowed_cidrs:
        service["loadBalancerSourceRanges"] = list(args.allowed_cidrs)
    if tls_at_load_balancer:
        service["targetPorts"] = {"https": "http"}
    controller: dict[str, Any] = {
        "replicaCount": args.replicas,
        "ingressClass": args.class_name,
        "ingressClassResource": {"name": args.class_name, "default": False},
        "pprof": {"enabled": False},
        "PodDisruptionBudget": {"enable": args.replicas > 1, "minAvailable": 1},
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {
                    "matchLabels": {
                        "app.kubernetes.io/name": "kubernetes-ingress",
                        "app.kubernetes.io/instance": RELEASE,
                    }
                },
            }
            for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
        ],
        "resources": {"requests": {"cpu": "250m", "memory": "400Mi"}, "limits": {"memory": "400Mi"}},
        # With the default a quarter of the pods may be missing, and a pod that is told to end drops what it holds.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "lifecycle": {"preStop": {"exec": {"command": ["/bin/sh", "-c", _drain(args)]}}},
        # When the namespace is deleted, Kubernetes looks for the pods again after half of it. By then the pause is over in either case.
        "terminationGracePeriodSeconds": _pause(args) + ANSWERING,
        "service": service,
        # Without the first one every answer invites the client to QUIC, on a UDP port that the load balancer does not have.
        # Without the others an Ingress of any namespace could take a longer path of the site's host.
        "extraArgs": ["--disable-quic", *(f"--namespace-whitelist={namespace}" for namespace in args.namespaces)],
        # The chart writes the values into a ConfigMap, so each is a string.
        "config": {
            "ssl-redirect": "false" if tls_at_load_balancer else "true",
            "ssl-redirect-port": str(args.https_port),
            # Uploads of large artifacts pause for longer than the default of 50 s.
            "timeout-client": "300s",
            "timeout-server": "300s",
            # One line a request in the log of the pod: client, times, status, and the path without its query. By default there is none.
            "syslog-server": "address:stdout, format:raw, facility:daemon",
            "global-config-snippet": f"tune.bufsize {REQUEST_BUFFER}",
            # A pod that ends answers a request on a connection that is kept, and closes it then. By default it closes such a connection at once,
            # at times just when the client sends the next request.
            "frontend-config-snippet": "option idle-close-on-response",
        },
    }
    if args.proxy_protocol_networks:
        controller["config"]["proxy-protocol"] = ",".join(args.proxy_protocol_networks)
    if args.service_monitor:
        controller["serviceMonitor"] = {"enabled": True, "extraLabels": {**args.service_monitor_labels}}
    if args.registry:
        controller["image"] = {"repository": f"{args.registry}/haproxytech/kubernetes-ingress"}
    if args.pull_secret:
        controller["existingImagePullSecret"] = args.pull_secret
    values: dict[str, Any] = {"controller": controller}
    if args.namespace != "haproxy":
        values["fullnameOverride"] = args.fullname
    return values
