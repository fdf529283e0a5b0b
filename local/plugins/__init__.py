"""Stand-ins for Pulumi's provider plugins and language host, for machines that cannot reach Pulumi's download site."""

import os
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

from local import paths
from local.supervisor.client import Supervisor
from local.supervisor.spec import ProcessSpec

PROVIDERS = {
    "aws": "local.plugins.aws.__main__",
    "kubernetes": "local.plugins.kubernetes",
    "postgresql": "local.plugins.postgresql",
    "random": "local.plugins.random",
}
"""Package to the module of its stand-in."""
LANGUAGE = "local.plugins.language"
"""Module of the language host."""
NURSERY = "plugins"
"""Name of the plugin server in the supervisor. It is the process that forks the plugins (`nursery.py`)."""


def nursery_socket(stack: Path) -> Path:
    """Return the socket of a stack's plugin server."""
    return Supervisor(stack).folder / "nursery"


def start_nursery(stack: Path, timeout: float = 60) -> None:
    """Start a stack's plugin server in the supervisor. Engines that call before it has loaded its modules wait.

    Args:
        stack: folder of the stack.
        timeout: seconds to wait for the process, default 60.

    Raises:
        SupervisorError: the process ended or was not ready in time.
    """
    spec = ProcessSpec(
        name=NURSERY,
        argv=[sys.executable, "-m", "local.plugins.nursery", str(nursery_socket(stack))],
        env={"PATH": os.defpath},
        cwd=str(paths.CHECKOUT),
    )
    Supervisor(stack).keep_running(spec, timeout)


def install(pulumi_home: Path, bin_dir: Path, nursery: Path) -> None:
    """Install the stand-ins: the providers as plugins, the language host in the folder of the CLI.

    The engine accepts an installed plugin only if its folder names the version that the program's SDK requires. On PATH
    the plugins would work too, but each run would print warnings about them.

    Args:
        pulumi_home: folder that the CLI has as PULUMI_HOME.
        bin_dir: folder of the CLI.
        nursery: socket of the plugin server, which the plugins' launcher tries first.
    """
    for package, module in PROVIDERS.items():
        folder = pulumi_home / "plugins" / f"resource-{package}-v{version(f'pulumi-{package}')}"
        _write_launcher(folder / f"pulumi-resource-{package}", module, nursery)
    _write_launcher(bin_dir / "pulumi-language-python", LANGUAGE, nursery)


def _write_launcher(path: Path, module: str, nursery: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    launch = Path(__file__).with_name("launch.py")
    # Without `exec` the shell would be the plugin's parent, and a plugin treats its parent process as the engine.
    words = ["exec", sys.executable, "-I", "-S", str(launch), module, str(nursery)]
    # Another command of this stack may start its plugins now. Renaming replaces the file in one step, so that command
    # finds the old file or the new one.
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(f'#!/bin/sh\n{shlex.join(words)} "$@"\n')
    new.chmod(0o755)
    new.rename(path)
