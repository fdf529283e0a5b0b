"""The chart `haproxytech/kubernetes-ingress` (`render`), and its controller's HAProxy configuration (`files`).

Both functions are pure. tests/contract/test_chart_haproxy.py compares `render` with recordings of the real chart.
`files` follows the controller's documentation, for the annotations and configuration keys that this project uses.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from local.charts import Values, ValuesError, with_defaults

VERSIONS = ("1.52.1",)
"""Versions of the chart that `render` knows."""
APP_VERSION = "3.2.12"
"""Version of the controller in that chart."""

_DEFAULTS: Values = {
    "controller": {
        "PodDisruptionBudget": {"enable": False, "minAvailable": 1},
        "config": {},
        "existingImagePullSecret": "",
        "extraArgs": [],
        "image": {"repository": "docker.io/haproxytech/kubernetes-ingress"},
        "ingressClass": "haproxy",
        "ingressClassResource": {"name": "haproxy", "default": False},
        "lifecycle": {},
        "pprof": {"enabled": True},
        "replicaCount": 2,
        "resources": {"requests": {"cpu": "250m", "memory": "400Mi"}},
        "service": {
            "type": "NodePort",
            "annotations": {},
            "enablePorts": {"http": True, "https": True, "quic": True, "stat": True, "admin": True},
            "loadBalancerClass": "",
            "loadBalancerSourceRanges": [],
            "targetPorts": {"http": "http", "https": "https"},
        },
        "serviceMonitor": {"enabled": False, "extraLabels": {}},
        "strategy": {"type": "RollingUpdate"},
        "terminationGracePeriodSeconds": 60,
        "topologySpreadConstraints": [],
    },
    "fullnameOverride": "",
}
_FREE = {
    "controller.config",
    "controller.lifecycle",
    "controller.resources",
    "controller.service.annotations",
    "controller.serviceMonitor.extraLabels",
    "controller.strategy",
}
"""Paths of the maps that take any key."""

_TIMEOUTS = {
    "timeout-http-request": "5s",
    "timeout-connect": "5s",
    "timeout-client": "50s",
    "timeout-queue": "5s",
    "timeout-server": "50s",
    "timeout-tunnel": "1h",
    "timeout-http-keep-alive": "1m",
}
"""Configuration keys for HAProxy's timeouts, with the controller's defaults."""
_ANNOTATIONS = {
    "backend-config-snippet",
    "pod-maxconn",
    "response-set-header",
    "ssl-redirect",
    "ssl-redirect-code",
    "ssl-redirect-port",
    "timeout-server",
}
"""Keys that the controller's configuration and an Ingress may set. The Ingress overrides the configuration."""
_CONFIG = {
    *_ANNOTATIONS,
    *_TIMEOUTS,
    "frontend-config-snippet",
    "global-config-snippet",
    "hard-stop-after",
    "proxy-protocol",
    "syslog-server",
}
"""Keys that the controller's configuration may set."""
_LOG_FORMAT = '%ci:%cp [%tr] %ft %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %tsc %sq/%bq "%HM %[var(txn.base)] %HV"'
"""Client, times, backend and server, status, bytes, the queue, and the request: most of the controller's format."""
_STAT = (
    "frontend stats",
    "  http-request set-log-level silent",
    "  http-request use-service prometheus-exporter if { path /metrics }",
)
"""The controller's frontend at port 1024 without the page of statistics."""
_PREFIX = "haproxy.org/"
"""Prefix of the controller's annotations."""
_NAMESPACE = "--namespace-whitelist="
"""Beginning of the arguments of the controller that name a namespace to serve."""
_NO_QUIC = "--disable-quic"
"""Argument of the controller. The local stack never has QUIC."""
_FOREIGN = ("cert-manager.io/", "pulumi.com/")
"""Prefixes of the annotations that other controllers read."""


@dataclass(frozen=True)
class Rendered:
    """The rendered chart."""

    fullname: str
    """Name of the Deployment and the main Service, and the beginning of the other objects' names."""
    class_name: str
    """Name of the IngressClass."""
    ingress_class: Mapping[str, Any]
    """Name, annotations and spec of the IngressClass."""
    services: Mapping[str, Mapping[str, Any]]
    """Annotations and spec of the Services, by name."""
    config: Mapping[str, str]
    """Configuration of the controller."""
    tls_at_load_balancer: bool
    """True if the load balancer terminates TLS. The controller then gets plain HTTP on both ports."""
    default_certificate: str
    """Name of the Secret with the certificate for hosts that have no other."""
    replicas: int
    """Replicas of the controller."""
    memory: int | None
    """MiB of memory of HAProxy in each replica, from which HAProxy derives the number of its connections. None: as much as there is."""
    namespaces: tuple[str, ...]
    """Namespaces whose Ingresses the controller serves. Empty: every namespace."""
    objects: tuple[str, ...]
    """Kind and name of every object, as `Kind/name`, sorted."""


@dataclass(frozen=True)
class Ingress:
    """The parts of an Ingress object that the controller reads."""

    namespace: str
    name: str
    annotations: Mapping[str, str]
    spec: Mapping[str, Any]


Pods = Mapping[str, str]
"""Name of a pod to its `host:port`."""


def check(version: str, values: Values) -> None:
    """Refuse a chart version or values that `render` does not know. The values can be incomplete.

    Raises:
        ValuesError: the version or a value is unknown, or a value has another type than its default.
    """
    if version not in VERSIONS:
        raise ValuesError(
            f"version {version} of the chart kubernetes-ingress is unknown to the local stack; "
            f"write {' or '.join(VERSIONS)}"
        )
    merged = with_defaults(values, _DEFAULTS, _FREE)
    if unknown := sorted(merged["controller"]["config"].keys() - _CONFIG):
        raise ValuesError(f"controller.config: the local stack does not know {', '.join(unknown)}")
    arguments = merged["controller"]["extraArgs"]
    if unknown := [each for each in arguments if each != _NO_QUIC and not each.startswith(_NAMESPACE)]:
        raise ValuesError(f"controller.extraArgs: the local stack does not know {', '.join(unknown)}")


def render(version: str, release: str, namespace: str, values: Values) -> Rendered:
    """Render a version of the chart.

    Raises:
        ValuesError: the version or a value is unknown, or a value has another type than its default.
    """
    check(version, values)
    merged = with_defaults(values, _DEFAULTS, _FREE)
    controller = merged["controller"]
    if wrong := sorted(key for key, value in controller["config"].items() if not isinstance(value, str)):
        raise ValuesError(f"controller.config: {', '.join(wrong)} must be a string")
    fullname = merged["fullnameOverride"] or (
        release if "kubernetes-ingress" in release else f"{release}-kubernetes-ingress"
    )
    selector = {"app.kubernetes.io/name": "kubernetes-ingress", "app.kubernetes.io/instance": release}
    services = {fullname: _service(controller["service"], selector)}
    if controller["serviceMonitor"]["enabled"]:
        port = {"name": "stat", "port": 1024, "protocol": "TCP", "targetPort": "stat"}
        spec = {"type": "ClusterIP", "ports": [port], "selector": selector}
        services[f"{fullname}-metrics"] = {"annotations": None, "spec": spec}
    class_name = controller["ingressClassResource"]["name"]
    is_default = {"ingressclass.kubernetes.io/is-default-class": "true"}
    return Rendered(
        fullname=fullname,
        class_name=class_name,
        ingress_class={
            "name": class_name,
            "annotations": is_default if controller["ingressClassResource"]["default"] else None,
            "spec": {"controller": f"haproxy.org/ingress-controller/{controller['ingressClass']}"},
        },
        services=services,
        config=controller["config"],
        tls_at_load_balancer=controller["service"]["targetPorts"]["https"] == "http",
        default_certificate=f"{fullname}-default-cert",
        replicas=controller["replicaCount"],
        memory=_memory(controller["resources"].get("limits", {}).get("memory")),
        namespaces=tuple(each.removeprefix(_NAMESPACE) for each in controller["extraArgs"] if each != _NO_QUIC),
        objects=_objects(fullname, class_name, services, controller),
    )


def _memory(limit: str | None) -> int | None:
    # The image starts HAProxy with two thirds of the container's limit.
    return int(limit.removesuffix("Mi")) * 2 // 3 if limit else None


def _service(service: Values, selector: Mapping[str, str]) -> Mapping[str, Any]:
    annotations = {
        key: value if isinstance(value, str) else str(value).lower() for key, value in service["annotations"].items()
    }
    target = service["targetPorts"]
    ports: list[Mapping[str, Any]] = [
        {"name": name, "port": number, "protocol": "TCP", "appProtocol": name, "targetPort": target[name]}
        for name, number in (("http", 80), ("https", 443))
        if service["enablePorts"][name]
    ]
    if service["enablePorts"]["quic"]:
        ports.append({"name": "quic", "port": 443, "protocol": "UDP", "targetPort": "quic"})
    ports += [
        {"name": name, "port": number, "protocol": "TCP", "targetPort": name}
        for name, number in (("stat", 1024), ("admin", 6060))
        if service["enablePorts"][name]
    ]
    spec: dict[str, Any] = {"type": service["type"], "ports": ports, "selector": selector}
    for optional in ("loadBalancerClass", "loadBalancerSourceRanges"):
        if service[optional]:
            spec[optional] = service[optional]
    return {"annotations": annotations or None, "spec": spec}


def _objects(fullname: str, class_name: str, services: Mapping[str, object], controller: Values) -> tuple[str, ...]:
    objects = [f"{kind}/{fullname}" for kind in ("ClusterRole", "ClusterRoleBinding", "ConfigMap", "Deployment")]
    objects += [f"{kind}/{fullname}-crdjob" for kind in ("ClusterRole", "ClusterRoleBinding", "Job", "ServiceAccount")]
    objects += [f"IngressClass/{class_name}", f"Secret/{fullname}-default-cert", f"ServiceAccount/{fullname}"]
    objects += [f"Service/{name}" for name in services]
    if controller["PodDisruptionBudget"]["enable"]:
        objects.append(f"PodDisruptionBudget/{fullname}")
    if controller["serviceMonitor"]["enabled"]:
        objects.append(f"ServiceMonitor/{fullname}")
    return tuple(sorted(objects))


def files(
    folder: str,
    controller: Rendered,
    ingresses: Sequence[Ingress],
    *,
    backends: Mapping[tuple[str, str], Pods],
    certificates: Mapping[tuple[str, str], str],
    default_certificate: str,
    ports: Mapping[str, int],
) -> dict[str, str]:
    """Return HAProxy's files by path: `haproxy.cfg`, and the certificates with their keys in PEM.

    The configuration has a hash of all files as its `description`. HAProxy reports the description, so a caller can see
    which configuration it runs.

    Args:
        folder: folder of the files.
        controller: the rendered chart.
        ingresses: Ingress objects of the controller's class.
        backends: pods by namespace and name of their Service.
        certificates: certificates with keys, in PEM, by namespace and name of their Secret. A host without its Secret
            gets the default certificate.
        default_certificate: certificate with key, in PEM.
        ports: loopback ports for `http`, `https` and `stat`.

    Raises:
        ValuesError: an Ingress has an annotation or a path that the local stack does not know.
    """
    used = {
        (ingress.namespace, tls["secretName"])
        for ingress in ingresses
        for tls in ingress.spec.get("tls", [])
        if "secretName" in tls
    }
    pems = {f"{folder}/default.pem": default_certificate}
    for namespace, name in sorted(used & certificates.keys()):
        pems[f"{folder}/{namespace}.{name}.pem"] = certificates[namespace, name]
    routes = [
        _route(ingress, controller, host, service, paths, backends)
        for ingress in ingresses
        for host, service, paths in _targets(ingress)
    ]
    body = "\n".join(
        [
            *_defaults(controller.config),
            *_frontends(controller, routes, list(pems), ports),
            *_STAT,
            f"  bind 127.0.0.1:{ports['stat']}",
            "",
            "backend not-found",
            "  http-request return status 404 content-type text/plain string 'no Ingress has this host\\n'",
            "",
            *(line for lines in {route.backend: route.backend_lines for route in routes}.values() for line in lines),
        ]
    )
    content = {**pems, f"{folder}/haproxy.cfg": body}
    digest = hashlib.sha256("\0".join(f"{path}\0{text}" for path, text in content.items()).encode()).hexdigest()
    return {**pems, f"{folder}/haproxy.cfg": _global(controller.config, digest) + body}


@dataclass(frozen=True)
class _Route:
    host: str
    paths: Sequence[tuple[bool, str]]
    redirect: str | None
    backend: str
    backend_lines: Sequence[str]


def _targets(ingress: Ingress) -> list[tuple[str, str, list[tuple[bool, str]]]]:
    """Return host, Service and paths of every backend. A path comes with true if it is a whole one, of the type Exact."""
    targets: dict[tuple[str, str], list[tuple[bool, str]]] = {}
    for rule in ingress.spec["rules"]:
        for path in rule["http"]["paths"]:
            if path["pathType"] not in {"Exact", "Prefix"}:
                raise ValuesError(
                    f"Ingress {ingress.namespace}/{ingress.name}: the local stack has only paths of the types Exact and Prefix"
                )
            backend = rule["host"], path["backend"]["service"]["name"]
            targets.setdefault(backend, []).append((path["pathType"] == "Exact", path["path"]))
    return [(host, service, paths) for (host, service), paths in targets.items()]


def _route(
    ingress: Ingress,
    controller: Rendered,
    host: str,
    service: str,
    paths: Sequence[tuple[bool, str]],
    backends: Mapping[tuple[str, str], Pods],
) -> _Route:
    own = _own_settings(ingress.annotations)
    settings = {**controller.config, **own}
    redirect = None
    has_tls = any("secretName" in tls for tls in ingress.spec.get("tls", []))
    if settings.get("ssl-redirect", str(has_tls).lower()) == "true":
        port = settings.get("ssl-redirect-port", "8443")
        # The controller writes the port, also if it is 443.
        redirect = f"location https://%[req.hdr(host),host_only]:{port}%[pathq] code {settings.get('ssl-redirect-code', '302')}"
    name = backend_name(ingress.namespace, service)
    lines = [
        f"backend {name}",
        "  balance roundrobin",
        "  option forwardfor",
        "  no option abortonclose",
        f"  timeout server {settings.get('timeout-server', _TIMEOUTS['timeout-server'])}",
        "  default-server check",
    ]
    if "pod-maxconn" in settings:
        # The controller divides the limit among its pods and drops the rest. Here one process has the places of all of them. As with
        # the controller, 0 is no limit.
        lines[-1] += f" maxconn {int(settings['pod-maxconn']) // controller.replicas * controller.replicas}"
    lines += [f"  {line.strip()}" for line in settings.get("backend-config-snippet", "").splitlines()]
    for header in settings.get("response-set-header", "").splitlines():
        key, _, value = header.strip().partition(" ")
        quoted = value.strip('"').replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
        lines.append(f'  http-response set-header {key} "{quoted}"')
    lines += [f"  server {pod} {address}" for pod, address in backends.get((ingress.namespace, service), {}).items()]
    return _Route(host, paths, redirect, name, [*lines, ""])


def backend_name(namespace: str, service: str) -> str:
    """Return the controller's name of the backend of a Service whose port is called `http`, for every host. Metrics have it as `proxy`."""
    return f"{namespace}_svc_{service}_http"


def check_annotations(annotations: Mapping[str, str]) -> None:
    """Refuse annotations of an Ingress that `files` does not know.

    Raises:
        ValuesError: the controller's annotation is unknown, or `pod-maxconn` is not a number.
    """
    _own_settings(annotations)


def _own_settings(annotations: Mapping[str, str]) -> dict[str, str]:
    own = {key.removeprefix(_PREFIX): value for key, value in annotations.items() if not key.startswith(_FOREIGN)}
    if unknown := sorted(own.keys() - _ANNOTATIONS):
        raise ValuesError(f"Ingress: the local stack does not know the annotation {', '.join(unknown)}")
    if not own.get("pod-maxconn", "1").isdigit():
        raise ValuesError(f"Ingress: pod-maxconn is {own['pod-maxconn']!r}; write a whole number")
    return own


def _global(config: Mapping[str, str], digest: str) -> str:
    lines = [
        "global",
        f"  description {digest}",
        "  log stdout format raw local0",
        "  nbthread 2",
        f"  hard-stop-after {config.get('hard-stop-after', '30m')}",
        "  ssl-default-bind-options ssl-min-ver TLSv1.2",
        *(f"  {line.strip()}" for line in config.get("global-config-snippet", "").splitlines()),
        "",
        "",
    ]
    return "\n".join(lines)


def _defaults(config: Mapping[str, str]) -> list[str]:
    return [
        "defaults",
        "  mode http",
        "  log global",
        # The path without its query, which can hold a token.
        f"  log-format '{_LOG_FORMAT}'",
        "  option dontlognull",
        "  option http-keep-alive",
        # After a reload, an idle connection is closed with its next answer. Closed at once, it could lose a request
        # that the client is about to send.
        "  option idle-close-on-response",
        *(f"  {key.replace('-', ' ', 1)} {config.get(key, default)}" for key, default in _TIMEOUTS.items()),
        "",
    ]


def _frontends(
    controller: Rendered, routes: Sequence[_Route], pems: Sequence[str], ports: Mapping[str, int]
) -> list[str]:
    certificates = " ".join(f"crt {path}" for path in pems)
    plain = f"  bind 127.0.0.1:{ports['http']}"
    encrypted = f"  bind 127.0.0.1:{ports['https']} ssl {certificates} alpn h2,http/1.1"
    # A whole path wins, else the longest beginning, so it comes last.
    by_length = sorted(
        (exact, len(path), path, route.host, route.backend) for route in routes for exact, path in route.paths
    )
    matches = ["  http-request set-var(txn.base) base"]
    matches += [
        f"  http-request set-var(txn.backend) str({backend}) if {{ req.hdr(host),host_only -m str -i {host} }} {condition}"
        for exact, _, path, host, backend in by_length
        for condition in (f"{{ path {path} }}", *([] if exact else [f"{{ path_beg {path.rstrip('/')}/ }}"]))
    ]
    choices = ["  use_backend %[var(txn.backend)] if { var(txn.backend) -m found }", "  default_backend not-found", ""]
    redirects = [
        *matches,
        *(
            f"  http-request redirect {route.redirect} if {{ var(txn.backend) -m str {route.backend} }}"
            for route in routes
            if route.redirect
        ),
    ]
    first = [f"  {line.strip()}" for line in controller.config.get("frontend-config-snippet", "").splitlines()]
    if "proxy-protocol" in controller.config:
        sources = controller.config["proxy-protocol"].replace(",", " ")
        first.append(f"  tcp-request connection expect-proxy layer4 if {{ src {sources} }}")
    if controller.tls_at_load_balancer:
        # The load balancer has the certificate and sends plain HTTP to both ports.
        return ["frontend http", plain, encrypted, *first, *redirects, *choices]
    return [
        *("frontend http", plain, *first, *redirects, *choices),
        *("frontend https", encrypted, *first, *matches, "  http-request set-header X-Forwarded-Proto https", *choices),
    ]
