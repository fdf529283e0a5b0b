"""The stack that verify tries: its settings, its outputs, its resources, and its site."""

import functools
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from operations import aws_cli
from operations.aws_cli import Aws
from operations.checks import MissingError, skip
from operations.mlflow_site import Site, run_pulumi
from settings import PROJECT
from settings.all_settings import Settings
from settings.reader import listing, parse


@dataclass(frozen=True)
class Subject:
    """A stack that is up."""

    settings: Settings
    outputs: Mapping[str, Any] = field(repr=False)
    """Outputs of the stack, with the administrator's password."""
    resources: Mapping[str, list[Mapping[str, Any]]] = field(repr=False)
    """Type of a resource to the outputs of each one in the state. Secrets are encrypted."""
    aws: Aws

    @property
    def url(self) -> str:
        """Address of the site."""
        return self.settings.url

    @property
    def site(self) -> Site:
        """Site with the login of the administrator, or without a login where the site asks for none."""
        return Site(self.url, self.outputs.get("adminUser", ""), self.outputs.get("adminPassword", ""))

    @functools.cached_property
    def described(self) -> Mapping[str, Any]:
        """RDS instance, as `describe-db-instances` says it.

        Raises:
            MissingError: the instance cannot be read.
        """
        name = self.outputs["databaseIdentifier"]
        return self.aws("rds", "describe-db-instances", "--db-instance-identifier", name)["DBInstances"][0]

    @property
    def instance(self) -> Mapping[str, Any]:
        """RDS instance, for every check but the one that is about its state.

        Raises:
            SkippedError: the stack has no instance, or it cannot be read.
        """
        self.needs_instance()
        try:
            return self.described
        except MissingError:
            return skip("needs the database (see above)")

    def needs_instance(self) -> None:
        """End a check that is about the RDS instance.

        Raises:
            SkippedError: the stack has none.
        """
        if "databaseIdentifier" not in self.outputs:
            skip("the database server is not this stack's")


def read(stack: str, pulumi: str, aws: str) -> Subject:
    """Read a stack through the Pulumi CLI.

    Args:
        stack: name of the stack.
        pulumi: how to call pulumi.
        aws: how to call the aws command.

    Raises:
        SystemExit: pulumi failed, the stack is not up, or its settings are wrong.
    """
    commands = (
        ("config", "--json", "--show-secrets"),
        ("stack", "output", "--json", "--show-secrets"),
        ("stack", "export"),
    )

    def ask(command: Sequence[str]) -> dict[str, Any]:
        return json.loads(run_pulumi(pulumi, stack, *command))

    with ThreadPoolExecutor() as pool:
        config, outputs, state = pool.map(ask, commands)
    if "url" not in outputs:
        raise SystemExit(f"The stack {stack} is not up: no `pulumi up` of it has come to its end.")
    values = {key: each.get("objectValue", each.get("value")) for key, each in config.items()}
    sections = {
        key.partition(":")[2]: _as_written(value) for key, value in values.items() if key.startswith(f"{PROJECT}:")
    }
    settings, problems = parse(sections, set(sections))
    if settings is None or problems:
        raise SystemExit(listing(stack, problems))
    deployment: dict[str, Any] = state.get("deployment") or {}
    listed: list[dict[str, Any]] = deployment.get("resources") or []
    resources: dict[str, list[Mapping[str, Any]]] = {}
    for each in listed:
        resources.setdefault(each["type"], []).append({**(each.get("outputs") or {}), "id": each.get("id")})
    return Subject(settings, outputs, resources, aws_cli.from_config(values, aws))


def _as_written(value: Any) -> Any:
    """Return a plain value as the program gets it: `protect` is a text in Pulumi's own answer."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
