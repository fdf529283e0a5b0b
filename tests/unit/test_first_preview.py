"""The first preview of a new stack, in which the outputs of resources are unknown, shows what `pulumi up` then does."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.unit.harness import ANY_CLUSTER, UNKNOWN, Deployment, deploy, stack_config

STACKS: Mapping[str, tuple[Mapping[str, Any], list[str]]] = {
    "dev": (stack_config("dev"), []),
    "prod": (stack_config("prod"), []),
    "local": (stack_config("local"), []),
    "any_cluster": (ANY_CLUSTER, ["postgres"]),
}


@pytest.fixture(scope="module", params=STACKS)
def both(request: pytest.FixtureRequest) -> tuple[Deployment, Deployment]:
    """A stack's first preview and its first `pulumi up`."""
    config, secrets = STACKS[request.param]
    return deploy(config, secrets=secrets, preview=True, stack=request.param), request.getfixturevalue(request.param)


def test_a_first_preview_shows_every_resource(both: tuple[Deployment, Deployment]) -> None:
    preview, up = ({(resource.type, resource.name, resource.parent) for resource in run.resources} for run in both)
    # A resource created inside an `apply` appears only once the value is known. The reviewer would not see it.
    assert preview == up


def test_a_first_preview_asks_aws_no_more_than_the_run(both: tuple[Deployment, Deployment]) -> None:
    preview, up = both
    assert sorted(preview.calls) == sorted(up.calls)


def test_a_first_preview_protects_what_the_run_protects(both: tuple[Deployment, Deployment]) -> None:
    preview, up = ({resource.name for resource in run.resources if resource.protect} for run in both)
    assert preview == up


def test_a_first_preview_has_the_same_exports(both: tuple[Deployment, Deployment]) -> None:
    preview, up = both
    assert set(preview.outputs) == set(up.outputs)


def test_a_first_preview_has_the_same_warnings(both: tuple[Deployment, Deployment]) -> None:
    preview, up = both
    assert preview.warnings == up.warnings


def test_what_the_settings_say_is_known_in_a_first_preview(both: tuple[Deployment, Deployment]) -> None:
    preview, up = both
    for name in ("database-database", "database-schema", "database-owner"):
        assert preview.named(name)["name"] == up.named(name)["name"]
    release = preview.named("mlflow-release")
    assert {release["chart"], release["version"], release["name"]} == {"mlflow", "1.11.5"}
    # The reviewer reads the values. One unknown value must not hide all of them.
    assert release["values"] != UNKNOWN
    assert preview.values["resources"] == up.values["resources"]
    assert preview.environment == up.environment
