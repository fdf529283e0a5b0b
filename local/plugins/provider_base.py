"""Base of the stand-in providers: resource types as subclasses of `Resource`, and functions, with plain Python values.

`provider_service.py` implements the rest of Pulumi's protocol.
"""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final


class Unknown:
    """A value that a preview cannot know yet, such as the address of a server that does not exist yet."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = Unknown()

Plain = Any
"""None, bool, int, float, str, list, dict with str keys, or UNKNOWN. Secrets are unencrypted."""

Properties = dict[str, Plain]


class OperationError(Exception):
    """An operation failed. The message is for the person who runs the program, and contains no secret."""


class InvalidInput(Exception):  # noqa: N818 - an answer of `check`, which has not failed
    """An input is wrong. The real provider would refuse it before it creates anything."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name = name
        self.reason = reason


@dataclass(frozen=True)
class State:
    """The actual state of a resource."""

    id: str
    """Id of the resource."""
    inputs: Properties
    """Inputs that would create the resource as it is now."""
    outputs: Properties = field(default_factory=dict[str, Plain])
    """Further properties of the resource."""


class Resource:
    """A resource type. Its methods take and return plain values. Outputs need not repeat the inputs."""

    token: ClassVar[str]
    """Name of the type, as in a URN: `random:index/randomPassword:RandomPassword`."""
    supported: ClassVar[frozenset[str] | None] = None
    """Inputs that the stand-in knows; others are refused. None (default): `check` decides."""
    computed: ClassVar[frozenset[str]] = frozenset()
    """Outputs that are unknown until the resource is created."""
    secret: ClassVar[frozenset[str]] = frozenset()
    """Outputs that are secret even if no input is."""
    replace: ClassVar[frozenset[str]] = frozenset()
    """Inputs whose change replaces the resource."""
    deferred: ClassVar[frozenset[str]] = frozenset()
    """Inputs that a preview compares with the outputs, because an update may not have carried them out yet."""
    delete_before_replace: ClassVar[bool] = False
    """True if the old resource must be deleted before its replacement is created, default false."""
    outlives_engine: ClassVar[bool] = False
    """True if an operation goes on when the engine is killed, default false. The next command must then be able to meet it."""
    autoname: ClassVar[str | None] = None
    """Input that gets a name with a random suffix if the program sets none. None (default): no such input."""

    def check(self, inputs: Properties) -> Properties:
        """Validate the inputs, and return them with defaults added. Values can be UNKNOWN.

        Raises:
            InvalidInput: the real provider would refuse an input.
        """
        return inputs

    def replaced_by(self, old: Properties, new: Properties) -> frozenset[str]:
        """Return the inputs whose change from the old to the new ones replaces the resource."""
        return self.replace

    def as_compared(self, name: str, written: Plain, outputs: Properties) -> Plain:
        """Return the value of a `deferred` input that a preview compares with a new one.

        Args:
            name: name of the input.
            written: its value at the last operation.
            outputs: outputs of the last operation.
        """
        return outputs.get(name, written)

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        """Create the resource, and return its id and outputs.

        Raises:
            OperationError: the resource cannot be created.
        """
        raise NotImplementedError

    def read(self, resource_id: str, inputs: Properties, outputs: Properties) -> State | None:
        """Return the actual state of the resource, or None if it does not exist.

        Args:
            resource_id: id of the resource.
            inputs: inputs of the last operation, empty for an import.
            outputs: outputs of the last operation, empty for an import.

        Raises:
            OperationError: the resource cannot be read.
        """
        raise NotImplementedError

    def update(self, resource_id: str, old: Properties, inputs: Properties) -> Properties:
        """Change the resource to the new inputs, and return the outputs that have changed.

        If a creation failed after the resource was made, the engine completes it with an update in which nothing
        differs.

        Args:
            resource_id: id of the resource.
            old: inputs of the last operation.
            inputs: new inputs.

        Raises:
            OperationError: an input cannot be changed in place.
        """
        if differs := changed(old, inputs):
            raise OperationError(f"{self.token}: the stand-in cannot change {', '.join(sorted(differs))} in place")
        return {}

    def delete(self, resource_id: str, properties: Properties) -> None:
        """Delete the resource. Do nothing if it does not exist.

        Args:
            resource_id: id of the resource.
            properties: inputs and outputs of the resource.

        Raises:
            OperationError: the resource cannot be deleted.
        """
        raise NotImplementedError


status: ContextVar[Callable[[str], None]] = ContextVar("status", default=lambda _: None)
"""Function that shows a text as the current status of the resource that this thread works on."""

Function = Callable[[Properties], Properties]
"""A provider's function. The program calls it to look something up."""


class Provider:
    """A provider package with its resource types, functions and configuration."""

    package: ClassVar[str]
    """Name of the package."""
    version: ClassVar[str]
    """Version of the package's SDK. The engine starts the plugin of exactly this version."""
    errors: ClassVar[tuple[type[Exception], ...]] = ()
    """Exceptions whose text is shown to the person.

    Any other exception is a bug of the stand-in, shown with its traceback.
    """

    def __init__(self, resources: Sequence[Resource], functions: Mapping[str, Function] | None = None) -> None:
        self.resources = {resource.token: resource for resource in resources}
        self.functions = dict(functions or {})

    def check_config(self, config: Properties) -> None:
        """Validate the provider's configuration. Values can be UNKNOWN.

        Raises:
            InvalidInput: the configuration cannot work.
        """

    def configure(self, config: Properties) -> None:
        """Store the provider's configuration. The engine calls this once, with known values only.

        Raises:
            OperationError: the configuration cannot work.
        """

    def error_text(self, error: Exception) -> str:
        """Return the text of one of `errors`, without secrets."""
        return str(error)

    def resource(self, token: str) -> Resource:
        """Return the resource type of that name.

        Raises:
            OperationError: the stand-in has no such type.
        """
        if token not in self.resources:
            raise OperationError(
                f"the local stack's stand-in for {self.package} has no resource type {token}: add it to local/plugins"
            )
        return self.resources[token]

    def function(self, token: str) -> Function:
        """Return the function of that name.

        Raises:
            OperationError: the stand-in has no such function.
        """
        if token not in self.functions:
            raise OperationError(
                f"the local stack's stand-in for {self.package} has no function {token}: add it to local/plugins"
            )
        return self.functions[token]


def changed(old: Properties, new: Properties) -> set[str]:
    """Return the names of the properties that differ."""
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def in_order_of(wanted: Sequence[str] | None, actual: Sequence[str]) -> list[str]:
    """Return `actual` in the order of `wanted` if both have the same items, else sorted.

    The order of these lists has no meaning, so another order must not be a difference.
    """
    return list(wanted) if wanted is not None and sorted(wanted) == sorted(actual) else sorted(actual)
