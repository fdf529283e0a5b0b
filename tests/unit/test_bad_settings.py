"""Every wrong configuration of `bad_settings.py` ends in one sentence with the setting and what to write instead."""

from collections import Counter
from typing import Any

import pulumi
import pytest

from settings.reader import parse
from tests.unit.bad_settings import BAD, Bad
from tests.unit.harness import refused


def cases() -> list[Any]:
    return [
        pytest.param(
            bad, id=bad.mistake, marks=[pytest.mark.xfail(strict=True, reason=f"bug: {bad.bug}")] if bad.bug else []
        )
        for bad in BAD
    ]


@pytest.mark.parametrize("bad", cases())
def test_it_is_refused_with_one_sentence_that_helps(bad: Bad) -> None:
    # Check the settings alone first: if they are accepted, this fails a second earlier than the whole program would.
    assert parse(bad.config, set(bad.secrets))[1] != []
    refusal = refused(bad.config, secrets=bad.secrets)
    # Any other exception would be shown with a traceback.
    assert isinstance(refusal.error, pulumi.RunError)
    assert refusal.message.startswith("Pulumi.test.yaml has 1 wrong setting:\n")
    (problem,) = refusal.problems
    assert problem.startswith(bad.key)
    assert bad.fix in problem
    for noise in ("Traceback", 'File "', "pydantic", "Value error", "\n  - \n"):
        assert noise not in refusal.message
    for secret in bad.hidden:
        assert secret not in refusal.message
    # The program has created no resource and called no function of AWS.
    assert refusal.deployment.resources == []
    assert refusal.deployment.calls == []


def test_the_table_says_everything_once() -> None:
    assert [mistake for mistake, count in Counter(bad.mistake for bad in BAD).items() if count > 1] == []
