"""The stand-in for the ingress controller and cert-manager.

A real HAProxy is configured from the Ingress objects, the endpoints and the certificates. Certificates are self-signed:
any other issuer would need a server outside this machine.
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
"""Name of the local cluster's only cert-manager ClusterIssuer."""


class IngressController:
    """The ingress controller. There is one for all releases, because each would use the same two ports."""

    def __init__(self, folder: Path, objects: Objects, supervisor: Supervisor) -> None:
        self.folder = folder
        self.objects = objects
        self.supervisor = supervisor

    def follow(self) -> None:
        """Configure HAProxy from the current objects, and wait until it has loaded them.

        Raises:
            ClusterError: HAProxy does not accept or load the configuration.
            SupervisorError: HAProxy does not start.
            ToolError: HAProxy could not be installed.
        """
        with self._one_at_a_time():
            for namespace, rendered in self._installed():
                self._load(namespace, rendered, timeout=30)

    def run(self, namespace: str, rendered: haproxy.Rendered, timeout: float) -> None:
        """Start HAProxy or have it reload, and wait until it has loaded this configuration.

        Args:
            namespace: namespace of the ingress release.
            rendered: the rendered chart.
            timeout: seconds to wait.

        Raises:
            ClusterError: HAProxy does not accept or load the configuration.
            SupervisorError: HAProxy does not start.
            ToolError: HAProxy could not be installed.
        """
        with self._one_at_a_time():
            self._load(namespace, rendered, timeout)

    def uninstall(self, namespace: str, fullname: str, objects: Sequence[Sequence[str]]) -> None:
        """Remove the objects (kind and name) of an ingress release, and its HAProxy.

        Raises:
            SupervisorError: the supervisor does not run.
        """
        with self._one_at_a_time():
            for kind, item in objects:
                self.objects.remove(kind, namespace, item)
            name = f"{namespace}.{fullname}"
            self.supervisor.delete(name)
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def move_requests(self, namespace: str, service: str, servers: Mapping[str, str]) -> None:
        """Send new requests for a Service, and others with the same pods, to these pods only (name to address), without a reload.

        A reload leaves the old worker running with its clients' idle connections. The next request on such a connection
        must not go to a pod that has been removed.
        """
        names = [haproxy.backend_name(namespace, name) for name in self._with_the_pods_of(namespace, service)]
        for controller_namespace, rendered in self._installed():
            folder = self._folder(controller_namespace, rendered)
            for worker in re.findall(r"^(\d+)\s+worker", _ask(folder, "show proc"), re.MULTILINE):
                state = _ask(folder, f"@!{worker} show servers state")
                ours = "|".join(map(re.escape, names))
                old = re.findall(rf"^\d+ ({ours}) \d+ (\S+) ", state, re.MULTILINE)
                commands = [f"set server {backend}/{pod} state drain" for backend, pod in old if pod not in servers]
                for backend in {backend for backend, _ in old}:
                    for pod, address in servers.items():
                        if (backend, pod) not in old:
                            # Add before draining: a backend must never be without a server.
                            commands.insert(0, f"enable server {backend}/{pod}")
                            commands.insert(0, f"add server {backend}/{pod} {address}")
                for command in commands:
                    _ask(folder, f"@!{worker} {command}")

    def issue_certificates(self, namespace: str, ingress: Object) -> None:
        """Create the TLS Secrets that an Ingress requests from cert-manager.

        Raises:
            ClusterError: the Ingress names another issuer.
        """
        annotations: dict[str, str] = ingress["metadata"].get("annotations") or {}
        issuer = annotations.get("cert-manager.io/cluster-issuer")
        if issuer not in {None, ISSUER}:
            raise ClusterError(f'clusterissuers "{issuer}" not found; the local cluster has only {ISSUER}')
        tls_blocks: list[Object] = ingress["spec"].get("tls", []) if issuer else []
        for tls in tls_blocks:
            self.make_certificate(namespace, tls["secretName"], tls["hosts"])

    def make_certificate(self, namespace: str, name: str, hosts: Sequence[str]) -> None:
        """Create a TLS Secret with a self-signed certificate for some hosts, unless there is a Secret of that name."""
        if self.objects.get("Secret", namespace, name) is None:
            certificate, key = self_signed(hosts, days=365)
            data = {"tls.crt": certificate, "tls.key": key}
            self.objects.put(make_secret(namespace, name, data, "kubernetes.io/tls"))

    @contextmanager
    def _one_at_a_time(self) -> Generator[None]:
        # Operations change objects in parallel. Without a lock, an older configuration could be loaded last.
        paths.make_private(self.folder)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _load(self, namespace: str, rendered: haproxy.Rendered, timeout: float) -> None:
        folder = self._folder(namespace, rendered)
        paths.make_private(folder)
        self._check(self._files(folder / "candidate", namespace, rendered), folder / "candidate")
        files = self._files(folder, namespace, rendered)
        # One process is all replicas.
        memory = ["-m", str(rendered.memory * rendered.replicas)] if rendered.memory else []
        spec = ProcessSpec(
            f"{namespace}.{rendered.fullname}",
            # Linux allows 107 characters for a socket's path (unix(7)), so the control socket has a relative path.
            [str(tools.haproxy_bin()), "-W", "-S", "unix@control", *memory, "-f", f"{folder}/haproxy.cfg"],
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
        for deployment in self.objects.all("Deployment"):
            if source := deployment.get("renderedFrom"):
                namespace = deployment["metadata"]["namespace"]
                rendered = haproxy.render(source["version"], source["release"], namespace, source["values"])
                result.append((namespace, rendered))
        return result

    @staticmethod
    def metrics_of(namespace: str, fullname: str) -> str:
        """Return the name under which the supervisor keeps the loopback port of a controller's metrics."""
        return f"{namespace}.{fullname}.stat"

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
                and (not rendered.namespaces or item["metadata"]["namespace"] in rendered.namespaces)
            ],
            backends={
                (item["metadata"]["namespace"], service): item["servers"]
                for item in self.objects.all("Endpoints")
                for service in self._with_the_pods_of(item["metadata"]["namespace"], item["metadata"]["name"])
            },
            certificates=certificates,
            default_certificate=certificates[namespace, rendered.default_certificate],
            ports={**_ports(), "stat": self.supervisor.free_port(self.metrics_of(namespace, rendered.fullname))},
        )

    def _with_the_pods_of(self, namespace: str, service: str) -> list[str]:
        """Return the names of the Services that select the pods of a release's Service, which is one of them."""
        services: dict[str, Mapping[str, str]] = {
            item["metadata"]["name"]: item["spec"].get("selector") or {}
            for item in self.objects.all("Service")
            if item["metadata"]["namespace"] == namespace
        }
        # The pods of a release have all labels that its Service selects by.
        labels = services.get(service, {}).items()
        return [name for name, selector in services.items() if selector and selector.items() <= labels]

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
                f"HAProxy refuses the configuration made from the Ingress objects and the chart's values:\n{result.stderr}"
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
    """Send a command to HAProxy's master and return the answer, empty while the master does not listen."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(f"/proc/self/fd/{descriptor}/control")
            connection.sendall(f"{command}\n".encode())
            # The master closes the connection after its answer only if the client has closed its side for writing.
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile() as answer:
                return answer.read()
    except OSError:
        return ""
    finally:
        os.close(descriptor)
