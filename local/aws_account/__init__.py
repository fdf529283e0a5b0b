"""The AWS account of the local stack: how it is run and reached, and what is known of it beforehand."""

import os
import sys

from local import paths
from local.supervisor.client import Supervisor
from local.supervisor.spec import ProcessSpec

REGION = "eu-west-1"
CLUSTER = "mlflow-local"
KUBERNETES_VERSION = "1.34"
PROCESS = "aws"
VPC_CIDR = "10.0.0.0/16"
PRIVATE_SUBNETS = {f"{REGION}a": "10.0.1.0/24", f"{REGION}b": "10.0.2.0/24"}
PUBLIC_SUBNETS = {f"{REGION}a": "10.0.101.0/24"}
CLUSTER_SECURITY_GROUP = f"eks-cluster-sg-{CLUSTER}"
ADDRESS = "127.0.0.1"


def start(supervisor: Supervisor, timeout: float = 60) -> str:
    """Have the machine run the account; return its endpoint, where the first calls wait until the account is complete."""
    port = supervisor.free_port(PROCESS)
    endpoint = f"http://{ADDRESS}:{port}"
    supervisor.keep_running(
        ProcessSpec(
            name=PROCESS,
            argv=[sys.executable, "-m", "local.aws_account.server", str(port), str(supervisor.folder / "aws.journal")],
            env={
                "PATH": os.defpath,
                **credentials(endpoint),
                # Nobody starts a machine here.
                "MOTO_EC2_LOAD_DEFAULT_AMIS": "false",
            },
            cwd=str(paths.CHECKOUT),
            ready={"tcp": f"{ADDRESS}:{port}"},
        ),
        timeout,
    )
    return endpoint


def credentials(endpoint: str) -> dict[str, str]:
    """The environment of a client of this account; it replaces whatever AWS configuration the user has."""
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
