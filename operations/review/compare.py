"""Compares a preview with what was reviewed: ``python -m operations.review.compare --stack dev record.json preview.json``.

The exit code is 0 if everything that the preview does was reviewed, 3 if something was not, and 2 if there is nothing to compare. A preview that does less
is fine: an `up` that failed in the middle has done the rest.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from operations.review.comment import stack_name
from operations.review.foreign import code
from operations.review.preview import Change, Preview, Step, mapping, read, sequence
from operations.review.record import FORMAT, planned_values
from operations.review.values import difference

_MOST = 100
"""Differences that are listed, at most."""


class UnreadableError(Exception):
    """There is nothing to compare with. The message is a sentence for the person who deploys."""


def reviewed(text: str, stack: str, tree: str | None) -> list[Mapping[str, Any]]:
    """Return the steps of a record.

    Args:
        text: the record.
        stack: name of the stack that is deployed.
        tree: git's hash of the files that are deployed. None: it is not compared.

    Raises:
        UnreadableError: this is no record, or a record of another stack or of other files.
    """
    try:
        found = mapping(json.loads(text))
    except (ValueError, RecursionError):
        found = mapping(None)
    if found.get("format") != FORMAT:
        raise UnreadableError("The record of what was reviewed cannot be read: preview the pull request again.")
    if found.get("stack") != stack:
        raise UnreadableError(f"The record is of the stack {code(found.get('stack'))}, and this is {stack}.")
    if tree is not None and found.get("tree") != tree:
        raise UnreadableError(
            f"Other files were reviewed than these: the record is of commit {code(found.get('commit'))}. Update the pull request and review its preview again."
        )
    return [mapping(step) for step in sequence(found.get("steps"))]


def differences(before: Sequence[Mapping[str, Any]], preview: Preview) -> Iterator[str]:
    """Return a sentence for everything that is planned now and was not reviewed."""
    known: dict[str, list[Mapping[str, Any]]] = {}
    for step in before:
        known.setdefault(str(step.get("urn")), []).append(step)
    for change in preview.changes:
        what = f"{code(change.name)} ({code(change.type or change.urn)})"
        of_urn = known.get(change.urn, [])
        for step in change.planned:
            same = next((one for one in of_urn if one.get("op") == step.operation), None)
            if same is None:
                was = ", ".join(code(one.get("op")) for one in of_urn) or "nothing"
                yield f"{what}: {code(step.operation)} is planned, and {was} was reviewed."
            else:
                yield from (f"{what}: {said}" for said in _of_step(change, step, same))


def _of_step(change: Change, step: Step, same: Mapping[str, Any]) -> Iterator[str]:
    forces, differs = ({*map(str, sequence(same.get(key)))} for key in ("forces", "differs"))
    for path in step.forces:
        if path not in forces:
            yield f"{code(path)} forces a replacement now, which was not reviewed."
    values, now = mapping(same.get("values")), planned_values(step)
    # A new resource has all its inputs in the record, and one that is left out counts as well.
    for path in dict.fromkeys((*now, *(values if not step.old else ()))):
        shown = f"{code(path)}: {difference(change, path)} is planned"
        if step.old and path not in differs:
            yield f"{shown}, and it did not differ in what was reviewed."
        elif values.get(path) != now.get(path):
            yield f"{shown}, and another value was reviewed."


def main() -> None:
    """Print the differences."""
    parser = argparse.ArgumentParser(description="Whether a preview does what was reviewed.")
    parser.add_argument("record", type=Path, help="record that operations.review.record has made")
    parser.add_argument("file", type=Path, help="output of `pulumi preview --json`")
    parser.add_argument("--stack", required=True, type=stack_name, help="name of the stack")
    parser.add_argument("--tree", help="git's hash of the files that are deployed")
    given = parser.parse_args()
    try:
        text = given.record.read_text(errors="replace") if given.record.exists() else ""
        before = reviewed(text, given.stack, given.tree)
        preview = read(given.file.read_text(errors="replace") if given.file.exists() else "")
        if not preview.complete or preview.texts("error"):
            raise UnreadableError(f"The preview of {given.stack} failed, so there is nothing to compare.")
    except UnreadableError as sentence:
        print(sentence)
        sys.exit(2)
    found = list(differences(before, preview))
    if found:
        more = [f"- … and {len(found) - _MOST} more"] if len(found) > _MOST else []
        print(
            f"## `{given.stack}`: this is not what was reviewed",
            "",
            *[f"- {one}" for one in found[:_MOST]],
            *more,
            sep="\n",
        )
        sys.exit(3)
    fewer = len(before) - sum(len(change.planned) for change in preview.changes)
    done = f" {fewer} of the reviewed steps are not left to do." if fewer > 0 else ""
    print(f"Everything that is planned for {given.stack} was reviewed.{done}")


if __name__ == "__main__":
    main()
