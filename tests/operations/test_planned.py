"""The resources that doctor announces and cost prices are those that the program registers."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from operations.planned import WORDS, aws_resources
from settings.reader import parse
from tests.unit.harness import ANY_CLUSTER, MINIMAL, changed, deploy, stack_config
from tests.unit.test_examples import NAMES, config, secrets

STACKS: Mapping[str, tuple[Mapping[str, Any], list[str]]] = {
    "dev": (stack_config("dev"), []),
    "prod": (stack_config("prod"), []),
    "irsa and a bucket that exists": (
        changed(MINIMAL, {"artifacts.identity": "irsa", "artifacts.bucket": "my-artifacts"}),
        [],
    ),
    "a class that is not known, and no monitoring": (
        changed(
            MINIMAL,
            {
                "postgres.instanceClass": "db.z9.odd",
                "postgres.alarmTopicArn": "arn:aws:sns:eu-west-1:123456789012:alarms",
                "postgres.monitoringInterval": 0,
            },
        ),
        [],
    ),
    "three sources": (
        changed(MINIMAL, {"postgres.allowFrom": {"cidrs": ["10.1.0.0/16", "10.2.0.0/16"], "securityGroups": ["sg-1"]}}),
        [],
    ),
    "any cluster": (ANY_CLUSTER, ["postgres"]),
    **{f"examples/{name}": (config(name), [key.split(".")[0] for key in secrets(name)]) for name in NAMES},
}


@pytest.mark.parametrize("stack", STACKS)
def test_the_reckoned_resources_are_those_that_the_program_registers(stack: str) -> None:
    raw, secret = STACKS[stack]
    settings, problems = parse(raw, set(secret))
    assert settings is not None, problems
    registered = Counter(
        resource.type
        for resource in deploy(raw, secrets=secret).resources
        if resource.type.startswith("aws:") and not resource.read
    )
    assert aws_resources(settings) == registered, (
        "a new AWS resource belongs into operations/planned.py, with a name in WORDS and a price in operations/prices.yaml"
    )


def test_every_kind_has_a_name_for_a_person() -> None:
    kinds = {kind for raw, secret in STACKS.values() for kind in _kinds(raw, secret)}
    assert kinds == set(WORDS)


def _kinds(raw: Mapping[str, Any], secret: list[str]) -> dict[str, int]:
    settings, _ = parse(raw, set(secret))
    assert settings is not None
    return aws_resources(settings)
