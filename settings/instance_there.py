"""The settings of the RDS instance, held against the instance that is there."""

from typing import TYPE_CHECKING

from settings.all_settings import Settings
from settings.max_connections import max_connections
from settings.problem import Problem

if TYPE_CHECKING:
    # At run time it would cost each command that reads settings a second.
    from pulumi_aws.rds import GetInstanceResult

BACKUPS = "docs/backup-and-restore.md"
"""Page on how a database moves into another instance."""


def problems(settings: Settings, there: "GetInstanceResult") -> list[Problem]:
    """Return what this instance cannot become: RDS would refuse it, or the data would be lost.

    Args:
        settings: the stack's settings.
        there: the instance.
    """
    section = settings.postgres
    found: list[Problem] = []
    if section.master_username != there.master_username:
        found.append(
            Problem(
                "postgres.masterUsername",
                f"is {section.master_username}, and the database was made with {there.master_username}, which RDS never changes: write that",
            )
        )
    if section.kms_key_arn and section.kms_key_arn != there.kms_key_id:
        found.append(
            Problem(
                "postgres.kmsKeyArn",
                f"is {section.kms_key_arn}, and the database is encrypted with {there.kms_key_id}, which RDS never changes: write that, or "
                f"move the data into a new instance ({BACKUPS})",
            )
        )
    wanted, runs = int(section.engine_version), int(there.engine_version.partition(".")[0])
    if wanted < runs:
        found.append(
            Problem(
                "postgres.engineVersion",
                f'is "{wanted}", and the database runs {there.engine_version}; RDS never goes back: write "{runs}", or restore a backup of '
                f"before the upgrade ({BACKUPS})",
            )
        )
    elif wanted > runs and not section.allow_major_upgrade:
        found.append(
            Problem(
                "postgres.engineVersion",
                f'is "{wanted}", and the database runs {there.engine_version}; an upgrade cannot be taken back: read '
                f'docs/upgrade-postgresql.md and set postgres.allowMajorUpgrade to true, or write "{runs}"',
            )
        )
    if section.allocated_storage < there.allocated_storage and not section.max_allocated_storage:
        found.append(
            Problem(
                "postgres.allocatedStorage",
                f"is {section.allocated_storage}, and the instance has {there.allocated_storage} GiB, which RDS never makes smaller: write "
                f"{there.allocated_storage} beside maxAllocatedStorage: 0",
            )
        )
    return [*found, *_smaller_class(settings, there)]


def changes(settings: Settings, there: "GetInstanceResult") -> list[str]:
    """Return a sentence for each change that interrupts the database or waits for the maintenance window.

    The API of the provider does not tell a change that waits already from one that is new, and what to do is the same.

    Args:
        settings: the stack's settings.
        there: the instance.
    """
    section = settings.postgres
    grows = section.allocated_storage > there.allocated_storage
    differences = {
        "engineVersion": (there.engine_version, section.engine_version)
        if there.engine_version.partition(".")[0] != section.engine_version
        else None,
        "instanceClass": (there.db_instance_class, section.instance_class),
        "multiAz": (str(there.multi_az).lower(), str(section.multi_az).lower()),
        "storageType": (there.storage_type, section.storage_type),
        "allocatedStorage": (f"{there.allocated_storage}", f"{section.allocated_storage}") if grows else None,
    }
    when = (
        "is changed at once, together with all that waits for the maintenance window, and may restart the database"
        if settings.applies_immediately
        else f"waits for the maintenance window, {there.preferred_maintenance_window} UTC; until then each preview shows it. "
        "postgres.applyImmediately: true makes it at once"
    )
    return [
        f"postgres.{key}: the instance has {pair[0]}, the settings say {pair[1]}: it {when}."
        for key, pair in differences.items()
        if pair and pair[0] != pair[1]
    ]


def _smaller_class(settings: Settings, there: "GetInstanceResult") -> list[Problem]:
    """Reckon with the connections of the class that is there, which serves until the change is made."""
    wanted, runs = (max_connections(name) for name in (settings.postgres.instance_class, there.db_instance_class))
    if settings.applies_immediately or wanted is None or runs is None or runs >= wanted:
        return []
    return [
        Problem(
            problem.key,
            f"{problem.sentence.partition(';')[0]}; {settings.postgres.instance_class} comes in the maintenance window only, "
            f"{there.preferred_maintenance_window} UTC: raise this afterwards, or set postgres.applyImmediately to true",
        )
        for problem in settings.connection_budget(there.db_instance_class)
    ]
