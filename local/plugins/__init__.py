"""Stand-ins for the provider plugins and the language host, for machines that cannot reach Pulumi's download site."""

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
LANGUAGE = "local.plugins.language"
NURSERY = "plugins"
"""The process that forks them, to the supervisor."""


def nursery_socket(stack: Path) -> Path:
    """Where the process listens that forks a stack's plugins."""
    return Supervisor(stack).folder / "nursery"


def start_nursery(stack: Path, timeout: float = 60) -> None:
    """Have the stack's machine run that process. Who calls it before it has loaded everything waits."""
    spec = ProcessSpec(
        name=NURSERY,
        argv=[sys.executable, "-m", "local.plugins.nursery", str(nursery_socket(stack))],
        env={"PATH": os.defpath},
        cwd=str(paths.CHECKOUT),
    )
    Supervisor(stack).keep_running(spec, timeout)


def install(pulumi_home: Path, bin_dir: Path, nursery: Path) -> None:
    """Put the stand-ins where the engine looks: providers as installed plugins, the language host beside the CLI.

    The engine takes an installed plugin only when its folder names the version that the program's SDK asks for. Found on PATH
    instead, the plugins would work too, but each run would warn about them. `nursery` is the socket that `launch.py` tries.
    """
    for package, module in PROVIDERS.items():
        folder = pulumi_home / "plugins" / f"resource-{package}-v{version(f'pulumi-{package}')}"
        _write_launcher(folder / f"pulumi-resource-{package}", module, nursery)
    _write_launcher(bin_dir / "pulumi-language-python", LANGUAGE, nursery)


def _write_launcher(path: Path, module: str, nursery: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    launch = Path(__file__).with_name("launch.py")
    # `exec`, because a plugin takes its parent process for the engine.
    words = ["exec", sys.executable, "-I", "-S", str(launch), module, str(nursery)]
    # Another command of the same stack may be starting its plugins: it finds the old file or the new one, never half of it.
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(f'#!/bin/sh\n{shlex.join(words)} "$@"\n')
    new.chmod(0o755)
    new.rename(path)
