"""The one reader of ``pulumi.Config``. It puts every problem of a stack's settings into one message."""

import copy
import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pulumi
from pydantic import BaseModel, Discriminator, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from settings import PROJECT, instance_there
from settings.all_settings import Settings
from settings.messages import missing, rule_message, type_message
from settings.problem import Problem
from settings.section import kinds_of, section_of, yaml_key

if TYPE_CHECKING:
    # At run time it would cost each command that reads settings a second.
    from pulumi_aws.rds import GetInstanceResult

PROVIDERS = {"aws", "kubernetes", "postgresql", "random", "pulumi"}
"""Prefixes of settings that are not this program's."""


def load() -> Settings:
    """Read and check the settings of the current stack.

    Raises:
        pulumi.RunError: one message that lists every problem with its key and what to write instead.
    """
    prefix = f"{PROJECT}:"
    config = pulumi.Config(PROJECT)
    everything: list[str] = list(pulumi.runtime.config.CONFIG.get())
    for warning in misspelt_prefixes(everything):
        pulumi.log.warn(warning)
    keys = [key.removeprefix(prefix) for key in everything if key.startswith(prefix)]
    raw: dict[str, Any] = {}
    for key in keys:
        try:
            raw[key] = config.get_object(key)
        except pulumi.ConfigTypeError:
            raw[key] = config.get(key)
    secret_keys = {key for key in keys if pulumi.runtime.config.is_config_secret(prefix + key)}
    settings, problems = parse(raw, secret_keys)
    _refuse(problems)
    if settings is None:
        raise AssertionError("bug: settings that cannot be read have no problem")
    return settings


def check_place(settings: Settings, region: str, partition: str) -> None:
    """Check the settings that depend on the cluster's region and partition.

    Raises:
        pulumi.RunError: one message that lists every problem.
    """
    _refuse(settings.problems_in(region, partition))


def check_instance(settings: Settings, there: "GetInstanceResult") -> None:
    """Check the settings against the RDS instance that is there, and say in the log what `up` changes about it.

    Raises:
        pulumi.RunError: one message that lists every problem.
    """
    _refuse(instance_there.problems(settings, there))
    for sentence in instance_there.changes(settings, there):
        pulumi.log.warn(sentence)


def _refuse(problems: Sequence[Problem]) -> None:
    if problems:
        raise pulumi.RunError(listing(pulumi.get_stack(), problems))


def listing(stack: str, problems: Sequence[Problem]) -> str:
    """Return one message with all problems of a stack's settings."""
    count = "1 wrong setting" if len(problems) == 1 else f"{len(problems)} wrong settings"
    return "\n".join([f"Pulumi.{stack}.yaml has {count}:", *(f"  - {problem}" for problem in problems)])


def misspelt_prefixes(keys: Sequence[str]) -> list[str]:
    """Return a warning for each key that looks like a setting of this program under another project's name."""
    found: list[str] = []
    for key in keys:
        prefix, _, name = key.partition(":")
        known = name.partition(".")[0] in {yaml_key(Settings, field) for field in Settings.model_fields}
        if prefix not in {PROJECT, *PROVIDERS} and (known or difflib.get_close_matches(prefix, [PROJECT], cutoff=0.8)):
            found.append(f"{key} is not read: settings of this program begin with {PROJECT}:")
    return found


def parse(raw: Mapping[str, Any], secret_keys: set[str]) -> tuple[Settings | None, list[Problem]]:
    """Check structured values.

    Args:
        raw: section name to its value, camelCase.
        secret_keys: the sections that were set with ``--secret``.

    Returns:
        The settings, or None where a value cannot be read, and the problems found.
    """
    problems = [
        Problem(path, f"is in plain text; it is a secret: `pulumi config set --secret --path '{PROJECT}:{path}'`")
        for path in _secrets_in(Settings, raw)
        if path.split(".")[0] not in secret_keys
    ]
    # The rules between values also run where a value is wrong, on a copy without it: all problems come in one message.
    mended: dict[str, Any] = copy.deepcopy(dict(raw))
    wrong: list[Problem] = []
    while True:
        try:
            settings = Settings.model_validate_json(json.dumps(mended))
            break
        except ValidationError as error:
            for details in error.errors(include_url=False):
                place = _find(details["loc"])
                if not any(known.follows_from(place.key) for known in wrong):
                    wrong.append(Problem(place.key, _sentence(place, details)))
                _mend(mended, place)
    rules = [
        problem for problem in settings.all_problems() if not any(problem.follows_from(known.key) for known in wrong)
    ]
    return None if wrong else settings, [*problems, *wrong, *rules]


def _secrets_in(section: type[BaseModel], raw: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for name, field in section.model_fields.items():
        key = yaml_key(section, name)
        value = raw.get(key)
        if value is None:
            continue
        kinds = kinds_of(field.annotation)
        if SecretStr in kinds:
            found.append(prefix + key)
        inner = section_of(field.annotation)
        if inner and isinstance(value, Mapping):
            found += _secrets_in(inner, cast("Mapping[str, Any]", value), f"{prefix}{key}.")
    return found


@dataclass(frozen=True)
class _Place:
    """A place in the settings, as pydantic's errors name it."""

    key: str
    """The place as it is written in messages."""
    steps: Sequence[str | int]
    """Keys and indexes that lead there."""
    field: FieldInfo | None
    """The setting there; None for an unknown key."""
    section: type[BaseModel] | None
    """The section of that setting."""
    is_entry: bool
    """True for an entry of the setting's list or map."""


def _find(location: Sequence[str | int]) -> _Place:
    key = ""
    steps: list[str | int] = []
    field: FieldInfo | None = None
    section: type[BaseModel] | None = None
    inner: type[BaseModel] | None = Settings
    is_entry = is_tag = False
    for step in location:
        if is_tag:
            # pydantic's tag of a union, which is nothing that anybody wrote.
            is_tag = False
            continue
        steps.append(step)
        key += f"[{step}]" if isinstance(step, int) else f".{step}"
        if inner is None:
            is_entry = True
            continue
        fields = {yaml_key(inner, name): each for name, each in inner.model_fields.items()}
        section, field = inner, fields.get(str(step))
        inner = section_of(field.annotation) if field else None
        is_tag = field is not None and any(isinstance(rule, Discriminator) for rule in field.metadata)
    return _Place(key.lstrip("."), steps, field, section, is_entry)


def _sentence(place: _Place, error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return f"is unknown{_nearest(place)}"
    if error["type"] == "missing" and place.field:
        return missing(place.key, place.field)
    if error["type"] == "value_error":
        return rule_message(error["msg"], place.field)
    return type_message(error["input"], place.field, is_entry=place.is_entry)


def _mend(raw: dict[str, Any], place: _Place) -> None:
    """Take a wrong value out, or put an example in its place where a value is required."""
    holder: Any = raw
    *way, last = place.steps
    for position, step in enumerate(way):
        if isinstance(step, str) and step not in holder:
            # An earlier item has taken the list with it.
            return
        if isinstance(step, str) and isinstance(holder[step], list):
            # A wrong item of a list takes the list with it.
            way, last = way[:position], step
            break
        holder = holder[step]
    if place.field and place.field.is_required() and not place.is_entry:
        holder[last] = place.field.examples[0] if place.field.examples else {}
    else:
        holder.pop(last, None)


def _nearest(place: _Place) -> str:
    known = [yaml_key(place.section, name) for name in place.section.model_fields] if place.section else []
    close = difflib.get_close_matches(str(place.steps[-1]), known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(sorted(known))}"
