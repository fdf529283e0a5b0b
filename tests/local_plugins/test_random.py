"""Random values keep what their settings promise."""

import base64
import string

from hypothesis import given
from hypothesis import strategies as st

from local.plugins.random import RandomBytes, RandomId, RandomPassword


@given(length=st.integers(1, 64), special=st.booleans())
def test_a_password_has_the_length_and_the_characters_that_were_asked_for(length: int, special: bool):
    _, outputs = RandomPassword().create({"length": length, "special": special})
    assert len(outputs["result"]) == length
    assert special or set(outputs["result"]) <= set(string.ascii_letters + string.digits)


def test_a_password_is_not_its_id():
    resource_id, outputs = RandomPassword().create({"length": 20})
    assert resource_id == "none"
    assert "result" in RandomPassword.secret
    assert len(outputs["result"]) == 20


def test_bytes_are_secret_in_both_notations():
    resource_id, outputs = RandomBytes().create({"length": 32})
    data = base64.b64decode(outputs["base64"])
    assert len(data) == 32
    assert data.hex() == outputs["hex"] != resource_id
    assert RandomBytes.secret == outputs.keys()


def test_an_id_has_one_value_in_all_its_notations():
    resource_id, outputs = RandomId().create({"byteLength": 4, "prefix": "p-"})
    assert outputs["b64Url"] == f"p-{resource_id}"
    assert int(outputs["hex"].removeprefix("p-"), 16) == int(outputs["dec"].removeprefix("p-"))
