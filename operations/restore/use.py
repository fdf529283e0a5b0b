"""Brings a stack's database back as it was: ``make restore STACK=prod TIME=2026-11-30T02:00:00Z``.

A copy is made from the backups and compared. Then the two exchange their names, so that the address stays, and the state of the stack gets
the copy's id. The old instance stays under another name, until a person deletes it. What was written after that moment is in the old
one only.
"""

import json
import time
from typing import Any

from operations import aws_cli
from operations.aws_cli import Aws
from operations.checks import MissingError
from operations.mlflow_site import run_pulumi
from operations.prices import INSTANCE
from operations.restore import copy_of
from operations.restore.arguments import arguments, source_of
from operations.restore.comparison import namespace_of_mlflow, seen_by_mlflow, table
from operations.stack_cluster import KubectlError, State, read_state
from operations.stack_file import config


def rename(aws: Aws, old: str, new: str) -> None:
    """Give an instance another name, and wait until it answers under it.

    Raises:
        MissingError: AWS refused.
    """
    names = ["--db-instance-identifier", old, "--new-db-instance-identifier", new]
    aws("rds", "modify-db-instance", *names, "--apply-immediately")
    copy_of.wait(aws, new)


def with_id(exported: str, resource_id: str) -> str:
    """Return an exported state in which the instance has another id."""
    state: dict[str, Any] = json.loads(exported)
    (instance,) = (each for each in state["deployment"]["resources"] if each["type"] == INSTANCE)
    instance["id"] = resource_id
    return json.dumps(state)


def take_into_use(aws: Aws, stack: str, pulumi: str, instance: dict[str, Any], copy: str) -> str:
    """Exchange the names of an instance and its copy, give the state the copy's id, and return the old instance's new name.

    Raises:
        MissingError: AWS refused. The message says what to do.
        SystemExit: pulumi failed.
    """
    name = instance["DBInstanceIdentifier"]
    number = 1
    while copy_of.described(aws, f"{name}-old{number}"):
        number += 1
    old = f"{name}-old{number}"
    rename(aws, name, old)
    try:
        rename(aws, copy, name)
    except MissingError as error:
        raise MissingError(
            f"{error}. The database in use is {old} now and no pod reaches it; to go back: aws rds modify-db-instance "
            f"--db-instance-identifier {old} --new-db-instance-identifier {name} --apply-immediately"
        ) from None
    now = copy_of.described(aws, name) or {}
    # By them the program finds the instance.
    tags = {tag["Key"]: tag["Value"] for tag in instance.get("TagList", []) if not tag["Key"].startswith("aws:")}
    aws("rds", "add-tags-to-resource", "--resource-name", now["DBInstanceArn"], "--tags", copy_of.as_option(tags))
    exported = run_pulumi(pulumi, stack, "stack", "export")
    run_pulumi(pulumi, stack, "stack", "import", text=with_id(exported, now["DbiResourceId"]))
    return old


def on_pods(state: State, *command: str) -> None:
    """Run a command of kubectl in MLflow's namespace."""
    with state.kubectl() as kubectl:
        kubectl("-n", namespace_of_mlflow(state), *command)


def main() -> None:
    """Make the copy, compare it, ask, and take it into use."""
    parser = arguments("restore", "Bring a stack's database back as it was.")
    parser.add_argument("--older", action="store_true", help="the backup is of before an upgrade of MLflow")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    given = parser.parse_args()
    source = source_of(given)
    if source == copy_of.Source():
        raise SystemExit(
            "error: TIME or SNAPSHOT is missing; write the moment to go back to, such as TIME=2026-11-30T02:00:00Z"
        )
    aws, begun = aws_cli.from_config(config(given.stack), given.aws), time.monotonic()
    try:
        instance, state = copy_of.instance_of(aws, given.stack, given.pulumi), read_state(given.stack, given.pulumi)
        copy = f"{instance['DBInstanceIdentifier']}-restored"
        moment = copy_of.moment_of(aws, instance, source)
        if copy_of.described(aws, copy) is None:
            copy_of.restore(aws, instance, copy, source, {"Purpose": "restore"})
        address = copy_of.wait(aws, copy)
        # The MLflow that runs cannot read older tables. Its pods would migrate them when they start, so they stop.
        seen = "" if given.older else table(*seen_by_mlflow(state, [copy_of.address(instance), address], moment))
        print(f"\nas of {moment:%Y-%m-%d %H:%M:%S} UTC\n\n{seen}\n")
        if not given.yes and input(f"Take {copy} into use? Write the name of the stack: ") != given.stack:
            raise SystemExit(f"Nothing was changed. {copy} goes on running: run this again to use it, or delete it.")
        if given.older:
            on_pods(state, "scale", "deploy/mlflow", "--replicas=0")
        old = take_into_use(aws, given.stack, given.pulumi, instance, copy)
        if not given.older:
            # The connections of the pods still lead to the old instance.
            on_pods(state, "rollout", "restart", "deployment/mlflow")
    except (MissingError, KubectlError) as error:
        raise SystemExit(f"error: {error}") from None
    settings_back = "set the older mlflow.chartVersion or mlflow.image and " if given.older else ""
    print(
        f"\n{instance['DBInstanceIdentifier']} is as of {moment:%Y-%m-%d %H:%M:%S} UTC, after {(time.monotonic() - begun) / 60:.0f} minutes. "
        f"Now {settings_back}run `pulumi up --refresh --stack {given.stack}`, which gives it the settings that a restore leaves out, and `make verify "
        f"STACK={given.stack}`. The database of before is {old}; delete it when nobody misses anything in it."
    )


if __name__ == "__main__":
    main()
