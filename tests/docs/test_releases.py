"""The version is the same wherever it is written, and the state of a released version is recorded."""

import datetime
import re
import tomllib

from tests import ROOT

RELEASES = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_newest_release_in_the_changelog_is_the_version_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert RELEASES[0][0] == project["version"]


def test_the_changelog_begins_with_what_is_not_released_and_goes_on_with_the_newest() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    dates = [datetime.date.fromisoformat(date) for _, date in RELEASES]
    assert dates == sorted(dates, reverse=True)


def test_the_newest_release_gets_fixes() -> None:
    minor = RELEASES[0][0].rpartition(".")[0]
    assert f"| {minor} | yes |" in (ROOT / "SECURITY.md").read_text()


def test_the_state_of_every_release_is_recorded() -> None:
    recorded = {path.stem for path in (ROOT / "tests/local/recorded").glob("*.json")}
    assert {version for version, _ in RELEASES} <= recorded
