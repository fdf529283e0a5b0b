import pytest

from tests.workflows.expressions import UnsupportedError, evaluate, fill

CONTEXTS = {"vars": {"STACKS": '["dev"]', "EMPTY": ""}, "github": {"event": {"pull_request": {"number": 7}}}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("vars.STACKS != ''", True),
        ("vars.MISSING == ''", True),
        ("vars.EMPTY || 'other'", "other"),
        ("contains(fromJSON(vars.STACKS || '[]'), 'dev')", True),
        ("contains(fromJSON(vars.MISSING || '[]'), 'dev')", False),
        ("github.event.pull_request.number", 7),
        ("github.event.none.number", None),
        ("!(vars.EMPTY != '') && 'it''s'", "it's"),
        ("'a' == 'b' && 'c' || 'd'", "d"),
        ("format('RUNNER_{0}', 'dev')", "RUNNER_dev"),
    ],
)
def test_an_expression_has_the_value_that_github_gives_it(text: str, value: object) -> None:
    assert evaluate(text, CONTEXTS) == value


def test_a_text_with_expressions_is_filled_and_one_expression_keeps_its_kind() -> None:
    assert fill("${{ vars.EMPTY }}-${{ github.event.pull_request.number }}", CONTEXTS) == "-7"
    assert fill("${{ fromJSON(vars.STACKS) }}", CONTEXTS) == ["dev"]


@pytest.mark.parametrize(
    "text", ["nothing.x", "vars.STACKS ~ 1", "hashFiles('x')", "(vars.STACKS", "vars.STACKS vars.STACKS"]
)
def test_what_is_not_understood_is_an_error(text: str) -> None:
    with pytest.raises(UnsupportedError):
        evaluate(text, CONTEXTS)
