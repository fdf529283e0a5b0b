"""Reads the settings of a stack file without the Pulumi CLI, and without its secrets."""

import contextlib
import json
from pathlib import Path
from typing import Any, cast

import yaml

from settings import PROJECT
from settings.all_settings import Settings
from settings.reader import listing, parse

ROOT = Path(__file__).parents[1]
PLACEHOLDER = "a-secret-that-is-not-read"


def config(stack: str) -> dict[str, Any]:
    """Read the config block of ``Pulumi.<stack>.yaml``, with a placeholder for each secret.

    Raises:
        SystemExit: with one message, when there is no such file.
    """
    path = ROOT / f"Pulumi.{stack}.yaml"
    if not path.exists():
        stacks = sorted(found.name.split(".")[1] for found in ROOT.glob("Pulumi.*.yaml"))
        raise SystemExit(f"There is no {path.name}; the stacks here are {', '.join(stacks)}.")
    found: Any = yaml.safe_load(path.read_text())
    return _without_secrets(found["config"])


def read(stack: str) -> Settings:
    """Parse the settings in ``Pulumi.<stack>.yaml``.

    Args:
        stack: name of the stack.

    Raises:
        SystemExit: with one message, when the file is missing or its settings are wrong.
    """
    prefix = f"{PROJECT}:"
    sections = {
        key.removeprefix(prefix): _as_pulumi_reads(value)
        for key, value in config(stack).items()
        if key.startswith(prefix)
    }
    settings, problems = parse(sections, set(sections))
    if settings is None or problems:
        raise SystemExit(listing(stack, problems))
    return settings


def _as_pulumi_reads(value: Any) -> Any:
    # Every `pulumi config set` writes `protect: false` anew as a string, and the program gets it back as a boolean.
    with contextlib.suppress(json.JSONDecodeError):
        return json.loads(value) if isinstance(value, str) else value
    return value


def _without_secrets(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    mapping = cast("dict[str, Any]", value)
    if set(mapping) == {"secure"}:
        return PLACEHOLDER
    return {key: _without_secrets(item) for key, item in mapping.items()}
