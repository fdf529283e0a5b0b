# ruff: noqa: D102, S105 - `Resource` describes the methods; a token is a type's name
"""The stand-in for Pulumi's `random` provider.

As with the real one, a value is generated once and stored in the state.
"""

import base64
import secrets
import string
from importlib.metadata import version

from local.plugins.provider_base import Properties, Provider, Resource, State

_LETTERS_AND_DIGITS = string.ascii_letters + string.digits
_SPECIAL = "!@#$%&*()-_=+[]{}<>:?"


class RandomValue(Resource):
    """A value that is generated once.

    A change of any input generates a new one; `keepers` is an input for this purpose only.
    """

    def read(self, resource_id: str, inputs: Properties, outputs: Properties) -> State | None:
        return State(resource_id, inputs, outputs)

    def delete(self, resource_id: str, properties: Properties) -> None:
        pass


class RandomPassword(RandomValue):
    """A secret of `length` letters, digits and, unless `special` is false, special characters."""

    token = "random:index/randomPassword:RandomPassword"
    computed = frozenset({"result"})
    secret = frozenset({"result"})
    supported = frozenset({"keepers", "length", "special"})
    replace = supported

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        characters = _LETTERS_AND_DIGITS + (_SPECIAL if inputs.get("special", True) else "")
        # The id appears in previews and logs, so it must not be the password. The real provider also uses "none".
        return "none", {"result": "".join(secrets.choice(characters) for _ in range(inputs["length"]))}


class RandomBytes(RandomValue):
    """A secret of `length` random bytes, in two notations."""

    token = "random:index/randomBytes:RandomBytes"
    computed = frozenset({"base64", "hex"})
    secret = computed
    supported = frozenset({"keepers", "length"})
    replace = supported

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        data = secrets.token_bytes(inputs["length"])
        return "none", {"base64": base64.b64encode(data).decode(), "hex": data.hex()}


class RandomId(RandomValue):
    """Random bytes in four notations, each with the prefix."""

    token = "random:index/randomId:RandomId"
    computed = frozenset({"b64Std", "b64Url", "dec", "hex"})
    supported = frozenset({"byteLength", "keepers", "prefix"})
    replace = supported

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        data = secrets.token_bytes(inputs["byteLength"])
        url = base64.urlsafe_b64encode(data).decode().rstrip("=")
        notations = {
            "b64Url": url,
            "b64Std": base64.b64encode(data).decode(),
            "hex": data.hex(),
            "dec": str(int.from_bytes(data, "big")),
        }
        return url, {name: inputs.get("prefix", "") + text for name, text in notations.items()}


class Random(Provider):
    """The package `random`."""

    package = "random"
    version = version("pulumi-random")

    def __init__(self) -> None:
        super().__init__([RandomPassword(), RandomBytes(), RandomId()])
