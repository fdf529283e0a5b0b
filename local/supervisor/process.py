"""A declared process inside the daemon, which starts, probes and restarts it."""

import asyncio
import contextlib
import ctypes
import os
import pwd
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from local.supervisor.spec import ProcessSpec, Status, SupervisorError, tail

BACKOFF = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds before a restart: the first value after a stable run, a later one after each shorter run. The last one repeats."""
STABLE_AFTER = 30.0
"""Seconds after which a run of a process counts as stable."""

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def end_with_parent(number: signal.Signals) -> None:
    """Ask the kernel to send this process a signal when the thread that started it ends, for any reason."""
    _libc.prctl(_PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Ask the kernel to make this process the parent of every orphan among its descendants."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


class Process:
    """A declared process inside the daemon."""

    def __init__(self, spec: ProcessSpec, log: Path) -> None:
        self.spec = spec
        self.log = log
        self.account = pwd.getpwnam(spec.user) if spec.user else None
        self.offset = 0
        self.restarts = 0
        self.exits: list[int] = []
        self.child: asyncio.subprocess.Process | None = None
        self.ready = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._backing_off = False

    @property
    def status(self) -> Status:
        """State of the process."""
        running = self.child is not None
        pid = self.child.pid if self.child else None
        return Status(self.spec.name, pid, running, running and self.ready.is_set(), self.restarts)

    async def start(self) -> asyncio.subprocess.Process:
        """Start the process once and return it."""
        spec, account = self.spec, self.account
        self._write_files()
        with self.log.open("ab") as output:
            self.offset = output.tell()
            self.child = await asyncio.create_subprocess_exec(
                *spec.argv,
                cwd=spec.cwd,
                env=dict(spec.env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                umask=0o077,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
                # A change of user clears this setting, so it is made after that change. It watches the thread that
                # starts the process: asyncio's main thread, which lives as long as the daemon.
                preexec_fn=lambda: end_with_parent(signal.SIGKILL),
            )
        return self.child

    async def finished(self, child: asyncio.subprocess.Process) -> int:
        """Wait until the process ends, kill the rest of its group, and return the exit code."""
        code = await child.wait()
        self._signal_group(child, signal.SIGKILL)
        self.child = None
        return code

    def keep_running(self) -> None:
        """Start the process, and restart it until `stop`. A restart that is waiting happens at once."""
        if self._keeper is not None and self._backing_off:
            self._keeper.cancel()
            self._keeper = None
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        attempt = 0
        while True:
            self._backing_off = False
            started = time.monotonic()
            try:
                child = await self.start()
            except OSError as error:
                with self.log.open("a") as output:
                    output.write(f"{self.spec.argv[0]}: {error}\n")
                self.exits.append(127)
            else:
                probe = asyncio.create_task(self._probe())
                try:
                    self.exits.append(await self.finished(child))
                finally:
                    probe.cancel()
            self.ready.clear()
            self._backing_off = True
            attempt = 0 if time.monotonic() - started > STABLE_AFTER else attempt + 1
            await asyncio.sleep(BACKOFF[min(attempt, len(BACKOFF) - 1)])
            self.restarts += 1

    async def _probe(self) -> None:
        ready = self.spec.ready
        if ready is None:
            await asyncio.sleep(0.5)
        else:
            while not await _answers(ready):
                await asyncio.sleep(0.1)
            # If another process holds the port, that process has answered, and this one exits within moments.
            await asyncio.sleep(0.1)
        self.ready.set()

    async def wait_ready(self, timeout: float) -> None:
        """Wait until the process is ready, `timeout` seconds at most.

        Raises:
            SupervisorError: the process ended, or was not ready in time.
        """
        exits = len(self.exits)
        deadline = time.monotonic() + timeout
        while not self.ready.is_set():
            if len(self.exits) > exits:
                raise SupervisorError(self._failure(f"exited with {self.exits[-1]}"))
            if time.monotonic() > deadline:
                raise SupervisorError(self._failure(f"was not ready after {timeout:g} s"))
            await asyncio.sleep(0.05)

    def reload(self, spec: ProcessSpec) -> None:
        """Write the files of a new spec and send its reload signal. The process is not restarted."""
        self.spec = spec
        self._write_files()
        if self.child is not None and spec.reload_signal:
            with contextlib.suppress(ProcessLookupError):
                self.child.send_signal(signal.Signals[spec.reload_signal])

    async def stop(self) -> None:
        """End the process and everything in its process group."""
        keeper, child = self._keeper, self.child
        self._keeper = None
        if keeper is not None:
            keeper.cancel()
        if child is not None:
            self._signal_group(child, signal.Signals[self.spec.stop_signal])
            # Wait for the whole group: the `mlflow` command ends at once, and the server that it started is still
            # finishing its requests.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.spec.stop_timeout):
                    await child.wait()
                    while self._group_lives(child):
                        await asyncio.sleep(0.05)
            self._signal_group(child, signal.SIGKILL)
            await self.finished(child)
        self.ready.clear()

    async def run(self, timeout: float) -> None:
        """Run the process to its end, `timeout` seconds at most.

        Raises:
            SupervisorError: the process failed, or was not done in time.
        """
        try:
            child = await self.start()
        except OSError as error:
            raise SupervisorError(f"{self.spec.name} did not start: {error}") from error
        try:
            code = await asyncio.wait_for(self.finished(child), timeout)
        except TimeoutError as error:
            raise SupervisorError(self._failure(f"was not done after {timeout:g} s")) from error
        finally:
            await self.stop()
        if code != 0:
            raise SupervisorError(self._failure(f"exited with {code}"))

    def _write_files(self) -> None:
        for path, content in self.spec.files.items():
            write_private(Path(path), content, self.account)

    def _failure(self, verb: str) -> str:
        return f"{self.spec.name} {verb}; the end of {self.log}:\n{tail(self.log, self.offset)}"

    @staticmethod
    def _group_lives(child: asyncio.subprocess.Process) -> bool:
        try:
            os.killpg(child.pid, 0)
        except ProcessLookupError:
            return False
        return True

    @staticmethod
    def _signal_group(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
        # A group outlives its leader, so this also reaches the processes that a killed server had forked.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)


async def _answers(ready: Mapping[str, str]) -> bool:
    scheme, _, rest = ready["http"].partition("://") if "http" in ready else ("tcp", "", ready["tcp"])
    address, _, path = rest.partition("/")
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                if scheme == "tcp":
                    return True
                writer.write(f"GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
                return int((await reader.readline()).split()[1]) < 400
            finally:
                writer.close()
    except (OSError, TimeoutError, IndexError, ValueError):
        return False


def write_private(path: Path, content: str, owner: pwd.struct_passwd | None) -> None:
    """Write a file that only its owner can read."""
    if not path.parent.exists():
        path.parent.mkdir(parents=True, mode=0o700)
        if owner:
            os.chown(path.parent, owner.pw_uid, owner.pw_gid)
    # Renaming replaces a file in one step: a reader sees the old content or the new, never a part.
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(content)
    if owner:
        os.chown(new, owner.pw_uid, owner.pw_gid)
    new.rename(path)
