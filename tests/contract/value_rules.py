"""The charts' rules for the values that the program gives them, one by one: their types, ranges and choices.

`make chart-facts` reads them from a chart's schema, for the paths that the recorded cases have. Rules between values are not among them.
Helm checks those, too, when it renders the cases. HAProxy's chart has no schema.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema

from tests.contract.recordings import RULES, without_null

Rules = Mapping[str, Mapping[str, Any]]
"""Path of a value to the rule of the value itself. `[]` stands for any entry of a list, `*` for a key that the chart leaves free."""

_OF_ONE_VALUE = ("type", "enum", "const", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems")


def rules_of(schema: Mapping[str, Any], value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Read the rules for a value, and for all values in it, from a schema."""
    yield path, {name: schema[name] for name in _OF_ONE_VALUE if name in schema}
    if isinstance(value, Mapping):
        named, others = schema.get("properties", {}), schema.get("additionalProperties")
        for key, item in value.items():
            rest = others if isinstance(others, Mapping) else {}
            yield from rules_of(named.get(key, rest), item, f"{path}.{key if key in named else '*'}")
    elif isinstance(value, list | tuple):
        for item in value:
            yield from rules_of(schema.get("items", {}), item, f"{path}[]")


def faults(rules: Rules, value: Any, path: str = "") -> Iterator[str]:
    """Return what the rules refuse in values, and the values for which no rule is recorded."""
    if path not in rules:
        yield f"{path}: the chart's rule is not recorded; give a case in tests/contract/cases.py this value and run `make chart-facts`"
        return
    for error in jsonschema.Draft7Validator(rules[path]).iter_errors(value):
        yield f"{path}: {error.message}"
    if isinstance(value, Mapping):
        for key, item in value.items():
            named = f"{path}.{key}"
            yield from faults(rules, item, named if named in rules else f"{path}.*")
    elif isinstance(value, list | tuple):
        for item in value:
            yield from faults(rules, item, f"{path}[]")


@functools.cache
def recorded() -> Mapping[str, Rules]:
    """Return the rules of each chart that has some, by chart and version."""
    return json.loads(RULES.read_text())


def release_faults(release: Mapping[str, Any]) -> list[str]:
    """Return what a chart refuses in the values of a release."""
    rules = recorded().get(f"{release['chart']}-{release['version']}")
    return [] if rules is None else list(faults(rules, without_null(release["values"])))
