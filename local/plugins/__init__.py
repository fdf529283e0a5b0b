"""Stand-ins for the provider plugins and the language host, for machines that cannot reach Pulumi's download site."""

import os
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

from local import paths

_PACKAGES = ("aws", "kubernetes", "postgresql", "random")


def install(pulumi_home: Path, bin_dir: Path) -> None:
    """Put the stand-ins where the engine looks: providers as installed plugins, the language host beside the CLI.

    The engine takes an installed plugin only when its folder names the version that the program's SDK asks for. Found on PATH
    instead, the plugins would work too, but each run would warn about them.
    """
    for package in _PACKAGES:
        folder = pulumi_home / "plugins" / f"resource-{package}-v{version(f'pulumi-{package}')}"
        _write_launcher(folder / f"pulumi-resource-{package}", f"local.plugins.{package}")
    _write_launcher(bin_dir / "pulumi-language-python", "local.plugins.language")


def _write_launcher(path: Path, module: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # `exec`, because a plugin takes its parent process for the engine.
    command = f"exec {shlex.quote(sys.executable)} -m {module}"
    # Another command of the same stack may be starting its plugins: it finds the old file or the new one, never half of it.
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(paths.CHECKOUT))} {command} "$@"\n')
    new.chmod(0o755)
    new.rename(path)
