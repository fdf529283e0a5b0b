"""Scripts that run with an MLflow, each in a process of its own."""

import json
import os
import signal
import socket
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from local import tools

FORKS = Path(__file__).with_name("forked_scripts.py")
SECONDS = 300
"""Seconds that a script may take."""


class ScriptError(RuntimeError):
    """A script failed. The message is the end of its error output."""


class _Imported:
    """A process that has imported an MLflow and runs one script at a time. It ends with this process."""

    def __init__(self, version: str) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(SECONDS)
        self._process = subprocess.Popen(
            [tools.mlflow_python(version), FORKS],
            stdin=theirs.fileno(),
            # With its telemetry MLflow starts a thread, and a fork would miss it.
            env={"PATH": os.environ["PATH"], "PYTHONWARNINGS": "ignore", "MLFLOW_DISABLE_TELEMETRY": "true"},
            start_new_session=True,
        )
        theirs.close()

    def run(self, script: str, environment: Mapping[str, str]) -> tuple[int, str, str]:
        """Run a script, and return its status, its output and its error output."""
        with tempfile.TemporaryDirectory() as folder:
            stdout, stderr = Path(folder, "stdout"), Path(folder, "stderr")
            request = {"script": script, "environment": {**environment}, "stdout": str(stdout), "stderr": str(stderr)}
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            try:
                status = int(self._socket.recv(16))
            except TimeoutError:
                os.killpg(self._process.pid, signal.SIGKILL)
                raise ScriptError(f"the script took longer than {SECONDS} s") from None
            return status, stdout.read_text(), stderr.read_text()


_idle: defaultdict[str, list[_Imported]] = defaultdict(list)


def run(version: str, script: str, environment: Mapping[str, str]) -> str:
    """Run a Python script with an MLflow that is already imported, and return the last line of its output.

    Threads can do this at the same time. The first script of each takes the seconds of the import.

    Args:
        version: version of MLflow.
        script: the script.
        environment: all its environment variables. MLflow reads its own when it uses them, not when it is imported.

    Raises:
        ScriptError: the script failed, or took longer than five minutes.
        ToolError: that MLflow could not be installed.
    """
    try:
        imported = _idle[version].pop()
    except IndexError:
        imported = _Imported(version)
    ended = imported.run(script, environment)
    _idle[version].append(imported)
    return _last_line(*ended)


def run_afresh(version: str, script: str, environment: Mapping[str, str]) -> str:
    """Run a Python script in a new interpreter, and return the last line of its output. For what has to come before the import of MLflow.

    Args:
        version: version of MLflow.
        script: the script.
        environment: all its environment variables.

    Raises:
        ScriptError: the script failed.
        TimeoutExpired: it took longer than five minutes.
        ToolError: that MLflow could not be installed.
    """
    done = subprocess.run(
        [tools.mlflow_python(version), "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return _last_line(done.returncode, done.stdout, done.stderr)


def _last_line(status: int, stdout: str, stderr: str) -> str:
    if status:
        raise ScriptError(stderr[-4000:])
    return stdout.strip().rpartition("\n")[2]
