"""A stack from its first `up` to its `destroy`, on a real cluster."""

import contextlib
import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.stack import any_certificate
from tests.cluster.real_cluster import HOST, ClusterStack, kubectl, site_certificate

pytestmark = pytest.mark.cluster

ARTIFACT = """
import hashlib, os, tempfile
import mlflow

with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "random.bin")
    with open(path, "wb") as file:
        for _ in range(200):
            file.write(os.urandom(2**20))
    mlflow.set_experiment("large")
    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 0.5)
        mlflow.log_artifact(path)
    back = mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/random.bin", dst_path=os.path.join(folder, "back"))
    digests = [hashlib.sha256(open(name, "rb").read()).hexdigest() for name in (path, back)]
    print(digests[0] == digests[1], os.path.getsize(back))
"""


def test_the_first_up_only_creates(site: ClusterStack, certificate: tuple[Path, Path]) -> None:
    counts = site.up()
    assert set(counts) == {"created"}
    assert site.outputs()["url"] == f"https://{HOST}"
    site_certificate(site, certificate)


def test_a_second_preview_changes_nothing(site: ClusterStack) -> None:
    assert site.changes() == {}


def test_a_refresh_finds_what_was_made(site: ClusterStack) -> None:
    assert set(site.refresh()) == {"unchanged"}
    assert site.changes() == {}


def test_every_pod_runs_as_the_level_restricted_wants_it(site: ClusterStack) -> None:
    pods = [
        *site.objects("pod", "mlflow"),
        *site.objects("pod", "haproxy", "app.kubernetes.io/name=kubernetes-ingress"),
    ]
    assert len(pods) >= 3
    for pod in pods:
        statuses = [*pod["status"].get("initContainerStatuses", []), *pod["status"]["containerStatuses"]]
        assert [one["restartCount"] for one in statuses] == [0] * len(statuses), pod["metadata"]["name"]
    (mlflow,) = site.objects("pod", "mlflow")
    (migration,) = [one for one in mlflow["spec"]["initContainers"] if one["name"] == "migration"]
    assert migration["securityContext"]["readOnlyRootFilesystem"]
    refused = site.kubectl(
        "label",
        "--dry-run=server",
        "--overwrite",
        "namespace",
        "mlflow",
        "pod-security.kubernetes.io/enforce=restricted",
    )
    assert "violate" not in refused


def test_the_site_answers_to_its_own_host_over_https_only(site: ClusterStack) -> None:
    health = site.get("/health")
    assert health.status == 200
    assert health.headers["strict-transport-security"] == "max-age=31536000"
    assert "alt-svc" not in health.headers
    stranger = site.get("/api/2.0/mlflow/experiments/search?max_results=1")
    assert stranger.status == 401
    # It is HAProxy's own answer.
    assert stranger.headers["strict-transport-security"] == "max-age=31536000"
    assert site.get("/api/2.0/mlflow/experiments/search?max_results=1", login=site.login()).status == 200
    assert site.get("/health", host="other.cluster.test").status == 404
    redirect = site.get("/health", tls=False)
    assert redirect.status == 302
    assert redirect.headers["location"] == f"https://{HOST}:443/health"


def test_the_secrets_certificate_is_served(site: ClusterStack, certificate: tuple[Path, Path]) -> None:
    trusted = ssl.create_default_context(cafile=str(certificate[0]))
    for attempt in range(12):
        with contextlib.suppress(ssl.SSLError), socket.create_connection((site.address(), 443), timeout=20) as raw:
            trusted.wrap_socket(raw, server_hostname=HOST).close()
            return
        # The controller takes a few seconds to load a new Secret.
        time.sleep(5)
        assert attempt < 11, "HAProxy still serves another certificate than the Secret's"


def test_a_run_with_a_large_artifact_comes_back_unchanged(site: ClusterStack) -> None:
    assert site.client(ARTIFACT) == f"True {200 * 2**20}"


def test_a_stranger_is_refused_before_the_whole_body_came(site: ClusterStack) -> None:
    head = f"POST /api/2.0/mlflow/runs/create HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000000\r\n\r\n"
    with _tls(site) as client:
        # HAProxy answers when its buffer is full, because it waits for a body that it could send a second time.
        client.sendall(head.encode() + b"x" * 70_000)
        assert client.recv(4096).startswith(b"HTTP/1.1 401")


def test_slow_bodies_leave_the_site_to_others(site: ClusterStack) -> None:
    head = f"POST /api/2.0/mlflow/runs/create HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Basic eDp4\r\nContent-Length: 1000000\r\n\r\n"
    with contextlib.ExitStack() as held:
        for _ in range(20):
            held.enter_context(_tls(site)).sendall(head.encode() + b"x" * 20_000)
        time.sleep(2)
        assert [site.get("/health").status for _ in range(10)] == [200] * 10


def test_a_body_that_is_too_large_and_a_path_in_disguise_are_refused(site: ClusterStack) -> None:
    with _tls(site) as client:
        size = 30 * 2**20
        head = f"POST /api/2.0/mlflow/runs/create HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Basic eDp4\r\nContent-Length: {size}\r\n\r\n"
        client.sendall(head.encode() + b"x" * 70_000)
        assert client.recv(4096).startswith(b"HTTP/1.1 413")
    assert site.get("/api/2.0/mlflow%2Dartifacts/artifacts/x", login=("x", "x")).status == 400


def test_haproxy_writes_one_line_for_a_request_without_its_query(site: ClusterStack) -> None:
    site.get("/health?secret=of-a-client", login=("somebody", "a-password"))
    lines = site.kubectl(
        "-n", "haproxy", "logs", "--selector", "app.kubernetes.io/name=kubernetes-ingress", "--tail=200"
    )
    assert "GET mlflow.cluster.test/health" in lines or '"GET /health' in lines
    assert "of-a-client" not in lines
    assert "c29tZWJvZHk6" not in lines


def test_an_ingress_of_another_namespace_takes_no_path_of_the_site(site: ClusterStack) -> None:
    service = {"name": "kubernetes", "port": {"number": 443}}
    thief = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "thief", "namespace": "default"},
        "spec": {
            "ingressClassName": "haproxy",
            "rules": [
                {
                    "host": HOST,
                    "http": {
                        "paths": [{"path": "/health/stolen", "pathType": "Prefix", "backend": {"service": service}}]
                    },
                }
            ],
        },
    }
    before = site.get("/health/stolen").status
    site.kubectl("apply", "-f", "-", given=json.dumps(thief))
    try:
        time.sleep(15)
        assert site.get("/health/stolen").status == before
    finally:
        site.kubectl("-n", "default", "delete", "ingress", "thief")


def test_places_are_limited_in_every_controller(site: ClusterStack) -> None:
    for pod in site.objects("pod", "haproxy", "app.kubernetes.io/name=kubernetes-ingress"):
        configuration = site.kubectl(
            "-n", "haproxy", "exec", pod["metadata"]["name"], "--", "cat", "/etc/haproxy/haproxy.cfg"
        )
        limits = [
            line.split("maxconn ")[1].split()[0]
            for line in configuration.splitlines()
            if "default-server" in line and "maxconn" in line
        ]
        assert len(limits) >= 3
        assert all(int(limit) >= 1 for limit in limits)
        assert "bind quic" not in configuration


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ({"mlflow__auth__defaultPermission": "READ"}, {"updated": 1}),
        ({"mlflow__pool__size": 11}, {"updated": 2}),
        ({"database__rotation": 1}, {"updated": 3, "replaced": 1}),
        ({"ingress__replicas": 1}, {"updated": 2}),
    ],
    ids=["a rule of the login", "the pool", "a rotation", "one controller"],
)
def test_a_setting_changes_what_it_names(
    site: ClusterStack, settings: dict[str, object], changed: dict[str, int]
) -> None:
    counts = site.up(**settings)
    assert {what: number for what, number in counts.items() if what != "unchanged"} == changed
    assert site.changes() == {}
    assert site.get("/api/2.0/mlflow/experiments/search?max_results=1", login=site.login()).status == 200


def test_the_host_moves(site: ClusterStack) -> None:
    counts = site.up(mlflow__host="other.cluster.test")
    assert counts["updated"] >= 1
    assert "replaced" not in counts
    assert site.get("/health", host="other.cluster.test").status == 200
    assert site.get("/health").status == 404
    site.up(mlflow__host=HOST)


def test_another_class_of_load_balancer_replaces_the_controller(site: ClusterStack) -> None:
    # Kubernetes refuses another class for a Service that exists.
    site.set(ingress__loadBalancerClass="cluster.test/balancer")
    assert "ingress-release" in site.changes()["replace"]
    assert site.up()["replaced"] >= 1
    (service,) = [one for one in site.objects("service", "haproxy") if one["spec"]["type"] == "LoadBalancer"]
    assert service["spec"]["loadBalancerClass"] == "cluster.test/balancer"
    assert site.get("/health").status == 200


def test_another_namespace_is_done_as_the_preview_says(site: ClusterStack, certificate: tuple[Path, Path]) -> None:
    site.set(mlflow__namespace="tracking")
    assert {"mlflow-namespace", "mlflow-release"} <= set(site.changes()["replace"])
    assert site.up()["replaced"] >= 2
    assert site.kubectl("get", "namespace", "mlflow", "-o", "name", "--ignore-not-found") == ""
    site_certificate(site, certificate, namespace="tracking")
    assert site.get("/api/2.0/mlflow/experiments/search?max_results=1", login=site.login()).status == 200


def test_destroy_leaves_nothing_but_the_resource_definitions_of_haproxy(site: ClusterStack) -> None:
    assert set(site.destroy()) == {"deleted"}
    left = kubectl(
        site.place.context, "get", "namespaces", "mlflow", "tracking", "haproxy", "-o", "name", "--ignore-not-found"
    ).stdout
    assert left == ""
    kinds = "clusterroles,clusterrolebindings,ingressclasses,persistentvolumes"
    everything = site.kubectl("get", kinds, "-o", "name")
    assert "haproxy" not in everything
    assert "ha-proxy" not in everything
    definitions = site.kubectl("get", "customresourcedefinitions", "-o", "name").split()
    assert definitions
    assert all(name.endswith(("haproxy.org", "haproxy.com")) for name in definitions if "haproxy" in name)


@contextlib.contextmanager
def _tls(site: ClusterStack) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection((site.address(), 443), timeout=30) as raw,
        any_certificate().wrap_socket(raw, server_hostname=HOST) as client,
    ):
        yield client
