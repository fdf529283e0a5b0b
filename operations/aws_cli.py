"""The ``aws`` command with the identity of a stack: its region, its profile, and the roles that Pulumi's plugin assumes."""

import functools
import json
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from operations.checks import MissingError

TIMEOUT = 40
"""Seconds for one request."""


@dataclass(frozen=True)
class Aws:
    """The ``aws`` command. Only `make bootstrap`, `make drill` and `make restore` make calls with it that change something."""

    region: str | None
    """Region of the stack. None: the command's own."""
    profile: str | None = None
    """Profile of the AWS configuration, the setting ``aws:profile``."""
    roles: Sequence[Mapping[str, Any]] = ()
    """Roles that are assumed one after the other, the setting ``aws:assumeRoles``."""
    command: str = "aws"
    """Command line that calls it."""
    seconds: int = TIMEOUT
    """Seconds for one call, default 40. The command asks for all pages of a list in one call."""

    def __call__(self, *arguments: str) -> Any:
        """Send a request and return the answer's JSON.

        Raises:
            MissingError: AWS or the command refused, or did not answer in time.
        """
        return self._run(arguments, self.environment)

    @functools.cached_property
    def environment(self) -> dict[str, str]:
        """Environment with the stack's identity, for the command and for those that call it.

        Credentials of assumed roles are in the environment only, because the arguments of a process can be read by others.
        """
        environment = {**os.environ, **({"AWS_PROFILE": self.profile} if self.profile else {})}
        for role in self.roles:
            options = ["--role-arn", role["roleArn"], "--role-session-name", role.get("sessionName", "mlflow-eks")]
            options += ["--external-id", role["externalId"]] if role.get("externalId") else []
            assumed = self._run(["sts", "assume-role", *options], environment)["Credentials"]
            environment |= {
                "AWS_ACCESS_KEY_ID": assumed["AccessKeyId"],
                "AWS_SECRET_ACCESS_KEY": assumed["SecretAccessKey"],
                "AWS_SESSION_TOKEN": assumed["SessionToken"],
            }
            environment.pop("AWS_PROFILE", None)
        return environment

    def _run(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Any:
        # The option wins against keys in the environment, as it does in Pulumi's plugin. The variable does not.
        profile = ["--profile", self.profile] if self.profile and "AWS_PROFILE" in environment else []
        region = ["--region", self.region] if self.region and "--region" not in arguments else []
        command = [*shlex.split(self.command), *arguments, "--output", "json", *profile, *region]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=self.seconds, check=False
            )
        except FileNotFoundError:
            raise MissingError("needs the aws command: install the AWS CLI, version 2") from None
        except subprocess.TimeoutExpired:
            asked = " ".join(["aws", *arguments[:2]])
            raise MissingError(f"`{asked}` did not answer in {self.seconds} s: check the network") from None
        if done.returncode:
            words = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "the aws command failed"
            if "locate credentials" in words and arguments[0] != "sts":
                raise MissingError("needs credentials of AWS, which `aws sts get-caller-identity` finds or not")
            raise MissingError(words)
        return json.loads(done.stdout or "{}")


def moment(value: str | float) -> datetime:
    """Return a time as the versions of the aws command write it: as ISO 8601, or as seconds."""
    return datetime.fromisoformat(value) if isinstance(value, str) else datetime.fromtimestamp(value, UTC)


def from_config(config: Mapping[str, Any], command: str = "aws") -> Aws:
    """Return the command with the identity that a stack's config gives to Pulumi's plugin.

    Args:
        config: the config block of a stack.
        command: how to call the command.
    """
    given: Any = config.get("aws:assumeRoles") or config.get("aws:assumeRole") or []
    given = json.loads(given) if isinstance(given, str) else given
    roles = cast("list[Mapping[str, Any]]", given if isinstance(given, list) else [given])
    return Aws(config.get("aws:region"), config.get("aws:profile"), roles, command)
