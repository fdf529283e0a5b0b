# boto3 has no types of its own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""A stack's AWS account and its database server, as tests look at them."""

from typing import Any

import boto3

from local import aws_account
from local.stack import LocalStack
from local.supervisor.client import Supervisor


def aws_client(stack: LocalStack, service: str) -> Any:
    """Return a client of a service in the stack's account."""
    port = Supervisor(stack.folder).free_port(aws_account.PROCESS)
    return boto3.client(
        service,
        endpoint_url=f"http://{aws_account.ADDRESS}:{port}",
        region_name=aws_account.REGION,
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )


def postgresql(stack: LocalStack) -> int:
    """Return the major version of the stack's server."""
    with stack.connect(as_master=True) as server:
        return server.info.server_version // 10000


def parameter_groups(stack: LocalStack) -> set[str]:
    """Return the names of the account's parameter groups."""
    groups = aws_client(stack, "rds").describe_db_parameter_groups()["DBParameterGroups"]
    return {group["DBParameterGroupName"] for group in groups}
