"""Random values keep what their settings promise."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.plugins.provider import OperationError
from local.plugins.random import RandomId, RandomPassword, RandomString

KINDS = {"lower": string.ascii_lowercase, "upper": string.ascii_uppercase, "numeric": string.digits, "special": "-_"}


@given(
    allowed=st.sets(st.sampled_from(sorted(KINDS)), min_size=1),
    minimum=st.integers(0, 3),
    spare=st.integers(1, 20),
)
def test_a_string_has_the_kinds_that_were_asked_for(allowed: set[str], minimum: int, spare: int):
    inputs = {kind: kind in allowed for kind in KINDS} | {f"min{kind.title()}": minimum for kind in allowed}
    length = minimum * len(allowed) + spare
    _, outputs = RandomString().create(inputs | {"length": length, "overrideSpecial": "-_"})
    result = outputs["result"]
    assert len(result) == length
    assert all(any(character in KINDS[kind] for kind in allowed) for character in result)
    assert all(sum(character in KINDS[kind] for character in result) >= minimum for kind in allowed)


@pytest.mark.parametrize("inputs", [{"length": 3, "minLower": 4}, {"length": 9, "special": False, "minSpecial": 1}])
def test_settings_that_cannot_be_met_are_an_error(inputs: dict[str, object]):
    with pytest.raises(OperationError):
        RandomString().create(inputs)


def test_a_password_is_not_its_id():
    resource_id, outputs = RandomPassword().create({"length": 20})
    assert resource_id == "none"
    assert "result" in RandomPassword.secret
    assert len(outputs["result"]) == 20


def test_an_id_has_one_value_in_all_its_notations():
    resource_id, outputs = RandomId().create({"byteLength": 4, "prefix": "p-"})
    assert outputs["b64Url"] == f"p-{resource_id}"
    assert int(outputs["hex"].removeprefix("p-"), 16) == int(outputs["dec"].removeprefix("p-"))
