"""What the two Helm charts would make of their values: pure functions, checked against recordings of the real charts."""

from collections.abc import Collection, Mapping
from typing import Any, cast

Values = Mapping[str, Any]


class ValuesError(Exception):
    """Values that the chart would refuse, or that the stand-in does not know; the message names each of them."""


def with_defaults(values: Values, defaults: Values, free: Collection[str]) -> dict[str, Any]:
    """`values` over `defaults`, which also say which values are known and of what type.

    `free` names the maps that take any key (annotations, environment variables).
    """
    problems: list[str] = []
    merged = _merge(values, defaults, free, "", problems)
    if problems:
        raise ValuesError("; ".join(problems))
    return merged


def _merge(values: Values, defaults: Values, free: Collection[str], prefix: str, problems: list[str]) -> dict[str, Any]:
    merged = dict(defaults)
    for key, value in values.items():
        path = f"{prefix}{key}"
        if key not in defaults:
            problems.append(f"{path} is not a value that the local stack knows")
        elif type(value) is not type(defaults[key]):
            problems.append(f"{path} must be {_TYPE_NAMES[type(defaults[key])]}")
        elif path in free:
            merged[key] = {**defaults[key], **value}
        elif isinstance(value, dict):
            merged[key] = _merge(cast(Values, value), defaults[key], free, f"{path}.", problems)
        else:
            merged[key] = value
    return merged


_TYPE_NAMES = {bool: "true or false", int: "an integer", str: "a string", list: "a list", dict: "a map"}
