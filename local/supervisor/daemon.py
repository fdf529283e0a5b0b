"""The daemon: the supervisor, and a guardian process above it.

The guardian is the parent of every orphan among its descendants. So it can end all of them when the supervisor is
killed.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from local import paths
from local.supervisor.process import Process, adopt_orphans, end_with_parent, write_private
from local.supervisor.spec import VERSION, ProcessSpec, SupervisorError, lock_within, short_path

LOG_LIMIT = 10_000_000
"""Size in bytes at which a log is cut."""
LOG_KEPT = 1_000_000
"""Size in bytes of the end of a log that remains after a cut."""
PORTS = range(20_000, 30_000)
"""TCP ports of processes. They are below Linux's default range for outgoing connections (from 32768).

So a remembered port is still free after a restart.
"""


class _Daemon:
    """The daemon's side of the API: one method per request of `Supervisor`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.specs = folder / "specs"
        self.logs = folder / "logs"
        self.processes: dict[str, Process] = {}
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
            # The client ended before it sent a request.
            writer.close()
            return
        request: dict[str, Any] = json.loads(line)
        method: str = request.pop("method")
        work = asyncio.ensure_future(getattr(self, method)(**request))
        client_gone = asyncio.ensure_future(reader.read())
        await asyncio.wait({work, client_gone}, return_when=asyncio.FIRST_COMPLETED)
        client_gone.cancel()
        if not work.done():
            work.cancel()
        try:
            reply = {"result": await work}
        except SupervisorError as error:
            reply = {"error": str(error)}
        except asyncio.CancelledError:
            reply = {}
        except (OSError, ValueError, LookupError, TypeError) as error:
            reply = {"error": f"the local supervisor cannot {method}: {error!r}"}
        with contextlib.suppress(OSError):
            writer.write(json.dumps(reply).encode() + b"\n")
            await writer.drain()
            writer.close()

    def _declare(self, spec: ProcessSpec) -> Process:
        process = self.processes[spec.name] = Process(spec, self.logs / f"{spec.name}.log")
        return process

    async def version(self, timeout: float) -> str:
        return VERSION

    async def stop(self, timeout: float) -> None:
        self.stopping.set()

    async def keep_running(self, spec: dict[str, Any], timeout: float) -> None:
        wanted = ProcessSpec(**spec)
        async with self.locks[wanted.name]:
            process = self.processes.get(wanted.name)
            if process is None or process.spec != wanted:
                write_private(self.specs / f"{wanted.name}.json", json.dumps(spec), None)
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
            await Process(wanted, self.logs / f"{wanted.name}.log").run(timeout)

    async def free_port(self, name: str, timeout: float) -> int:
        file = self.folder / "ports.json"
        ports = cast(dict[str, int], json.loads(file.read_text())) if file.exists() else {}
        if name not in ports:
            candidates = [port for port in PORTS if port not in ports.values()]
            ports[name] = next(port for port in random.sample(candidates, len(candidates)) if _is_free(port))
            write_private(file, json.dumps(ports), None)
        return ports[name]

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


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _children() -> list[int]:
    children: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                children.append(int(stat.parent.name))
    return children


def _guard(supervisor: int) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: os.kill(supervisor, number))
    while os.wait()[0] != supervisor:
        pass
    while children := _children():
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        # Wait for one at a time: its own children then become children of this process.
        os.wait()


def main(folder: Path) -> None:
    """Run the daemon of a folder, and exit if there is one already."""
    os.umask(0o077)
    with (folder / "pid").open("a+") as lock:
        # The guardian of a killed supervisor holds the lock until it has ended that supervisor's processes.
        if not lock_within(lock.fileno(), 20):
            sys.exit(f"{folder} has a daemon already")
        os.chdir("/")
        adopt_orphans()
        supervisor = os.fork()
        if supervisor:
            _guard(supervisor)
            return
        end_with_parent(signal.SIGTERM)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        asyncio.run(_Daemon(folder).serve())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
