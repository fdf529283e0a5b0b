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
    """The client of one stack's daemon. The message of a SupervisorError is written for the person at the terminal."""

    def __init__(self, stack_dir: Path | str) -> None:
        self.folder = Path(stack_dir) / "supervisor"

    def start(self) -> bool:
        """Start the daemon, or replace one that runs other code. Return False if neither was needed.

        Raises:
            SupervisorError: the daemon did not start within 30 seconds, or the old one did not stop.
        """
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
        """Stop the daemon, if it runs, and all its processes. They stay declared for the next daemon.

        Raises:
            SupervisorError: the daemon did not stop, not even killed.
        """
        with contextlib.suppress(SupervisorError):
            self._call("stop", timeout=60)
        try:
            lock = (self.folder / "pid").open()
        except FileNotFoundError:
            return
        with lock:
            if lock_within(lock.fileno(), 15):
                return
            # The daemon does not answer. It still holds the lock, so the pid in the file is still the daemon's.
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(lock.read()), signal.SIGKILL)
            if not lock_within(lock.fileno(), 15):
                raise SupervisorError(f"the local supervisor does not stop; its log is {self.folder / 'daemon.log'}")

    def keep_running(self, spec: ProcessSpec, timeout: float = 60) -> None:
        """Declare a process and wait until it is ready.

        A process that already runs with this spec is left alone. A process that fails stays declared until `delete`:
        the daemon starts it again, as a kubelet would.

        Args:
            spec: the process.
            timeout: seconds to wait, default 60.

        Raises:
            SupervisorError: the process ended or was not ready in time, or the daemon does not run.
        """
        self._call("keep_running", spec=as_json(spec), timeout=timeout)

    def get(self, name: str) -> Status | None:
        """Return the status of a process, or None if no process of that name is declared.

        Raises:
            SupervisorError: the daemon does not run.
        """
        return next((status for status in self.list() if status.name == name), None)

    def list(self) -> list[Status]:
        """Return the status of every declared process, sorted by name.

        Raises:
            SupervisorError: the daemon does not run.
        """
        return [Status(**status) for status in self._call("list", timeout=10)]

    def delete(self, name: str) -> None:
        """Stop a process, remove its declaration and its files. Do nothing if it is not declared.

        Raises:
            SupervisorError: the daemon does not run.
        """
        self._call("delete", name=name, timeout=120)

    def run(self, spec: ProcessSpec, timeout: float) -> None:
        """Run a process to its end, like an init container. If the waiting client dies, the process is stopped.

        Args:
            spec: the process.
            timeout: seconds that the process may take.

        Raises:
            SupervisorError: the process failed or took too long, or the daemon does not run.
        """
        self._call("run", spec=as_json(spec), timeout=timeout)

    def free_port(self, name: str) -> int:
        """Return a free loopback port. The same name always gets the same port.

        Raises:
            SupervisorError: the daemon does not run.
        """
        return self._call("free_port", name=name, timeout=10)

    def log(self, name: str) -> Path:
        """Return the file with the output of that process."""
        return self.folder / "logs" / f"{name}.log"

    def _call(self, method: str, timeout: float, **arguments: object) -> Any:
        request = json.dumps({"method": method, "timeout": timeout, **arguments}).encode() + b"\n"
        with socket.socket(socket.AF_UNIX) as connection:
            # The daemon enforces the time limit. The further 20 seconds are for a daemon that hangs.
            connection.settimeout(timeout + 20)
            try:
                with short_path(self.folder) as folder:
                    connection.connect(f"{folder}/socket")
                connection.sendall(request)
                answer = connection.makefile("rb").readline()
            except TimeoutError as error:
                raise SupervisorError(
                    "the local supervisor does not answer; run `make down`, then `make up`"
                ) from error
            except OSError as error:
                raise SupervisorError("the local supervisor does not run; start it with `make up`") from error
        if not answer:
            raise SupervisorError("the local supervisor was stopped during this call; start it with `make up`")
        reply = json.loads(answer)
        if "error" in reply:
            raise SupervisorError(reply["error"])
        return reply["result"]
