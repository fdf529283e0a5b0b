"""Stops a deployment of a stack that somebody changed by hand: ``python -m operations.deployments.drift --stack dev plain.json refreshed.json``.

The two files are `pulumi preview --json` without and with `--refresh`. A step that only the second one has repairs what no change of the
program did. The exit code is 0 if there is none, or if all of them wait for the database's maintenance window, and 3 with Markdown if there is.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from operations.review.foreign import code
from operations.review.preview import QUIET, at, read

DRIFTED = 3
"""Exit code if the stack has drifted."""


def added(plain: Mapping[str, Any], refreshed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the steps that only the refreshed preview has."""
    before = {_kind(step) for step in _steps(plain)}
    return [step for step in _steps(refreshed) if step.get("op") not in QUIET and _kind(step) not in before]


def _steps(digest: Mapping[str, Any]) -> list[dict[str, Any]]:
    return digest.get("steps") or []


def _kind(step: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what has to be the same in both previews, the values before the change too: what was read is "from this to that"."""
    paths: list[str] = sorted(step.get("detailedDiff") or {})
    old: Mapping[str, Any] = step.get("oldState") or {}
    before = tuple(json.dumps(at(old.get("inputs"), path), sort_keys=True) for path in paths)
    return step.get("urn"), step.get("op"), tuple(paths), before


def _waits(stack: str, steps: Sequence[Mapping[str, Any]]) -> str | None:
    """Ask RDS whether all of the steps wait for the database's maintenance window, and return a sentence if they do."""
    # It loads Pulumi's SDK, which takes a second, and hardly a deployment needs it.
    from operations.waiting import ask  # noqa: PLC0415

    waits = ask(stack, read(json.dumps({"steps": steps})))
    return waits[0] if waits else None


def main() -> None:
    """Compare the two previews, and print what drifted."""
    parser = argparse.ArgumentParser(description="What a preview with --refresh shows in addition to one without.")
    parser.add_argument("plain", type=Path, help="output of `pulumi preview --json`")
    parser.add_argument("refreshed", type=Path, help="output of `pulumi preview --refresh --json`")
    parser.add_argument("--stack", required=True, help="name of the stack")
    given = parser.parse_args()
    steps = added(json.loads(given.plain.read_text()), json.loads(given.refreshed.read_text()))
    if not steps:
        return
    if sentence := _waits(given.stack, steps):
        print(sentence)
        return
    print(f"## `{given.stack}` has drifted\n\nWhat is there is not what the last deployment left:\n")
    for step in steps:
        paths = ", ".join(code(path) for path in sorted(step.get("detailedDiff") or {}))
        name = str(step.get("urn")).rpartition("::")[2]
        print(f"- {code(step.get('op'))} {code(name)}{': ' if paths else ''}{paths}")
    sys.exit(DRIFTED)


if __name__ == "__main__":
    main()
