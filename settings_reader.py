"""The one reader of ``pulumi.Config``; it turns every mistake into one message with the key and what to write instead."""

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any

import pulumi
from pydantic import BaseModel, SecretStr, ValidationError

from settings import PROJECT, Settings


def load() -> Settings:
    """Read and check the settings of the current stack.

    Raises:
        pulumi.RunError: one message that lists every problem with its key and what to write instead.
    """
    prefix = f"{PROJECT}:"
    config = pulumi.Config(PROJECT)
    keys = [key.removeprefix(prefix) for key in pulumi.runtime.config.CONFIG.get() if key.startswith(prefix)]
    problems: list[str] = []
    unreadable: set[str] = set()
    raw: dict[str, Any] = {}
    for key in keys:
        try:
            raw[key] = config.get_object(key)
        except pulumi.ConfigTypeError:
            unreadable.add(key)
            problems.append(f"{key} is a plain string; write a structured value (see Pulumi.yaml)")
    secret_keys = {key for key in keys if pulumi.runtime.config.is_config_secret(prefix + key)}
    settings, found = parse(raw, secret_keys)
    problems += [problem for problem in found if problem.split(" ")[0] not in unreadable]
    if settings is None or problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise pulumi.RunError(
            f"{len(problems)} problem(s) in the settings of this stack (Pulumi.{pulumi.get_stack()}.yaml):\n{lines}"
        )
    return settings


def parse(raw: Mapping[str, Any], secret_keys: set[str]) -> tuple[Settings | None, list[str]]:
    """Check structured values.

    Args:
        raw: section name to its value, camelCase.
        secret_keys: the sections that were set with ``--secret``.

    Returns:
        The settings, or None, and the problems found.
    """
    problems = [
        f"{path} is in plain text; it is a secret: `pulumi config set --secret --path 'mlflow-eks:{path}'`"
        for path in _secrets_in(Settings, raw)
        if path.split(".")[0] not in secret_keys
    ]
    try:
        settings = Settings.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        for details in error.errors(include_url=False, include_input=False, include_context=False):
            problems += _sentences(details["loc"], details["type"], details["msg"])
        return None, problems
    return settings, problems


def _secrets_in(section: type[BaseModel], raw: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for name, field in section.model_fields.items():
        alias = field.alias or name
        value = raw.get(alias)
        if value is None:
            continue
        kinds = _kinds(field.annotation)
        if any(kind is SecretStr for kind in kinds):
            found.append(prefix + alias)
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel) and isinstance(value, Mapping):
                found += _secrets_in(kind, value, f"{prefix}{alias}.")  # pyright: ignore[reportUnknownArgumentType]
    return found


def _kinds(annotation: Any) -> list[Any]:
    inner = getattr(annotation, "__args__", None)
    if not inner:
        return [annotation]
    return [kind for argument in inner for kind in _kinds(argument)]


def _sentences(location: tuple[int | str, ...], kind: str, message: str) -> list[str]:
    path = re.sub(r"(?<=allowFrom)\.(name|list)", "", _join(location))
    if kind == "extra_forbidden":
        return [f"{path} is unknown{_nearest(location)}"]
    if kind == "missing":
        return [f"{path} is missing; set it with `pulumi config set --path 'mlflow-eks:{path}' …`"]
    if kind != "value_error":
        return [f"{path}: {message[0].lower()}{message[1:]}"]
    # A rule for several values of a section names the value itself.
    sentences = message.removeprefix("Value error, ").split("\n")
    return [re.sub(r"^ |^\.", "", f"{path}{_named(text)}") for text in sentences]


def _named(sentence: str) -> str:
    field = re.match(r"`(\w+)`|(\w+\[\d+\])", sentence)
    return f".{field[1] or field[2]}{sentence[field.end() :]}" if field else f" {sentence}"


def _join(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def _nearest(location: tuple[int | str, ...]) -> str:
    section: type[BaseModel] | None = Settings
    for part in location[:-1]:
        if section is None or (part in {"name", "list"} and str(part) not in section.model_fields):
            continue
        fields = {field.alias or name: field for name, field in section.model_fields.items()}
        kinds = _kinds(fields[str(part)].annotation) if str(part) in fields else []
        section = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    known = [field.alias or name for name, field in section.model_fields.items()] if section else []
    close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(sorted(known))}"
