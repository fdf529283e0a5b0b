"""Turns ``pulumi preview --json`` into the Markdown of a review comment: what is created, changed, replaced and deleted.

``pulumi preview --json | python -m operations.preview_markdown --stack dev``
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, cast

UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
"""Text that the engine writes for a value that is known only after the change."""
SECRET = "[secret]"  # noqa: S105  (the engine's mask)
LONGEST = 120
"""Characters of a value that are shown, at most."""

KEEPS_DATA = {
    "aws:rds/instance:Instance": "the database server with all of MLflow's data",
    "postgresql:index/database:Database": "MLflow's database with every run and user",
    "postgresql:index/schema:Schema": "MLflow's tables",
    "aws:s3/bucket:Bucket": "the bucket with every artifact",
}
HEADINGS = {
    "replace": "Replaced",
    "delete": "Deleted",
    "update": "Changed",
    "create": "Created",
    "read": "Read",
    "import": "Imported",
}
"""Operation to its heading, in the order in which a reviewer needs them."""
_ALIASES = {
    "create-replacement": "",
    "delete-replaced": "",
    "discard": "delete",
    "discard-replaced": "",
    "read-replacement": "",
}


def render(stack: str, digest: Mapping[str, Any]) -> str:
    """Write the comment.

    Args:
        stack: name of the stack.
        digest: output of ``pulumi preview --json``. Secrets are masked in it.
    """
    steps: dict[str, list[Mapping[str, Any]]] = {heading: [] for heading in HEADINGS}
    for step in _records(digest, "steps"):
        operation = _ALIASES.get(step["op"], step["op"])
        if operation in steps:
            steps[operation].append(step)
    counts = [f"{len(found)} {HEADINGS[operation].lower()}" for operation, found in steps.items() if found]
    failed = any(diagnostic.get("severity") == "error" for diagnostic in _records(digest, "diagnostics"))
    summary = "it failed" if failed else ", ".join(counts) or "no changes"
    lines = [f"<!-- mlflow-eks preview {stack} -->", f"## Preview of `{stack}`: {summary}", ""]
    lines += _alarms(steps)
    for operation, found in steps.items():
        if found:
            lines += [f"### {HEADINGS[operation]}", ""]
            lines += _details(found) if operation in {"replace", "update"} else [f"- {_name(step)}" for step in found]
            lines.append("")
    messages = [_message(diagnostic) for diagnostic in _records(digest, "diagnostics")]
    if any(messages):
        lines += ["### Warnings and errors", "", *[message for message in messages if message], ""]
    return "\n".join(lines).rstrip() + "\n"


def _alarms(steps: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    lost = [
        (operation, step, KEEPS_DATA[kind])
        for operation in ("replace", "delete")
        for step in steps[operation]
        if (kind := _type(step)) in KEEPS_DATA
    ]
    if not lost:
        return []
    lines = ["> [!CAUTION]", "> **This loses data.**"]
    lines += [f"> - {_name(step)} is {HEADINGS[operation].lower()}: {what}." for operation, step, what in lost]
    return [*lines, "> Take a snapshot first, or find out which input forces it (see below) and take it back.", ""]


def _details(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    lines: list[str] = []
    for step in steps:
        lines.append(f"- {_name(step)}")
        forced = cast("list[str]", step.get("replaceReasons") or [])
        detailed = cast("Mapping[str, Any]", step.get("detailedDiff") or {})
        paths = list(detailed) or cast("list[str]", step.get("diffReasons") or [])
        old, new = _inputs(step, "oldState"), _inputs(step, "newState")
        for path in sorted(paths):
            force = " **forces the replacement**" if path in forced or path.split(".")[0] in forced else ""
            lines.append(f"  - `{path}`: {_value(old, path)} → {_value(new, path)}{force}")
    return lines


def _records(digest: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    return digest.get(key) or []


def _inputs(step: Mapping[str, Any], state: str) -> Any:
    resource: Any = step.get(state) or {}
    return resource.get("inputs") or {}


def _type(step: Mapping[str, Any]) -> str:
    return str(step["urn"]).split("::")[-2].rsplit("$", 1)[-1]


def _name(step: Mapping[str, Any]) -> str:
    return f"**{str(step['urn']).rsplit('::', maxsplit=1)[-1]}** (`{_type(step)}`)"


def _value(value: Any, path: str) -> str:
    for part in re.findall(r'\["([^"]+)"\]|\[(\d+)\]|([^.\[\]]+)', path):
        key, index, name = part
        try:
            value = value[int(index)] if index else value[key or name]
        except (KeyError, IndexError, TypeError):
            return "*nothing*"
    if value == UNKNOWN:
        return "*known afterwards*"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    text = text.replace(UNKNOWN, "…").replace("\n", " ").replace("`", "'")
    return f"`{text if len(text) <= LONGEST else text[:LONGEST] + '…'}`"


def _message(diagnostic: Mapping[str, Any]) -> str:
    if diagnostic.get("severity") not in {"warning", "error"}:
        return ""
    text = re.sub(r"<\{%[^%]*%\}>", "", str(diagnostic.get("message", ""))).strip()
    # Some messages begin with their severity already.
    text = text.removeprefix(f"{diagnostic['severity']}: ")
    return f"- {diagnostic['severity']}: {text}"


def main() -> None:
    """Read the preview from a file or from standard input and print the Markdown."""
    parser = argparse.ArgumentParser(description="The Markdown of a review comment, from `pulumi preview --json`.")
    parser.add_argument("file", nargs="?", help="output of `pulumi preview --json` (default: standard input)")
    parser.add_argument("--stack", required=True, help="name of the stack")
    given = parser.parse_args()
    with open(given.file) if given.file else sys.stdin as source:  # noqa: PTH123  (both kinds of source are closed)
        text = source.read()
    if not text.strip():
        raise SystemExit("`pulumi preview` failed; its error message is above.")
    try:
        digest = json.loads(text)
    except json.JSONDecodeError:
        raise SystemExit(
            f"This is not the output of `pulumi preview --json`; it begins with: {text[:200].strip()!r}"
        ) from None
    print(render(given.stack, digest), end="")


if __name__ == "__main__":
    main()
