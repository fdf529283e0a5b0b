"""Installs Pulumi's plugins, each checked by its hash: ``python -m operations.plugins install``.

The workflows call it before they log in to AWS. `plugins.txt` has the hashes, and ``python -m operations.plugins record`` writes that file: after
a new version of a provider in requirements.txt, on a machine whose network is trusted.
"""

import argparse
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
# Pulumi's plugins: name, version, and the SHA-256 of the archive for Linux on x86-64. `-`: not recorded yet.
# Written by `python -m operations.plugins record`, whose diff a reviewer reads as that of a lock file.
"""
_ACTUAL = re.compile(r"invalid checksum, expected 0{64}, actual ([0-9a-f]{64})")


@dataclass(frozen=True)
class Plugin:
    """A plugin of one version."""

    name: str
    version: str
    checksum: str | None
    """SHA-256 of its archive. None: not recorded."""

    @property
    def line(self) -> str:
        """Line of the file."""
        return f"{self.name} {self.version} {self.checksum or UNKNOWN}"


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
    """Install every plugin of the file. One whose archive has another hash is refused.

    Raises:
        SystemExit: the file is wrong, or Pulumi refuses a plugin.
    """
    for plugin in recorded():
        check = ["--checksum", plugin.checksum] if plugin.checksum else []
        if not check:
            print(
                f"::warning::The plugin {plugin.name} {plugin.version} is installed unchecked: no hash in {FILE.name}."
            )
        command = ["pulumi", "plugin", "install", "resource", plugin.name, plugin.version, *check]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"::error::The plugin {plugin.name} {plugin.version} was not installed: see above.")


def record() -> None:
    """Write the file, with the hashes of the archives that Pulumi downloads here.

    Raises:
        SystemExit: Pulumi cannot download a plugin.
    """
    lines: list[str] = []
    for name, version in required().items():
        # With a hash that no archive has, Pulumi downloads, says the real one, and installs nothing.
        command = ["pulumi", "plugin", "install", "resource", name, version, "--reinstall", "--checksum", "0" * 64]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        match = _ACTUAL.search(done.stdout + done.stderr)
        if not match:
            raise SystemExit(f"Pulumi did not download {name} {version}:\n{(done.stderr or done.stdout).strip()}")
        lines.append(Plugin(name, version, match[1]).line)
    FILE.write_text(HEADING + "".join(f"{line}\n" for line in lines))


def main() -> None:
    """Install the plugins, or record their hashes."""
    parser = argparse.ArgumentParser(description="Install Pulumi's plugins by their hashes, or record the hashes.")
    parser.add_argument("command", choices=("install", "record"))
    {"install": install, "record": record}[parser.parse_args().command]()


if __name__ == "__main__":
    main()
