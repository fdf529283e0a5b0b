"""Make a copy of a stack's RDS instance from its backups, beside it, in the same network with the same rules."""

import contextlib
import json
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from operations.aws_cli import Aws, moment
from operations.checks import MissingError
from operations.mlflow_site import run_pulumi
from operations.restore.comparison import Address

POLL = 20
"""Seconds between two questions about an instance."""
LONGEST = 3 * 3600
"""Seconds after which a copy is given up. RDS takes 10 to 30 minutes, and longer for large databases."""


@dataclass(frozen=True)
class Source:
    """The backup to restore. Without a snapshot and a time it is the latest moment that RDS can restore."""

    snapshot: str | None = None
    """Identifier of a snapshot."""
    time: datetime | None = None
    """A moment."""


def described(aws: Aws, identifier: str) -> dict[str, Any] | None:
    """Return an instance, or None if there is none of this name.

    Raises:
        MissingError: AWS refused.
    """
    try:
        (found,) = aws("rds", "describe-db-instances", "--db-instance-identifier", identifier)["DBInstances"]
    except MissingError as error:
        if "NotFound" in str(error) or "not found" in str(error):
            return None
        raise
    return found


def instance_of(aws: Aws, stack: str, pulumi: str) -> dict[str, Any]:
    """Return the description of a stack's instance.

    Raises:
        MissingError: AWS refused.
        SystemExit: pulumi failed, or there is no instance.
    """
    identifier = json.loads(run_pulumi(pulumi, stack, "stack", "output", "--json")).get("databaseIdentifier")
    if not identifier:
        raise SystemExit(f"The stack {stack} has no RDS instance; its database is restored as its server says.")
    found = described(aws, identifier)
    if found is None:
        raise SystemExit(f"There is no instance {identifier}: `pulumi refresh` says more.")
    return found


def address(instance: Mapping[str, Any]) -> Address:
    """Return the address of an instance."""
    return Address(instance["Endpoint"]["Address"], int(instance["Endpoint"]["Port"]))


def moment_of(aws: Aws, instance: Mapping[str, Any], source: Source) -> datetime:
    """Return the moment that a copy of this source shows.

    Raises:
        MissingError: RDS cannot restore it, or AWS refused.
    """
    latest = moment(instance["LatestRestorableTime"]) if instance.get("LatestRestorableTime") else None
    if source.snapshot:
        (snapshot,) = aws("rds", "describe-db-snapshots", "--db-snapshot-identifier", source.snapshot)["DBSnapshots"]
        return moment(snapshot["SnapshotCreateTime"])
    if latest is None:
        raise MissingError("RDS has no backup yet; wait until the first one is made, some minutes after the instance")
    if source.time and source.time > latest:
        raise MissingError(
            f"{source.time:%Y-%m-%dT%H:%M:%SZ} cannot be restored; the latest moment is {latest:%Y-%m-%dT%H:%M:%SZ}"
        )
    return source.time or latest


def as_option(tags: Mapping[str, str]) -> str:
    """Return tags as the aws command takes them."""
    return json.dumps([{"Key": key, "Value": value} for key, value in tags.items()])


def restore(aws: Aws, instance: Mapping[str, Any], name: str, source: Source, tags: Mapping[str, str]) -> None:
    """Begin to make a copy of an instance.

    Args:
        aws: the stack's account.
        instance: description of the instance. The copy gets its network, its class and its parameters.
        name: identifier of the copy.
        source: backup.
        tags: tags of the copy. Those of the stack would make it a second database of the stack.

    Raises:
        MissingError: AWS refused.
    """
    same = [
        *("--db-instance-class", instance["DBInstanceClass"]),
        *("--db-subnet-group-name", instance["DBSubnetGroup"]["DBSubnetGroupName"]),
        *("--vpc-security-group-ids", *(group["VpcSecurityGroupId"] for group in instance["VpcSecurityGroups"])),
        *("--db-parameter-group-name", instance["DBParameterGroups"][0]["DBParameterGroupName"]),
        "--no-publicly-accessible",
        *("--tags", as_option(tags)),
    ]
    if source.snapshot:
        what = ["restore-db-instance-from-db-snapshot", "--db-snapshot-identifier", source.snapshot]
        aws("rds", *what, "--db-instance-identifier", name, *same)
        return
    when = (
        ["--restore-time", f"{source.time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"]
        if source.time
        else ["--use-latest-restorable-time"]
    )
    of = ["--source-db-instance-identifier", instance["DBInstanceIdentifier"], "--target-db-instance-identifier", name]
    aws("rds", "restore-db-instance-to-point-in-time", *of, *when, *same)


def wait(aws: Aws, name: str) -> Address:
    """Wait until an instance is available, print each new status, and return its address.

    Args:
        aws: the stack's account.
        name: identifier of the instance.

    Raises:
        MissingError: it does not come up, or AWS refused.
    """
    status, begun = "", time.monotonic()
    while time.monotonic() - begun < LONGEST:
        found = described(aws, name)
        if found and found["DBInstanceStatus"] != status:
            status = found["DBInstanceStatus"]
            print(f"{name}: {status}", flush=True)
        if found and status == "available":
            return address(found)
        if status in ("failed", "incompatible-restore", "incompatible-parameters", "incompatible-network"):
            raise MissingError(
                f"{name} is {status}; see its events: aws rds describe-events --source-identifier {name} --source-type db-instance"
            )
        time.sleep(POLL)
    raise MissingError(f"{name} is still {status} after {LONGEST // 3600} hours; delete it, or go on by hand")


def throw_away(aws: Aws, name: str) -> None:
    """Delete a copy, with its backups and without a final snapshot.

    Raises:
        MissingError: AWS refused.
    """
    aws(
        *("rds", "delete-db-instance", "--db-instance-identifier", name),
        "--skip-final-snapshot",
        "--delete-automated-backups",
    )


@contextlib.contextmanager
def copied(aws: Aws, instance: Mapping[str, Any], name: str, source: Source) -> Generator[tuple[Address, datetime]]:
    """Make a copy, provide its address and the moment that it shows, and throw it away, also after an error.

    Args:
        aws: the stack's account.
        instance: description of the instance.
        name: identifier of the copy.
        source: backup.

    Raises:
        MissingError: AWS refused.
        SystemExit: a copy of this name is there already.
    """
    if described(aws, name):
        raise SystemExit(
            f"{name} is there already, from a command that was interrupted: aws rds delete-db-instance --db-instance-identifier {name} "
            "--skip-final-snapshot --delete-automated-backups"
        )
    moment = moment_of(aws, instance, source)
    print(f"restoring {instance['DBInstanceIdentifier']} as of {moment:%Y-%m-%d %H:%M:%S} UTC into {name}", flush=True)
    restore(aws, instance, name, source, {"Purpose": "restore"})
    try:
        yield wait(aws, name), moment
    finally:
        throw_away(aws, name)
        print(f"{name}: deleted", flush=True)
