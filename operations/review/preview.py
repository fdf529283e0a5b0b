"""Reads the output of ``pulumi preview --json``: the changes of a stack, one for each resource, and the messages."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

NAMELESS = "(no name)"
QUIET = {"same", "read", "refresh", "diff", "extend-parameterize"}
"""Operations that change nothing."""
_KINDS: Mapping[str, set[str]] = {
    "replaced": {"replace", "create-replacement", "import-replacement", "read-replacement"},
    "gone": {"refresh-delete"},
    "deleted": {"delete", "delete-replaced"},
    "lost": {"remove-pending-replace"},
    "forgotten": {"forget", "discard", "discard-replaced"},
    "changed": {"update"},
    "imported": {"import"},
    "created": {"create"},
}
"""Kind of a change to its operations. A resource with operations of several kinds is of the first."""
_KNOWN = QUIET.union(*_KINDS.values())
_NONE: Mapping[str, Any] = {}
_PART = re.compile(r'\["([^"]*)"\]|\[(\d{1,9})\]|([^.\[\]"]+)')


@dataclass(frozen=True)
class Step:
    """One operation of the engine on one resource."""

    operation: str
    urn: str
    old: Mapping[str, Any]
    """State of the resource before. Empty if there is none."""
    new: Mapping[str, Any]
    forces: tuple[str, ...]
    """Paths of the values that force a replacement."""
    differs: tuple[str, ...]
    """Paths of the values that differ, those of `forces` first."""


@dataclass(frozen=True)
class Change:
    """Everything that happens to one resource."""

    kind: str
    """A key of `_KINDS`, ``drifted`` for a change that somebody made elsewhere, or ``other``."""
    steps: tuple[Step, ...]

    @property
    def urn(self) -> str:
        """URN of the resource."""
        return self.steps[0].urn

    @property
    def name(self) -> str:
        """Logical name of the resource."""
        return self.urn.rsplit("::", 1)[-1]

    @property
    def type(self) -> str:
        """Type of the resource, without those of its parents."""
        parts = self.urn.split("::")
        return parts[2].rsplit("$", 1)[-1] if len(parts) > 3 else ""

    @property
    def planned(self) -> tuple[Step, ...]:
        """Steps that change something."""
        return tuple(step for step in self.steps if step.operation not in QUIET)

    @property
    def operations(self) -> tuple[str, ...]:
        """Names that the engine has for what happens."""
        return tuple(dict.fromkeys(step.operation for step in self.steps))

    @cached_property
    def old(self) -> Mapping[str, Any]:
        """State of the resource before. Empty if there is none."""
        return next((step.old for step in self.steps if step.old), _NONE)

    @cached_property
    def new(self) -> Mapping[str, Any]:
        """State of the resource afterwards. Empty if there is none."""
        return next((step.new for step in reversed(self.steps) if step.new), _NONE)

    @property
    def forces(self) -> tuple[str, ...]:
        """Paths of the values that force a replacement."""
        return tuple(dict.fromkeys(path for step in self.steps for path in step.forces))

    @property
    def differs(self) -> tuple[str, ...]:
        """Paths of the values that differ, those that force a replacement first."""
        return tuple(dict.fromkeys((*self.forces, *(path for step in self.steps for path in step.differs))))

    @property
    def stays(self) -> bool:
        """True if what the state loses stays where it is."""
        return bool(self.old.get("retainOnDelete"))

    @property
    def deletes(self) -> bool:
        """True if the resource that is there is deleted."""
        return self.kind in {"replaced", "deleted"} and bool(self.old or self.kind == "deleted") and not self.stays

    @property
    def refused(self) -> bool:
        """True if the engine refuses this change, because the resource is protected."""
        protected = bool(self.old.get("protect"))
        # The engine lets a replacement pass that takes the protection away in the same `up`.
        return protected and (
            "delete" in self.operations or (self.kind == "replaced" and bool(self.new.get("protect")))
        )


@dataclass(frozen=True)
class Message:
    """A warning or an error of the preview."""

    severity: str
    text: str
    urn: str


@dataclass(frozen=True)
class Preview:
    """Output of one preview."""

    changes: tuple[Change, ...]
    quiet: tuple[Step, ...]
    """Steps that change nothing."""
    messages: tuple[Message, ...]
    config: Mapping[str, Any]
    complete: bool
    """False if this is no output of ``pulumi preview --json``."""

    def texts(self, severity: str) -> list[Message]:
        """Return the messages of one severity."""
        return [message for message in self.messages if message.severity == severity]


def read(text: str) -> Preview:
    """Read a preview. Nothing that the text can be makes this fail."""
    try:
        digest: Any = json.loads(text)
    except (ValueError, RecursionError):
        digest = None
    found = mapping(digest)
    steps = [_step(mapping(one)) for one in sequence(found.get("steps"))]
    messages = [_message(mapping(one)) for one in sequence(found.get("diagnostics"))]
    return Preview(
        changes=tuple(_changes(steps)),
        quiet=tuple(step for step in steps if step.operation in QUIET),
        messages=tuple(dict.fromkeys(message for message in messages if message.text)),
        config=mapping(found.get("config")),
        complete=isinstance(digest, dict),
    )


def at(value: Any, path: str) -> Any:
    """Return the value at a path of a difference, as the engine writes it. None if there is none."""
    for key, index, name in _PART.findall(path):
        if index:
            items = sequence(value)
            value = items[int(index)] if int(index) < len(items) else None
        else:
            value = mapping(value).get(key or name)
    return value


def mapping(value: Any) -> Mapping[str, Any]:
    """Return the value if it is an object, and an empty object if it is something else."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else _NONE


def sequence(value: Any) -> Sequence[Any]:
    """Return the value if it is a list, and an empty list if it is something else."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def _step(raw: Mapping[str, Any]) -> Step:
    detailed = mapping(raw.get("detailedDiff"))
    reasons = [str(path) for path in sequence(raw.get("replaceReasons"))]
    forces = [path for path in detailed if str(mapping(detailed[path]).get("kind")).endswith("-replace")]
    # A reason is the first part of a path, and sometimes has no difference of its own.
    forces += [path for path in detailed if path not in forces and _first(path) in reasons]
    forces += [reason for reason in reasons if reason not in {*map(_first, forces), *forces}]
    differs = [*detailed] or [str(path) for path in sequence(raw.get("diffReasons"))]
    operation, urn = raw.get("op"), raw.get("urn")
    return Step(
        operation=str(operation) if operation else "(no operation)",
        urn=str(urn) if urn else NAMELESS,
        old=mapping(raw.get("oldState")),
        new=mapping(raw.get("newState")),
        forces=tuple(forces),
        differs=tuple(dict.fromkeys((*forces, *sorted(differs)))),
    )


def _first(path: str) -> str:
    found = _PART.search(path)
    return "".join(found.groups(default="")) if found else path


def _message(raw: Mapping[str, Any]) -> Message:
    severity = str(raw.get("severity") or "")
    text = str(raw.get("message") or "") if severity in {"warning", "error"} else ""
    # Colors, and the severity with which some messages begin.
    text = re.sub(r"<\{%[^%]*%\}>", "", text).strip().removeprefix(f"{severity}: ").strip()
    return Message(severity, text, str(raw.get("urn") or ""))


def _changes(steps: Sequence[Step]) -> list[Change]:
    by_urn: dict[str | int, list[Step]] = {}
    for number, step in enumerate(steps):
        by_urn.setdefault(number if step.urn == NAMELESS else step.urn, []).append(step)
    return [change for found in by_urn.values() for change in _of_resource(found)]


def _of_resource(steps: list[Step]) -> list[Change]:
    found: list[Change] = []
    updates = [step for step in steps if step.operation == "update"]
    # After `--refresh`, an update is what the refresh has found, and the operation that follows is what `up` makes of it.
    if updates and steps[0] is updates[0] and len(steps) > 1:
        found.append(Change("drifted", (updates[0],)))
        steps = steps[1:]
    operations = {step.operation for step in steps}
    # What is in the state and is created has gone: the refresh did not find it.
    if "create" in operations and operations & {"delete", "refresh"}:
        found.append(Change("gone", tuple(steps)))
    else:
        kind = next((kind for kind, names in _KINDS.items() if names & operations), None)
        if kind:
            found.append(Change(kind, tuple(step for step in steps if step.operation in _KNOWN - QUIET)))
    unknown = tuple(step for step in steps if step.operation not in _KNOWN)
    return [*found, Change("other", unknown)] if unknown else found
