"""The settings held against the RDS instance that is there: what is refused, and what a preview says in words."""

from collections.abc import Mapping
from typing import Any

import pulumi
import pytest

from tests.unit.harness import INSTANCE_THERE, MINIMAL, Account, changed, deploy, refused

LARGE = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"


def with_instance(there: Mapping[str, Any]) -> Account:
    return Account(instances={"postgres-0a0b0c0d": there})


@pytest.mark.parametrize("protect", [True, False])
@pytest.mark.parametrize(
    ("changes", "there", "words"),
    [
        (
            {"postgres.masterUsername": "dba"},
            {},
            ["postgres.masterUsername is dba", "was made with postgres", "write that"],
        ),
        (
            {"postgres.kmsKeyArn": LARGE},
            {},
            ["postgres.kmsKeyArn is", INSTANCE_THERE["kmsKeyId"], "docs/backup-and-restore.md"],
        ),
        (
            {"postgres.engineVersion": "16"},
            {},
            ['postgres.engineVersion is "16"', "runs 17.6", "never goes back", 'write "17"'],
        ),
        (
            {"postgres.engineVersion": "18"},
            {},
            ['postgres.engineVersion is "18"', "cannot be taken back", "postgres.allowMajorUpgrade", 'write "17"'],
        ),
        (
            {"postgres.allocatedStorage": 20, "postgres.maxAllocatedStorage": 0},
            {"allocatedStorage": 35},
            ["postgres.allocatedStorage is 20", "has 35 GiB", "never makes smaller", "write 35"],
        ),
    ],
)
def test_what_the_instance_cannot_become_is_refused_in_the_preview(
    changes: Mapping[str, Any], there: Mapping[str, Any], words: list[str], protect: bool
) -> None:
    config = changed(MINIMAL, {**changes, "protect": protect})
    refusal = refused(config, account=with_instance(there), preview=True)
    assert isinstance(refusal.error, pulumi.RunError)
    (problem,) = refusal.problems
    for word in words:
        assert word in problem
    assert not [each for each in refusal.deployment.resources if each.type.startswith("aws:")]


@pytest.mark.parametrize(
    ("changes", "there"),
    [
        ({}, {}),
        # A key that nobody named is the account's own.
        ({}, {"kmsKeyId": LARGE}),
        ({"postgres.kmsKeyArn": LARGE}, {"kmsKeyId": LARGE}),
        ({"postgres.engineVersion": "18", "postgres.allowMajorUpgrade": True}, {}),
        # Storage that has grown stays, and the provider says nothing of it.
        ({"postgres.allocatedStorage": 20}, {"allocatedStorage": 35}),
        # AWS rounds up.
        ({"postgres.allocatedStorage": 21}, {"allocatedStorage": 22}),
    ],
)
def test_what_the_instance_can_become_is_accepted(changes: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    assert deploy(changed(MINIMAL, changes), account=with_instance(there)).named("postgres-instance")


CHANGES: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "a class": ({"postgres.instanceClass": "db.t3.small"}, "postgres.instanceClass: the instance has db.t3.micro"),
    "a standby": ({"postgres.multiAz": True}, "postgres.multiAz: the instance has false, the settings say true"),
    "a version": (
        {"postgres.engineVersion": "18", "postgres.allowMajorUpgrade": True},
        "postgres.engineVersion: the instance has 17.6, the settings say 18",
    ),
    "a volume type": ({"postgres.storageType": "gp2"}, "postgres.storageType: the instance has gp3"),
    "larger storage": ({"postgres.allocatedStorage": 40}, "postgres.allocatedStorage: the instance has 20"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_waits_says_so_and_until_when(change: str) -> None:
    changes, words = CHANGES[change]
    (said,) = (line for line in deploy(changed(MINIMAL, changes), account=with_instance({})).warnings if words in line)
    assert "waits for the maintenance window, sun:03:00-sun:04:00 UTC" in said
    assert "postgres.applyImmediately: true makes it at once" in said


@pytest.mark.parametrize("how", [{"protect": False}, {"postgres.applyImmediately": True}])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_at_once_says_what_else_it_carries_out(change: str, how: Mapping[str, Any]) -> None:
    changes, words = CHANGES[change]
    config = changed(MINIMAL, {**changes, **how})
    (said,) = (line for line in deploy(config, account=with_instance({})).warnings if words in line)
    assert "at once, together with all that waits for the maintenance window" in said
    assert "may restart the database" in said


def test_an_instance_as_the_settings_say_is_not_talked_about() -> None:
    assert deploy(MINIMAL, account=with_instance({})).warnings == deploy(MINIMAL).warnings


def test_connections_are_reckoned_with_the_class_that_serves_until_the_window() -> None:
    larger = {"postgres.instanceClass": "db.r6g.large", "mlflow.replicas": 5}
    (problem,) = refused(changed(MINIMAL, larger), account=with_instance({})).problems
    assert problem.startswith("mlflow.replicas is too high for the database's connections")
    assert "db.t3.micro has about 85" in problem
    assert "db.r6g.large comes in the maintenance window only, sun:03:00-sun:04:00 UTC" in problem
    at_once = changed(MINIMAL, {**larger, "postgres.applyImmediately": True})
    assert deploy(at_once, account=with_instance({})).named("postgres-instance")


def test_an_account_in_which_instances_cannot_be_listed_names_the_permission() -> None:
    refusal = refused(MINIMAL, account=Account(failing={"rds/getInstances:getInstances": "AccessDenied"}))
    assert isinstance(refusal.error, pulumi.RunError)
    assert "rds:DescribeDBInstances" in refusal.message


@pytest.mark.parametrize("copy", ["postgres-0a0b0c0d-old1", "postgres-0a0b0c0d-green-abc123"])
def test_the_copy_of_a_blue_green_deployment_is_not_taken_for_the_instance(copy: str) -> None:
    account = Account(instances={copy: {"dbInstanceClass": "db.x9.other"}, "postgres-0a0b0c0d": {}})
    deployment = deploy(MINIMAL, account=account)
    assert deployment.named("postgres-instance")["identifier"] == "postgres-0a0b0c0d"
    assert not [line for line in deployment.warnings if "db.x9.other" in line]


def test_two_instances_with_the_stacks_tags_are_not_compared_and_not_renamed() -> None:
    account = Account(instances={"postgres-0a0b0c0d": {"masterUsername": "other"}, "restored": {}})
    deployment = deploy(MINIMAL, account=account)
    assert any(
        "2 RDS instances carry the tags of this stack (postgres-0a0b0c0d, restored)" in line
        for line in deployment.warnings
    )
    assert "identifier" in deployment.named("postgres-instance").ignore_changes
    assert "name" in deployment.named("postgres-log-upgrade").ignore_changes
