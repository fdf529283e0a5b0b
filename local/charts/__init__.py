"""The two Helm charts as pure functions from values to objects, tested against recordings of the real charts."""

from collections.abc import Collection, Mapping
from typing import Any, cast

Values = Mapping[str, Any]


class ValuesError(Exception):
    """The chart would refuse these values, or the stand-in does not know them. The message names each of them."""


def with_defaults(values: Values, defaults: Values, free: Collection[str]) -> dict[str, Any]:
    """Return the defaults, overridden by the values.

    Args:
        values: values for the chart.
        defaults: all values that the stand-in knows. The type of a default is the type that its value must have.
        free: paths of the maps that take any key, such as annotations and environment variables.

    Raises:
        ValuesError: a value is unknown or has another type.
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
            problems.append(f"{path} is not a value that the local stack knows; add it to local/charts")
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
