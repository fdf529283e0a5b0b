"""What `haproxytech/kubernetes-ingress` makes of its values, and what its controller makes of the Ingress objects it serves.

Both are pure. `render` is held against recordings of the real chart by tests/contract/test_chart_haproxy.py; `files` is written
from the controller's documentation, for the annotations and the configuration keys that this project uses.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from local.charts import Values, ValuesError, with_defaults

VERSIONS = ("1.52.1",)
APP_VERSION = "3.2.12"

_DEFAULTS: Values = {
    "controller": {
        "PodDisruptionBudget": {"enable": False, "minAvailable": 1},
        "config": {},
        "existingImagePullSecret": "",
        "image": {"repository": "docker.io/haproxytech/kubernetes-ingress"},
        "ingressClass": "haproxy",
        "ingressClassResource": {"name": "haproxy", "default": False},
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
        "serviceMonitor": {"enabled": False},
        "topologySpreadConstraints": [],
    }
}
_FREE = {"controller.config", "controller.resources", "controller.service.annotations"}

_TIMEOUTS = {
    "timeout-http-request": "5s",
    "timeout-connect": "5s",
    "timeout-client": "50s",
    "timeout-queue": "5s",
    "timeout-server": "50s",
    "timeout-tunnel": "1h",
    "timeout-http-keep-alive": "1m",
}
# What an Ingress may set as well as the controller's configuration.
_ANNOTATIONS = {
    "backend-config-snippet",
    "pod-maxconn",
    "response-set-header",
    "ssl-redirect",
    "ssl-redirect-code",
    "ssl-redirect-port",
    "timeout-server",
}
_CONFIG = {*_ANNOTATIONS, *_TIMEOUTS, "hard-stop-after", "proxy-protocol"}
_PREFIX = "haproxy.org/"
# Read by others than the controller.
_FOREIGN = ("cert-manager.io/",)


@dataclass(frozen=True)
class Rendered:
    """What the chart would make of its values."""

    fullname: str
    class_name: str
    ingress_class: Mapping[str, Any]
    services: Mapping[str, Mapping[str, Any]]
    config: Mapping[str, str]
    tls_outside: bool
    """TLS ends at the load balancer, and the controller gets plain HTTP on both ports."""
    default_certificate: str
    """The Secret with the certificate for hosts that bring none."""
    replicas: int
    objects: tuple[str, ...]


@dataclass(frozen=True)
class Ingress:
    """An Ingress object."""

    namespace: str
    name: str
    annotations: Mapping[str, str]
    spec: Mapping[str, Any]


@dataclass(frozen=True)
class Backend:
    """The pods behind a Service."""

    servers: Mapping[str, str]
    """Pod name to address."""
    readiness_path: str


def check(version: str, values: Values) -> None:
    """Refuse a chart version and values that `render` does not know, before all of the values are known."""
    if version not in VERSIONS:
        raise ValuesError(f"chart kubernetes-ingress {version}: the local stack knows {' and '.join(VERSIONS)}")
    known = with_defaults(values, _DEFAULTS, _FREE)
    if unknown := sorted(known["controller"]["config"].keys() - _CONFIG):
        raise ValuesError(f"controller.config: {', '.join(unknown)} is nothing that the local stack knows")


def render(version: str, release: str, namespace: str, values: Values) -> Rendered:
    """What the chart of that version would make."""
    check(version, values)
    known = with_defaults(values, _DEFAULTS, _FREE)["controller"]
    if wrong := sorted(key for key, value in known["config"].items() if not isinstance(value, str)):
        raise ValuesError(f"controller.config: {', '.join(wrong)} must be a string")
    fullname = release if "kubernetes-ingress" in release else f"{release}-kubernetes-ingress"
    selector = {"app.kubernetes.io/name": "kubernetes-ingress", "app.kubernetes.io/instance": release}
    services = {fullname: _service(known["service"], selector)}
    if known["serviceMonitor"]["enabled"]:
        port = {"name": "stat", "port": 1024, "protocol": "TCP", "targetPort": "stat"}
        spec = {"type": "ClusterIP", "ports": [port], "selector": selector}
        services[f"{fullname}-metrics"] = {"annotations": None, "spec": spec}
    class_name = known["ingressClassResource"]["name"]
    is_default = {"ingressclass.kubernetes.io/is-default-class": "true"}
    return Rendered(
        fullname=fullname,
        class_name=class_name,
        ingress_class={
            "name": class_name,
            "annotations": is_default if known["ingressClassResource"]["default"] else None,
            "spec": {"controller": f"haproxy.org/ingress-controller/{known['ingressClass']}"},
        },
        services=services,
        config=known["config"],
        tls_outside=known["service"]["targetPorts"]["https"] == "http",
        default_certificate=f"{fullname}-default-cert",
        replicas=known["replicaCount"],
        objects=_objects(fullname, class_name, services, known),
    )


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


def _objects(fullname: str, class_name: str, services: Mapping[str, object], known: Values) -> tuple[str, ...]:
    objects = [f"{kind}/{fullname}" for kind in ("ClusterRole", "ClusterRoleBinding", "ConfigMap", "Deployment")]
    objects += [f"{kind}/{fullname}-crdjob" for kind in ("ClusterRole", "ClusterRoleBinding", "Job", "ServiceAccount")]
    objects += [f"IngressClass/{class_name}", f"Secret/{fullname}-default-cert", f"ServiceAccount/{fullname}"]
    objects += [f"Service/{name}" for name in services]
    if known["PodDisruptionBudget"]["enable"]:
        objects.append(f"PodDisruptionBudget/{fullname}")
    if known["serviceMonitor"]["enabled"]:
        objects.append(f"ServiceMonitor/{fullname}")
    return tuple(sorted(objects))


def files(
    folder: str,
    controller: Rendered,
    ingresses: Sequence[Ingress],
    *,
    backends: Mapping[tuple[str, str], Backend],
    certificates: Mapping[tuple[str, str], str],
    default_certificate: str,
    ports: Mapping[str, int],
) -> dict[str, str]:
    """HAProxy's files below `folder`, by path: `haproxy.cfg` and the certificates with their keys, all in PEM.

    `backends` and `certificates` are by namespace and name of the Service and the Secret; a TLS Secret that is not there means the
    default certificate. `ports` are those of this machine for `http` and `https`. The configuration's `description` is a hash of
    all of the files: HAProxy tells it, and so which configuration it runs.
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
    routes = [_route(ingress, controller.config, host, backends) for ingress in ingresses for host in _hosts(ingress)]
    body = "\n".join(
        [
            *_defaults(controller.config),
            *_frontends(controller, routes, list(pems), ports),
            "backend not-found",
            "  http-request return status 404 content-type text/plain string 'no Ingress has this host\\n'",
            "",
            *(line for route in routes for line in route.backend_lines),
        ]
    )
    content = {**pems, f"{folder}/haproxy.cfg": body}
    digest = hashlib.sha256("\0".join(f"{path}\0{text}" for path, text in content.items()).encode()).hexdigest()
    return {**pems, f"{folder}/haproxy.cfg": _global(controller.config, digest) + body}


@dataclass(frozen=True)
class _Route:
    condition: str
    redirect: str | None
    backend: str
    backend_lines: Sequence[str]


def _hosts(ingress: Ingress) -> list[str]:
    for rule in ingress.spec["rules"]:
        paths = [(path["path"], path["pathType"]) for path in rule["http"]["paths"]]
        if paths != [("/", "Prefix")]:
            raise ValuesError(
                f"Ingress {ingress.namespace}/{ingress.name}: the local stack knows only the path / (Prefix)"
            )
    return [rule["host"] for rule in ingress.spec["rules"]]


def _route(
    ingress: Ingress, config: Mapping[str, str], host: str, backends: Mapping[tuple[str, str], Backend]
) -> _Route:
    own = _own_settings(ingress.annotations)
    settings = {**config, **own}
    redirect = None
    has_tls = any("secretName" in tls for tls in ingress.spec.get("tls", []))
    if settings.get("ssl-redirect", str(has_tls).lower()) == "true":
        port = settings.get("ssl-redirect-port", "8443")
        authority = "%[req.hdr(host),host_only]" + ("" if port == "443" else f":{port}")
        redirect = f"location https://{authority}%[pathq] code {settings.get('ssl-redirect-code', '302')}"
    rule = next(rule for rule in ingress.spec["rules"] if rule["host"] == host)
    service = rule["http"]["paths"][0]["backend"]["service"]["name"]
    backend = backends.get((ingress.namespace, service), Backend({}, "/"))
    name = f"{backend_prefix(ingress.namespace, service)}{host}"
    lines = [
        f"backend {name}",
        # The kubelet's readiness probe and the endpoints that follow from it.
        "  option httpchk",
        f"  http-check send meth GET uri {backend.readiness_path} ver HTTP/1.1 hdr Host {host}",
        "  default-server check inter 2s fastinter 500ms fall 2 rise 1",
    ]
    if "pod-maxconn" in settings:
        # Each of the controller's pods would have its share of this; here one process stands for all of them.
        lines[-1] += f" maxconn {settings['pod-maxconn']}"
    lines += [f"  {line.strip()}" for line in settings.get("backend-config-snippet", "").splitlines()]
    if "timeout-server" in own:
        lines.append(f"  timeout server {own['timeout-server']}")
    for header in settings.get("response-set-header", "").splitlines():
        key, _, value = header.strip().partition(" ")
        quoted = value.strip('"').replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
        lines.append(f'  http-response set-header {key} "{quoted}"')
    lines += [f"  server {pod} {address}" for pod, address in backend.servers.items()]
    return _Route(f"{{ req.hdr(host),host_only -m str -i {host} }}", redirect, name, [*lines, ""])


def backend_prefix(namespace: str, service: str) -> str:
    """How the names of the backends of a Service begin."""
    return f"{namespace}.{service}."


def check_annotations(annotations: Mapping[str, str]) -> None:
    """Refuse annotations of an Ingress that `files` does not know."""
    _own_settings(annotations)


def _own_settings(annotations: Mapping[str, str]) -> dict[str, str]:
    own = {key.removeprefix(_PREFIX): value for key, value in annotations.items() if not key.startswith(_FOREIGN)}
    if unknown := sorted(own.keys() - _ANNOTATIONS):
        raise ValuesError(f"Ingress: the local stack does not know the annotation {', '.join(unknown)}")
    if not own.get("pod-maxconn", "1").isdigit():
        raise ValuesError(f"Ingress: pod-maxconn is {own['pod-maxconn']!r} and no number")
    return own


def _global(config: Mapping[str, str], digest: str) -> str:
    lines = [
        "global",
        f"  description {digest}",
        "  log stdout format raw local0",
        "  maxconn 1000",
        "  nbthread 2",
        f"  hard-stop-after {config.get('hard-stop-after', '30m')}",
        "  ssl-default-bind-options ssl-min-ver TLSv1.2",
        "",
        "",
    ]
    return "\n".join(lines)


def _defaults(config: Mapping[str, str]) -> list[str]:
    return [
        "defaults",
        "  mode http",
        "  log global",
        "  option httplog",
        "  option dontlognull",
        "  option forwardfor",
        # A pod that was just killed: the connection fails and the next pod gets the request.
        "  retries 3",
        "  option redispatch 1",
        # At a reload an idle client is told with its next answer, instead of losing a request that it was about to send.
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
    choices = [
        *(f"  use_backend {route.backend} if {route.condition}" for route in routes),
        "  default_backend not-found",
        "",
    ]
    redirects = [f"  http-request redirect {route.redirect} if {route.condition}" for route in routes if route.redirect]
    first: list[str] = []
    if "proxy-protocol" in controller.config:
        sources = controller.config["proxy-protocol"].replace(",", " ")
        first = [f"  tcp-request connection expect-proxy layer4 if {{ src {sources} }}"]
    if controller.tls_outside:
        # The certificate is the load balancer's, and the controller takes what comes from there for plain HTTP.
        return ["frontend http", plain, encrypted, *first, *redirects, *choices]
    return [
        *("frontend http", plain, *first, *redirects, *choices),
        *("frontend https", encrypted, *first, "  http-request set-header X-Forwarded-Proto https", *choices),
    ]
