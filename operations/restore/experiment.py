"""Brings back one experiment that was purged: ``make restore STACK=prod TIME=2026-11-30T02:00:00Z EXPERIMENT=churn``.

A copy of the database as of that moment is made beside the one in use. The experiment's files come back first, from the old versions that the
bucket keeps, then its rows from the copy, in one transaction. The copy is thrown away. Whatever else is in the database stays as it is.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from operations import aws_cli
from operations.aws_cli import Aws
from operations.checks import MissingError
from operations.mlflow_site import run_pulumi
from operations.restore import copy_of
from operations.restore.arguments import arguments, source_of
from operations.restore.comparison import python_in_pod
from operations.stack_cluster import KubectlError, read_state
from operations.stack_file import config

HOUR = 3600
"""Seconds that a list of files, or the rows of an experiment, may take."""
AT_ONCE = 100
"""Files in a request. A longer argument than 128 KiB is refused by Linux, and a key has 1,024 bytes at most."""


def folder_of(exported: str, location: str) -> tuple[str, str] | None:
    """Return the bucket and the folder of an experiment's files, or None if the site's bucket has none.

    Args:
        exported: state of the stack.
        location: place of the files as MLflow has written it down.
    """
    resources: list[dict[str, Any]] = json.loads(exported)["deployment"]["resources"]
    (values,) = (one["inputs"]["values"] for one in resources if one.get("inputs", {}).get("chart") == "mlflow")
    place = values["artifactRoot"].get("s3")
    own = location.removeprefix("mlflow-artifacts:/").strip("/")
    return (place["bucket"], f"{place['path']}/{own}/") if place and own and own != location.strip("/") else None


def files_back(aws: Aws, bucket: str, folder: str, moment: datetime) -> int:
    """Take away the marks with which files were deleted after a moment, and return the number of files.

    Raises:
        MissingError: AWS refused.
    """
    listed = replace(aws, seconds=HOUR)("s3api", "list-object-versions", "--bucket", bucket, "--prefix", folder)
    marks = [
        {"Key": mark["Key"], "VersionId": mark["VersionId"]}
        for mark in listed.get("DeleteMarkers", [])
        if mark["IsLatest"] and aws_cli.moment(mark["LastModified"]) > moment
    ]
    for some in _parts(marks):
        answer = aws(
            "s3api", "delete-objects", "--bucket", bucket, "--delete", json.dumps({"Objects": some, "Quiet": True})
        )
        for error in answer.get("Errors", []):
            raise MissingError(f"{error['Key']} does not come back: {error.get('Message', error.get('Code'))}")
    return len(marks)


def _parts(marks: Sequence[dict[str, str]]) -> Iterator[Sequence[dict[str, str]]]:
    yield from (marks[start : start + AT_ONCE] for start in range(0, len(marks), AT_ONCE))


def bring_back(stack: str, experiment: str, source: copy_of.Source, pulumi: str, aws_command: str) -> str:
    """Bring an experiment back, and return a sentence about it.

    Args:
        stack: name of the stack.
        experiment: name of the experiment at that moment, or its id.
        source: backup that has it.
        pulumi: how to call pulumi.
        aws_command: how to call the AWS CLI.

    Raises:
        MissingError: AWS, the cluster or MLflow refused, or the experiment is not in the copy, or is still there.
        SystemExit: pulumi failed, or the stack has no instance.
    """
    aws = aws_cli.from_config(config(stack), aws_command)
    instance, state = copy_of.instance_of(aws, stack, pulumi), read_state(stack, pulumi)
    name, begun = f"{instance['DBInstanceIdentifier']}-experiment", time.monotonic()
    with copy_of.copied(aws, instance, name, source) as (address, moment):

        def in_pod(act: str) -> dict[str, Any]:
            given = [address.host, str(address.port), experiment, act]
            found: dict[str, Any] = python_in_pod(state, "rows.py", given, seconds=HOUR)
            if "refused" in found:
                raise MissingError(found["refused"])
            return found

        found = in_pod("look")
        place = folder_of(run_pulumi(pulumi, stack, "stack", "export"), found["files"])
        files = (
            f"{files_back(aws, *place, moment)} files" if place else f"its files at {found['files']} are left to you"
        )
        rows: dict[str, int] = in_pod("bring")["rows"]
    numbers = ", ".join(f"{count} {table}" for table, count in rows.items())
    return f"{found['name']} is back as experiment {found['id']}, after {(time.monotonic() - begun) / 60:.0f} minutes: {files}, {numbers}"


def main() -> None:
    """Bring the experiment back and say what came."""
    parser = arguments("restore", "Bring back one experiment that was purged.")
    parser.add_argument("--experiment", required=True, help="name of the experiment at that moment, or its id")
    given = parser.parse_args()
    source = source_of(given)
    if source == copy_of.Source():
        raise SystemExit("error: TIME or SNAPSHOT is missing; write a moment at which the experiment was there")
    try:
        print(bring_back(given.stack, given.experiment, source, given.pulumi, given.aws))
    except (MissingError, KubectlError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
