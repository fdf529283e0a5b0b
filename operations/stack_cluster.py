"""The cluster of a stack, asked through kubectl with the login that is in the stack's state."""

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from components.haproxy_ingress import RELEASE as INGRESS
from components.mlflow_release.names import RELEASE as MLFLOW
from operations.mlflow_site import run_pulumi

TIMEOUT = 20
"""Seconds for one request of kubectl."""
_TIMEOUT_OF_LOST = 600
"""Seconds that an operation on a release may take that the state does not have. It is the provider's and the settings' default."""
_RELEASE = "kubernetes:helm.sh/v3:Release"
_NAMESPACE = "kubernetes:core/v1:Namespace"
_PROVIDER = "pulumi:providers:kubernetes"


class KubectlError(Exception):
    """A kubectl command failed. The message is kubectl's own."""


@dataclass(frozen=True)
class Kubectl:
    """The kubectl program with the arguments that lead to a cluster."""

    cluster: Sequence[str]
    """Arguments that name the cluster."""
    seconds: int = TIMEOUT
    """Seconds for one request, default 20."""

    def __call__(self, *arguments: str) -> str:
        """Run a command and return what it prints.

        Raises:
            KubectlError: the command failed, or did not end in time.
            SystemExit: there is no kubectl.
        """
        command = ["kubectl", *self.cluster, "--request-timeout", f"{self.seconds}s", *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=2 * self.seconds, check=False)
        except FileNotFoundError:
            raise SystemExit("kubectl is not on the PATH: install it.") from None
        except subprocess.TimeoutExpired:
            raise KubectlError(f"`kubectl {' '.join(arguments)}` did not answer in {2 * self.seconds} s") from None
        if done.returncode:
            raise KubectlError(done.stderr.strip()[-500:])
        return done.stdout


@dataclass(frozen=True)
class Release:
    """A Helm release of a stack."""

    namespace: str
    """Namespace of the release."""
    name: str
    """Name of the release."""
    timeout: int
    """Seconds that an operation on the release may take."""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class State:
    """The parts of a stack's state that lead to its cluster."""

    releases: Sequence[Release]
    """Helm releases, those with an operation that was interrupted too."""
    namespaces: Sequence[str]
    """Namespaces that the stack has created."""
    half_made: Sequence[Release]
    """Helm releases whose creation was interrupted, so that the state does not have them."""
    lost: Sequence[Release]
    """Helm releases that this program makes in these namespaces, and of which the state knows nothing. Most of them are not there."""
    being_created: Sequence[str]
    """Types of the resources whose creation was interrupted."""
    provider: dict[str, Any] | None
    """Inputs of the kubernetes provider. None: an `up` has not come so far yet."""

    @property
    def only_releases_are_being_created(self) -> bool:
        """True if the creation of a Helm release was interrupted, and of no other resource."""
        return set(self.being_created) == {_RELEASE}

    @contextlib.contextmanager
    def kubectl(self) -> Generator[Kubectl]:
        """Provide kubectl for the cluster.

        Raises:
            SystemExit: the state has no cluster.
        """
        if self.provider is None:
            raise SystemExit("The state has no cluster yet: nothing of this stack is in Kubernetes.")
        context = ["--context", self.provider["context"]] if self.provider.get("context") else []
        kubeconfig = self.provider.get("kubeconfig", "")
        if not kubeconfig.lstrip().startswith("{"):
            # Pulumi writes the value of the variable KUBECONFIG into the state: the path of a file.
            yield Kubectl([*(["--kubeconfig", kubeconfig] if kubeconfig else []), *context])
            return
        # The file has the address of the cluster and a command that logs in. Only this user may read it.
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(kubeconfig)
            file.flush()
            yield Kubectl(["--kubeconfig", file.name, *context])


def read_state(stack: str, pulumi: str) -> State:
    """Read the state of a stack. No secret is decrypted.

    Raises:
        SystemExit: pulumi failed.
    """
    deployment: dict[str, Any] = json.loads(run_pulumi(pulumi, stack, "stack", "export")).get("deployment") or {}
    resources: list[dict[str, Any]] = deployment.get("resources") or []
    pending: list[dict[str, Any]] = deployment.get("pending_operations") or []
    known: list[dict[str, Any]] = [*resources, *(operation["resource"] for operation in pending)]
    releases = {str(release): release for release in _releases(known)}
    there = {str(release) for release in _releases(resources)}
    creating = [each["resource"] for each in pending if each["type"] == "creating"]
    namespaces = [each["inputs"]["metadata"]["name"] for each in resources if each["type"] == _NAMESPACE]
    possible = [Release(namespace, name, _TIMEOUT_OF_LOST) for namespace in namespaces for name in (INGRESS, MLFLOW)]
    return State(
        releases=list(releases.values()),
        half_made=[release for release in _releases(creating) if str(release) not in there],
        lost=[release for release in possible if str(release) not in releases],
        namespaces=namespaces,
        being_created=[each["type"] for each in creating],
        provider=next((each["inputs"] for each in resources if each["type"] == _PROVIDER), None),
    )


def _releases(resources: Sequence[dict[str, Any]]) -> Iterator[Release]:
    for each in resources:
        if each["type"] == _RELEASE:
            inputs = each["inputs"]
            yield Release(inputs["namespace"], inputs["name"], int(inputs["timeout"]))
