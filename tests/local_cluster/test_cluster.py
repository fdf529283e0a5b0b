"""Helm releases on the stand-in cluster, with the real supervisor and HAProxy, and a web server instead of MLflow."""

import dataclasses
import http.client
import json
import multiprocessing
import os
import re
import signal
import socket
import ssl
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from local import tools
from local.cluster import ClusterError
from local.cluster.objects import Object, Objects, make, make_secret
from local.cluster.releases import Cluster, Release
from local.stack import free_ports
from local.supervisor.client import Supervisor
from local.supervisor.spec import SupervisorError

HOST = "mlflow.test"
SNIPPET = "haproxy.org/backend-config-snippet"

SERVER = """\
import http.server, json, os, signal, sys, threading, time

arguments = dict(word[2:].partition("=")[::2] for word in sys.argv[2:])
if "broken" in arguments:
    sys.exit("Error: No such option '--broken'.")
busy = set()
dropped = set()

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/dropped-once" and not dropped:
            dropped.add(self)
            self.close_connection = True
            return
        busy.add(self)
        try:
            if self.path == "/slow":
                time.sleep(1.5)
            body = json.dumps({"argv": sys.argv[1:], "env": dict(os.environ), "pid": os.getpid()}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        finally:
            busy.discard(self)

    do_POST = do_GET

    def log_message(self, *arguments):
        pass

class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

server = Server((arguments["host"], int(arguments["port"])), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
server.server_close()
while busy:
    time.sleep(0.05)
"""
MIGRATION = """\
import os, pathlib

with pathlib.Path(r"{log}").open("a") as log:
    log.write(f"as {os.environ['PGUSER']} at {os.environ['PGHOST']}\\n")
"""


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The programs on a pod's PATH: `mlflow`, a web server, and `python` with an mlflow that logs its migrations."""
    folder = tmp_path / "image"
    migration = folder / "lib" / "mlflow" / "migration.py"
    migration.parent.mkdir(parents=True)
    migration.write_text(MIGRATION.replace("{log}", str(folder / "migrations.log")))
    programs = {
        "python": f'#!/bin/sh\nPYTHONPATH={folder}/lib exec {sys.executable} "$@"\n',
        "mlflow": f"#!{sys.executable}\n{SERVER}",
    }
    for name, text in programs.items():
        program = folder / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    monkeypatch.setattr(tools, "mlflow_python", lambda version: folder / "bin" / "python")
    return folder


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    plain, encrypted = free_ports()
    monkeypatch.setenv("MLFLOW_EKS_HTTP_PORT", str(plain))
    monkeypatch.setenv("MLFLOW_EKS_HTTPS_PORT", str(encrypted))
    return plain, encrypted


@pytest.fixture
def cluster(tmp_path: Path, image: Path, ports: tuple[int, int]) -> Iterator[Cluster]:
    supervisor = Supervisor(tmp_path / "stack")
    supervisor.start()
    try:
        new = Cluster(tmp_path / "stack")
        for namespace in ("mlflow", "haproxy"):
            new.objects.create(make("v1", "Namespace", "", namespace))
        new.objects.create(make_secret("mlflow", "database", {"username": "app", "password": "s3cret"}))
        new.objects.create(make_secret("mlflow", "admin", {"username": "root", "password": "another-s3cret"}))
        new.install(controller())
        yield new
    finally:
        supervisor.stop()


def controller(**config: str) -> Release:
    # Most tests use plain HTTP, so there is no redirect.
    values = {"controller": {"service": {"type": "LoadBalancer"}, "config": {"ssl-redirect": "false", **config}}}
    return Release("ha-proxy-ingress", "haproxy", "kubernetes-ingress", "1.52.1", values, timeout=20)


def mlflow(*, name: str = "mlflow", timeout: float = 60, **changes: Any) -> Release:
    database = {"enabled": True, "host": "db.test", "database": "mlflow", "driver": "psycopg2"}
    values = {
        "backendStore": {"postgres": database, "existingDatabaseSecret": {"name": "database"}},
        "initContainers": [
            {
                "name": "migration",
                "image": "burakince/mlflow:3.15.1",
                "command": ["python"],
                "args": ["-c", "import mlflow.migration"],
                "env": [
                    {"name": variable, "valueFrom": {"secretKeyRef": {"name": "database", "key": key}}}
                    for variable, key in (("PGUSER", "username"), ("PGPASSWORD", "password"))
                ],
                "envFrom": [{"configMapRef": {"name": f"{name}-env-configmap"}}],
                "volumeMounts": [],
            }
        ],
        "auth": {
            "enabled": True,
            "existingAdminSecret": {"name": "admin"},
            "postgres": {**database, "existingSecret": {"name": "database"}},
        },
        "ingress": {
            "enabled": True,
            "className": "haproxy",
            "hosts": [{"host": HOST, "paths": [{"path": "/", "pathType": "Prefix"}]}],
        },
        "replicaCount": 2,
        "log": {"enabled": False},
    }
    return Release(name, "mlflow", "mlflow", "1.11.5", {**values, **changes}, timeout)


def get(port: int, path: str = "/", host: str = HOST, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, headers={"Host": host})
    answer = connection.getresponse()
    return answer.status, answer.read()


def pods(cluster: Cluster) -> list[str]:
    return [
        name for name in (status.name for status in cluster.ingress.supervisor.list()) if name.startswith("mlflow.")
    ]


def eventually(condition: Callable[[], object], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


class Clients:
    """Clients that send requests: three all the time, and one on a connection that is idle for 4 seconds at a time."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.failures: list[str] = []
        self.answers = 0
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(pause,)) for pause in (0.01, 0.01, 0.2, 4.0)]

    def __enter__(self) -> "Clients":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()

    def work(self, pause: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        while not self.stopping.wait(pause):
            try:
                connection.request("GET", "/", headers={"Host": HOST})
                answer = connection.getresponse()
                answer.read()
                self.answers += 1
                if answer.status != 200:
                    self.failures.append(f"{answer.status} after {pause} s")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"{error!r} after {pause} s")
                connection.close()


def test_a_release_runs_what_the_chart_would(cluster: Cluster, image: Path, ports: tuple[int, int]) -> None:
    record = cluster.install(mlflow(extraEnvVars={"PGSSLMODE": "require"}, podAnnotations={"a": "b"}))
    assert record["status"]["status"] == "deployed"
    assert record["status"]["appVersion"] == "3.15.1"
    # Each of the two pods runs the migration.
    assert (image / "migrations.log").read_text() == "as app at db.test\n" * 2
    status, body = get(ports[0])
    served = json.loads(body)
    assert status == 200
    assert served["argv"][0] == "server"
    assert "--host=127.0.0.1" in served["argv"]
    environment = served["env"]
    assert environment["PGPASSWORD"] == "s3cret"
    assert environment["PGSSLMODE"] == "require"
    assert len(environment["MLFLOW_FLASK_SERVER_SECRET_KEY"]) == 64
    ini = Path(environment["MLFLOW_AUTH_CONFIG_PATH"])
    assert "postgresql+psycopg2://app:s3cret@db.test:5432/mlflow" in ini.read_text()
    assert ini.stat().st_mode & 0o077 == 0
    assert len(pods(cluster)) == 2


def test_nothing_of_the_users_environment_reaches_a_pod(
    cluster: Cluster, ports: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c search_path=elsewhere")
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    cluster.install(mlflow(replicaCount=1))
    environment = json.loads(get(ports[0])[1])["env"]
    assert environment["AWS_ENDPOINT_URL"] == "http://127.0.0.1:1"
    assert not environment.keys() & {"PGOPTIONS", "AWS_PROFILE"}


def test_another_host_gets_404_and_a_service_without_pods_503(cluster: Cluster, ports: tuple[int, int]) -> None:
    cluster.install(mlflow(replicaCount=1))
    assert get(ports[0], host="elsewhere.test")[0] == 404
    assert get(ports[0], host=f"{HOST}:{ports[0]}")[0] == 200
    cluster.uninstall("mlflow", "mlflow")
    assert get(ports[0])[0] == 404
    assert pods(cluster) == []
    assert list(cluster.pods.folder.iterdir()) == []


def test_an_upgrade_loses_no_request(cluster: Cluster, ports: tuple[int, int]) -> None:
    cluster.install(mlflow())
    before = pods(cluster)
    slow: list[int] = []
    with Clients(ports[0]) as clients:
        in_flight = threading.Thread(target=lambda: slow.append(get(ports[0], "/slow")[0]))
        in_flight.start()
        for number in range(2):
            cluster.upgrade(mlflow(podAnnotations={"checksum/secrets": str(number)}))
        # Wait until the client with the idle connection has used it again.
        time.sleep(5)
        in_flight.join()
    assert clients.failures == []
    assert clients.answers > 100
    assert slow == [200]
    assert len(pods(cluster)) == 2
    assert not set(pods(cluster)) & set(before)


def test_the_same_release_again_changes_nothing(cluster: Cluster, ports: tuple[int, int]) -> None:
    cluster.install(mlflow())
    before = {status.name: status.pid for status in cluster.ingress.supervisor.list()}
    assert cluster.upgrade(mlflow())["status"]["revision"] == 2
    assert {status.name: status.pid for status in cluster.ingress.supervisor.list()} == before


def test_an_operation_says_which_container_it_waits_for(cluster: Cluster) -> None:
    said: list[str] = []
    cluster.install(dataclasses.replace(mlflow(replicaCount=1), say=said.append))
    pod = pods(cluster)[0].removeprefix("mlflow.")
    assert said == [f"{name} in pod {pod}" for name in ("ini-file-initializer", "migration", "mlflow")]


def test_more_and_fewer_replicas_keep_the_pods_there_are(cluster: Cluster) -> None:
    cluster.install(mlflow(replicaCount=1))
    (first,) = pods(cluster)
    cluster.upgrade(mlflow(replicaCount=3))
    assert len(pods(cluster)) == 3
    assert first in pods(cluster)
    cluster.upgrade(mlflow(replicaCount=1))
    assert pods(cluster) == [first]


def test_a_release_keeps_to_its_own_pods(cluster: Cluster) -> None:
    cluster.install(mlflow(replicaCount=1))
    cluster.install(mlflow(name="mlflow-other", replicaCount=1))
    cluster.upgrade(mlflow(replicaCount=2))
    assert len(pods(cluster)) == 3
    cluster.uninstall("mlflow", "mlflow")
    assert [pod.rpartition("-")[0].rpartition("-")[0] for pod in pods(cluster)] == ["mlflow.mlflow-other"]


def test_an_object_that_goes_while_all_are_read_is_left_out(tmp_path: Path) -> None:
    objects = Objects(tmp_path / "objects")
    objects.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "blue"}})
    objects.put(make("networking.k8s.io/v1", "Ingress", "blue", "stays"))
    # A link to nothing is listed and cannot be read, as a file that is deleted in between.
    (tmp_path / "objects" / "Ingress" / "blue" / "goes.json").symlink_to("nothing")
    assert [item["metadata"]["name"] for item in objects.all("Ingress")] == ["stays"]


def test_a_failed_upgrade_leaves_what_ran(cluster: Cluster, ports: tuple[int, int]) -> None:
    cluster.install(mlflow())
    before, objects = pods(cluster), snapshot(cluster)
    with Clients(ports[0]) as clients, pytest.raises(SupervisorError, match="No such option '--broken'"):
        cluster.upgrade(mlflow(extraArgs={"broken": "1"}))
    assert clients.failures == []
    assert pods(cluster) == before
    assert snapshot(cluster) == objects
    assert remembered(cluster) == [("1", "superseded"), ("2", "failed"), ("3", "deployed")]


def test_a_failed_installation_leaves_nothing(cluster: Cluster, ports: tuple[int, int]) -> None:
    objects = snapshot(cluster)
    with pytest.raises(SupervisorError, match="No such option '--broken'"):
        cluster.install(mlflow(extraArgs={"broken": "1"}))
    assert pods(cluster) == []
    assert snapshot(cluster) == objects
    assert get(ports[0])[0] == 404


def snapshot(cluster: Cluster) -> dict[str, str]:
    """Return all objects except Helm's memory."""
    files = [file for file in cluster.objects.folder.rglob("*.json") if "sh.helm.release" not in file.name]
    return {str(file): file.read_text() for file in files}


def test_a_missing_secret_is_named(cluster: Cluster) -> None:
    cluster.objects.remove("Secret", "mlflow", "admin")
    with pytest.raises(ClusterError, match='secret "admin" not found in namespace mlflow'):
        cluster.install(mlflow())
    cluster.objects.create(make_secret("mlflow", "admin", {"user": "root"}))
    with pytest.raises(ClusterError, match="couldn't find key username in Secret mlflow/admin"):
        cluster.install(mlflow())


def test_helm_refuses_what_helm_would(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match=r'namespaces "nowhere" not found'):
        cluster.install(Release("mlflow", "nowhere", "mlflow", "1.11.5", {}, 10))
    with pytest.raises(ClusterError, match="cannot re-use a name that is still in use"):
        cluster.install(controller())
    with pytest.raises(ClusterError, match='"mlflow" has no deployed releases'):
        cluster.upgrade(mlflow())


def has_ended(pid: int) -> bool:
    """Return True if all threads of a process have ended. Until then, the others can hold its sockets open."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return len(threads) == 1 and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_killed_pod_is_avoided_and_comes_back(cluster: Cluster, ports: tuple[int, int]) -> None:
    cluster.install(mlflow())
    pid = json.loads(get(ports[0])[1])["pid"]
    os.kill(pid, signal.SIGKILL)
    # A request on a connection that is being closed is lost with the pod. Later requests must not be lost.
    eventually(lambda: has_ended(pid))
    assert {get(ports[0])[0] for _ in range(20)} == {200}
    eventually(lambda: all(status.ready for status in cluster.ingress.supervisor.list()))


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_that_pods_leave_unanswered_is_tried_again_where_the_ingress_says_so(
    cluster: Cluster, ports: tuple[int, int], method: str
) -> None:
    release = mlflow()
    ingress = {**release.values["ingress"], "annotations": {SNIPPET: "retry-on conn-failure empty-response"}}
    cluster.install(mlflow(ingress=ingress))
    assert get(ports[0], "/dropped-once", method=method)[0] == 200
    cluster.uninstall("mlflow", "mlflow")
    cluster.install(release)
    assert get(ports[0], "/dropped-once", method=method)[0] == 502


@pytest.mark.parametrize(("buffered", "status"), [("option http-buffer-request\n", 200), ("", 502)])
def test_a_request_whose_body_comes_late_is_tried_again_only_where_haproxy_waits_for_it(
    cluster: Cluster, ports: tuple[int, int], buffered: str, status: int
) -> None:
    snippet = f"{buffered}retry-on conn-failure empty-response"
    cluster.install(mlflow(ingress={**mlflow().values["ingress"], "annotations": {SNIPPET: snippet}}))

    def late() -> Iterator[bytes]:
        time.sleep(0.3)
        yield b"{}"

    connection = http.client.HTTPConnection("127.0.0.1", ports[0], timeout=20)
    connection.request("POST", "/dropped-once", late(), {"Host": HOST, "Content-Length": "2"})
    assert connection.getresponse().status == status


def test_scaling_down_waits_for_the_pod_that_stays(cluster: Cluster, ports: tuple[int, int]) -> None:
    cluster.install(mlflow())
    first = cluster.ingress.supervisor.get(pods(cluster)[0])
    assert first is not None
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    cluster.upgrade(mlflow(replicaCount=1))
    eventually(lambda: get(ports[0])[0] == 200, seconds=3)


def test_tls_comes_from_the_secret_or_cert_manager(cluster: Cluster, ports: tuple[int, int]) -> None:
    ingress = dict(mlflow().values["ingress"])
    ingress["tls"] = [{"secretName": "site", "hosts": [HOST]}]
    ingress["annotations"] = {
        "cert-manager.io/cluster-issuer": "selfsigned",
        "haproxy.org/ssl-redirect": "true",
        "haproxy.org/ssl-redirect-port": str(ports[1]),
        "haproxy.org/response-set-header": 'Strict-Transport-Security "max-age=31536000"',
    }
    cluster.install(mlflow(replicaCount=1, ingress=ingress))
    (connection, certificate) = tls(ports[1], cluster.objects.secret_data("mlflow", "site")["tls.crt"])
    assert ("DNS", HOST) in certificate["subjectAltName"]
    connection.request("GET", "/", headers={"Host": HOST})
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
    plain = http.client.HTTPConnection("127.0.0.1", ports[0], timeout=20)
    plain.request("GET", "/a?b=c", headers={"Host": f"{HOST}:{ports[0]}"})
    redirect = plain.getresponse()
    assert redirect.status == 302
    assert redirect.headers["Location"] == f"https://{HOST}:{ports[1]}/a?b=c"


def tls(port: int, authority: str) -> tuple[http.client.HTTPConnection, dict[str, Any]]:
    context = ssl.create_default_context(cadata=authority)
    raw = socket.create_connection(("127.0.0.1", port), timeout=20)
    encrypted = context.wrap_socket(raw, server_hostname=HOST)
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.sock = encrypted
    return connection, dict(encrypted.getpeercert() or {})


def test_an_issuer_that_is_not_there_is_named(cluster: Cluster) -> None:
    ingress = {**mlflow().values["ingress"], "annotations": {"cert-manager.io/cluster-issuer": "letsencrypt"}}
    with pytest.raises(ClusterError, match='clusterissuers "letsencrypt" not found'):
        cluster.install(mlflow(ingress=ingress))


def test_haproxy_says_what_it_refuses_and_goes_on(cluster: Cluster, ports: tuple[int, int]) -> None:
    cluster.install(mlflow(replicaCount=1))
    ingress = {**mlflow().values["ingress"], "annotations": {"haproxy.org/timeout-server": "5 minutes"}}
    with pytest.raises(ClusterError, match=r"(?s)HAProxy refuses.*5 minutes|HAProxy refuses.*timeout"):
        cluster.upgrade(mlflow(replicaCount=1, ingress=ingress))
    assert get(ports[0])[0] == 200
    with pytest.raises(ClusterError, match="HAProxy refuses"):
        cluster.upgrade(controller(**{"timeout-client": "long"}))
    assert get(ports[0])[0] == 200


def test_the_controller_can_be_upgraded_and_removed(cluster: Cluster, ports: tuple[int, int]) -> None:
    cluster.install(mlflow(replicaCount=1))
    cluster.upgrade(controller(**{"timeout-client": "300s"}))
    (configuration,) = cluster.ingress.folder.glob("*/haproxy.cfg")
    assert re.search(r"timeout client 300s", configuration.read_text())
    assert get(ports[0])[0] == 200
    cluster.uninstall("haproxy", "ha-proxy-ingress")
    with pytest.raises(ConnectionRefusedError):
        get(ports[0])


def test_the_controller_serves_the_ingresses_of_its_namespaces_only(cluster: Cluster, ports: tuple[int, int]) -> None:
    def serving(namespace: str) -> Release:
        values = {
            "controller": {**controller().values["controller"], "extraArgs": [f"--namespace-whitelist={namespace}"]}
        }
        return dataclasses.replace(controller(), values=values)

    cluster.install(mlflow(replicaCount=1))
    cluster.upgrade(serving("elsewhere"))
    assert get(ports[0])[0] == 404
    cluster.upgrade(serving("mlflow"))
    assert get(ports[0])[0] == 200


def interrupt_uninstall(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, namespace: str, name: str) -> None:
    def interrupted(process: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cluster.ingress.supervisor, "delete", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cluster.uninstall(namespace, name)


SLOW: dict[str, Any] = {
    "initContainers": [
        {**mlflow().values["initContainers"][0], "args": ["-c", "import time; time.sleep(60)"]},
    ]
}
"""Values of a release whose migration takes a minute."""


def kill_during(cluster: Cluster, operation: Callable[[], object], status: str, name: str = "mlflow") -> None:
    """Run an operation in a process of its own, and kill the process when Helm's memory of the release has that status."""

    def has_status() -> bool:
        return any(
            (each["status"]["name"], each["status"]["status"]) == (name, status) for each in cluster.revisions.newest()
        )

    process = multiprocessing.get_context("fork").Process(target=operation)
    process.start()
    eventually(has_status)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def remembered(cluster: Cluster, namespace: str = "mlflow") -> list[tuple[str, str]]:
    """Return the label of each of Helm's Secrets in a namespace: revision and status."""
    secrets = [item for item in cluster.objects.all("Secret") if item["type"] == "helm.sh/release.v1"]
    labels = [item["metadata"]["labels"] for item in secrets if item["metadata"]["namespace"] == namespace]
    return sorted((each["version"], each["status"]) for each in labels)


def test_an_upgrade_that_is_killed_blocks_the_next_until_its_revision_is_gone(
    cluster: Cluster, ports: tuple[int, int]
) -> None:
    cluster.install(mlflow(replicaCount=1))
    kill_during(cluster, lambda: cluster.upgrade(mlflow(replicaCount=1, **SLOW)), "pending-upgrade")
    assert remembered(cluster) == [("1", "deployed"), ("2", "pending-upgrade")]
    assert get(ports[0])[0] == 200
    for _ in range(2):
        with pytest.raises(ClusterError, match=r"^another operation \(install/upgrade/rollback\) is in progress$"):
            cluster.upgrade(mlflow(replicaCount=2))
    assert cluster.revisions.forget_interrupted() == ["mlflow"]
    assert remembered(cluster) == [("1", "deployed")]
    cluster.upgrade(mlflow(replicaCount=2))
    assert remembered(cluster) == [("1", "superseded"), ("2", "deployed")]
    assert len(pods(cluster)) == 2


def test_an_installation_that_is_killed_blocks_the_next_until_helm_forgets_it(
    cluster: Cluster, ports: tuple[int, int]
) -> None:
    kill_during(cluster, lambda: cluster.install(mlflow(replicaCount=1, **SLOW)), "pending-install")
    with pytest.raises(ClusterError, match=r"^cannot re-use a name that is still in use$"):
        cluster.install(mlflow(replicaCount=1))
    assert cluster.revisions.forget_interrupted() == ["mlflow"]
    cluster.install(mlflow(replicaCount=1))
    assert get(ports[0])[0] == 200
    assert remembered(cluster) == [("1", "deployed")]


def test_an_installation_takes_over_what_runs(cluster: Cluster, ports: tuple[int, int]) -> None:
    cluster.install(mlflow())
    before = {status.name: status.pid for status in cluster.ingress.supervisor.list()}
    for revision in cluster.revisions.of("mlflow", "mlflow"):
        cluster.revisions.forget(revision)
    with Clients(ports[0]) as clients:
        cluster.install(mlflow())
    assert clients.failures == []
    assert {status.name: status.pid for status in cluster.ingress.supervisor.list()} == before


def kill_uninstall(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, namespace: str, name: str) -> None:
    """Kill an uninstall when the objects are gone and the processes are not."""
    with monkeypatch.context() as patch:
        patch.setattr(cluster.ingress.supervisor, "delete", lambda process: time.sleep(60))  # pyright: ignore[reportUnknownLambdaType]

        def gone() -> bool:
            return not [
                each for each in cluster.objects.all("Deployment") if each["metadata"]["namespace"] == namespace
            ]

        process = multiprocessing.get_context("fork").Process(target=cluster.uninstall, args=(namespace, name))
        process.start()
        eventually(gone)
        process.kill()
        process.join()


def test_an_uninstall_that_is_killed_leaves_a_release_that_helm_still_knows(
    cluster: Cluster, ports: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.install(mlflow(replicaCount=1))
    kill_uninstall(cluster, monkeypatch, "mlflow", "mlflow")
    assert remembered(cluster) == [("1", "uninstalling")]
    assert cluster.release("mlflow", "mlflow") is not None
    assert cluster.objects.get("Deployment", "mlflow", "mlflow") is None
    # The controller of a cluster follows by itself.
    cluster.ingress.follow()
    assert get(ports[0])[0] == 404
    with pytest.raises(ClusterError, match="cannot re-use a name that is still in use"):
        cluster.install(mlflow(replicaCount=1))
    with pytest.raises(ClusterError, match=r'^"mlflow" has no deployed releases$'):
        cluster.upgrade(mlflow(replicaCount=1))
    assert cluster.revisions.forget_interrupted() == ["mlflow"]
    cluster.install(mlflow(replicaCount=1))
    assert get(ports[0])[0] == 200
    assert len(pods(cluster)) == 1


def test_an_uninstall_that_was_killed_can_be_repeated_once(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.install(mlflow(replicaCount=1))
    kill_uninstall(cluster, monkeypatch, "mlflow", "mlflow")
    cluster.uninstall("mlflow", "mlflow")
    assert remembered(cluster) == []
    assert pods(cluster) == []
    with pytest.raises(ClusterError, match=r"^uninstall: Release not loaded: mlflow: release: not found$"):
        cluster.uninstall("mlflow", "mlflow")


def test_a_controller_whose_removal_was_killed_disturbs_nobody_and_can_be_removed(
    cluster: Cluster, ports: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_uninstall(cluster, monkeypatch, "haproxy", "ha-proxy-ingress")
    cluster.ingress.follow()
    cluster.uninstall("haproxy", "ha-proxy-ingress")
    assert remembered(cluster, "haproxy") == []
    with pytest.raises(ConnectionRefusedError):
        get(ports[0])


def test_the_way_out_waits_for_an_operation_that_outlives_its_engine(cluster: Cluster) -> None:
    with ThreadPoolExecutor() as pool:
        installing = pool.submit(cluster.install, mlflow(replicaCount=1))
        eventually(lambda: ("1", "pending-install") in remembered(cluster))
        assert cluster.revisions.forget_interrupted() == []
        installing.result()
    assert remembered(cluster) == [("1", "deployed")]


def test_the_load_balancer_has_an_address(cluster: Cluster) -> None:
    service = cluster.objects.get("Service", "haproxy", "ha-proxy-ingress-kubernetes-ingress")
    assert service is not None
    assert service["status"] == {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}}


def test_objects_behave_as_the_api_does(cluster: Cluster) -> None:
    objects = cluster.objects
    with pytest.raises(ClusterError, match='Namespace "mlflow" already exists'):
        objects.create(make("v1", "Namespace", "", "mlflow"))
    with pytest.raises(ClusterError, match='namespaces "nowhere" not found'):
        objects.create(make_secret("nowhere", "a", {}))
    created: Object = objects.create(make_secret("mlflow", "a", {"key": "value"}))
    changed = objects.put(make_secret("mlflow", "a", {"key": "other"}))
    assert changed["metadata"]["uid"] == created["metadata"]["uid"]
    assert changed["data"] == {"key": b64encode(b"other").decode()}
    objects.remove("Namespace", "", "mlflow")
    assert objects.get("Secret", "mlflow", "a") is None


def test_only_the_owner_can_read_what_is_kept(cluster: Cluster) -> None:
    cluster.install(mlflow(replicaCount=1))
    folder = cluster.objects.folder.parent
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(file.stat().st_mode & 0o077 == 0 for file in folder.rglob("*.json"))
