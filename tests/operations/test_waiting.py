"""A change that waits for the maintenance window is not drift, and anything else is."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from operations.review.preview import Preview, read
from operations.waiting import differences, what_waits

PARENT = "mlflow-eks:index:PrivatePostgres$"


def step(operation: str, kind: str, differs: list[str] | None = None) -> dict[str, Any]:
    return {
        "op": operation,
        "urn": f"urn:pulumi:prod::mlflow-eks::{PARENT}{kind}::a",
        "newState": {"inputs": {"identifier": "postgres-1a2b3c4d"}},
        "detailedDiff": {name: {"kind": "update"} for name in differs or []},
    }


def preview(*steps: Mapping[str, Any]) -> Preview:
    return read(json.dumps({"steps": steps}))


INSTANCE = "aws:rds/instance:Instance"
READ = step("read", "kubernetes:core/v1:Service")


def test_the_inputs_of_the_instance_that_differ_are_found() -> None:
    waits = step("update", INSTANCE, ["instanceClass", "multiAz"])
    assert differences(preview(step("same", "aws:s3/bucket:Bucket"), READ, waits)) == (
        "postgres-1a2b3c4d",
        {"instanceClass", "multiAz"},
    )


def test_what_a_refresh_has_found_of_the_instance_is_the_same_difference() -> None:
    found = step("update", INSTANCE, ["instanceClass"])
    assert differences(preview(found, found)) == ("postgres-1a2b3c4d", {"instanceClass"})
    assert differences(preview(found, found, step("update", "aws:iam/role:Role", ["tags"]))) is None


@pytest.mark.parametrize(
    "others",
    [
        [],
        [step("replace", INSTANCE, ["instanceClass"])],
        [step("update", "aws:s3/bucket:Bucket", ["tags"])],
        [step("update", INSTANCE, ["instanceClass"]), step("delete", "aws:iam/role:Role")],
    ],
)
def test_any_other_difference_is_drift(others: list[Mapping[str, Any]]) -> None:
    assert differences(preview(*others)) is None


@pytest.mark.parametrize(
    ("differs", "pending", "said"),
    [
        ({"instanceClass"}, {"DBInstanceClass": "db.t3.small"}, "DBInstanceClass db.t3.small"),
        ({"engineVersion"}, {"EngineVersion": "18.4", "MultiAZ": True}, "EngineVersion 18.4, MultiAZ True"),
        # Somebody changed the tags by hand while a change waits.
        ({"instanceClass", "tags"}, {"DBInstanceClass": "db.t3.small"}, None),
        # The class differs and nothing waits: somebody changed it by hand.
        ({"instanceClass"}, {}, None),
        ({"deletionProtection"}, {"DBInstanceClass": "db.t3.small"}, None),
        (set[str](), {"DBInstanceClass": "db.t3.small"}, None),
    ],
)
def test_only_what_waits_is_excused(differs: set[str], pending: Mapping[str, Any], said: str | None) -> None:
    sentence = what_waits(differs, pending)
    assert (sentence is None) is (said is None)
    assert said is None or said in (sentence or "")
