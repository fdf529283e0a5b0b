"""A docstring begins with the thing or the verb, so that it is understood on the first reading."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests import ROOT
from tests.unit.test_supply_chain import tracked

QUESTION = re.compile(r"(What|Who|Whose|Whom|Where|Whether|Of|From|How|Its)\b")
"""Beginnings that make a reader guess the noun."""


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Return docstrings and strings directly below an assignment, each with its line."""
    for node in ast.walk(ast.parse(source)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        for before, statement in _pairs(node):
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))) if (
                    documented if before is None else isinstance(before, ast.Assign | ast.AnnAssign)
                ):
                    yield statement.lineno, text.strip()
                case _:
                    pass


def _pairs(node: ast.AST) -> Iterator[tuple[ast.stmt | None, ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        statements = getattr(node, name, None)
        if isinstance(statements, list):
            yield from zip([None, *statements], statements, strict=False)


def test_no_docstring_begins_with_a_question() -> None:
    files = [file for file in tracked() if file.suffix == ".py"]
    assert len(files) > 100
    wrong = [
        f"{file.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for file in files
        for line, text in docstrings(file.read_text())
        if QUESTION.match(text)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "source",
    [
        '"""Who may enter."""',
        'class A:\n    """Its name."""',
        'class A:\n    a: int = 1\n    """Of the pod."""',
        'def f():\n    """Whether it runs."""',
        'async def f():\n    """From the start."""',
        'A = 1\n"""How many."""',
        'if True:\n    A = 1\n    """What it is."""',
    ],
)
def test_a_question_is_found_wherever_a_docstring_can_be(source: str) -> None:
    ((_, text),) = docstrings(source)
    assert QUESTION.match(text)


def test_other_texts_are_left_alone() -> None:
    assert not list(docstrings('print("What is it?")\n"Who"\nif True:\n    "Where"\n'))
    assert not QUESTION.match("Offer the default.")
