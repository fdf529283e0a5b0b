"""Installs Pulumi's plugins and checks them by their hashes: ``python -m operations.plugins install``.

The workflows call it before they log in to AWS. `plugins.txt` has the hashes, and ``python -m operations.plugins record`` writes that file: after
a new version of a provider in requirements.txt, on a machine whose network is trusted.

The installed files are hashed, and not the archive. `pulumi plugin install --checksum` asks nothing of a plugin that is installed already, as it
is on a runner that an earlier job used. Over HTTP/1.1 it also refuses right archives: CLI 3.259.0 leaves out what arrives with the end.
"""

import argparse
import hashlib
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE = ROOT / "plugins.txt"
PROVIDERS = ("aws", "kubernetes", "postgresql", "random")
UNKNOWN = "-"
"""Mark of a plugin whose hash nobody has recorded."""
HEADING = """\
# Pulumi's plugins for Linux on x86-64: name, version, and SHA-256 of the installed files. `-`: not recorded yet.
# Written by `python -m operations.plugins record`, whose diff a reviewer reads as that of a lock file.
"""


@dataclass(frozen=True)
class Plugin:
    """A plugin of one version."""

    name: str
    version: str
    checksum: str | None = None
    """SHA-256 of its files. None: not recorded."""

    @property
    def line(self) -> str:
        """Line of the file."""
        return f"{self.name} {self.version} {self.checksum or UNKNOWN}"

    @property
    def folder(self) -> Path:
        """Folder into which Pulumi installs it."""
        home = os.environ.get("PULUMI_HOME") or Path.home() / ".pulumi"
        return Path(home) / "plugins" / f"resource-{self.name}-v{self.version}"

    def install(self, *options: str) -> str:
        """Install the plugin unless it is installed, and return the SHA-256 of its files.

        Args:
            options: further options of `pulumi plugin install`.

        Raises:
            SystemExit: Pulumi did not install it.
        """
        command = ["pulumi", "plugin", "install", "resource", self.name, self.version, "--exact", *options]
        if subprocess.run(command, check=False).returncode or not self.folder.is_dir():
            raise SystemExit(f"::error::The plugin {self.name} {self.version} was not installed: see above.")
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        lines = [f"{_sha256(path)}  {path.relative_to(self.folder)}\n" for path in files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def required() -> dict[str, str]:
    """Return the providers with their versions in requirements.txt."""
    text = (ROOT / "requirements.txt").read_text()
    return {name: version for name in PROVIDERS for version in re.findall(rf"^pulumi-{name}==([0-9.]+)", text, re.M)}


def recorded() -> list[Plugin]:
    """Read the file.

    Raises:
        SystemExit: a line has no three words, or a version is another one than in requirements.txt.
    """
    plugins: list[Plugin] = []
    for line in FILE.read_text().splitlines():
        if line.startswith("#") or not line.strip():
            continue
        match = re.fullmatch(r"(\w+) ([0-9.]+) (-|[0-9a-f]{64})", line)
        if not match:
            raise SystemExit(f"{FILE.name}: the line {line!r} is not name, version and SHA-256.")
        name, version, checksum = match.groups()
        plugins.append(Plugin(name, version, None if checksum == UNKNOWN else checksum))
    if {plugin.name: plugin.version for plugin in plugins} != required():
        raise SystemExit(
            f"{FILE.name} has other versions than requirements.txt: run `python -m operations.plugins record`."
        )
    return plugins


def install() -> None:
    """Install every plugin of the file. Nothing has run of one whose files have another hash.

    Raises:
        SystemExit: the file is wrong, Pulumi did not install a plugin, or its files are others.
    """
    for plugin in recorded():
        found = plugin.install()
        if plugin.checksum is None:
            print(f"::warning::The plugin {plugin.name} {plugin.version} is unchecked: {FILE.name} has no hash of it.")
        elif plugin.checksum != found:
            raise SystemExit(
                f"::error::The files in {plugin.folder} have the SHA-256 {found}, and {FILE.name} has {plugin.checksum}. "
                "Find out where they come from; `pulumi plugin rm` removes them."
            )


def record() -> None:
    """Write the file, with the hashes of the plugins that Pulumi downloads here.

    Raises:
        SystemExit: Pulumi cannot download a plugin.
    """
    plugins = [Plugin(name, version) for name, version in required().items()]
    lines = [Plugin(plugin.name, plugin.version, plugin.install("--reinstall")).line for plugin in plugins]
    FILE.write_text(HEADING + "".join(f"{line}\n" for line in lines))


def main() -> None:
    """Install the plugins, or record their hashes."""
    parser = argparse.ArgumentParser(description="Install Pulumi's plugins by their hashes, or record the hashes.")
    parser.add_argument("command", choices=("install", "record"))
    {"install": install, "record": record}[parser.parse_args().command]()


if __name__ == "__main__":
    main()
