"""Records what was reviewed: ``python -m operations.review.record --stack dev --commit SHA --tree TREE preview.json``.

The record names every change of a preview: resource, operation, paths of the values that differ and of those that force a replacement. It has a
digest of each planned value, and no value.
"""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from operations.review.comment import stack_name
from operations.review.preview import Preview, Step, at, read
from operations.review.values import UNKNOWN, masked

FORMAT = 1
_MADE_UP = re.compile(r"-[0-9a-f]{7,8}\b")
"""End of a name that a provider makes up anew in every preview."""


def record(stack: str, commit: str, tree: str, preview: Preview) -> dict[str, Any]:
    """Return the record of a preview.

    Args:
        stack: name of the stack.
        commit: commit that was previewed.
        tree: git's hash of the files of that commit.
        preview: the preview, which has not failed.
    """
    steps = [
        {
            "urn": step.urn,
            "op": step.operation,
            "forces": sorted(step.forces),
            "differs": sorted(step.differs),
            "values": planned_values(step),
        }
        for change in preview.changes
        for step in change.planned
    ]
    steps.sort(key=lambda step: (step["urn"], step["op"]))
    return {"format": FORMAT, "stack": stack, "commit": commit, "tree": tree, "steps": steps}


def planned_values(step: Step) -> dict[str, str]:
    """Return a digest of each planned value: of those that differ, or of all inputs of a new resource."""
    inputs: Any = step.new.get("inputs") or {}
    if not step.old:
        return {name: _digest(value) for name, value in sorted(_settled(inputs).items())}
    return {path: _digest(at(inputs, path)) for path in sorted(step.differs)}


def _settled(inputs: Any) -> Mapping[str, Any]:
    """Return the inputs without those that the provider has filled in, such as a name that it makes up."""
    found = cast("dict[str, Any]", inputs) if isinstance(inputs, dict) else {}
    filled = found.get("__defaults")
    return {
        name: value
        for name, value in found.items()
        if name != "__defaults" and not (isinstance(filled, list) and name in filled)
    }


def _digest(value: Any) -> str:
    # A secret is the engine's mask here, so its digest tells nothing.
    text = json.dumps(masked(value), sort_keys=True)
    for mark in UNKNOWN:
        text = text.replace(mark, "")
    return hashlib.sha256(_MADE_UP.sub("-", text).encode()).hexdigest()


def main() -> None:
    """Print the record."""
    parser = argparse.ArgumentParser(description="The record of what was reviewed, from `pulumi preview --json`.")
    parser.add_argument("file", type=Path, help="output of `pulumi preview --json`")
    parser.add_argument("--stack", required=True, type=stack_name, help="name of the stack")
    parser.add_argument("--commit", required=True, help="commit that was previewed")
    parser.add_argument("--tree", required=True, help="git's hash of its files: git rev-parse COMMIT^{tree}")
    given = parser.parse_args()
    preview = read(given.file.read_text(errors="replace") if given.file.exists() else "")
    if not preview.complete or preview.texts("error"):
        print(f"The preview of {given.stack} failed, so there is nothing to record.", file=sys.stderr)
        sys.exit(2)
    print(json.dumps(record(given.stack, given.commit, given.tree, preview), indent=1))


if __name__ == "__main__":
    main()
