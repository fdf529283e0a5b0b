"""The AWS account of the local stack: its fixed properties, its process and its credentials."""

import os
import sys

from local import paths
from local.supervisor.client import Supervisor
from local.supervisor.spec import ProcessSpec

REGION = "eu-west-1"
CLUSTER = "mlflow-local"
"""Name of the EKS cluster."""
KUBERNETES_VERSION = "1.34"
PROCESS = "aws"
"""Name of the account's process in the supervisor."""
VPC_CIDR = "10.0.0.0/16"
PRIVATE_SUBNETS = {f"{REGION}a": "10.0.1.0/24", f"{REGION}b": "10.0.2.0/24"}
"""Availability zone to network."""
PUBLIC_SUBNETS = {f"{REGION}a": "10.0.101.0/24"}
"""Availability zone to network."""
CLUSTER_SECURITY_GROUP = f"eks-cluster-sg-{CLUSTER}"
"""Name of the cluster security group."""
ADDRESS = "127.0.0.1"
"""Address that the account listens on."""


def start(supervisor: Supervisor, timeout: float = 60) -> str:
    """Start the account in the supervisor and return the URL of its API.

    The first calls wait until the account is complete.

    Args:
        supervisor: the stack's supervisor.
        timeout: seconds to wait for the port, default 60.

    Raises:
        SupervisorError: the process ended or was not ready in time.
    """
    port = supervisor.free_port(PROCESS)
    endpoint = f"http://{ADDRESS}:{port}"
    supervisor.keep_running(
        ProcessSpec(
            name=PROCESS,
            argv=[sys.executable, "-m", "local.aws_account.server", str(port), str(supervisor.folder / "aws.journal")],
            env={
                "PATH": os.defpath,
                **credentials(endpoint),
                # This program starts no EC2 instances, so moto need not load the images.
                "MOTO_EC2_LOAD_DEFAULT_AMIS": "false",
            },
            cwd=str(paths.CHECKOUT),
            ready={"tcp": f"{ADDRESS}:{port}"},
        ),
        timeout,
    )
    return endpoint


def credentials(endpoint: str) -> dict[str, str]:
    """Return the environment of a client of this account. It overrides the user's AWS configuration."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
