"""What client and daemon say to each other."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

TAIL_LINES = 25
VERSION = hashlib.sha256(
    b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py")))
).hexdigest()[:16]
"""Version of this code. A daemon of another version is replaced."""


class SupervisorError(Exception):
    """A process could not be run. The message ends with the last lines of the process's log."""


@dataclass(frozen=True)
class ProcessSpec:
    """A process as it should run. Two equal specs are the same process."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    """The whole environment: nothing is inherited."""
    cwd: str = "/"
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    """Path to content; written before the start, readable by the process's user only, removed by `delete`."""
    user: str | None = None
    """Who to run as; only root can choose."""
    ready: Mapping[str, str] | None = None
    """`{"http": url}` (any status below 400) or `{"tcp": "host:port"}`; without it, ready is alive for half a second."""
    reload_signal: str | None = None
    """Sent instead of a restart when only `files` change."""
    stop_signal: str = "SIGTERM"
    stop_timeout: float = 10

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.name):
            raise ValueError(f"{self.name!r} is not a process name: letters, digits, '.', '_' and '-', at most 100")


@dataclass(frozen=True)
class Status:
    """What the machine says about one declared process."""

    name: str
    pid: int | None
    running: bool
    ready: bool
    restarts: int


def as_json(spec: ProcessSpec) -> dict[str, Any]:
    """Return a spec as JSON has it."""
    # Through JSON, so that a spec from a client and one read back from disk compare equal.
    return json.loads(json.dumps({**asdict(spec), "argv": list(spec.argv), "cwd": str(spec.cwd)}))


@contextlib.contextmanager
def short_path(folder: Path) -> Generator[str]:
    """Another name of that folder, for the path of a socket in it."""
    # A socket's path may have 107 characters, which a folder below somebody's cache can exceed.
    try:
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    except OSError:
        yield str(folder)
        return
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def lock_within(descriptor: int, seconds: float) -> bool:
    """Take a file lock; return False if another process holds it for that long."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)


def tail(log: Path, offset: int) -> str:
    """Return the last lines of a log, from an offset on."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(offset if offset <= size else 0, size - 20_000))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-TAIL_LINES:])
