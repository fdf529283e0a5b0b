# boto3 has no types of its own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""An upgrade of PostgreSQL, looked at from the account and from the server."""

from typing import Any

import boto3

from local import aws_account
from local.stack import LocalStack
from local.supervisor.client import Supervisor


def postgresql(stack: LocalStack) -> int:
    """Return the major version of the stack's server."""
    with stack.connect(as_master=True) as server:
        return server.info.server_version // 10000


def rds(stack: LocalStack) -> Any:
    """Return a client of RDS in the stack's account."""
    port = Supervisor(stack.folder).free_port(aws_account.PROCESS)
    return boto3.client(
        "rds",
        endpoint_url=f"http://{aws_account.ADDRESS}:{port}",
        region_name=aws_account.REGION,
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )


def parameter_groups(stack: LocalStack) -> set[str]:
    """Return the names of the account's parameter groups."""
    return {group["DBParameterGroupName"] for group in rds(stack).describe_db_parameter_groups()["DBParameterGroups"]}
