"""Checks of this machine: programs, the region, the login to AWS, and the charts' addresses."""

import shutil
import subprocess
import urllib.request

from components.haproxy_ingress import CHART_REPOSITORY as INGRESS_CHARTS
from components.mlflow_release.names import CHART_REPOSITORY as MLFLOW_CHARTS
from operations.aws_cli import TIMEOUT
from operations.checks import MissingError, skip
from operations.doctor.subject import Subject

OLDEST_PULUMI = (3, 200, 0)
"""Oldest version of the Pulumi CLI that the checks accept."""


def settings(subject: Subject) -> str:
    """Look whether the ARNs of the settings fit the region. The stack file was read before."""
    region = subject.aws.region
    if region and subject.settings.on_eks:
        partition = "aws-cn" if region.startswith("cn-") else "aws-us-gov" if region.startswith("us-gov-") else "aws"
        if problems := subject.settings.problems_in(region, partition):
            raise MissingError("\n".join(map(str, problems)))
    return f"Pulumi.{subject.stack}.yaml is right"


def pulumi(_: Subject) -> str:
    """Look for a Pulumi CLI that is new enough."""
    program("pulumi", "install the Pulumi CLI")
    version = subprocess.run(
        ["pulumi", "version"], capture_output=True, text=True, timeout=TIMEOUT, check=False
    ).stdout.strip()
    numbers = tuple(int(part) for part in version.lstrip("v").split("-")[0].split(".") if part.isdigit())
    if numbers < OLDEST_PULUMI:
        raise MissingError(f"this is {version or 'unknown'}; update to {'.'.join(map(str, OLDEST_PULUMI))} or newer")
    return version


def aws_command(subject: Subject) -> str:
    """Look for the aws command, with which the kubeconfig logs in."""
    subject.needs_eks()
    return program("aws", "install the AWS CLI, version 2")


def region(subject: Subject) -> str:
    """Look whether the stack has a region."""
    subject.needs_eks()
    return subject.aws.region or _no_region(subject.stack)


def _no_region(stack: str) -> str:
    raise MissingError(f"not set: `pulumi config set aws:region eu-west-1 --stack {stack}`")


def credentials(subject: Subject) -> str:
    """Look who this is for AWS."""
    subject.needs_eks()
    return subject.aws("sts", "get-caller-identity")["Arn"]


def session_manager(subject: Subject) -> str:
    """Look for the program of a tunnel, if the stack uses one."""
    if not subject.settings.database.admin_address:
        skip("no tunnel is set (database.adminAddress): this machine must be able to open port 5432 of the database")
    return program(
        "session-manager-plugin", "install it for the SSM tunnel, or use another way (docs/reaching-the-database.md)"
    )


def ingress_charts(subject: Subject) -> str:
    """Look whether the charts of HAProxy can be reached."""
    if not subject.settings.ingress.install:
        skip("not installed by this stack")
    return reachable(f"{INGRESS_CHARTS}/index.yaml")


def mlflow_charts(_: Subject) -> str:
    """Look whether the charts of MLflow can be reached."""
    return reachable(f"{MLFLOW_CHARTS}/index.yaml")


def reachable(url: str) -> str:
    """Return the address.

    Raises:
        MissingError: the address cannot be reached from here.
    """
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT):  # noqa: S310
            return url
    except OSError as error:
        raise MissingError(f"{url} cannot be reached ({error}); this machine installs the charts") from None


def program(name: str, fix: str) -> str:
    """Return the path of a program.

    Raises:
        MissingError: the program is not on the PATH.
    """
    path = shutil.which(name)
    if path is None:
        raise MissingError(f"not on PATH: {fix}")
    return path
