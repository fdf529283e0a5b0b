"""Recordings of the real charts' output for the program's values, one file per case.

A chart's first case is recorded whole. Each other case is recorded as a difference from the first (a JSON merge patch,
RFC 7396), so its file shows what its settings change.
"""

import functools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parent / "recorded"
RULES = RECORDED / "rules.json"
"""Rules of the charts for single values: `tests/contract/value_rules.py`."""
FIRST = "least"
"""Case from which a chart's other cases are recorded as differences."""


@functools.cache
def recording(case: str) -> Mapping[str, Any]:
    """Return a case's `values` and `facts`.

    Args:
        case: chart, version and name, for example `mlflow-1.11.5/ldap`.

    Raises:
        AssertionError: there is no recording of the case.
    """
    chart, name = case.split("/")
    path = RECORDED / f"{case}.json"
    assert path.is_file(), (
        f"{case} is not recorded; run `make chart-facts`, which needs helm, and commit the files that it writes"
    )
    own = json.loads(path.read_text())
    return own if name == FIRST else patched(recording(f"{chart}/{FIRST}"), own)


def write(recordings: Mapping[str, Any], rules: Mapping[str, Any]) -> None:
    """Replace all recordings, and the rules, with these."""
    shutil.rmtree(RECORDED, ignore_errors=True)
    RECORDED.mkdir()
    RULES.write_text(json.dumps(rules, indent=1, sort_keys=True) + "\n")
    for case, whole in recordings.items():
        chart, name = case.split("/")
        first = without_null(recordings[f"{chart}/{FIRST}"])
        content = first if name == FIRST else difference(first, without_null(whole))
        path = RECORDED / f"{case}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def without_null(value: Any) -> Any:
    """Leave out null values. A merge patch cannot express them, and Kubernetes treats them as absent."""
    if isinstance(value, Mapping):
        return {key: without_null(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [without_null(item) for item in value]
    return value


def difference(before: Any, after: Any) -> Any:
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return after
    gone = dict.fromkeys(before.keys() - after.keys())
    return gone | {
        key: difference(before.get(key), item)
        for key, item in after.items()
        if key not in before or before[key] != item
    }


def patched(before: Any, patch: Any) -> Any:
    if not isinstance(patch, Mapping):
        return patch
    kept = dict(before) if isinstance(before, Mapping) else {}
    for key, item in patch.items():
        if item is None:
            kept.pop(key, None)
        else:
            kept[key] = patched(kept.get(key), item)
    return kept
