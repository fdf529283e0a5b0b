# boto3 has no types of its own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The maintenance window of the account's RDS instances."""

from typing import Any

from local.plugins.aws.api import call
from local.plugins.aws.database_server import DatabaseServer
from local.plugins.aws.rds import parameters_of


def let_pass() -> list[str]:
    """Carry out what waits for the window, and return a sentence for each instance.

    A server runs what the account says afterwards. So this also completes a blue/green deployment that was switched over.

    Raises:
        SupervisorError: a server did not start.
    """
    said: list[str] = []
    for before in call("rds", "describe_db_instances")["DBInstances"]:
        identifier: Any = before["DBInstanceIdentifier"]
        if not DatabaseServer(identifier).exists:
            continue
        waits = before["PendingModifiedValues"]
        if waits:
            call("rds", "modify_db_instance", DBInstanceIdentifier=identifier, ApplyImmediately=True)
        (after,) = call("rds", "describe_db_instances", DBInstanceIdentifier=identifier)["DBInstances"]
        group = after["DBParameterGroups"][0]["DBParameterGroupName"]
        DatabaseServer(identifier).start(parameters_of(group), after["EngineVersion"])
        changes = ", ".join(f"{name} {value}" for name, value in sorted(waits.items()))
        said.append(
            f"{identifier} runs PostgreSQL {after['EngineVersion']}. {changes or 'Nothing'} waited for the window."
        )
    return said
