"""The pages in docs/decisions are numbered, say their status and date, and are listed in docs/architecture.md."""

import datetime
import re
from pathlib import Path

import pytest

from tests import ROOT

DECISIONS = sorted((ROOT / "docs/decisions").glob("*.md"))
HEAD = re.compile(r"# (\d{4}): (.+)\n\n- Status: (accepted|dropped)\n- Date: (\S+)\n")

by_page = pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)


def head(path: Path) -> tuple[str, str, str, str]:
    """Return number, title, status and date."""
    found = HEAD.match(path.read_text())
    assert found, f"{path.name}: begin as the other pages do"
    number, title, status, date = found.groups()
    return number, title, status, date


def test_the_numbers_have_no_gap_and_no_double() -> None:
    assert [path.name[:4] for path in DECISIONS] == [f"{number:04}" for number in range(1, len(DECISIONS) + 1)]


@by_page
def test_a_decision_has_a_number_a_status_and_a_date(path: Path) -> None:
    number, _, _, date = head(path)
    assert path.name.startswith(f"{number}-")
    assert datetime.date.fromisoformat(date) <= datetime.datetime.now(datetime.UTC).date()


@by_page
def test_a_decision_says_what_led_to_it_what_it_is_and_what_follows(path: Path) -> None:
    assert re.findall(r"^## (.+)$", path.read_text(), re.MULTILINE) == ["Context", "Decision", "Consequences"]


def test_the_page_on_the_architecture_lists_each_decision_under_its_status() -> None:
    section = (ROOT / "docs/architecture.md").read_text().partition("## Decisions\n")[2].partition("\n## ")[0]
    accepted, _, dropped = section.partition("Dropped:\n")
    listed = {"accepted": accepted, "dropped": dropped}
    for path in DECISIONS:
        number, title, status, _ = head(path)
        assert f"- [{number}: {title}](decisions/{path.name})\n" in listed[status]
    assert section.count("- [") == len(DECISIONS)
