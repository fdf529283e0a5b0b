"""Types and helpers that the client and the daemon share."""

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
"""Lines of a log that an error message quotes."""
VERSION = hashlib.sha256(
    b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py")))
).hexdigest()[:16]
"""Hash of this package's code. The client replaces a daemon of another version."""


class SupervisorError(Exception):
    """A process could not be run, or the daemon does not answer.

    A process's message ends with the last lines of its log.
    """


@dataclass(frozen=True)
class ProcessSpec:
    """A process to run. A process with another spec is another process, so it replaces the running one."""

    name: str
    """Unique name: at most 100 letters, digits, dots, underscores and hyphens."""
    argv: Sequence[str]
    """Program and arguments."""
    env: Mapping[str, str]
    """The whole environment: nothing is inherited."""
    cwd: str = "/"
    """Working directory, default `/`."""
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    """Path to content.

    The files are written before the start, only the process's user can read them, and `delete` removes them.
    """
    user: str | None = None
    """User that runs the process, default the daemon's own. Only root can set it."""
    ready: Mapping[str, str] | None = None
    """Readiness check: `{"http": url}` (any status below 400) or `{"tcp": "host:port"}`.

    None: alive for half a second.
    """
    reload_signal: str | None = None
    """Signal to send instead of a restart when only `files` change. None: restart."""
    stop_signal: str = "SIGTERM"
    """Signal that asks the process to stop, default SIGTERM."""
    stop_timeout: float = 10
    """Seconds between the stop signal and SIGKILL, default 10."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.name):
            raise ValueError(
                f"{self.name!r} is not a process name; use letters, digits, '.', '_' and '-', at most 100 of them"
            )


@dataclass(frozen=True)
class Status:
    """State of one declared process."""

    name: str
    """Name of the process."""
    pid: int | None
    """Process id, None while it does not run."""
    running: bool
    """True if the process runs."""
    ready: bool
    """True if the process runs and has passed its readiness check."""
    restarts: int
    """Number of restarts since the daemon started."""


def as_json(spec: ProcessSpec) -> dict[str, Any]:
    """Return a spec as JSON values."""
    # The round trip turns tuples into lists, so a client's spec and one read from disk compare equal.
    return json.loads(json.dumps({**asdict(spec), "argv": list(spec.argv), "cwd": str(spec.cwd)}))


@contextlib.contextmanager
def short_path(folder: Path) -> Generator[str]:
    """Provide a short name of a folder, for the path of a socket in it."""
    # Linux allows 107 characters for a socket's path (unix(7)). A folder below the user's cache can exceed that.
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
    """Return the last 25 lines of a log that come after an offset in bytes."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(offset if offset <= size else 0, size - 20_000))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-TAIL_LINES:])
