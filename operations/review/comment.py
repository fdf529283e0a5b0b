"""Writes the Markdown of a review comment: ``python -m operations.review.comment --stack dev preview.json``.

Deletions of data come first, in words. Every text that is not ours is a code span on one line (``foreign.py``).
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from operations.prices import INSTANCE, SNAPSHOT
from operations.review.cost_difference import RELEASE, cost_lines
from operations.review.foreign import code
from operations.review.preview import Change, Message, Preview, at, mapping, read
from operations.review.values import difference

LONGEST = 60_000
"""Bytes of a comment, at most. GitHub refuses one of more than 65,536 characters."""
_SPARE = 3_000
"""Bytes of them for the headings of what is cut."""
_LONG_LIST = 8
"""Resources that are listed unfolded, at most."""
_BY_TYPE = {"created", "imported", "forgotten"}
"""Kinds of changes of which only the names are listed."""
_NAMES = 20
"""Names on a line, at most."""
_PATHS = 12
"""Differing values of a resource that are shown, at most."""
_MESSAGE_LINES, _MESSAGE_WIDTH = 20, 500

KEEPS_DATA = {
    INSTANCE: ("the database server", "all of MLflow's data is lost"),
    "postgresql:index/database:Database": ("MLflow's database", "every run, model and user is lost"),
    "postgresql:index/schema:Schema": ("MLflow's schema", "all tables in it are lost"),
    "aws:s3/bucket:Bucket": ("the bucket", "every artifact is lost"),
    "random:index/randomBytes:RandomBytes": ("a key of MLflow", "what MLflow has encrypted with it is lost"),
}
"""Types of resources that keep data: what they are, and what their deletion means."""
_MIGRATED = "An MLflow that is older refuses the tables that a newer one has migrated"
NO_WAY_BACK = {
    (INSTANCE, "engineVersion"): "PostgreSQL goes back to an older major version from a backup only",
    (RELEASE, "version"): _MIGRATED,
    (RELEASE, "values.image"): _MIGRATED,
    (RELEASE, "values.image.tag"): _MIGRATED,
}
"""Types and paths of changes that a revert does not take back, and why."""
SAVED = {True: "`up` takes a snapshot of the database first", False: "`up` takes no snapshot of the database first"}
"""Sentence about a backup before an upgrade, by whether the preview has a snapshot."""
LESS_SAFE = {
    (INSTANCE, "deletionProtection", False): "RDS no longer refuses to delete it",
    (INSTANCE, "skipFinalSnapshot", True): "Its deletion keeps no last snapshot",
    (INSTANCE, "deleteAutomatedBackups", True): "Its deletion takes the backups along",
    ("aws:s3/bucket:Bucket", "forceDestroy", True): "Its deletion takes the files along",
}
"""Types, paths and new values of changes that make a loss of data easier."""
MEANS = {
    "random:index/randomPassword:RandomPassword": "a new password is generated",
    RELEASE: "the site is away meanwhile",
    SNAPSHOT: "a new snapshot of the database is taken",
}
"""Types of resources to what their replacement means, where no data is lost."""
HEADINGS = {
    "replaced": "Replaced",
    "deleted": "Deleted",
    "lost": "Deleted already by an interrupted replacement",
    "gone": "Gone from the cloud or the cluster, and created anew",
    "forgotten": "No longer in the state; the resource itself stays",
    "other": "Operations that this comment does not know",
    "drifted": "Changed elsewhere since the last `up`",
    "changed": "Changed",
    "imported": "Imported",
    "created": "Created",
}
"""Kinds of changes in the order in which a reviewer needs them."""
_COUNTS = {"lost": "deleted already", "forgotten": "forgotten", "other": "unknown", "drifted": "changed elsewhere"}
_PROTECTED = re.compile(r"marked for protection|because it is protected")
_NO_REASON = re.compile(r"preview failed$|an unhandled error occurred: Program exited with non-zero exit code")
_WINDOW = "maintenance window"


@dataclass(frozen=True)
class Section:
    """A heading with a list. Entries are whole: what does not fit is left out and counted."""

    heading: str
    entries: Sequence[str]
    folded: bool = False
    introduction: str = ""


def render(stack: str, text: str, log: str | None = None, status: int | None = None) -> str:
    """Write the comment.

    Args:
        stack: name of the stack.
        text: output of ``pulumi preview --json``. Secrets are masked in it.
        log: address of the run's log.
        status: exit status of the preview. None: an error among the messages tells a failure.
    """
    preview = read(text)
    failed = bool(status or preview.texts("error") or not preview.complete)
    changes = {kind: [change for change in preview.changes if change.kind == kind] for kind in HEADINGS}
    counts = [f"{len(found)} {_COUNTS.get(kind, kind)}" for kind, found in changes.items() if found]
    refused = any(change.refused for change in preview.changes)
    summary = "refused" if refused else "it failed" if failed else ", ".join(counts) or "no changes"
    place = f": [the log]({log})" if log and re.fullmatch(r"https?://[\w.:/%?=&~-]+", log) else ""
    top = [f"<!-- mlflow-eks preview {stack} -->", f"## Preview of `{stack}`: {summary}", ""]
    if failed:
        so_far = f" Until then it has found: {', '.join(counts)}." if counts else ""
        top += [f"**The preview failed**, so this may not be all{place}.{so_far}", ""]
    sections = [*_alarms(preview), *_consequences(preview), *_errors(preview)]
    late = {"changed", "imported", "created"}
    sections += [_listed(kind, found) for kind, found in changes.items() if found and kind not in late]
    sections += [*_messages(preview), *_cost(preview)]
    sections += [_listed(kind, found) for kind, found in changes.items() if found and kind in late]
    return _fit("\n".join(top), sections, place)


def _alarms(preview: Preview) -> Iterator[Section]:
    risks = [change for change in preview.changes if change.refused or _loses(change)]
    if not risks:
        return
    lost = any(not change.refused for change in risks)
    said = "Data is lost." if lost else "Refused: what would be deleted is protected."
    entries = [f"> - {_alarm(change)}" for change in risks]
    yield Section("", entries, introduction=f"> [!CAUTION]\n> **{said}**")


def _loses(change: Change) -> bool:
    return change.type in KEEPS_DATA and (change.deletes or change.kind in {"lost", "gone"})


def _alarm(change: Change) -> str:
    what, lost = KEEPS_DATA.get(change.type, ("a protected resource", ""))
    verb = {"replaced": "Replaces", "lost": "An interrupted replacement has deleted"}.get(change.kind, "Deletes")
    words = f"{verb} {what} {_name(change)}"
    if change.kind == "gone":
        words = f"{what[0].upper()}{what[1:]} {_name(change)} is gone"
        words += ", and an empty one is created" if "create" in change.operations else ""
    sentences = [f"**{words}{f': {lost}' if lost and not change.refused else ''}.**"]
    sentences += [f"Forced by {code(path)}: {difference(change, path)}." for path in change.forces[:3]]
    inputs = mapping(change.old.get("inputs"))
    if change.refused:
        sentences.append(
            "It is protected, so `pulumi up` stops before it and nothing is lost. Take back what causes it."
        )
    elif change.old.get("protect") and change.kind == "replaced":
        sentences.append("Its protection is taken away in the same step.")
    if not change.refused and change.deletes and inputs:
        snapshot = inputs.get("finalSnapshotIdentifier")
        if snapshot and inputs.get("skipFinalSnapshot") is not True:
            sentences.append(f"RDS keeps a last snapshot {code(snapshot)}.")
        if inputs.get("deletionProtection") is True:
            sentences.append("Its deletion protection is on, so RDS refuses until that is off.")
    return " ".join(sentences)


def _consequences(preview: Preview) -> Iterator[Section]:
    changes = [(change, path) for change in preview.changes if change.kind == "changed" for path in change.differs]
    saved = any(change.type == SNAPSHOT and change.kind in {"created", "replaced"} for change in preview.changes)
    found = [
        (change, path, NO_WAY_BACK[change.type, path] + (f". {SAVED[saved]}" if change.type == RELEASE else ""))
        for change, path in changes
        if (change.type, path) in NO_WAY_BACK
        # Not HAProxy's release.
        if change.type != RELEASE or at(change.new, "inputs.chart") == "mlflow"
    ]
    yield from _explained("No way back without a backup", found)
    values = [(change, path, at(change.new, f"inputs.{path}")) for change, path in changes]
    found = [
        (change, path, words)
        for change, path, value in values
        if isinstance(value, bool) and (words := LESS_SAFE.get((change.type, path, value)))
    ]
    yield from _explained("Less protected", found)


def _explained(heading: str, found: Sequence[tuple[Change, str, str]]) -> Iterator[Section]:
    if found:
        lines = [f"- {_name(one)}, {code(path)}: {difference(one, path)}. {words}." for one, path, words in found]
        yield Section(heading, lines)


def _errors(preview: Preview) -> Iterator[Section]:
    refused = {change.urn for change in preview.changes if change.refused}
    # The engine's advice there is to take the protection off.
    errors = [one for one in preview.texts("error") if not (one.urn in refused and _PROTECTED.search(one.text))]
    # The engine's last words say only that there are others.
    told = [error for error in errors if not _NO_REASON.match(error.text)]
    yield from _section("Errors", told or ([] if refused else errors))


def _messages(preview: Preview) -> Iterator[Section]:
    warnings = preview.texts("warning")
    yield from _section("Maintenance", [warning for warning in warnings if _WINDOW in warning.text])
    yield from _section("Warnings", [warning for warning in warnings if _WINDOW not in warning.text])


def _section(heading: str, messages: Sequence[Message]) -> Iterator[Section]:
    by_text: dict[str, list[str]] = {}
    for message in messages:
        by_text.setdefault(message.text, []).append(message.urn)
    if by_text:
        yield Section(heading, [_message(text, urns) for text, urns in by_text.items()])


def _message(text: str, urns: Sequence[str]) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    shown = [code(line, _MESSAGE_WIDTH) for line in lines[:_MESSAGE_LINES]]
    shown += [f"… and {len(lines) - _MESSAGE_LINES} more lines"] if len(lines) > _MESSAGE_LINES else []
    names = [code(urn.rsplit("::", 1)[-1]) for urn in dict.fromkeys(urns) if urn and "pulumi:pulumi:Stack" not in urn]
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    shown += [f"for {', '.join(names[:_NAMES])}{more}"] if names else []
    return "\n".join(f"{'  ' if number else ''}- {line}" for number, line in enumerate(shown))


def _cost(preview: Preview) -> Iterator[Section]:
    found = cost_lines(preview)
    if found:
        yield Section("Cost", [f"- {line}" for line in found[1:]], introduction=found[0])


def _listed(kind: str, changes: Sequence[Change]) -> Section:
    folded = len(changes) > _LONG_LIST and kind not in {"replaced", "deleted", "lost", "other"}
    entries = [_entry(change) for change in changes] if kind not in _BY_TYPE else _by_type(changes)
    return Section(f"{HEADINGS[kind]}: {len(changes)}" if folded else HEADINGS[kind], entries, folded)


def _by_type(changes: Sequence[Change]) -> list[str]:
    names: dict[str, list[str]] = {}
    for change in sorted(changes, key=lambda one: one.name):
        names.setdefault(change.type, []).append(code(change.name))
    return [
        f"- {code(kind)}: {', '.join(found[start : start + _NAMES])}"
        for kind, found in sorted(names.items())
        for start in range(0, len(found), _NAMES)
    ]


def _entry(change: Change) -> str:
    lines = [f"- {_name(change)}"]
    if change.type:
        lines[0] += f" ({code(change.type)})"
    if change.kind == "other":
        lines[0] += f": {', '.join(map(code, change.operations))}"
    if change.stays and change.kind in {"replaced", "deleted"}:
        lines[0] += ", but the old one stays where it is"
    if change.kind == "replaced" and not change.forces:
        lines[0] += ", because something that it depends on is replaced"
    if change.kind == "replaced" and change.type in MEANS:
        lines[0] += f": {MEANS[change.type]}"
    if change.kind in {"replaced", "changed", "drifted", "other"}:
        forces = set(change.forces)
        for path in change.differs[:_PATHS]:
            force = " **forces the replacement**" if path in forces else ""
            lines.append(f"  - {code(path)}: {difference(change, path)}{force}")
        if len(change.differs) > _PATHS:
            lines.append(f"  - … and {len(change.differs) - _PATHS} more values")
    return "\n".join(lines)


def _name(change: Change) -> str:
    return code(change.name)


def _fit(top: str, sections: Sequence[Section], place: str) -> str:
    """Put the sections together, and leave out entries from where the comment gets too long."""
    text, full = top, False
    for section in sections:
        head = f"### {section.heading}\n\n" if section.heading and not section.folded else ""
        if section.folded:
            # GitHub reads no Markdown in the line of the summary, so only our own words stand there.
            head = f"<details>\n<summary><b>{section.heading}</b></summary>\n\n"
        head += f"{section.introduction}\n" if section.introduction else ""
        head += "\n" if section.introduction and section.heading and section.entries else ""
        text += f"\n{head}"
        left = len(section.entries)
        for entry in section.entries:
            full = full or len(f"{text}{entry}".encode()) > LONGEST - _SPARE
            if full:
                break
            text += f"{entry}\n"
            left -= 1
        if left:
            text += f"{'> ' if not section.heading else ''}- … and {left} more{place}\n"
        text += "\n</details>\n" if section.folded else ""
    return f"{text.rstrip()}\n"


def stack_name(text: str) -> str:
    """Return the name of a stack.

    Raises:
        ValueError: Pulumi allows no such name.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", text):
        raise ValueError(text)
    return text


def main() -> None:
    """Print the comment."""
    parser = argparse.ArgumentParser(description="The Markdown of a review comment, from `pulumi preview --json`.")
    parser.add_argument("file", type=Path, help="output of `pulumi preview --json`")
    parser.add_argument("--stack", required=True, type=stack_name, help="name of the stack")
    parser.add_argument("--log", help="address of the log that has everything")
    parser.add_argument("--status", type=int, help="exit status of the preview")
    given = parser.parse_args()
    text = given.file.read_text(errors="replace") if given.file.exists() else ""
    print(render(given.stack, text, given.log, given.status), end="")


if __name__ == "__main__":
    main()
