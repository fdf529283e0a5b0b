"""Lists what is missing before a first ``pulumi up`` on AWS: ``make doctor STACK=dev``.

The command only reads. It asks AWS through the ``aws`` command, which the login to the cluster needs anyway.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from components.haproxy_ingress import CHART_REPOSITORY as INGRESS_CHARTS
from components.lookups.eks_cluster import kubeconfig
from components.mlflow_release.names import CHART_REPOSITORY as MLFLOW_CHARTS
from operations.stack_file import config, read
from settings.all_settings import Settings

OLDEST_PULUMI = (3, 200, 0)
"""Oldest version of the Pulumi CLI that the checks accept."""
NOT_CHECKED = (
    "Not checked: the load balancer controller, the ClusterIssuer, and whether this machine reaches the database."
)
TIMEOUT = 20
"""Seconds for one request."""
POLICY_ENGINES = {
    "antrea-agent": "Antrea",
    "calico-node": "Calico",
    "canal": "Canal",
    "cilium": "Cilium",
    "kindnet": "kindnet",
    "kube-router": "kube-router",
    "rke2-canal": "Canal",
}
"""DaemonSet to the network plugin that enforces NetworkPolicies without being told to. Amazon's VPC CNI must be told. Kind's kindnet does since
kind 0.24."""


class MissingError(Exception):
    """A check found something wrong. The message says what to do."""


class SkippedError(Exception):
    """A check does not apply to this stack. The message says why."""


@dataclass(frozen=True)
class Check:
    """A check, which is one line of the output."""

    title: str
    look: Callable[[], str]
    """Function that returns what it found, or raises MissingError or SkippedError."""


def checks(stack: str) -> list[Check]:
    """Return the checks of a stack.

    Args:
        stack: name of the stack.
    """
    settings = read(stack)
    region = config(stack).get("aws:region")
    aws = _Aws(region)
    return [
        Check("settings", lambda: f"Pulumi.{stack}.yaml is right"),
        Check("pulumi", _pulumi),
        Check(
            "aws command",
            lambda: (
                _program("aws", "install the AWS CLI, version 2") if settings.on_eks else _skip("no AWS in this stack")
            ),
        ),
        Check("region", lambda: _region(region, settings, stack)),
        Check("credentials", lambda: _credentials(aws, settings)),
        Check("cluster", lambda: _cluster(aws, settings)),
        Check("network policies", lambda: _network_policies(aws, settings)),
        Check("pod identity agent", lambda: _pod_identity(aws, settings)),
        Check("session manager plugin", lambda: _session_manager(settings)),
        Check("certificate", lambda: _certificate(aws, settings, region)),
        Check("dns zone", lambda: _zone(aws, settings)),
        Check("alarm topic", lambda: _topic(aws, settings)),
        Check(
            "ingress charts",
            lambda: (
                _reachable(f"{INGRESS_CHARTS}/index.yaml")
                if settings.ingress.install
                else _skip("not installed by this stack")
            ),
        ),
        Check("mlflow charts", lambda: _reachable(f"{MLFLOW_CHARTS}/index.yaml")),
    ]


@dataclass(frozen=True)
class _Aws:
    region: str | None

    def __call__(self, *arguments: str) -> Any:
        command = ["aws", *arguments, "--output", "json", *(["--region", self.region] if self.region else [])]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        except FileNotFoundError:
            raise MissingError("needs the aws command (see above)") from None
        except subprocess.TimeoutExpired:
            raise MissingError(f"`{' '.join(command[:3])}` did not answer in {TIMEOUT} s: check the network") from None
        if done.returncode:
            words = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "the aws command failed"
            if "locate credentials" in words and arguments[0] != "sts":
                raise MissingError("needs credentials (see above)")
            raise MissingError(words)
        return json.loads(done.stdout or "{}")


def _skip(reason: str) -> str:
    raise SkippedError(reason)


def _program(name: str, fix: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise MissingError(f"not on PATH: {fix}")
    return path


def _pulumi() -> str:
    _program("pulumi", "install the Pulumi CLI")
    version = subprocess.run(
        ["pulumi", "version"], capture_output=True, text=True, timeout=TIMEOUT, check=False
    ).stdout.strip()
    numbers = tuple(int(part) for part in version.lstrip("v").split("-")[0].split(".") if part.isdigit())
    if numbers < OLDEST_PULUMI:
        raise MissingError(f"this is {version or 'unknown'}; update to {'.'.join(map(str, OLDEST_PULUMI))} or newer")
    return version


def _region(region: str | None, settings: Settings, stack: str) -> str:
    if not settings.on_eks:
        _skip("no AWS in this stack")
    if not region:
        raise MissingError(f"not set: `pulumi config set aws:region eu-west-1 --stack {stack}`")
    return region


def _credentials(aws: _Aws, settings: Settings) -> str:
    if not settings.on_eks:
        _skip("no AWS in this stack")
    return aws("sts", "get-caller-identity")["Arn"]


def _cluster(aws: _Aws, settings: Settings) -> str:
    if settings.cluster.name is None:
        done = subprocess.run(
            ["kubectl", "--context", settings.cluster.kube_context or "", "version", "-o", "json"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        if done.returncode:
            raise MissingError(
                f"the context {settings.cluster.kube_context} does not answer: {done.stderr.strip()[-200:]}"
            )
        return f"context {settings.cluster.kube_context} answers"
    cluster = aws("eks", "describe-cluster", "--name", settings.cluster.name)["cluster"]
    if cluster["status"] != "ACTIVE":
        raise MissingError(f"{settings.cluster.name} is {cluster['status']}; wait until it is ACTIVE")
    if cluster["kubernetesNetworkConfig"]["ipFamily"] == "ipv6":
        raise MissingError(f"the pods of {settings.cluster.name} have IPv6 addresses; name a cluster with IPv4")
    if not cluster["resourcesVpcConfig"]["endpointPublicAccess"]:
        return f"{settings.cluster.name} {cluster['version']}; its API is private, so run pulumi inside the VPC"
    return f"{settings.cluster.name} {cluster['version']}"


def _network_policies(aws: _Aws, settings: Settings) -> str:
    _program("kubectl", "install it, or look yourself (docs/security.md, In the cluster)")
    name = settings.cluster.name
    if name is None:
        found = _policy_engine(["--context", settings.cluster.kube_context or ""])
        return found or _skip("no plugin that is known to enforce them: some clusters, such as K3s, have one inside")
    cluster = aws("eks", "describe-cluster", "--name", name)["cluster"]
    if cluster["status"] != "ACTIVE":
        _skip("the cluster is not ready (see above)")
    authority = cluster["certificateAuthority"]["data"]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(kubeconfig(name, cluster["endpoint"], authority, cluster["arn"].split(":")[3]))
        file.flush()
        found = _policy_engine(["--kubeconfig", file.name])
        if found is None and cluster.get("computeConfig", {}).get("enabled"):
            found = _policies_in_auto_mode(["--kubeconfig", file.name])
    if found is None:
        raise MissingError(
            f"nothing enforces them in {name}; `aws eks update-addon --cluster-name {name} --addon-name vpc-cni "
            """--configuration-values '{"enableNetworkPolicy":"true"}'`, or install an engine"""
        )
    if found == "Cilium" and settings.artifacts.identity == "podIdentity":
        return "Cilium; it keeps pods from the Pod Identity agent: docs/security.md, In the cluster"
    return found


def _policy_engine(cluster: Sequence[str]) -> str | None:
    """Return the network plugin that enforces NetworkPolicies, None if there is none that is known."""
    sets = _kubectl(*cluster, "get", "daemonsets", "--all-namespaces")["items"]
    by_name = {each["metadata"]["name"]: each for each in sets}
    known = [engine for name, engine in POLICY_ENGINES.items() if name in by_name]
    if known:
        return known[0]
    containers: list[Any] = (
        by_name["aws-node"]["spec"]["template"]["spec"]["containers"] if "aws-node" in by_name else []
    )
    told = any("--enable-network-policy=true" in container.get("args", []) for container in containers)
    return "Amazon VPC CNI" if told else None


def _policies_in_auto_mode(cluster: Sequence[str]) -> str:
    settings = _kubectl(*cluster, "-n", "kube-system", "get", "configmap", "amazon-vpc-cni", "--ignore-not-found")
    if settings.get("data", {}).get("enable-network-policy-controller") != "true":
        raise MissingError(
            "EKS Auto Mode does not enforce them until told; `kubectl -n kube-system create configmap amazon-vpc-cni "
            "--from-literal=enable-network-policy-controller=true`"
        )
    return "EKS Auto Mode"


def _kubectl(*arguments: str) -> Any:
    command = ["kubectl", *arguments, "--output", "json", "--request-timeout", f"{TIMEOUT}s"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise MissingError(f"`kubectl get` did not answer in {2 * TIMEOUT} s: check the network") from None
    if done.returncode:
        raise MissingError(f"not checked, kubectl says: {done.stderr.strip()[-200:]}")
    return json.loads(done.stdout or "{}")


def _pod_identity(aws: _Aws, settings: Settings) -> str:
    if not settings.on_eks or settings.artifacts.identity != "podIdentity":
        _skip("not used by this stack")
    try:
        addon = aws(
            "eks",
            "describe-addon",
            "--cluster-name",
            str(settings.cluster.name),
            "--addon-name",
            "eks-pod-identity-agent",
        )
    except MissingError as error:
        if "ResourceNotFoundException" not in str(error):
            raise
        raise MissingError(
            f"{error}; `aws eks create-addon --addon-name eks-pod-identity-agent …`, or set artifacts.identity to irsa"
        ) from None
    return addon["addon"]["addonVersion"]


def _session_manager(settings: Settings) -> str:
    if not settings.database.admin_address:
        _skip("no tunnel is set (database.adminAddress): this machine must be able to open port 5432 of the database")
    return _program(
        "session-manager-plugin", "install it for the SSM tunnel, or use another way (docs/reaching-the-database.md)"
    )


def _certificate(aws: _Aws, settings: Settings, region: str | None) -> str:
    arn = settings.ingress.certificate_arn
    if arn is None:
        return _skip("not checked: this stack uses no ACM certificate")
    if arn.split(":")[3] != region:
        raise MissingError(
            f"the certificate is in {arn.split(':')[3]}, the stack in {region}; a load balancer takes one of its own region only"
        )
    found = aws("acm", "describe-certificate", "--certificate-arn", arn)["Certificate"]
    names: list[str] = found.get("SubjectAlternativeNames") or [found["DomainName"]]
    host = settings.mlflow.host
    if found["Status"] != "ISSUED":
        raise MissingError(f"its status is {found['Status']}; finish its validation first")
    if host not in names and f"*.{host.split('.', 1)[-1]}" not in names:
        raise MissingError(f"it is for {', '.join(names)}, not for {host}")
    return f"issued for {', '.join(names)}"


def _zone(aws: _Aws, settings: Settings) -> str:
    zone = settings.mlflow.dns_zone
    if zone is None:
        return _skip("mlflow.dnsZone is not set: the record to create is an output")
    answer = aws("route53", "list-hosted-zones-by-name", "--dns-name", zone, "--max-items", "1")
    found: list[dict[str, str]] = answer.get("HostedZones") or []
    if not found or found[0]["Name"].rstrip(".") != zone:
        raise MissingError(f"there is no zone {zone} in this account; create it or drop mlflow.dnsZone")
    return found[0]["Id"].rsplit("/", 1)[-1]


def _topic(aws: _Aws, settings: Settings) -> str:
    arn = settings.postgres.alarm_topic_arn
    if arn is None:
        return _skip("postgres.alarmTopicArn is not set: no alarms, so nobody is notified when the database fails")
    aws("sns", "get-topic-attributes", "--topic-arn", arn)
    return arn


def _reachable(url: str) -> str:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT):  # noqa: S310
            return url
    except OSError as error:
        raise MissingError(f"{url} cannot be reached ({error}); this machine installs the charts") from None


def examine(found: Sequence[Check]) -> tuple[list[str], int]:
    """Run all checks in parallel.

    Returns:
        The lines of the output, and the number of failed checks.
    """

    def carry_out(check: Check) -> tuple[str, str]:
        try:
            return "✓", check.look()
        except SkippedError as reason:
            return "·", str(reason)
        except MissingError as reason:
            return "✗", str(reason)

    with ThreadPoolExecutor(max_workers=len(found)) as pool:
        results = list(pool.map(carry_out, found))
    width = max(len(check.title) for check in found)
    lines = [f"  {mark} {check.title:<{width}}  {text}" for check, (mark, text) in zip(found, results, strict=True)]
    return lines, sum(mark == "✗" for mark, _ in results)


def main() -> None:
    """Print the checks, and exit with 1 if one failed."""
    parser = argparse.ArgumentParser(prog="make doctor", description="What is missing before a first `pulumi up`.")
    parser.add_argument("stack", help="name of the stack")
    stack = parser.parse_args().stack
    lines, missing = examine(checks(stack))
    print(f"Before `pulumi up` of {stack}:", *lines, "", sep="\n")
    print(
        f"{missing} check(s) failed. Fix the lines with ✗, then run this again."
        if missing
        else f"All checks passed. {NOT_CHECKED}"
    )
    sys.exit(1 if missing else 0)


if __name__ == "__main__":
    main()
