"""Logical names, types, parents and replace-forcing inputs stay as they are in `logical_names.json`.

Pulumi identifies a resource by its URN. With another name, type or parent it is another resource, and the engine
deletes the old one. So a harmless-looking rename replaces a database. If that is intended:

    UPDATE_LOGICAL_NAMES=1 .venv/bin/python -m pytest tests/unit/test_names.py

rewrites the file, and its diff shows the reviewer what would be replaced.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.unit.harness import Deployment

NAMES = Path(__file__).parent / "logical_names.json"
Pins = Mapping[str, Mapping[str, Any]]
"""Logical name to type, parent and replace-forcing inputs."""

REPLACE_FORCING: Mapping[str, tuple[str, ...]] = {
    "aws:cloudwatch/logGroup:LogGroup": ("name", "namePrefix"),
    "aws:ec2/securityGroup:SecurityGroup": ("name", "description", "vpcId"),
    "aws:eks/podIdentityAssociation:PodIdentityAssociation": ("clusterName", "namespace", "serviceAccount"),
    "aws:iam/role:Role": ("name", "path"),
    "aws:rds/instance:Instance": (
        *("identifier", "identifierPrefix", "engine", "username", "dbName", "dbSubnetGroupName"),
        *("kmsKeyId", "storageEncrypted", "performanceInsightsKmsKeyId", "snapshotIdentifier"),
    ),
    "aws:rds/parameterGroup:ParameterGroup": ("name", "family", "description"),
    "aws:rds/snapshot:Snapshot": ("dbInstanceIdentifier", "dbSnapshotIdentifier"),
    "aws:rds/subnetGroup:SubnetGroup": ("name",),
    "aws:route53/record:Record": ("name", "type", "zoneId"),
    "aws:s3/bucket:Bucket": ("bucket", "bucketPrefix"),
    "kubernetes:core/v1:Namespace": ("metadata.name",),
    "kubernetes:core/v1:Secret": ("metadata.name", "metadata.namespace", "type", "immutable"),
    "kubernetes:helm.sh/v3:Release": ("name", "namespace"),
    "postgresql:index/database:Database": ("name", "template", "encoding", "lcCollate", "lcCtype"),
    "postgresql:index/grant:Grant": ("database", "role", "schema", "objectType"),
    "postgresql:index/role:Role": ("name",),
    "postgresql:index/schema:Schema": ("name", "database"),
    "pulumi:providers:kubernetes": ("clusterIdentifier",),
    "random:index/randomBytes:RandomBytes": ("length", "keepers"),
    "random:index/randomId:RandomId": ("byteLength", "keepers"),
    "random:index/randomPassword:RandomPassword": ("length", "special", "overrideSpecial", "keepers"),
}
"""Type to the inputs whose change deletes the resource and creates another. A replaced password is a new password."""


def pins(deployment: Deployment) -> dict[str, dict[str, Any]]:
    return {
        resource.name: {
            "type": resource.type,
            "parent": resource.parent,
            "inputs": {path: _at(resource.inputs, path) for path in REPLACE_FORCING.get(resource.type, ())},
        }
        for resource in sorted(deployment.resources, key=lambda resource: resource.name)
        if not resource.read
    }


def _at(inputs: Mapping[str, Any], path: str) -> Any:
    value: Any = inputs
    for key in path.split("."):
        value = value.get(key) if value is not None else None
    return value


def differences(pinned: Pins, now: Pins) -> list[str]:
    """Return the changes that `pulumi up` would make to a stack with the pinned names, one per line."""
    lines = [f"{name} ({pinned[name]['type']}) is gone: it would be deleted" for name in pinned.keys() - now.keys()]
    lines += [f"{name} ({now[name]['type']}) is new: it would be made" for name in now.keys() - pinned.keys()]
    for name in pinned.keys() & now.keys():
        before, after = pinned[name], now[name]
        lines += [
            f"{name} ({before['type']}): its {part} is {after[part]!r} instead of {before[part]!r}: it would be replaced"
            for part in ("type", "parent")
            if before[part] != after[part]
        ]
        lines += [
            f"{name} ({before['type']}): {path} is {after['inputs'].get(path)!r} instead of {before['inputs'].get(path)!r}: "
            "it would be replaced"
            for path in sorted(before["inputs"].keys() | after["inputs"].keys())
            if before["inputs"].get(path) != after["inputs"].get(path)
        ]
    return sorted(lines)


ADVICE = (
    "\nKeep the old name for stacks that exist (pulumi.Alias), or write into the change log what is lost. If it is intended:\n"
    "  UPDATE_LOGICAL_NAMES=1 .venv/bin/python -m pytest tests/unit/test_names.py\n"
    "and commit tests/unit/logical_names.json with the change."
)


@pytest.fixture(scope="module")
def now(dev: Deployment, prod: Deployment) -> Mapping[str, Pins]:
    return {"dev": pins(dev), "prod": pins(prod)}


@pytest.fixture(scope="module")
def pinned(now: Mapping[str, Pins]) -> Mapping[str, Pins]:
    if os.environ.get("UPDATE_LOGICAL_NAMES"):
        NAMES.write_text(json.dumps(now, indent=2, sort_keys=True) + "\n")
    return json.loads(NAMES.read_text())


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_nothing_would_be_replaced_in_a_stack_that_exists(
    pinned: Mapping[str, Pins], now: Mapping[str, Pins], stack: str
) -> None:
    lines = differences(pinned[stack], now[stack])
    assert not lines, f"in {stack}:\n  " + "\n  ".join(lines) + ADVICE


def test_names_are_not_used_twice(prod: Deployment) -> None:
    assert len(pins(prod)) == len([resource for resource in prod.resources if not resource.read])


def test_what_holds_data_is_pinned_with_what_would_replace_it(pinned: Mapping[str, Pins]) -> None:
    for stack in ("dev", "prod"):
        instance = pinned[stack]["postgres-instance"]["inputs"]
        assert (instance["engine"], instance["username"], instance["storageEncrypted"]) == (
            "postgres",
            "postgres",
            True,
        )
        # A fixed identifier would collide when a snapshot is restored while the old instance still exists.
        assert instance["identifier"] == "postgres-0a0b0c0d"
        assert pinned[stack]["artifacts-bucket"]["inputs"] == {"bucket": None, "bucketPrefix": None}
        assert pinned[stack]["database-database"]["inputs"]["name"] == "mlflow"
        assert pinned[stack]["mlflow-release"]["inputs"] == {"name": "mlflow", "namespace": "mlflow"}


# The comparison itself

ONE: Pins = {"db": {"type": "aws:rds/instance:Instance", "parent": "postgres", "inputs": {"username": "postgres"}}}


def test_the_same_pins_differ_in_nothing() -> None:
    assert differences(ONE, ONE) == []


def test_a_renamed_resource_is_one_that_is_gone_and_one_that_is_new() -> None:
    assert differences(ONE, {"database": ONE["db"]}) == [
        "database (aws:rds/instance:Instance) is new: it would be made",
        "db (aws:rds/instance:Instance) is gone: it would be deleted",
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"parent": ""},
            "db (aws:rds/instance:Instance): its parent is '' instead of 'postgres': it would be replaced",
        ),
        ({"type": "aws:rds/cluster:Cluster"}, "its type is 'aws:rds/cluster:Cluster' instead of"),
        ({"inputs": {"username": "dba"}}, "username is 'dba' instead of 'postgres': it would be replaced"),
        (
            {"inputs": {"username": "postgres", "kmsKeyId": "k"}},
            "kmsKeyId is 'k' instead of None: it would be replaced",
        ),
    ],
)
def test_a_change_says_what_it_would_replace(change: Mapping[str, Any], says: str) -> None:
    (line,) = differences(ONE, {"db": {**ONE["db"], **change}})
    assert says in line
