"""The Ingresses of the site: the chart's for the release, and those of the parts that have places of their own in the pods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pulumi_kubernetes as kubernetes

from .arguments import MlflowReleaseArgs
from .edge_rules import files_rules, page_rules, script_rules, site_rules, stays_with_tls
from .names import RELEASE, TLS_SECRET

FILES = (
    "/api/2.0/mlflow-artifacts",
    "/ajax-api/2.0/mlflow-artifacts",
    "/ajax-api/2.0/mlflow/get-trace-artifact",
    "/ajax-api/3.0/mlflow/get-trace-artifact",
    "/ajax-api/2.0/mlflow/upload-artifact",
    "/get-artifact",
    "/model-versions/get-artifact",
)
"""Beginnings of the paths that transfer files."""
SCRIPT_PLACES = 16
"""Requests for scripts and styles that a pod gets at once. They need no connection to the database, but the largest script, 4 MB, keeps
MLflow 3.15.1 busy for 150 ms."""
PAGE_PLACES = 6
"""Requests for the page itself that a pod gets at once. With this number a pod with the default pool gets 40 requests of all parts, which
is the number of threads of MLflow 3.15.1."""


@dataclass(frozen=True)
class Part:
    """A part of the site with a Service and an Ingress of its own, and so with places of its own in each pod."""

    name: str
    """Name of the part."""
    paths: Sequence[str]
    """Beginnings of its paths."""
    annotations: Mapping[str, str]
    """Annotations of the Ingress."""
    path_type: str = "Prefix"
    """Kubernetes' type of the paths. `Exact`: they are whole paths."""

    @property
    def service(self) -> str:
        """Name of the Service and the Ingress. HAProxy's controller makes a backend for each Service."""
        return f"{RELEASE}-{self.name}"


def parts(args: MlflowReleaseArgs) -> tuple[Part, ...]:
    """Return the parts of the site that calls of the API must not keep waiting, or that must not keep calls of the API waiting."""
    return (
        Part("files", FILES, _annotations(args, _places(args), files_rules(args))),
        Part("page", ("/",), _annotations(args, _at_least_one_each(args, PAGE_PLACES), page_rules(args)), "Exact"),
        Part(
            "static",
            ("/static-files",),
            _annotations(args, _at_least_one_each(args, SCRIPT_PLACES), script_rules(args)),
        ),
    )


def part_spec(args: MlflowReleaseArgs, part: Part) -> kubernetes.networking.v1.IngressSpecArgsDict:
    """Return the spec of a part's Ingress. It needs no certificate, because the host's other Ingress has it."""
    backend: kubernetes.networking.v1.IngressBackendArgsDict = {
        "service": {"name": part.service, "port": {"name": "http"}}
    }
    paths: list[kubernetes.networking.v1.HTTPIngressPathArgsDict] = [
        {"path": path, "path_type": part.path_type, "backend": backend} for path in part.paths
    ]
    return {
        "ingress_class_name": args.site.ingress_class,
        "rules": [{"host": args.site.host, "http": {"paths": paths}}],
    }


def ingress_values(args: MlflowReleaseArgs) -> dict[str, Any]:
    """Return the chart's values for the Ingress of everything else."""
    site = args.site
    ingress: dict[str, Any] = {
        "enabled": True,
        "className": site.ingress_class,
        "annotations": _annotations(args, _places(args), site_rules(args, FILES, _places(args))),
        "hosts": [{"host": site.host, "paths": [{"path": "/", "pathType": "Prefix"}]}],
    }
    if site.cluster_issuer:
        ingress["annotations"]["cert-manager.io/cluster-issuer"] = site.cluster_issuer
    secret = site.tls_secret_name or (TLS_SECRET if site.cluster_issuer else None)
    if secret:
        ingress["tls"] = [{"secretName": secret, "hosts": [site.host]}]
    return ingress


def threads(args: MlflowReleaseArgs) -> int:
    """Return the number of requests that a pod gets at once, of all parts of the site."""
    return 2 * _places(args) + PAGE_PLACES + SCRIPT_PLACES


def _places(args: MlflowReleaseArgs) -> int:
    # A request can hold one database connection while it waits for a second one. If there are as many requests as connections, all of
    # them can wait for each other for ever. With one request fewer, one of them always gets its second connection. A transfer of a file
    # never waits for a second connection, so transfers do not count.
    return args.database.pool_size + args.database.pool_overflow - 1


def _at_least_one_each(args: MlflowReleaseArgs, places: int) -> int:
    # HAProxy takes a pod of the controller's share of 0 places for no limit.
    return max(places, args.site.controllers)


def _annotations(args: MlflowReleaseArgs, places: int, rules: Sequence[str]) -> dict[str, str]:
    """Return annotations for HAProxy's controller."""
    site = args.site
    return {
        "haproxy.org/ssl-redirect": "true" if site.redirect_to_https else "false",
        # The default is the controller's own port, 8443, and a controller that exists may have no other.
        "haproxy.org/ssl-redirect-port": str(urlsplit(site.url).port or 443),
        # Without a byte in either direction. Large artifacts take longer than the default of 50 s.
        "haproxy.org/timeout-server": "300s",
        # The controller divides the number among its own pods.
        "haproxy.org/pod-maxconn": str(places),
        "haproxy.org/backend-config-snippet": "\n".join([*rules, *stays_with_tls(args)]),
    }
