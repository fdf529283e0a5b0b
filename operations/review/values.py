"""Shows what differs between the old and the new state of a resource."""

import json
from collections.abc import Mapping
from typing import Any, cast

from operations.review.foreign import LONGEST, code
from operations.review.preview import Change, at

SECRET = "[secret]"  # noqa: S105  (the engine's mask)
SECRET_KEY = "4dabf18193072939515e22adb298388d"  # noqa: S105  (marks a secret in the state)
UNKNOWN = {
    "04da6b54-80e4-46f7-96ec-b56ff0331ba9",
    "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",
    "3eeb2bf0-c639-47a8-9e75-3b44932eb421",
    "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",
    "030794c1-ac77-496b-92df-f27374a8bd58",
    "e48ece36-62e2-4504-bad9-02848725956a",
    "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",
}
"""Texts that the engine writes for a value that is known only after the change, one for each kind of value."""
_BEFORE = 30
"""Characters that are shown before the first difference of two long texts."""


def difference(change: Change, path: str) -> str:
    """Return the old and the new value at a path, as Markdown."""
    old, new = (_value(state, path) for state in (change.old, change.new))
    if old == new:
        # The program says the same as before, and the resource has another value: changed elsewhere, or not yet.
        there = at(change.old.get("outputs"), path)
        old = old if there is None else masked(there)
    if old == new == SECRET:
        return "another secret"
    before, after = _texts(old, new)
    return f"{before} → {after}"


def masked(value: Any) -> Any:
    """Return a value with every secret in it replaced by the engine's mask."""
    if isinstance(value, dict):
        found = cast("dict[str, Any]", value)
        return SECRET if SECRET_KEY in found else {key: masked(one) for key, one in found.items()}
    return [masked(one) for one in cast("list[Any]", value)] if isinstance(value, list) else value


def _value(state: Mapping[str, Any], path: str) -> Any:
    """Return the value that the program gives, or else the one that the cloud has given."""
    given = at(state.get("inputs"), path)
    return masked(at(state.get("outputs"), path) if given is None else given)


def _texts(old: Any, new: Any) -> tuple[str, str]:
    texts = [value if isinstance(value, str) else json.dumps(value, sort_keys=True) for value in (old, new)]
    same = next((place for place, (one, other) in enumerate(zip(*texts, strict=False)) if one != other), 0)
    # In two long texts, the difference can stand behind what is shown.
    start = same - _BEFORE if max(map(len, texts)) > LONGEST and same > LONGEST // 2 else 0
    return _text(old, texts[0], start), _text(new, texts[1], start)


def _text(value: Any, text: str, start: int) -> str:
    if value is None:
        return "nothing"
    if text in UNKNOWN:
        return "known afterwards"
    for mark in UNKNOWN:
        text = text.replace(mark, "…")
    return code(f"…{text[start:]}" if start else text)
