"""The stack that doctor looks at, with the facts that several checks need."""

import functools
import json
import os
import socket
import subprocess
import tempfile
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from components.lookups.eks_cluster import kubeconfig
from operations.aws_cli import TIMEOUT, Aws
from operations.checks import MissingError, SkippedError, skip
from settings.all_settings import AWS_LOAD_BALANCER_CONTROLLER, Settings

AUTO_MODE_LOAD_BALANCER = "eks.amazonaws.com/nlb"
"""Class of the network load balancers of EKS Auto Mode."""
CONNECT = 5
"""Seconds for a TCP connection."""
_NO_RIGHTS = ("Unauthorized", "must be logged in", "Forbidden", "forbidden")


@dataclass(frozen=True)
class Subject:
    """A stack, its settings, and what AWS and Kubernetes say about its place."""

    stack: str
    settings: Settings
    aws: Aws

    def needs_eks(self) -> None:
        """End a check that is about AWS.

        Raises:
            SkippedError: the stack uses no AWS.
        """
        if not self.settings.on_eks:
            skip("no AWS in this stack")

    def needs_instance(self) -> None:
        """End a check that is about the RDS instance.

        Raises:
            SkippedError: the stack creates no instance.
        """
        self.needs_eks()
        if self.settings.postgres.existing:
            skip("this stack creates no database server")

    @functools.cached_property
    def described(self) -> dict[str, Any]:
        """EKS cluster, as `describe-cluster` says it.

        Raises:
            MissingError: the cluster cannot be read.
        """
        return self.aws("eks", "describe-cluster", "--name", str(self.settings.cluster.name))["cluster"]

    @property
    def cluster(self) -> dict[str, Any]:
        """EKS cluster, for every check but the one that is about the cluster itself.

        Raises:
            SkippedError: the stack uses no EKS cluster, or the cluster is not ready.
        """
        self.needs_eks()
        try:
            described = self.described
        except MissingError:
            skip("needs the cluster (see above)")
        if described["status"] != "ACTIVE":
            skip("the cluster is not ready (see above)")
        return described

    @property
    def auto_mode(self) -> bool:
        """True for a cluster in EKS Auto Mode, which has the Pod Identity agent and a load balancer controller built in."""
        return bool(self.cluster.get("computeConfig", {}).get("enabled"))

    @property
    def vpc(self) -> str:
        """Id of the cluster's VPC."""
        return self.cluster["resourcesVpcConfig"]["vpcId"]

    @property
    def load_balancer_class(self) -> str:
        """Class of the load balancer on this cluster."""
        usual = AUTO_MODE_LOAD_BALANCER if self.auto_mode else AWS_LOAD_BALANCER_CONTROLLER
        return self.settings.ingress.load_balancer_class or usual

    @functools.cached_property
    def refusal(self) -> str | None:
        """Error of a TCP connection to the cluster's API. None: the API answers, or a proxy of this machine leads there."""
        endpoint = urlsplit(str(self.cluster["endpoint"]))
        return refusal_of(endpoint.hostname or "", endpoint.port or 443)

    def kubectl(self, *arguments: str) -> Any:
        """Send a request to the cluster with the program's kubeconfig, and return the answer's JSON.

        Raises:
            MissingError: there is no kubectl, or the cluster refused.
            SkippedError: the cluster cannot be reached, or its login is refused. A check of its own says so.
        """
        try:
            return json.loads(self.kubectl_text(*arguments, "--output", "json") or "{}")
        except MissingError as error:
            if any(word in str(error) for word in _NO_RIGHTS):
                raise SkippedError("needs the login to Kubernetes (see above)") from None
            raise

    def kubectl_text(self, *arguments: str) -> str:
        """Send a request as `kubectl` does, and return the answer as text.

        Raises:
            MissingError: there is no kubectl, or the cluster refused.
            SkippedError: the cluster cannot be reached.
        """
        if not self.settings.on_eks:
            return _kubectl(["--context", self.settings.cluster.kube_context or "", *arguments], dict(os.environ))
        cluster = self.cluster
        if self.refusal:
            skip("needs the API of the cluster (see above)")
        login = kubeconfig(
            cluster["name"], cluster["endpoint"], cluster["certificateAuthority"]["data"], cluster["arn"].split(":")[3]
        )
        # A kubeconfig that assumes the role itself must not start as that role.
        environment = dict(os.environ) if "--role-arn" in login else self.aws.environment
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(login)
            file.flush()
            return _kubectl(["--kubeconfig", file.name, *arguments], environment)


def refusal_of(host: str, port: int) -> str | None:
    """Return the error of a TCP connection from here. None: the host answers, or a proxy of this machine leads there."""
    if "https" in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return None
    try:
        socket.create_connection((host, port), timeout=CONNECT).close()
    except OSError as error:
        return str(error)
    return None


def _kubectl(arguments: list[str], environment: dict[str, str]) -> str:
    command = ["kubectl", *arguments, "--request-timeout", f"{TIMEOUT}s"]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=2 * TIMEOUT, check=False
        )
    except FileNotFoundError:
        raise MissingError("needs kubectl: install it, or look yourself (docs/first-stack.md)") from None
    except subprocess.TimeoutExpired:
        raise MissingError(f"`kubectl` did not answer in {2 * TIMEOUT} s: check the network") from None
    # `auth can-i` answers no with an exit code of 1 and nothing wrong.
    if done.returncode and done.stdout.strip() != "no":
        raise MissingError(f"not checked, kubectl says: {done.stderr.strip()[-200:]}")
    return done.stdout
