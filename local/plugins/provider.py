# ruff: noqa: N802 - the service's methods are named in its protocol
"""The base of the stand-in providers: Pulumi's resource provider protocol with plain Python values.

A stand-in defines its resource types as subclasses of `Resource`, and its functions as callables. This file implements
the rest of the protocol: unknown values in previews, secrets, and differences. It also injects faults for tests.
"""

import fcntl
import functools
import hashlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar, Final, ParamSpec, TypeVar, cast

import grpc
from google.protobuf import empty_pb2, struct_pb2
from google.protobuf.message import Message
from pulumi.provider.experimental.property_value import PropertyValue
from pulumi.runtime import rpc
from pulumi.runtime.proto import ResourceProviderServicer, plugin_pb2, provider_pb2, provider_pb2_grpc, status_pb2

from local.plugins.serve import Call, serve


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
    delete_before_replace: ClassVar[bool] = False
    """True if the old resource must be deleted before its replacement is created, default false."""
    autoname: ClassVar[str | None] = None
    """Input that gets a name with a random suffix if the program sets none. None (default): no such input."""

    def check(self, inputs: Properties) -> Properties:
        """Validate the inputs, and return them with defaults added. Values can be UNKNOWN.

        Raises:
            InvalidInput: the real provider would refuse an input.
        """
        return inputs

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

    def serve(self, call: Call) -> None:
        """Serve the engine until the engine stops."""
        servicer = _Servicer(self, call.engine)
        serve(lambda server: provider_pb2_grpc.add_ResourceProviderServicer_to_server(servicer, server), call)


def changed(old: Properties, new: Properties) -> set[str]:
    """Return the names of the properties that differ."""
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def in_order_of(wanted: Sequence[str] | None, actual: Sequence[str]) -> list[str]:
    """Return `actual` in the order of `wanted` if both have the same items, else sorted.

    The order of these lists has no meaning, so another order must not be a difference.
    """
    return list(wanted) if wanted is not None and sorted(wanted) == sorted(actual) else sorted(actual)


def to_plain(value: PropertyValue) -> Plain:
    """Return the plain Python value of a property, secrets unencrypted."""
    inner = value.value
    if inner == rpc.UNKNOWN:
        return UNKNOWN
    if isinstance(inner, float):
        return int(inner) if inner.is_integer() else inner
    if isinstance(inner, Mapping):
        return {key: to_plain(item) for key, item in inner.items()}
    if isinstance(inner, Sequence) and not isinstance(inner, str):
        return [to_plain(item) for item in inner]
    return inner


def to_property(value: Plain, *, secret: bool = False) -> PropertyValue:
    """Return the property for a plain value."""
    if value is UNKNOWN:
        # The SDK cannot marshal its own `Computed`. The engine accepts the protocol's string for unknown values
        # instead.
        inner = rpc.UNKNOWN
    elif isinstance(value, Mapping):
        inner = {key: to_property(item) for key, item in cast(Mapping[str, Plain], value).items()}
    elif isinstance(value, list):
        inner = [to_property(item) for item in cast(list[Plain], value)]
    elif isinstance(value, int) and not isinstance(value, bool):
        inner = float(value)
    else:
        inner = value
    return PropertyValue(inner, is_secret=secret)


_Marked = dict[str, PropertyValue]


def _plain_map(values: _Marked) -> Properties:
    return {name: to_plain(value) for name, value in values.items()}


def _marshal(values: Properties, like: _Marked, secret: frozenset[str] = frozenset()) -> struct_pb2.Struct:
    """Return the protocol's form of some values.

    A value that is equal in `like` keeps the marks of secret parts from there. A value that differs, and has a secret
    part in `like`, is secret as a whole. Values named in `secret` are secret in any case.
    """

    def mark(name: str, value: Plain) -> PropertyValue:
        before = like.get(name)
        if before is not None and to_plain(before) == value and name not in secret:
            return before
        return to_property(value, secret=name in secret or (before is not None and before.contains_secret()))

    return PropertyValue.marshal_map({name: mark(name, value) for name, value in values.items() if value is not None})


_PLAIN_KEY = re.compile(r"[A-Za-z_$][\w$]*")


def _differences(old: Plain, new: Plain, path: str = "") -> Iterator[tuple[str, str]]:
    """Return the paths that differ, each with ADD, DELETE or UPDATE."""
    if isinstance(old, dict) and isinstance(new, dict):
        before, after = cast(Properties, old), cast(Properties, new)
        for key in sorted(before.keys() | after.keys()):
            step = (f".{key}" if path else key) if _PLAIN_KEY.fullmatch(key) else f'["{key}"]'
            yield from _differences(before.get(key), after.get(key), path + step)
    elif isinstance(old, list) and isinstance(new, list):
        for index, pair in enumerate(zip_longest(cast(list[Plain], old), cast(list[Plain], new))):
            yield from _differences(*pair, path=f"{path}[{index}]")
    elif old != new:
        yield path, "ADD" if old is None else "DELETE" if new is None else "UPDATE"


def _detailed_diff(old: Properties, new: Properties, replace: frozenset[str]) -> dict[str, provider_pb2.PropertyDiff]:
    result: dict[str, provider_pb2.PropertyDiff] = {}
    for name in sorted(changed(old, new)):
        suffix = "_REPLACE" if name in replace else ""
        for path, kind in _differences({name: old.get(name)}, {name: new.get(name)}):
            kind_value = provider_pb2.PropertyDiff.Kind.Value(kind + suffix)
            result[path] = provider_pb2.PropertyDiff(kind=kind_value, inputDiff=True)
    return result


_FAULTS = ("error", "error-after", "kill", "kill-after", "lost")


class _CreatedButFailed(Exception):  # noqa: N818 - an answer to the engine: the resource exists and is not complete
    """A resource was created, and a later part of the operation failed."""

    def __init__(self, mode: str) -> None:
        super().__init__(_injected(mode))


@contextmanager
def _fault(urn: str, engine: int) -> Generator[None]:
    """Inject the fault that the environment variable MLFLOW_EKS_FAULT asks for. Each operation runs in this block.

    The variable is `PLACE:MODE`. PLACE is the number of a create, update or delete in this run, from 1. It can also be
    a resource's logical name, for the first operation on that resource. MODE is one of:

    - `error`: the operation fails before it acts.
    - `error-after`: the operation acts, then fails. The engine is told which resource was created, as by a real
      provider that fails while it waits for a new resource.
    - `kill`, `kill-after`: the engine is killed before or after the operation acts.
    - `lost`: the operation acts, then fails, and the engine is not told which resource was created.
    """
    wanted = os.environ.get("MLFLOW_EKS_FAULT")
    if not wanted:
        yield
        return
    place, _, mode = wanted.rpartition(":")
    if mode not in _FAULTS or not place:
        raise OperationError(
            f"MLFLOW_EKS_FAULT is {wanted!r}; write NUMBER:error or NAME:error, or another mode: {', '.join(_FAULTS[1:])}"
        )
    number, earlier = _operations_so_far(urn, engine)
    due = number == int(place) if place.isdigit() else _name(urn) == place and urn not in earlier
    if due and mode in {"error", "kill"}:
        _fail(mode, engine)
    yield
    if due:
        _fail(mode, engine)


def _operations_so_far(urn: str, engine: int) -> tuple[int, list[str]]:
    """Count this operation, and return the count and the URNs of the operations before it.

    Each plugin is a process, so they count in a common file: the engine's pid, then one line per operation with its
    URN.
    """
    with Path(os.environ["MLFLOW_EKS_STACK_DIR"], "fault-count").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        run, *earlier = file.read().splitlines() or [""]
        if run != str(engine):
            earlier = []
            file.truncate(0)
            file.write(f"{engine}\n")
        file.write(f"{urn}\n")
        return len(earlier) + 1, earlier


def _injected(mode: str) -> str:
    return f"fault injected by MLFLOW_EKS_FAULT ({mode})"


def _fail(mode: str, engine: int) -> None:
    if mode.startswith("kill"):
        os.kill(engine, signal.SIGKILL)
        os._exit(1)
    if mode == "error-after":
        raise _CreatedButFailed(mode)
    raise OperationError(_injected(mode))


def _report_created(context: grpc.ServicerContext, error: Exception, answer: provider_pb2.CreateResponse) -> None:
    """Add the created resource to the error that ends this call, so that the engine knows that it exists."""
    created = provider_pb2.ErrorResourceInitFailed(id=answer.id, properties=answer.properties, reasons=[str(error)])
    status = status_pb2.Status(code=grpc.StatusCode.UNKNOWN.value[0], message=str(error))
    status.details.add().Pack(created)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))


_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")


def _answers(method: Callable[_Arguments, _Answer]) -> Callable[_Arguments, _Answer]:
    """Wrap a method of the service: its exceptions reach the engine as one text instead of a traceback."""

    @functools.wraps(method)
    def answer(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Answer:
        servicer, _, context = cast(tuple[_Servicer, Message, grpc.ServicerContext], args)
        try:
            return method(*args, **kwargs)
        except (OperationError, InvalidInput, _CreatedButFailed) as error:
            text = str(error)
        except servicer.provider.errors as error:
            text = servicer.provider.error_text(error)
        except Exception as error:
            text = f"the local stack's stand-in for {servicer.provider.package} has a bug: {error!r}"
            traceback.print_exc(file=sys.stderr)
        context.abort(grpc.StatusCode.UNKNOWN, text)
        raise AssertionError("abort raises")

    return answer


class _Servicer(ResourceProviderServicer):
    """The gRPC service that the engine calls. It decodes, calls the stand-in, and encodes."""

    def __init__(self, provider: Provider, engine: int) -> None:
        self.provider = provider
        self.engine = engine

    @_answers
    def GetPluginInfo(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(version=self.provider.version)

    @_answers
    def Cancel(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> empty_pb2.Empty:
        return empty_pb2.Empty()

    @_answers
    def CheckConfig(
        self, request: provider_pb2.CheckRequest, context: grpc.ServicerContext
    ) -> provider_pb2.CheckResponse:
        try:
            self.provider.check_config(_plain_map(PropertyValue.unmarshal_map(request.news)))
        except InvalidInput as error:
            return _refusal(error)
        return provider_pb2.CheckResponse(inputs=request.news)

    @_answers
    def DiffConfig(self, request: provider_pb2.DiffRequest, context: grpc.ServicerContext) -> provider_pb2.DiffResponse:
        return _diff_response(request, frozenset(), delete_before_replace=False)

    @_answers
    def Configure(
        self, request: provider_pb2.ConfigureRequest, context: grpc.ServicerContext
    ) -> provider_pb2.ConfigureResponse:
        self.provider.configure(_plain_map(PropertyValue.unmarshal_map(request.args)))
        # Without acceptOutputs, unknown values arrive as the protocol's string, which the SDK can decode.
        return provider_pb2.ConfigureResponse(acceptSecrets=True, supportsPreview=True)

    @_answers
    def Invoke(self, request: provider_pb2.InvokeRequest, context: grpc.ServicerContext) -> provider_pb2.InvokeResponse:
        arguments = _plain_map(PropertyValue.unmarshal_map(request.args))
        result = self.provider.function(request.tok)(arguments)
        response = provider_pb2.InvokeResponse()
        # The field's name, `return`, is a keyword of Python.
        getattr(response, "return").CopyFrom(_marshal(result, {}))
        return response

    @_answers
    def Check(self, request: provider_pb2.CheckRequest, context: grpc.ServicerContext) -> provider_pb2.CheckResponse:
        resource = self.provider.resource(_type(request.urn))
        news = PropertyValue.unmarshal_map(request.news)
        inputs = {name: value for name, value in _plain_map(news).items() if value is not None}
        if resource.autoname is not None and resource.autoname not in inputs:
            olds = _plain_map(PropertyValue.unmarshal_map(request.olds))
            # The engine gives the same seed to the preview and the update of one run.
            suffix = hashlib.sha256(request.randomSeed).hexdigest()[:7]
            inputs[resource.autoname] = olds.get(resource.autoname) or f"{_name(request.urn)}-{suffix}"
        try:
            if resource.supported is not None and (unknown := sorted(inputs.keys() - resource.supported)):
                raise InvalidInput(
                    unknown[0], f"the local stack's stand-in for {resource.token} does not know this input"
                )
            return provider_pb2.CheckResponse(inputs=_marshal(resource.check(inputs), news))
        except InvalidInput as error:
            return _refusal(error)

    @_answers
    def Diff(self, request: provider_pb2.DiffRequest, context: grpc.ServicerContext) -> provider_pb2.DiffResponse:
        resource = self.provider.resource(_type(request.urn))
        return _diff_response(request, resource.replace, resource.delete_before_replace)

    @_answers
    def Create(self, request: provider_pb2.CreateRequest, context: grpc.ServicerContext) -> provider_pb2.CreateResponse:
        resource = self.provider.resource(_type(request.urn))
        marked = PropertyValue.unmarshal_map(request.properties)
        inputs = _plain_map(marked)
        if request.preview:
            outputs = inputs | dict.fromkeys(resource.computed, UNKNOWN)
            return provider_pb2.CreateResponse(properties=_marshal(outputs, marked, resource.secret))
        answer = provider_pb2.CreateResponse()
        try:
            with _fault(request.urn, self.engine):
                answer.id, outputs = resource.create(inputs)
                answer.properties.CopyFrom(_marshal(inputs | outputs, marked, resource.secret))
        except _CreatedButFailed as error:
            _report_created(context, error, answer)
            raise
        return answer

    @_answers
    def Read(self, request: provider_pb2.ReadRequest, context: grpc.ServicerContext) -> provider_pb2.ReadResponse:
        resource = self.provider.resource(_type(request.urn))
        marked = PropertyValue.unmarshal_map(request.inputs)
        properties = PropertyValue.unmarshal_map(request.properties)
        state = resource.read(request.id, _plain_map(marked), _plain_map(properties))
        if state is None:
            return provider_pb2.ReadResponse()
        return provider_pb2.ReadResponse(
            id=state.id,
            inputs=_marshal(state.inputs, marked),
            properties=_marshal(state.inputs | state.outputs, properties | marked, resource.secret),
        )

    @_answers
    def Update(self, request: provider_pb2.UpdateRequest, context: grpc.ServicerContext) -> provider_pb2.UpdateResponse:
        resource = self.provider.resource(_type(request.urn))
        marked = PropertyValue.unmarshal_map(request.news)
        inputs = _plain_map(marked)
        old = _plain_map(PropertyValue.unmarshal_map(request.old_inputs))
        state = _plain_map(PropertyValue.unmarshal_map(request.olds))
        if request.preview:
            kept = {name: value for name, value in state.items() if name not in old or name in resource.computed}
            outputs = inputs | kept
        else:
            kept = {name: value for name, value in state.items() if name not in old}
            with _fault(request.urn, self.engine):
                outputs = kept | inputs | resource.update(request.id, old, inputs)
        return provider_pb2.UpdateResponse(properties=_marshal(outputs, marked, resource.secret))

    @_answers
    def Delete(self, request: provider_pb2.DeleteRequest, context: grpc.ServicerContext) -> empty_pb2.Empty:
        resource = self.provider.resource(_type(request.urn))
        with _fault(request.urn, self.engine):
            resource.delete(request.id, _plain_map(PropertyValue.unmarshal_map(request.properties)))
        return empty_pb2.Empty()


def _type(urn: str) -> str:
    # A URN is urn:pulumi:stack::project::parent$type::name, and the name can contain "::".
    return urn.split("::", 3)[2].rsplit("$", 1)[-1]


def _name(urn: str) -> str:
    return urn.split("::", 3)[3]


def _refusal(error: InvalidInput) -> provider_pb2.CheckResponse:
    return provider_pb2.CheckResponse(failures=[provider_pb2.CheckFailure(property=error.name, reason=error.reason)])


def _diff_response(
    request: provider_pb2.DiffRequest, replace: frozenset[str], delete_before_replace: bool
) -> provider_pb2.DiffResponse:
    old = _plain_map(PropertyValue.unmarshal_map(request.old_inputs))
    new = _plain_map(PropertyValue.unmarshal_map(request.news))
    names = sorted(changed(old, new))
    replaces = [name for name in names if name in replace]
    return provider_pb2.DiffResponse(
        changes=provider_pb2.DiffResponse.DIFF_SOME if names else provider_pb2.DiffResponse.DIFF_NONE,
        diffs=names,
        replaces=replaces,
        deleteBeforeReplace=delete_before_replace and bool(replaces),
        detailedDiff=_detailed_diff(old, new, replace),
        hasDetailedDiff=True,
    )
