"""Tells a change that waits for the maintenance window from drift: ``python -m operations.waiting --stack dev preview.json``.

RDS shows the old values until the window, so each preview of a stack with such a change differs from what is there. The exit code is 0 if
nothing else differs, and 1 if something does.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from operations import aws_cli
from operations.prices import INSTANCE
from operations.review.preview import Preview, mapping, read
from operations.stack_file import config

NAMES = {
    "allocatedStorage": "AllocatedStorage",
    "dbSubnetGroupName": "DBSubnetGroupName",
    "engineVersion": "EngineVersion",
    "instanceClass": "DBInstanceClass",
    "iops": "Iops",
    "multiAz": "MultiAZ",
    "storageThroughput": "StorageThroughput",
    "storageType": "StorageType",
}
"""Inputs of the instance that wait for its window, to their names in RDS's ``PendingModifiedValues``."""


def differences(preview: Preview) -> tuple[str, set[str]] | None:
    """Return the instance's identifier and the inputs of it that differ.

    Returns:
        None if anything but a change of the one instance differs.
    """
    planned = [change for change in preview.changes if change.kind != "drifted"]
    # What the refresh has found elsewhere is told by the change that takes it back.
    found = {change.urn for change in preview.changes}
    if len(found) != 1 or len(planned) != 1 or planned[0].kind != "changed" or planned[0].type != INSTANCE:
        return None
    (change,) = planned
    identifier = mapping(change.new.get("inputs")).get("identifier")
    return str(identifier), {path.partition(".")[0] for path in change.differs}


def what_waits(differs: set[str], pending: Mapping[str, Any]) -> str | None:
    """Return a sentence on what waits. None if an input differs that does not wait."""
    if not differs or any(NAMES.get(name) not in pending for name in differs):
        return None
    values = ", ".join(f"{name} {value}" for name, value in sorted(pending.items()))
    return f"Waits for the maintenance window of the database: {values}."


def ask(stack: str, preview: Preview) -> tuple[str, Mapping[str, Any]] | None:
    """Ask RDS whether all that a preview shows waits, and return a sentence on it and the instance. None if something does not wait."""
    found = differences(preview)
    if found is None:
        return None
    identifier, differs = found
    aws = aws_cli.from_config(config(stack))
    (instance,) = aws("rds", "describe-db-instances", "--db-instance-identifier", identifier)["DBInstances"]
    sentence = what_waits(differs, instance.get("PendingModifiedValues") or {})
    return (sentence, instance) if sentence else None


def main() -> None:
    """Read the preview, ask RDS, and print what waits."""
    parser = argparse.ArgumentParser(description="Whether all that a preview shows waits for the maintenance window.")
    parser.add_argument("file", type=Path, help="output of `pulumi preview --json`")
    parser.add_argument("--stack", required=True, help="name of the stack")
    given = parser.parse_args()
    waits = ask(given.stack, read(given.file.read_text()))
    if waits is None:
        sys.exit(1)
    sentence, instance = waits
    print(f"{sentence} It is on {instance['PreferredMaintenanceWindow']} UTC.")


if __name__ == "__main__":
    main()
