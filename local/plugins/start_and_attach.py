"""Start the plugin server in the supervisor, and let Pulumi commands attach to it."""

import hashlib
import os
import sys

from local import paths
from local.supervisor.client import Supervisor
from local.supervisor.spec import ProcessSpec

PROCESS = "plugins"
"""Name of the plugin server in the supervisor."""
PACKAGES = ("aws", "kubernetes", "postgresql", "random")
"""Packages that have a stand-in provider."""
LANGUAGE = "python"
"""Runtime that has a stand-in language host."""


def start(supervisor: Supervisor, timeout: float = 60) -> None:
    """Start the plugin server in the supervisor, or replace one that runs other code.

    Args:
        supervisor: the stack's supervisor.
        timeout: seconds to wait for the process, default 60.

    Raises:
        SupervisorError: the process ended or was not ready in time.
    """
    ports = _ports(supervisor)
    spec = ProcessSpec(
        name=PROCESS,
        argv=[sys.executable, "-m", "local.plugins.server", *(f"{name}:{port}" for name, port in ports.items())],
        # For each engine that attaches, the server reads the engine's own environment (`engine_process.py`).
        env={"PATH": os.defpath, "CODE": _code()},
        cwd=str(paths.CHECKOUT),
        ready={"tcp": f"127.0.0.1:{ports[LANGUAGE]}"},
    )
    supervisor.keep_running(spec, timeout)


def attach(supervisor: Supervisor) -> dict[str, str]:
    """Return the environment of a Pulumi command that attaches to the plugin server and starts no plugins.

    Raises:
        SupervisorError: the daemon does not run.
    """
    ports = _ports(supervisor)
    return {
        "PULUMI_DEBUG_PROVIDERS": ",".join(f"{package}:{ports[package]}" for package in PACKAGES),
        "PULUMI_DEBUG_LANGUAGES": f"{LANGUAGE}:{ports[LANGUAGE]}",
    }


def _ports(supervisor: Supervisor) -> dict[str, int]:
    return {name: supervisor.free_port(f"{PROCESS}-{name}") for name in (*PACKAGES, LANGUAGE)}


def _code() -> str:
    """Return a hash of the source files in `local/`. It is part of the process specification, so an edit restarts the server."""
    files = sorted((paths.CHECKOUT / "local").rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
