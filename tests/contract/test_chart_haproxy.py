"""The local stack's ingress chart renders what Helm renders, and HAProxy accepts its controller's configuration."""

import dataclasses
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from local import tools
from local.charts import ValuesError
from local.charts.haproxy import Ingress, Rendered, check, files, render
from tests.contract.cases import CASES, release
from tests.contract.recordings import recording, without_null

OF_HAPROXY = [case for case in CASES if case.startswith("kubernetes-ingress-")]


@pytest.mark.parametrize("case", OF_HAPROXY)
def test_the_chart_makes_these_objects(case: str) -> None:
    inputs, recorded = release(case), recording(case)
    facts = recorded["facts"]
    ours = render(inputs["version"], inputs["name"], inputs["namespace"], recorded["values"])
    assert set(ours.objects) == facts["objects"].keys()
    assert without_null(ours.services) == facts["services"]
    ingress_class = dict(ours.ingress_class)
    assert {ingress_class.pop("name"): without_null(ingress_class)} == facts["ingressClasses"]
    assert {ours.fullname: ours.config} == facts["configMaps"]
    assert ours.replicas == facts["replicas"]


@pytest.mark.parametrize("case", OF_HAPROXY)
def test_the_controller_serves_the_class_and_has_no_profiler(case: str) -> None:
    inputs, facts = release(case), recording(case)["facts"]
    (container,) = facts["containers"].values()
    assert f"--ingress.class={inputs['values']['controller']['ingressClass']}" in container["args"]
    assert set(inputs["values"]["controller"]["extraArgs"]) <= set(container["args"])
    assert "--pprof" not in container["args"]
    assert container["resources"]["limits"] == {"memory": "400Mi"}


def test_a_prometheus_that_selects_by_a_label_finds_the_metrics() -> None:
    (labels,) = recording("kubernetes-ingress-1.52.1/metrics")["facts"]["serviceMonitors"].values()
    assert labels["release"] == "prometheus"


def test_two_controllers_share_no_object_of_the_whole_cluster() -> None:
    first, second = (
        {item for item in recording(f"kubernetes-ingress-1.52.1/{case}")["facts"]["objects"] if is_cluster_wide(item)}
        for case in ("least", "other-names")
    )
    assert len(first) == len(second) == 5
    assert first & second == set()


def is_cluster_wide(item: str) -> bool:
    return item.split("/", maxsplit=1)[0] in {"ClusterRole", "ClusterRoleBinding", "IngressClass"}


HOST = "mlflow.example.com"
BACKENDS = {("mlflow", "mlflow"): {"mlflow-1": "127.0.0.1:20001", "mlflow-2": "127.0.0.1:20002"}}


def controller(**config: str) -> Rendered:
    return render("1.52.1", "ha-proxy-ingress", "haproxy", {"controller": {"config": config}})


def ingress(
    *, tls: bool = True, service: str = "mlflow", path: str = "/", path_type: str = "Prefix", **annotations: str
) -> Ingress:
    backend = {"service": {"name": service, "port": {"number": 80}}}
    paths = [{"path": path, "pathType": path_type, "backend": backend}]
    spec: dict[str, Any] = {"rules": [{"host": HOST, "http": {"paths": paths}}]}
    if tls:
        spec["tls"] = [{"hosts": [HOST], "secretName": "mlflow-tls"}]
    prefixed = {f"haproxy.org/{key.replace('_', '-')}": value for key, value in annotations.items()}
    return Ingress("mlflow", "mlflow", prefixed, spec)


def certificate() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1)
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return (builder.sign(key, hashes.SHA256()).public_bytes(encoding) + private).decode()


def configuration(rendered: Rendered, *ingresses: Ingress, folder: str = "/ingress") -> dict[str, str]:
    pem = certificate()
    ports = {"http": 8080, "https": 8443, "stat": 1024}
    return files(
        folder,
        rendered,
        ingresses,
        backends=BACKENDS,
        certificates={("mlflow", "mlflow-tls"): pem},
        default_certificate=pem,
        ports=ports,
    )


@pytest.mark.parametrize(
    ("rendered", "ingresses"),
    [
        pytest.param(controller(), [], id="no-ingress"),
        pytest.param(controller(), [ingress()], id="tls"),
        pytest.param(controller(), [ingress(tls=False)], id="plain"),
        pytest.param(
            controller(
                **{"ssl-redirect-port": "443", "timeout-client": "300s", "proxy-protocol": "10.0.0.0/16, 10.1.0.1"}
            ),
            [
                ingress(service="mlflow-files", path="/get-artifact"),
                ingress(
                    ssl_redirect="true",
                    timeout_server="600s",
                    response_set_header='Strict-Transport-Security "max-age=31536000; includeSubDomains"\nX-Part 50%',
                ),
            ],
            id="everything",
        ),
        pytest.param(
            render(
                "1.52.1",
                "ha-proxy-ingress",
                "haproxy",
                {"controller": {"service": {"targetPorts": {"https": "http"}}, "config": {"ssl-redirect": "false"}}},
            ),
            [ingress(tls=False)],
            id="tls-at-the-load-balancer",
        ),
    ],
)
def test_haproxy_accepts_the_configuration(tmp_path: Path, rendered: Rendered, ingresses: list[Ingress]) -> None:
    for path, content in configuration(rendered, *ingresses, folder=str(tmp_path)).items():
        Path(path).write_text(content)
    command = [tools.haproxy_bin(), "-c", "-f", tmp_path / "haproxy.cfg"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "WARNING" not in result.stderr


def lines(rendered: Rendered, *ingresses: Ingress) -> list[str]:
    return [line.strip() for line in configuration(rendered, *ingresses)["/ingress/haproxy.cfg"].splitlines()]


CONTROLLER: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "haproxy_controller.yaml").read_text())
SECTIONS = ("global", "defaults", "frontend http", "frontend https", "backend")
MILLISECONDS = {"s": 1000, "m": 60_000, "h": 3_600_000}
OF_THIS_STACK = (
    "bind ",
    "default_backend ",
    "description ",
    "http-request set-var(txn.backend) ",
    "server ",
    "use_backend ",
)
"""Beginnings of directives with ports, addresses and routes, of which each stack has its own."""


def directives(section: str) -> set[str]:
    """Return the directives of a section of the local configuration, written as in haproxy_controller.yaml."""
    config = {"timeout-client": "300s", "timeout-server": "300s", "ssl-redirect": "true", "ssl-redirect-port": "443"}
    site = ingress(
        pod_maxconn="9",
        timeout_server="300s",
        response_set_header='Strict-Transport-Security "max-age=31536000"',
        backend_config_snippet="option http-server-close",
    )
    text = configuration(controller(**config), site)["/ingress/haproxy.cfg"]
    first = "backend mlflow_svc_mlflow_http" if section == "backend" else section
    (body,) = (part.strip().splitlines()[1:] for part in text.split("\n\n") if part.strip().startswith(f"{first}\n"))
    found: set[str] = set()
    for line in map(str.strip, body):
        if line.startswith("bind ") and " alpn " in line:
            found.add(f"alpn {line.split(' alpn ')[1]}")
        if not line.startswith(OF_THIS_STACK):
            found.add(_as_recorded(line))
    return found


def _as_recorded(line: str) -> str:
    if line.startswith("log-format "):
        return "log-format"
    line = re.sub(r" if \{ var\(txn\.backend\) -m str \S+ \}$", "", line)
    line = line.replace("%[req.hdr(host),host_only]", "<host>").replace("%[pathq]", "<path and query>")
    return re.sub(r"(?<= )(\d+)([smh])\b", lambda found: str(int(found[1]) * MILLISECONDS[found[2]]), line)


@pytest.mark.parametrize("section", SECTIONS)
def test_haproxy_is_configured_as_by_the_real_controller_but_for_what_has_a_reason(section: str) -> None:
    ours, real = directives(section), set(CONTROLLER[section])
    assert real - ours == set(CONTROLLER["only the controller's"].get(section, {}))
    assert ours - real == set(CONTROLLER["only the local stack's"].get(section, {}))


def test_haproxy_has_the_memory_of_all_controller_pods() -> None:
    inputs = release("kubernetes-ingress-1.52.1/least")
    rendered = render(inputs["version"], inputs["name"], inputs["namespace"], inputs["values"])
    # The image starts HAProxy with two thirds of the limit: -m 266 for 400Mi.
    assert (rendered.memory, rendered.replicas) == (266, 2)


def redirects(rendered: Rendered, *ingresses: Ingress) -> list[str]:
    return [line.split()[3] for line in lines(rendered, *ingresses) if line.startswith("http-request redirect")]


def test_an_ingress_with_tls_redirects_unless_the_configuration_says_no() -> None:
    to_8443 = "https://%[req.hdr(host),host_only]:8443%[pathq]"
    assert redirects(controller(), ingress()) == [to_8443]
    assert redirects(controller(), ingress(tls=False)) == []
    assert redirects(controller(**{"ssl-redirect": "false"}), ingress()) == []
    assert redirects(controller(**{"ssl-redirect": "true"}), ingress(tls=False)) == [to_8443]
    assert redirects(controller(**{"ssl-redirect": "false"}), ingress(ssl_redirect="true")) == [to_8443]
    assert redirects(controller(**{"ssl-redirect-port": "443"}), ingress()) == [
        "https://%[req.hdr(host),host_only]:443%[pathq]"
    ]


def test_the_ingress_certificate_is_used_beside_the_default_one() -> None:
    (bind,) = (line for line in lines(controller(), ingress()) if " ssl " in line)
    assert bind.split(" ssl ")[1] == "crt /ingress/default.pem crt /ingress/mlflow.mlflow-tls.pem alpn h2,http/1.1"
    (bind,) = (line for line in lines(controller(), ingress(tls=False)) if " ssl " in line)
    assert bind.split(" ssl ")[1] == "crt /ingress/default.pem alpn h2,http/1.1"


def test_a_setting_of_the_ingress_wins_over_the_controllers() -> None:
    text = lines(controller(**{"timeout-server": "300s"}), ingress(timeout_server="600s"))
    assert "timeout server 300s" in text
    assert text.index("timeout server 600s") > text.index("backend mlflow_svc_mlflow_http")


def test_a_pod_gets_no_more_requests_at_once_than_the_ingress_says() -> None:
    (server,) = (line for line in lines(controller(), ingress(pod_maxconn="14")) if "default-server" in line)
    assert server.endswith(" maxconn 14")
    # The real controller gives each of its pods a whole number, and HAProxy takes 0 for no limit.
    four = dataclasses.replace(controller(), replicas=4)
    (server,) = (line for line in lines(four, ingress(pod_maxconn="14")) if "default-server" in line)
    assert server.endswith(" maxconn 12")
    (server,) = (line for line in lines(four, ingress(pod_maxconn="3")) if "default-server" in line)
    assert server.endswith(" maxconn 0")
    with pytest.raises(ValuesError, match="pod-maxconn is 'many'; write a whole number"):
        configuration(controller(), ingress(pod_maxconn="many"))


def test_the_longest_path_wins() -> None:
    files = ingress(service="mlflow-files", path="/get-artifact")
    chosen = [line for line in lines(controller(), files, ingress()) if "set-var(txn.backend)" in line]
    # The last one that fits, in either frontend.
    assert [line.split("str(")[1].split(")")[0] for line in chosen[: len(chosen) // 2]] == [
        *["mlflow_svc_mlflow_http"] * 2,
        *["mlflow_svc_mlflow-files_http"] * 2,
    ]
    assert chosen[2].endswith("{ path /get-artifact }")
    assert chosen[3].endswith("{ path_beg /get-artifact/ }")


def test_a_whole_path_wins_over_the_beginning_of_all() -> None:
    page = ingress(service="mlflow-page", path_type="Exact")
    chosen = [line for line in lines(controller(), page, ingress()) if "set-var(txn.backend)" in line]
    assert [line.split("str(")[1].split(")")[0] for line in chosen[: len(chosen) // 2]] == [
        *["mlflow_svc_mlflow_http"] * 2,
        "mlflow_svc_mlflow-page_http",
    ]
    assert chosen[2].endswith("{ path / }")
    with pytest.raises(ValuesError, match="only paths of the types Exact and Prefix"):
        configuration(controller(), ingress(path_type="ImplementationSpecific"))


def test_a_snippet_of_the_controller_is_in_the_global_section() -> None:
    text = lines(controller(**{"global-config-snippet": "tune.bufsize 65536"}))
    assert text.index("tune.bufsize 65536") < text.index("defaults")


def test_a_snippet_is_in_the_backend_of_its_ingress() -> None:
    text = "\n".join(lines(controller(), ingress(backend_config_snippet="option http-server-close")))
    assert text.index("option http-server-close") > text.index("backend mlflow_svc_mlflow_http")


def test_what_nobody_knows_is_named() -> None:
    with pytest.raises(ValuesError, match=r"controller\.config: the local stack does not know timeout-servers"):
        check("1.52.1", {"controller": {"config": {"timeout-servers": "1s"}}})
    with pytest.raises(ValuesError, match=r"controller\.extraArgs: the local stack does not know --sync-period=1s"):
        check("1.52.1", {"controller": {"extraArgs": ["--namespace-whitelist=mlflow", "--sync-period=1s"]}})
    with pytest.raises(ValuesError, match=r"controller\.replicas is not a value"):
        check("1.52.1", {"controller": {"replicas": 2}})
    with pytest.raises(ValuesError, match=r"controller\.config: ssl-redirect must be a string"):
        render("1.52.1", "r", "n", {"controller": {"config": {"ssl-redirect": True}}})
    with pytest.raises(ValuesError, match="does not know the annotation timeout-servers"):
        configuration(controller(), ingress(timeout_servers="1s"))


def test_an_annotation_cannot_add_a_directive() -> None:
    text = lines(controller(), ingress(response_set_header='X-A "b" if { always_true }\nX-B c'))
    assert [line for line in text if "set-header X-A" in line] == [
        'http-response set-header X-A "b\\" if { always_true }"'
    ]
