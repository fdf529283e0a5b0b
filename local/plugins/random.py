# ruff: noqa: D102, S105 - `Resource` describes the methods; a token is a type's name
"""The stand-in for Pulumi's `random` provider: a value is made once and then lives in the state, as with the real one."""

import base64
import secrets
import string
from importlib.metadata import version

from local.plugins.provider import OperationError, Properties, Provider, Resource, State
from local.plugins.serve import Call

_KINDS = {
    "lower": string.ascii_lowercase,
    "upper": string.ascii_uppercase,
    "numeric": string.digits,
    "special": "!@#$%&*()-_=+[]{}<>:?",
}


class RandomString(Resource):
    """A string of `length` characters with at least so many of each kind; a kind is allowed unless switched off."""

    token = "random:index/randomString:RandomString"
    computed = frozenset({"result"})
    supported = frozenset({"keepers", "length", "overrideSpecial", *_KINDS, *(f"min{kind.title()}" for kind in _KINDS)})
    # A change of anything asks for a new value; `keepers` exist for nothing else.
    replace = supported

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        kinds = _KINDS | {"special": inputs.get("overrideSpecial", _KINDS["special"])}
        allowed = {kind: characters for kind, characters in kinds.items() if characters and inputs.get(kind, True)}
        minimums = {kind: inputs.get(f"min{kind.title()}", 0) for kind in kinds}
        spare = inputs["length"] - sum(minimums.values())
        if not allowed or spare < 0 or any(minimums[kind] for kind in kinds.keys() - allowed.keys()):
            raise OperationError(f"no string of {inputs['length']} characters satisfies these settings")
        characters = [secrets.choice(allowed[kind]) for kind in allowed for _ in range(minimums[kind])]
        everything = "".join(allowed.values())
        characters += [secrets.choice(everything) for _ in range(spare)]
        secrets.SystemRandom().shuffle(characters)
        return self.described("".join(characters))

    def described(self, result: str) -> tuple[str, Properties]:
        """The id and the outputs that go with a value."""
        return result, {"result": result}

    def read(self, resource_id: str, inputs: Properties, outputs: Properties) -> State | None:
        return State(resource_id, inputs, outputs)

    def delete(self, resource_id: str, properties: Properties) -> None:
        pass


class RandomPassword(RandomString):
    """The same, as a secret. The stand-in has no `bcryptHash`."""

    token = "random:index/randomPassword:RandomPassword"
    secret = frozenset({"result"})

    def described(self, result: str) -> tuple[str, Properties]:
        # The id is shown in previews and logs: it must not be the password.
        return "none", {"result": result}


class RandomId(RandomString):
    """Random bytes in several notations, each with the prefix."""

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
    """The package."""

    package = "random"
    version = version("pulumi-random")


def main(call: Call) -> None:
    """Be the plugin of the engine that calls."""
    Random([RandomString(), RandomPassword(), RandomId()]).serve(call)


if __name__ == "__main__":
    main(Call.from_parent())
