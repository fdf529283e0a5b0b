"""The forms for an issue and the template for a change: GitHub would show them, and the files that they name are there."""

import re
from pathlib import Path

import pytest
import yaml

from tests import ROOT

FORMS = sorted(path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
KINDS = {"markdown", "textarea", "input", "dropdown", "checkboxes"}

by_form = pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)


def test_there_is_a_form_for_a_problem_and_one_for_a_change() -> None:
    assert [path.stem for path in FORMS] == ["change", "problem"]


@by_form
def test_github_shows_a_form(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= form.keys()
    questions = [item for item in form["body"] if item["type"] != "markdown"]
    assert {item["type"] for item in form["body"]} <= KINDS
    assert all(item["attributes"]["label"] for item in questions)
    # GitHub refuses a form in which two questions have one name or one label.
    assert len({item["id"] for item in questions}) == len({item["attributes"]["label"] for item in questions})
    assert len({item["id"] for item in questions}) == len(questions)
    # It also refuses one that asks for nothing.
    assert questions


@pytest.mark.parametrize("path", [*FORMS, ROOT / ".github/PULL_REQUEST_TEMPLATE.md"], ids=lambda path: path.stem)
def test_a_form_names_files_that_are_there(path: Path) -> None:
    named = re.findall(r"\b(?:[A-Z]{2,}\.md|(?:docs|tests)/[\w./-]*\w)", path.read_text())
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
