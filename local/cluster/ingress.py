"""The ingress controller's part: a real HAProxy that follows the Ingress objects, the endpoints and the certificates.

Also what cert-manager would do: certificates, though only from the one issuer that needs nobody else.
"""

import fcntl
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from local import paths, tools
from local.certificates import self_signed
from local.charts import haproxy
from local.cluster import ClusterError
from local.cluster.objects import Object, Objects, make_secret, write
from local.supervisor.client import Supervisor
from local.supervisor.spec import ProcessSpec

ISSUER = "selfsigned"
"""The one cert-manager ClusterIssuer of the local cluster."""


class IngressController:
    """The controllers of all ingress releases; with the ports that the load balancer has on this supervisor, there can be one."""

    def __init__(self, folder: Path, objects: Objects, supervisor: Supervisor) -> None:
        self.folder = folder
        self.objects = objects
        self.supervisor = supervisor

    def follow(self) -> None:
        """Serve the objects as they are now."""
        with self._one_at_a_time():
            for namespace, rendered in self._installed():
                self._load(namespace, rendered, timeout=30)

    def run(self, namespace: str, rendered: haproxy.Rendered, timeout: float) -> None:
        """Start HAProxy with these settings, or have it load them, and wait until it serves so."""
        with self._one_at_a_time():
            self._load(namespace, rendered, timeout)

    def uninstall(self, namespace: str, release: str, fullname: str, objects: Sequence[Sequence[str]] = ()) -> None:
        """Remove a release: its objects, given by kind and name, then its HAProxy."""
        with self._one_at_a_time():
            for kind, item in objects:
                self.objects.remove(kind, namespace, item)
            name = f"{namespace}.{fullname}"
            self.supervisor.delete(name)
            shutil.rmtree(self.folder / name, ignore_errors=True)
            # Last of all, so that what failed before can be tried again.
            self.objects.remove("Release", namespace, release)

    def move_requests(self, namespace: str, service: str, servers: Mapping[str, str]) -> None:
        """Have new requests to a Service go to these pods and to no others, without a reload.

        A worker that a reload leaves behind still has its clients' idle connections, and the next request on one of those must not
        meet a pod that is gone.
        """
        for controller_namespace, rendered in self._installed():
            folder = self._folder(controller_namespace, rendered)
            prefix = haproxy.backend_prefix(namespace, service)
            for worker in re.findall(r"^(\d+)\s+worker", _ask(folder, "show proc"), re.MULTILINE):
                state = _ask(folder, f"@!{worker} show servers state")
                known = re.findall(rf"^\d+ ({re.escape(prefix)}\S+) \d+ (\S+) ", state, re.MULTILINE)
                commands = [f"set server {backend}/{pod} state drain" for backend, pod in known if pod not in servers]
                for backend in {backend for backend, _ in known}:
                    for pod, address in servers.items():
                        if (backend, pod) not in known:
                            # First of all: between the two there must be no moment without a server.
                            commands.insert(0, f"enable server {backend}/{pod}")
                            commands.insert(0, f"add server {backend}/{pod} {address}")
                for command in commands:
                    _ask(folder, f"@!{worker} {command}")

    def issue_certificates(self, namespace: str, ingress: Object) -> None:
        """Make the TLS Secrets that an Ingress asks cert-manager for."""
        annotations: dict[str, str] = ingress["metadata"].get("annotations") or {}
        issuer = annotations.get("cert-manager.io/cluster-issuer")
        if issuer not in {None, ISSUER}:
            raise ClusterError(f'clusterissuers "{issuer}" not found: the local cluster has only {ISSUER}')
        tls_blocks: list[Object] = ingress["spec"].get("tls", []) if issuer else []
        for tls in tls_blocks:
            self.make_certificate(namespace, tls["secretName"], tls["hosts"])

    def make_certificate(self, namespace: str, name: str, hosts: Sequence[str]) -> None:
        """Have a TLS Secret of that name: the one that is there, or one with a self-signed certificate for these hosts."""
        if self.objects.get("Secret", namespace, name) is None:
            certificate, key = self_signed(hosts, days=365)
            data = {"tls.crt": certificate, "tls.key": key}
            self.objects.put(make_secret(namespace, name, data, "kubernetes.io/tls"))

    @contextmanager
    def _one_at_a_time(self) -> Generator[None]:
        # Operations change objects side by side; the last configuration must be that of the last state.
        paths.make_private(self.folder)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _load(self, namespace: str, rendered: haproxy.Rendered, timeout: float) -> None:
        folder = self._folder(namespace, rendered)
        paths.make_private(folder)
        self._check(self._files(folder / "candidate", namespace, rendered), folder / "candidate")
        files = self._files(folder, namespace, rendered)
        spec = ProcessSpec(
            f"{namespace}.{rendered.fullname}",
            # The control socket's path is relative because it may have 107 characters only.
            [str(tools.haproxy_bin()), "-W", "-S", "unix@control", "-f", f"{folder}/haproxy.cfg"],
            env={},
            cwd=str(folder),
            files=files,
            ready={"tcp": f"127.0.0.1:{_ports()['http']}"},
            reload_signal="SIGUSR2",
        )
        self.supervisor.keep_running(spec, timeout)
        self._wait_until_loaded(folder, files[f"{folder}/haproxy.cfg"], timeout)

    def _installed(self) -> list[tuple[str, haproxy.Rendered]]:
        result: list[tuple[str, haproxy.Rendered]] = []
        for record in self.objects.all("Release"):
            if record["chart"] == "kubernetes-ingress":
                name, namespace = record["metadata"]["name"], record["metadata"]["namespace"]
                rendered = haproxy.render(record["version"], name, namespace, record["values"])
                # One without its certificate was being removed when its command was killed.
                if self.objects.get("Secret", namespace, rendered.default_certificate) is not None:
                    result.append((namespace, rendered))
        return result

    def _folder(self, namespace: str, rendered: haproxy.Rendered) -> Path:
        return self.folder / f"{namespace}.{rendered.fullname}"

    def _files(self, folder: Path, namespace: str, rendered: haproxy.Rendered) -> dict[str, str]:
        certificates = self._certificates()
        return haproxy.files(
            str(folder),
            rendered,
            [
                haproxy.Ingress(
                    item["metadata"]["namespace"],
                    item["metadata"]["name"],
                    item["metadata"].get("annotations") or {},
                    item["spec"],
                )
                for item in self.objects.all("Ingress")
                if item["spec"]["ingressClassName"] == rendered.class_name
            ],
            backends={
                (item["metadata"]["namespace"], item["metadata"]["name"]): haproxy.Backend(
                    item["servers"], item["readinessPath"]
                )
                for item in self.objects.all("Endpoints")
            },
            certificates=certificates,
            default_certificate=certificates[namespace, rendered.default_certificate],
            ports=_ports(),
        )

    def _certificates(self) -> dict[tuple[str, str], str]:
        result: dict[tuple[str, str], str] = {}
        for item in self.objects.all("Secret"):
            namespace, name = item["metadata"]["namespace"], item["metadata"]["name"]
            if item["type"] == "kubernetes.io/tls":
                data = self.objects.secret_data(namespace, name)
                result[namespace, name] = f"{data['tls.crt']}\n{data['tls.key']}"
        return result

    def _check(self, files: Mapping[str, str], folder: Path) -> None:
        for path, content in files.items():
            write(Path(path), content)
        command = [tools.haproxy_bin(), "-c", "-f", folder / "haproxy.cfg"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        for path in files:
            Path(path).unlink()
        if result.returncode != 0:
            raise ClusterError(
                f"HAProxy refuses what the Ingress objects and the controller's settings ask for:\n{result.stderr}"
            )

    def _wait_until_loaded(self, folder: Path, configuration: str, timeout: float) -> None:
        (description,) = re.findall(r"^  description (\w+)$", configuration, re.MULTILINE)
        deadline = time.monotonic() + timeout
        while description not in _ask(folder, "@1 show info"):
            if time.monotonic() > deadline:
                raise ClusterError(f"HAProxy did not load its new configuration, {folder}/haproxy.cfg")
            time.sleep(0.05)


def _ports() -> dict[str, int]:
    return {
        "http": int(os.environ.get("MLFLOW_EKS_HTTP_PORT", "8080")),
        "https": int(os.environ.get("MLFLOW_EKS_HTTPS_PORT", "8443")),
    }


def _ask(folder: Path, command: str) -> str:
    """What HAProxy's master answers; nothing while it does not listen."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(f"/proc/self/fd/{descriptor}/control")
            connection.sendall(f"{command}\n".encode())
            # The master answers and then waits for more, unless it sees the end.
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile() as answer:
                return answer.read()
    except OSError:
        return ""
    finally:
        os.close(descriptor)
