"""Every setting changes the places that `setting_effects.json` lists, and a default that is written twice is the same twice.

A place is an input or an option of a resource, an export, or a warning. A setting that is read and not used changes no
place. A setting that reaches only some of its places changes fewer places than the file lists. If a change is intended:

    UPDATE_SETTING_EFFECTS=1 .venv/bin/python -m pytest tests/unit/test_every_setting_arrives.py

rewrites the file, and its diff shows the reviewer what a setting does now.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pulumi
import pytest

from components.artifact_store import ArtifactStore
from components.dns_record import DnsRecord
from components.haproxy_ingress import HaproxyIngress
from components.mlflow_database import MlflowDatabase
from components.mlflow_release import MlflowRelease
from components.postgres_alarms import PostgresAlarms
from components.private_postgres import PrivatePostgres
from components.site_alerts import SiteAlerts
from tests.unit.harness import LDAP, MINIMAL, OIDC, Deployment, changed, deploy, plain
from tests.unit.settings_values import Leaf, leaves

EFFECTS = Path(__file__).parent / "setting_effects.json"


@functools.cache
def deployed(config: str) -> Deployment:
    """Run the program with every section marked as secret, as after `pulumi config set --secret` in each of them."""
    settings = json.loads(config)
    return deploy(settings, secrets=list(settings))


def places(deployment: Deployment) -> dict[str, str]:
    """Return everything that a setting can change, by its place."""
    texts: dict[str, str] = {}
    for resource in deployment.resources:
        texts[resource.name] = resource.type
        options = dataclasses.asdict(resource)
        inputs = plain(options.pop("inputs"))
        for part, value in (*options.items(), *inputs.items()):
            texts |= {f"{resource.name}: {path}": text for path, text in _flat(part, value)}
    texts |= {f"export {name}": json.dumps(plain(value)) for name, value in deployment.outputs.items()}
    return texts | {f"warning {text.split(':')[0].split(' ')[0]}": text for text in deployment.warnings}


def _flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(f"{path}.{key}", item)
    else:
        yield path, json.dumps(value)


def changed_places(leaf: Leaf) -> list[str]:
    before, after = (places(deployed(json.dumps(config))) for config in (leaf.stack, changed(leaf.stack, leaf.changes)))
    different = {place for place in before.keys() | after.keys() if before.get(place) != after.get(place)}
    # If a resource exists on one side only, its name is enough; its places are left out.
    return sorted(place for place in different if place.split(":")[0] not in different - {place})


@pytest.fixture(scope="module")
def pinned() -> Mapping[str, list[str]]:
    if os.environ.get("UPDATE_SETTING_EFFECTS"):
        now = {leaf.path: changed_places(leaf) for leaf in leaves()}
        EFFECTS.write_text(json.dumps(now, indent=2, sort_keys=True) + "\n")
    return json.loads(EFFECTS.read_text())


@pytest.mark.parametrize("leaf", list(leaves()), ids=lambda leaf: leaf.path)
def test_a_setting_changes_what_it_is_for(pinned: Mapping[str, list[str]], leaf: Leaf) -> None:
    now = changed_places(leaf)
    assert now
    assert now == pinned.get(leaf.path), "if this is intended, see the first lines of this file"


# Defaults that are written in `settings` and in a component's arguments

COMPONENTS = (
    *(ArtifactStore, DnsRecord, HaproxyIngress, MlflowDatabase, MlflowRelease, PostgresAlarms, PrivatePostgres),
    SiteAlerts,
)
LEAST = changed(
    MINIMAL,
    {
        "mlflow.dnsZone": "example.com",
        "monitoring.enabled": True,
        "postgres": {"alarmTopicArn": "arn:aws:sns:eu-west-1:123456789012:alarms"},
    },
)
"""A stack with every component, in which no setting with a default is set."""
EXISTING_CONTROLLER = {"ingress": {"install": False, "address": "controller.example.com"}}


def arguments_of_components(config: Mapping[str, Any]) -> list[Any]:
    """Run the program and return the arguments of each component."""
    seen: list[Any] = []

    def recording(component: type[pulumi.ComponentResource]) -> Callable[..., None]:
        original: Callable[..., None] = component.__init__

        def init(self: Any, name: str, args: Any, opts: pulumi.ResourceOptions | None = None) -> None:
            seen.append(args)
            original(self, name, args, opts)

        return init

    with pytest.MonkeyPatch.context() as patched:
        for component in COMPONENTS:
            patched.setattr(component, "__init__", recording(component))
        deploy(config, secrets=["mlflow"])
    # A controller that exists has no component.
    assert len(seen) >= len(COMPONENTS) - 1
    return [each for args in seen for each in with_nested(args)]


def with_nested(args: Any) -> Iterator[Any]:
    """Yield a dataclass and those in its fields, at any depth."""
    yield args
    for value in vars(args).values():
        if dataclasses.is_dataclass(value):
            yield from with_nested(value)


def test_a_default_of_a_component_is_the_default_of_its_setting() -> None:
    handed: dict[tuple[str, Any], list[Any]] = {}
    provider = {"mlflow.auth": {"mode": "oidc", "oidc": OIDC}}
    others = (
        {"mlflow.auth": {"mode": "ldap", "ldap": LDAP}},
        provider,
        {"ingress.proxyProtocol": False},
        {"monitoring.enabled": False},
        EXISTING_CONTROLLER,
    )
    for config in (LEAST, *(changed(LEAST, changes) for changes in others)):
        for args in arguments_of_components(config):
            for field in dataclasses.fields(args):
                if field.default is not dataclasses.MISSING and field.default is not None:
                    value = getattr(args, field.name)
                    handed.setdefault((f"{type(args).__name__}.{field.name}", field.default), []).append(
                        tuple(value) if isinstance(value, list) else value
                    )
    assert len(handed) > 40
    assert {name: values for (name, default), values in handed.items() if default not in values} == {}
