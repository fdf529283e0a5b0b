"""Tries a restore: ``make drill STACK=prod``. The database in use is not touched.

A copy of the database is made from its backups, MLflow's own code reads it from inside a pod, what it finds is compared with the
database in use, and the copy is thrown away. It costs an instance of the same class for as long as that takes.
"""

import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from operations import aws_cli
from operations.checks import MissingError
from operations.restore import copy_of
from operations.restore.arguments import arguments, source_of
from operations.restore.comparison import lacks, seen_by_mlflow, table
from operations.stack_cluster import read_state
from operations.stack_file import config

REPORT = Path("artifacts")
"""Folder of the report."""


def drill(stack: str, source: copy_of.Source, pulumi: str, aws_command: str) -> tuple[str, list[str]]:
    """Make a copy, compare it, throw it away, and return the report and what the copy lacks.

    Raises:
        MissingError: AWS, the cluster or MLflow refused.
        SystemExit: pulumi failed, or the stack has no instance.
    """
    aws = aws_cli.from_config(config(stack), aws_command)
    instance = copy_of.instance_of(aws, stack, pulumi)
    identifier = instance["DBInstanceIdentifier"]
    state, name, begun = read_state(stack, pulumi), f"{identifier}-drill", time.monotonic()
    with copy_of.copied(aws, instance, name, source) as (address, moment):
        restored = time.monotonic() - begun
        in_use, copy = seen_by_mlflow(state, [copy_of.address(instance), address], moment)
    took = f"The copy was there after {restored / 60:.0f} minutes, and the drill took {(time.monotonic() - begun) / 60:.0f}."
    lacking = lacks(in_use, copy)
    verdict = f"The copy lacks {'; '.join(lacking)}." if lacking else "The copy has everything."
    head = f"# Restore drill of {stack}, {datetime.now(UTC):%Y-%m-%d}\n\n{identifier} as of {moment:%Y-%m-%d %H:%M:%S} UTC. {took}"
    return f"{head}\n\n{table(in_use, copy)}\n\n{verdict}\n", lacking


def main() -> None:
    """Make the drill, print the report and keep it in `artifacts`."""
    given = arguments("drill", "Try a restore of a stack's database.").parse_args()
    try:
        report, lacking = drill(given.stack, source_of(given), given.pulumi, given.aws)
    except MissingError as error:
        raise SystemExit(f"error: {error}") from None
    REPORT.mkdir(exist_ok=True)
    (REPORT / f"drill-{given.stack}.md").write_text(report, encoding="utf-8")
    print(f"\n{report}")
    sys.exit(1 if lacking else 0)


if __name__ == "__main__":
    main()
