"""The machine: one small supervisor per local stack, which runs what EC2, RDS and the kubelet would run.

A client declares processes (`put`), the daemon keeps them running until they are undeclared (`delete`). What is declared is
on disk, so a daemon that starts after a reboot starts everything again. Two processes make up the daemon: the supervisor, and
a guardian above it that inherits every orphan and so can end them all when the supervisor is killed.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import pwd
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from local import paths

LOG_LIMIT = 10_000_000
LOG_KEPT = 1_000_000
TAIL_LINES = 25
BACKOFF = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
STABLE_AFTER = 30.0
# Below the kernel's range for outgoing connections, so that a remembered port is still free after a restart.
PORTS = range(20_000, 30_000)
VERSION = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class MachineError(Exception):
    """A process could not be run; the message ends with its last log lines."""


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


def end_with_parent(number: signal.Signals) -> None:
    """Have the kernel send this process the signal when the thread that started it ends, however it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, number)


class Machine:
    """The client. Every method raises MachineError with a message for the person at the terminal."""

    def __init__(self, stack_dir: Path | str) -> None:
        self.folder = Path(stack_dir) / "machine"

    def start(self) -> bool:
        """Start the daemon unless it runs this very code already; whether it had to."""
        with contextlib.suppress(MachineError):
            if self._call("version", timeout=10) == VERSION:
                return False
            self.stop()
        paths.make_private(self.folder)
        with (self.folder / "daemon.log").open("ab") as log:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "local.machine", str(self.folder)],
                cwd=paths.CHECKOUT,
                env={"PATH": os.environ.get("PATH", os.defpath)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(MachineError):
                self._call("version", timeout=10)
                return True
            if daemon.poll() is not None:
                break
            time.sleep(0.05)
        raise MachineError(f"the local machine did not start\n{_tail(self.folder / 'daemon.log', 0)}")

    def stop(self) -> None:
        """End the daemon and every process it runs. What was declared stays declared. No daemon is fine too."""
        with contextlib.suppress(MachineError):
            self._call("stop", timeout=60)
        try:
            lock = (self.folder / "pid").open()
        except FileNotFoundError:
            return
        with lock:
            if _lock_within(lock.fileno(), 15):
                return
            # It does not answer. The lock that it holds proves that the pid is still its own.
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(lock.read()), signal.SIGKILL)
            if not _lock_within(lock.fileno(), 15):
                raise MachineError(f"the local machine does not stop; its log is {self.folder / 'daemon.log'}")

    def put(self, spec: ProcessSpec, timeout: float = 60) -> None:
        """Declare a process and wait until it is ready.

        One that runs like this already is left alone. Where it fails, it stays declared (and is tried again, as a kubelet
        would) until `delete`.
        """
        self._call("put", spec=_plain(spec), timeout=timeout)

    def get(self, name: str) -> Status | None:
        """The process of that name, when it is declared."""
        return next((status for status in self.list() if status.name == name), None)

    def list(self) -> list[Status]:
        """Every declared process, by name."""
        return [Status(**status) for status in self._call("list", timeout=10)]

    def delete(self, name: str) -> None:
        """Stop a process, forget it and remove its files. One that is not declared is fine too."""
        self._call("delete", name=name, timeout=120)

    def run(self, spec: ProcessSpec, timeout: float) -> None:
        """Run a process to its end, as an init container. It is ended with the client that waits for it."""
        self._call("run", spec=_plain(spec), timeout=timeout)

    def free_port(self, name: str) -> int:
        """A loopback port, the same one whenever the same name asks."""
        return self._call("free_port", name=name, timeout=10)

    def log(self, name: str) -> Path:
        """Where the output of that process goes."""
        return self.folder / "logs" / f"{name}.log"

    def _call(self, method: str, timeout: float, **arguments: object) -> Any:
        request = json.dumps({"method": method, "timeout": timeout, **arguments}).encode() + b"\n"
        with socket.socket(socket.AF_UNIX) as connection:
            # The daemon keeps the time limit itself; this one is for a daemon that hangs.
            connection.settimeout(timeout + 20)
            try:
                with short_path(self.folder) as folder:
                    connection.connect(f"{folder}/socket")
                connection.sendall(request)
                answer = connection.makefile("rb").readline()
            except TimeoutError as error:
                raise MachineError(
                    "the local machine does not answer: `make down` and `make up` start it anew"
                ) from error
            except OSError as error:
                raise MachineError("the local machine does not run: `make up` starts it") from error
        if not answer:
            raise MachineError("the local machine was stopped meanwhile: `make up` starts it again")
        reply = json.loads(answer)
        if "error" in reply:
            raise MachineError(reply["error"])
        return reply["result"]


def _plain(spec: ProcessSpec) -> dict[str, Any]:
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


def _lock_within(descriptor: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)


def _tail(log: Path, offset: int) -> str:
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(offset if offset <= size else 0, size - 20_000))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-TAIL_LINES:])


class _Process:
    """One declared process inside the daemon: started, probed, restarted."""

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
        running = self.child is not None
        pid = self.child.pid if self.child else None
        return Status(self.spec.name, pid, running, running and self.ready.is_set(), self.restarts)

    async def start(self) -> asyncio.subprocess.Process:
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
                # After the change of user, which would clear it; from the main thread, whose end is the daemon's end.
                preexec_fn=lambda: end_with_parent(signal.SIGKILL),
            )
        return self.child

    async def finished(self, child: asyncio.subprocess.Process) -> int:
        """Wait for the end, and end what the process has left behind."""
        code = await child.wait()
        self._signal_group(child, signal.SIGKILL)
        self.child = None
        return code

    def keep_running(self) -> None:
        """Start and restart until `stop`. When it waits before a restart, it stops waiting."""
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
            # Where somebody else holds the port it is they who answered, and ours is about to exit.
            await asyncio.sleep(0.1)
        self.ready.set()

    async def wait_ready(self, timeout: float) -> None:
        exits = len(self.exits)
        deadline = time.monotonic() + timeout
        while not self.ready.is_set():
            if len(self.exits) > exits:
                raise MachineError(self._failure(f"exited with {self.exits[-1]}"))
            if time.monotonic() > deadline:
                raise MachineError(self._failure(f"was not ready after {timeout:g} s"))
            await asyncio.sleep(0.05)

    def reload(self, spec: ProcessSpec) -> None:
        """Take over new files without a restart."""
        self.spec = spec
        self._write_files()
        if self.child is not None and spec.reload_signal:
            with contextlib.suppress(ProcessLookupError):
                self.child.send_signal(signal.Signals[spec.reload_signal])

    async def stop(self) -> None:
        keeper, child = self._keeper, self.child
        self._keeper = None
        if keeper is not None:
            keeper.cancel()
        if child is not None:
            self._signal_group(child, signal.Signals[self.spec.stop_signal])
            # Not the leader alone: MLflow's ends at once, while the server that it has started finishes its requests.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.spec.stop_timeout):
                    await child.wait()
                    while self._group_lives(child):
                        await asyncio.sleep(0.05)
            self._signal_group(child, signal.SIGKILL)
            await self.finished(child)
        self.ready.clear()

    async def run(self, timeout: float) -> None:
        try:
            child = await self.start()
        except OSError as error:
            raise MachineError(f"{self.spec.name} did not start: {error}") from error
        try:
            code = await asyncio.wait_for(self.finished(child), timeout)
        except TimeoutError as error:
            raise MachineError(self._failure(f"was not done after {timeout:g} s")) from error
        finally:
            await self.stop()
        if code != 0:
            raise MachineError(self._failure(f"exited with {code}"))

    def _write_files(self) -> None:
        for path, content in self.spec.files.items():
            _write_private(Path(path), content, self.account)

    def _failure(self, what: str) -> str:
        return f"{self.spec.name} {what}; the end of {self.log}:\n{_tail(self.log, self.offset)}"

    @staticmethod
    def _group_lives(child: asyncio.subprocess.Process) -> bool:
        try:
            os.killpg(child.pid, 0)
        except ProcessLookupError:
            return False
        return True

    @staticmethod
    def _signal_group(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
        # The group outlives its leader, so what a killed server has forked is found as well.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)


class _Supervisor:
    """The daemon's side of the API: one method per request."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.specs = folder / "specs"
        self.logs = folder / "logs"
        self.processes: dict[str, _Process] = {}
        self.locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.stopping = asyncio.Event()

    async def serve(self) -> None:
        paths.make_private(self.specs)
        paths.make_private(self.logs)
        for file in sorted(self.specs.glob("*.json")):
            self._declare(ProcessSpec(**json.loads(file.read_text()))).keep_running()
        (self.folder / "socket").unlink(missing_ok=True)
        with short_path(self.folder) as folder:
            server = await asyncio.start_unix_server(self._answer, f"{folder}/socket", limit=2**24)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.stopping.set)
        housekeeping = asyncio.create_task(self._limit_logs())
        await self.stopping.wait()
        housekeeping.cancel()
        server.close()
        await asyncio.gather(*(process.stop() for process in self.processes.values()))
        (self.folder / "socket").unlink(missing_ok=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        if not line.endswith(b"\n"):
            # The client ended before it had asked for anything.
            writer.close()
            return
        request: dict[str, Any] = json.loads(line)
        method: str = request.pop("method")
        work = asyncio.ensure_future(getattr(self, method)(**request))
        gone = asyncio.ensure_future(reader.read())
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not work.done():
            work.cancel()
        try:
            reply = {"result": await work}
        except MachineError as error:
            reply = {"error": str(error)}
        except asyncio.CancelledError:
            reply = {}
        except (OSError, ValueError, LookupError, TypeError) as error:
            reply = {"error": f"the local machine cannot {method}: {error!r}"}
        with contextlib.suppress(OSError):
            writer.write(json.dumps(reply).encode() + b"\n")
            await writer.drain()
            writer.close()

    def _declare(self, spec: ProcessSpec) -> _Process:
        process = self.processes[spec.name] = _Process(spec, self.logs / f"{spec.name}.log")
        return process

    async def version(self, timeout: float) -> str:
        return VERSION

    async def stop(self, timeout: float) -> None:
        self.stopping.set()

    async def put(self, spec: dict[str, Any], timeout: float) -> None:
        wanted = ProcessSpec(**spec)
        async with self.locks[wanted.name]:
            process = self.processes.get(wanted.name)
            if process is None or process.spec != wanted:
                _write_private(self.specs / f"{wanted.name}.json", json.dumps(spec), None)
            if process is not None and process.spec != wanted:
                same_but_files = asdict(wanted) | {"files": None} == asdict(process.spec) | {"files": None}
                if same_but_files and wanted.reload_signal:
                    process.reload(wanted)
                else:
                    await process.stop()
                    process = None
            process = process or self._declare(wanted)
            process.keep_running()
            await process.wait_ready(timeout)

    async def list(self, timeout: float) -> list[dict[str, Any]]:
        return [asdict(self.processes[name].status) for name in sorted(self.processes)]

    async def delete(self, name: str, timeout: float) -> None:
        async with self.locks[name]:
            process = self.processes.pop(name, None)
            (self.specs / f"{name}.json").unlink(missing_ok=True)
            if process is not None:
                await process.stop()
                for path in process.spec.files:
                    Path(path).unlink(missing_ok=True)

    async def run(self, spec: dict[str, Any], timeout: float) -> None:
        wanted = ProcessSpec(**spec)
        async with self.locks[wanted.name]:
            await _Process(wanted, self.logs / f"{wanted.name}.log").run(timeout)

    async def free_port(self, name: str, timeout: float) -> int:
        file = self.folder / "ports.json"
        known = cast(dict[str, int], json.loads(file.read_text())) if file.exists() else {}
        if name not in known:
            candidates = [port for port in PORTS if port not in known.values()]
            known[name] = next(port for port in random.sample(candidates, len(candidates)) if _is_free(port))
            _write_private(file, json.dumps(known), None)
        return known[name]

    async def _limit_logs(self) -> None:
        while True:
            for log in self.logs.glob("*.log"):
                if log.stat().st_size > LOG_LIMIT:
                    with log.open("rb+") as file:
                        file.seek(-LOG_KEPT, os.SEEK_END)
                        end = file.read()
                        file.truncate(0)
                    with log.open("ab") as file:
                        file.write(end)
            await asyncio.sleep(10)


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


def _write_private(path: Path, content: str, owner: pwd.struct_passwd | None) -> None:
    if not path.parent.exists():
        path.parent.mkdir(parents=True, mode=0o700)
        if owner:
            os.chown(path.parent, owner.pw_uid, owner.pw_gid)
    # A new file that takes the old one's place: a reader sees all of one or all of the other.
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(content)
    if owner:
        os.chown(new, owner.pw_uid, owner.pw_gid)
    new.rename(path)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _children() -> list[int]:
    mine: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                mine.append(int(stat.parent.name))
    return mine


def _guard(supervisor: int) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: os.kill(supervisor, number))
    while os.wait()[0] != supervisor:
        pass
    while children := _children():
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        # One at a time: the end of one makes its own children ours.
        os.wait()


def main(folder: Path) -> None:
    """Be the daemon of that folder, unless there is one."""
    os.umask(0o077)
    with (folder / "pid").open("a+") as lock:
        # The guardian of a supervisor that was just killed needs a moment to end what that one ran.
        if not _lock_within(lock.fileno(), 20):
            sys.exit("there is a daemon already")
        os.chdir("/")
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        supervisor = os.fork()
        if supervisor:
            _guard(supervisor)
            return
        end_with_parent(signal.SIGTERM)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        asyncio.run(_Supervisor(folder).serve())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
