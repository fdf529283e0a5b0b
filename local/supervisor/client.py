"""The client of the supervisor."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from local import paths
from local.supervisor.spec import VERSION, ProcessSpec, Status, SupervisorError, as_json, lock_within, short_path, tail

DAEMON = "local.supervisor.daemon"


class Supervisor:
    """The client. Every method raises SupervisorError with a message for the person at the terminal."""

    def __init__(self, stack_dir: Path | str) -> None:
        self.folder = Path(stack_dir) / "supervisor"

    def start(self) -> bool:
        """Start the daemon unless it runs this very code already; whether it had to."""
        with contextlib.suppress(SupervisorError):
            if self._call("version", timeout=10) == VERSION:
                return False
            self.stop()
        paths.make_private(self.folder)
        with (self.folder / "daemon.log").open("ab") as log:
            daemon = subprocess.Popen(
                [sys.executable, "-m", DAEMON, str(self.folder)],
                cwd=paths.CHECKOUT,
                env={"PATH": os.environ.get("PATH", os.defpath)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(SupervisorError):
                self._call("version", timeout=10)
                return True
            if daemon.poll() is not None:
                break
            time.sleep(0.05)
        raise SupervisorError(f"the local supervisor did not start\n{tail(self.folder / 'daemon.log', 0)}")

    def stop(self) -> None:
        """End the daemon and every process it runs. What was declared stays declared. No daemon is fine too."""
        with contextlib.suppress(SupervisorError):
            self._call("stop", timeout=60)
        try:
            lock = (self.folder / "pid").open()
        except FileNotFoundError:
            return
        with lock:
            if lock_within(lock.fileno(), 15):
                return
            # It does not answer. The lock that it holds proves that the pid is still its own.
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(lock.read()), signal.SIGKILL)
            if not lock_within(lock.fileno(), 15):
                raise SupervisorError(f"the local supervisor does not stop; its log is {self.folder / 'daemon.log'}")

    def keep_running(self, spec: ProcessSpec, timeout: float = 60) -> None:
        """Declare a process and wait until it is ready.

        One that runs like this already is left alone. Where it fails, it stays declared (and is tried again, as a kubelet
        would) until `delete`.
        """
        self._call("keep_running", spec=as_json(spec), timeout=timeout)

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
        self._call("run", spec=as_json(spec), timeout=timeout)

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
                raise SupervisorError(
                    "the local supervisor does not answer: `make down` and `make up` start it anew"
                ) from error
            except OSError as error:
                raise SupervisorError("the local supervisor does not run: `make up` starts it") from error
        if not answer:
            raise SupervisorError("the local supervisor was stopped meanwhile: `make up` starts it again")
        reply = json.loads(answer)
        if "error" in reply:
            raise SupervisorError(reply["error"])
        return reply["result"]
