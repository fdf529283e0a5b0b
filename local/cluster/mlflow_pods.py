"""The stand-in for the kubelet, for MLflow's pods. A pod's containers are processes of the supervisor.

Instead of an image, a container has the MLflow of its version on the PATH. Instead of a network, it has a loopback
port. Its mount paths are replaced by paths in the pod's folder.
"""

import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from local import paths, tools
from local.charts import mlflow
from local.cluster import ClusterError
from local.cluster.objects import Objects, write
from local.supervisor.client import Supervisor
from local.supervisor.spec import ProcessSpec

_NODE_ENVIRONMENT = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")
"""Environment variables that every container gets. They lead to the local AWS API, as EKS Pod Identity leads to AWS."""
_TERMINATION_GRACE_SECONDS = 30
"""Seconds that a pod may take to stop, the default of Kubernetes."""


class Pods:
    """The pods of MLflow releases."""

    def __init__(self, folder: Path, objects: Objects, supervisor: Supervisor) -> None:
        self.folder = folder
        self.objects = objects
        self.supervisor = supervisor

    def start(self, namespace: str, pod: str, rendered: mlflow.Rendered, deadline: float, say: tools.Say) -> None:
        """Run the pod's init containers, start its server, and wait until the server is ready.

        A container that fails is an error at once. A cluster would try again, but here nothing changes between two
        tries.

        Args:
            namespace: namespace of the pod.
            pod: name of the pod.
            rendered: the rendered chart.
            deadline: time of the monotonic clock at which the wait ends.
            say: gets the container that is waited for.

        Raises:
            ClusterError: a Secret, a ConfigMap or a key is missing, or the pod has an unknown kind of volume.
            SupervisorError: a container failed or was not ready in time.
            ToolError: MLflow could not be installed.
        """
        process = f"{namespace}.{pod}"
        folder = self.folder / process
        for volume in rendered.pod.volumes:
            self._fill(namespace, folder / volume["name"], volume, rendered)
        for container in rendered.pod.init_containers:
            argv, env = self._command(namespace, folder, container, rendered)
            spec = ProcessSpec(f"{process}.{container.name}", argv, env, cwd=str(folder))
            # The container comes first, because a narrow terminal cuts the line.
            say(f"{container.name} in pod {pod}")
            self.supervisor.run(spec, remaining(deadline))
        argv, env = self._command(namespace, folder, rendered.pod.container, rendered)
        address = self.address(namespace, pod)
        port = address.rpartition(":")[2]
        here = {"--host=0.0.0.0": "--host=127.0.0.1", f"--port={mlflow.CONTAINER_PORT}": f"--port={port}"}
        server = ProcessSpec(
            process,
            [here.get(word, word) for word in argv],
            env,
            cwd=str(folder),
            ready={"http": f"http://{address}{mlflow.READINESS_PATH}"},
            stop_timeout=_TERMINATION_GRACE_SECONDS,
        )
        for container in rendered.pod.extra_containers:
            self._start_further(namespace, pod, container, rendered, deadline)
        say(f"{rendered.pod.container.name} in pod {pod}")
        self.supervisor.keep_running(server, remaining(deadline))

    def _start_further(
        self, namespace: str, pod: str, container: mlflow.Container, rendered: mlflow.Rendered, deadline: float
    ) -> None:
        name = f"{namespace}.{pod}.{container.name}"
        folder = self.folder / f"{namespace}.{pod}"
        argv, env = self._command(namespace, folder, container, rendered)
        port = str(self.supervisor.free_port(name))
        here = {"0.0.0.0": "127.0.0.1", str(container.port): port}  # noqa: S104  (written for a pod's network)
        ready = {"tcp": f"127.0.0.1:{port}"} if container.port else None
        spec = ProcessSpec(name, [here.get(word, word) for word in argv], env, cwd=str(folder), ready=ready)
        self.supervisor.keep_running(spec, remaining(deadline))

    def wait(self, namespace: str, pod: str, deadline: float) -> None:
        """Wait until a pod is ready. A running pod can have died a moment ago and be starting again.

        Raises:
            ClusterError: the pod is not ready at the deadline.
            SupervisorError: the supervisor does not run.
        """
        process = f"{namespace}.{pod}"
        while (status := self.supervisor.get(process)) is None or not status.ready:
            if time.monotonic() > deadline:
                raise ClusterError(f"pod {pod} is not ready; read its log, {self.supervisor.log(process)}")
            time.sleep(0.2)

    def runs(self, namespace: str, pod: str) -> bool:
        """Return True if the pod's init containers have ended and its server was started.

        Raises:
            SupervisorError: the supervisor does not run.
        """
        return self.supervisor.get(f"{namespace}.{pod}") is not None

    def delete(self, namespace: str, pod: str) -> None:
        """Stop the pod, which first finishes its requests, and delete its folder.

        Raises:
            SupervisorError: the supervisor does not run.
        """
        process = f"{namespace}.{pod}"
        self.supervisor.delete(process)
        for further in self.supervisor.list():
            if further.name.startswith(f"{process}."):
                self.supervisor.delete(further.name)
        shutil.rmtree(self.folder / process, ignore_errors=True)

    def of(self, namespace: str, fullname: str) -> list[str]:
        """Return the pods of a release, including those that an interrupted operation has left."""
        # Another release's full name can begin with this one's.
        own = re.compile(rf"{re.escape(fullname)}-[0-9a-f]{{10}}-\d+")
        pods = [folder.name.removeprefix(f"{namespace}.") for folder in self.folder.glob(f"{namespace}.*")]
        return [pod for pod in pods if own.fullmatch(pod)]

    def address(self, namespace: str, pod: str) -> str:
        """Return the `host:port` that the pod listens on.

        Raises:
            SupervisorError: the supervisor does not run.
        """
        return f"127.0.0.1:{self.supervisor.free_port(f'{namespace}.{pod}')}"

    def _fill(self, namespace: str, folder: Path, volume: Mapping[str, Any], rendered: mlflow.Rendered) -> None:
        paths.make_private(folder.parent)
        paths.make_private(folder)
        match volume:
            case {"configMap": {"name": name, **options}}:
                # Only the owner's right to execute is taken from the volume; nobody else may read the file here.
                mode = 0o600 | options.get("defaultMode", 0) & 0o100
                files = rendered.config_maps.get(name) or self._config_map(namespace, name)
            case {"secret": {"secretName": name}}:
                mode = 0o600
                files = self.objects.secret_data(namespace, name)
            case {"emptyDir": _}:
                return
            case _:
                raise ClusterError(
                    f"volume {volume['name']} is of a kind that the local stack does not know; "
                    "write configMap, secret or emptyDir"
                )
        for file, text in files.items():
            write(folder / file, text, mode)

    def _command(
        self, namespace: str, folder: Path, container: mlflow.Container, rendered: mlflow.Rendered
    ) -> tuple[list[str], dict[str, str]]:
        """Return the arguments and the environment of a container's process.

        An image of MLflow is the MLflow of the version with which its tag begins. The other images are busybox.
        """
        own = re.search(r"/mlflow:(\d+\.\d+\.\d+)", container.image)
        python = tools.mlflow_python(own[1] if own else rendered.app_version)
        env = {name: os.environ[name] for name in _NODE_ENVIRONMENT if name in os.environ}
        env |= {"PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin", "HOME": str(folder)}
        for kind, name in container.env_from:
            env |= rendered.config_maps[name] if kind == "ConfigMap" else self.objects.secret_data(namespace, name)
        for name, value in container.env.items():
            env[name] = (
                _with_local_paths(value, container, folder)
                if isinstance(value, str)
                else self._secret(namespace, value)
            )
        return [_with_local_paths(word, container, folder) for word in (*container.command, *container.args)], env

    def _config_map(self, namespace: str, name: str) -> dict[str, str]:
        config_map = self.objects.get("ConfigMap", namespace, name)
        if config_map is None:
            raise ClusterError(f'configmap "{name}" not found in namespace {namespace}')
        return config_map["data"]

    def _secret(self, namespace: str, wanted: mlflow.SecretKey) -> str:
        data = self.objects.secret_data(namespace, wanted.secret)
        if wanted.key not in data:
            raise ClusterError(f"couldn't find key {wanted.key} in Secret {namespace}/{wanted.secret}")
        return data[wanted.key]


def remaining(deadline: float) -> float:
    """Return the seconds until a time of the monotonic clock, 0.1 at least: even a late step gets one try."""
    return max(deadline - time.monotonic(), 0.1)


def _with_local_paths(text: str, container: mlflow.Container, folder: Path) -> str:
    for mount in container.mounts:
        # The volume at /tmp only makes /tmp writable. This machine's /tmp is writable, so its path stays.
        if mount.volume != "tmp":
            local = str(folder / mount.volume / (mount.sub_path or ""))
            text = re.sub(rf"(?<![\w.:/-]){re.escape(mount.path)}(?![\w.-])", lambda _, path=local: path, text)
    return text
