"""The plugins are those of requirements.txt, and each is checked by its hash."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from operations import plugins


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "plugins.txt"
    file.write_text(plugins.FILE.read_text())
    monkeypatch.setattr(plugins, "FILE", file)
    monkeypatch.setenv("PULUMI_HOME", str(tmp_path))
    return file


class Pulumi:
    """The CLI, which installs a file for each plugin."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.status = 0
        monkeypatch.setattr(plugins.subprocess, "run", self._run)

    def _run(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[:4] == ["pulumi", "plugin", "install", "resource"]
        folder = plugins.Plugin(*command[4:6]).folder
        if not self.status and not folder.exists():
            folder.mkdir(parents=True)
            (folder / f"pulumi-resource-{command[4]}").write_text("code")
        return subprocess.CompletedProcess(command, self.status, "", "")


def test_the_committed_file_has_the_versions_of_the_program() -> None:
    assert {plugin.name: plugin.version for plugin in plugins.recorded()} == plugins.required()
    assert set(plugins.required()) == set(plugins.PROVIDERS)


def test_recorded_plugins_are_installed_and_a_missing_hash_is_told(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Pulumi(monkeypatch)
    plugins.record()
    assert len({plugin.checksum for plugin in plugins.recorded()} - {None}) == len(plugins.PROVIDERS)
    plugins.install()
    assert capsys.readouterr().out == ""
    file.write_text(re.sub("[0-9a-f]{64}", "-", file.read_text(), count=1))
    plugins.install()
    assert capsys.readouterr().out.startswith("::warning::The plugin aws ")


@pytest.mark.parametrize("name", ["pulumi-resource-aws", "PulumiPlugin.yaml"], ids=["changed", "added"])
def test_a_plugin_with_other_files_stops_the_job(file: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    Pulumi(monkeypatch)
    plugins.record()
    (plugins.recorded()[0].folder / name).write_text("other code")
    with pytest.raises(SystemExit, match=r"::error::The files in .*/resource-aws-v.* have the SHA-256"):
        plugins.install()


def test_a_plugin_that_is_not_installed_stops_the_job(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Pulumi(monkeypatch).status = 255
    with pytest.raises(SystemExit, match=r"::error::The plugin aws .* was not installed"):
        plugins.install()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("aws 7", "aws 6", "has other versions than requirements.txt"),
        ("aws ", "aws\t", "is not name, version and SHA-256"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(file: Path, old: str, new: str, said: str) -> None:
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(SystemExit, match=said):
        plugins.recorded()
