"""The sentences that follow a setting's key in a message: what is wrong with its value, and what to write instead."""

import typing
from typing import Any

import annotated_types
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from settings import PROJECT
from settings.section import alternatives_of, is_section, section_of, yaml_key
from settings.value_types import shown


def missing(key: str, field: FieldInfo) -> str:
    """Say how to set a required setting that is not there.

    For a missing section, the command sets the first setting that the section requires, or its first setting.
    """
    section = section_of(field.annotation)
    if section is not None:
        settings = section.model_fields
        name = next((name for name, inner in settings.items() if inner.is_required()), next(iter(settings)))
        return missing(f"{key}.{yaml_key(section, name)}", settings[name])
    if SecretStr in alternatives_of(field.annotation):
        return f"is missing; set it with `pulumi config set --secret --path '{PROJECT}:{key}'`, which asks for it"
    return f"is missing; set it with `pulumi config set --path '{PROJECT}:{key}' {_example(field)}`"


def rule_message(message: str, field: FieldInfo | None) -> str:
    """Complete the message of a rule in `value_types.py` with the setting's own example, which the rule does not know."""
    return message.removeprefix("Value error, ").replace("{example}", _example(field))


def type_message(value: Any, field: FieldInfo | None, *, is_entry: bool) -> str:
    """Say what is wrong with a value of a wrong type or out of range.

    Args:
        value: the value. Of a secret only its kind is shown.
        field: declaration of the setting.
        is_entry: True for an entry of the setting's list or map.
    """
    expected = f"a text, for example {_example(field)}" if is_entry or field is None else _expected(field)
    default = "" if is_entry or field is None else _default(field)
    if value is None or value == "":
        optional = not is_entry and field is not None and not field.is_required()
        instead = f", or delete the line{f' for the default {default}' if default else ''}" if optional else ""
        return f"is empty; write {expected}{instead}"
    found = _found(value, field)
    if isinstance(value, int | float) and (
        is_entry or {str, SecretStr} & set(alternatives_of(field.annotation if field else str))
    ):
        return f"is {found}; write it in quotes"
    return f"is {found}; write {expected}{f' (default {default})' if default else ''}"


def range_of(field: FieldInfo) -> str:
    """Return the limits of a number, for example " from 1 to 32"; nothing where it has none."""
    low = next((rule.ge for rule in field.metadata if isinstance(rule, annotated_types.Ge)), None)
    high = next((rule.le for rule in field.metadata if isinstance(rule, annotated_types.Le)), None)
    if low is None:
        return ""
    return f", {low} or more" if high is None else f" from {low} to {high}"


def _example(field: FieldInfo | None) -> str:
    """Return the setting's example. For a list or a map, return an example of one entry."""
    example = field.examples[0] if field and field.examples else "…"
    if isinstance(example, dict):
        example = list(typing.cast("dict[str, str]", example).values())
    return str(typing.cast("list[str]", example)[0] if isinstance(example, list) else example)


def _found(value: Any, field: FieldInfo | None) -> str:
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a map"
    # A section may hold secrets, so a word in its place may be one.
    kinds = [kind for kind in alternatives_of(field.annotation) if kind is not type(None)] if field else []
    if kinds and all(kind is SecretStr or is_section(kind) for kind in kinds):
        return "a number" if isinstance(value, int | float) else "a text"
    return shown(value) if isinstance(value, str) else str(value).lower()


def _default(field: FieldInfo) -> str:
    default = field.default
    if default is PydanticUndefined or not isinstance(default, bool | int | str):
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)


def _expected(field: FieldInfo) -> str:
    """Return what a setting takes, in words."""
    return ", or ".join(
        _expected_kind(kind, field) for kind in alternatives_of(field.annotation) if kind is not type(None)
    )


def _expected_kind(kind: Any, field: FieldInfo) -> str:
    origin = typing.get_origin(kind)
    example: Any = field.examples[0] if field.examples else None
    if origin is typing.Literal:
        *first, last = (str(value) for value in typing.get_args(kind))
        return f"{', '.join(first)} or {last}"
    if origin is list:
        return f"a list, for example [{', '.join(example or ['…'])}]"
    if origin is dict:
        entries: dict[str, str] = example or {}
        return f"a map, for example {{{', '.join(f'{key}: {value}' for key, value in entries.items())}}}"
    if is_section(kind):
        keys = [yaml_key(kind, name) for name in kind.model_fields]
        return f"a map of settings: {', '.join(keys[:4])}{' …' if len(keys) > 4 else ''}"
    others: dict[Any, str] = {bool: "true or false", int: f"a whole number{range_of(field)}"}
    return others.get(kind, f"a text, for example {example or field.default or '…'}")
