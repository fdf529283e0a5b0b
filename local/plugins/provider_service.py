# ruff: noqa: D102, N802 - the service's methods are named and described in its protocol
"""Pulumi's resource provider protocol, for the stand-ins: unknown values in previews, secrets, and differences.

This file also injects faults for tests.
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
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

import grpc
from google.protobuf import empty_pb2, struct_pb2
from google.protobuf.message import Message
from pulumi.provider.experimental.property_value import PropertyValue
from pulumi.runtime import rpc
from pulumi.runtime.proto import ResourceProviderServicer, plugin_pb2, provider_pb2, status_pb2

from local.plugins.engine_process import EngineProcess
from local.plugins.provider_base import (
    UNKNOWN,
    InvalidInput,
    OperationError,
    Plain,
    Properties,
    Provider,
    Resource,
    changed,
    status,
)


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


def _detailed_diff(
    old: Properties, new: Properties, replace: frozenset[str], deferred: frozenset[str]
) -> dict[str, provider_pb2.PropertyDiff]:
    result: dict[str, provider_pb2.PropertyDiff] = {}
    for name in sorted(changed(old, new)):
        suffix = "_REPLACE" if name in replace else ""
        for path, kind in _differences({name: old.get(name)}, {name: new.get(name)}):
            kind_value = provider_pb2.PropertyDiff.Kind.Value(kind + suffix)
            result[path] = provider_pb2.PropertyDiff(kind=kind_value, inputDiff=name not in deferred)
    return result


_FAULTS = ("error", "error-after", "kill", "kill-after", "lost")


class _CreatedButFailed(Exception):  # noqa: N818 - an answer to the engine: the resource exists and is not complete
    """A resource was created, and a later part of the operation failed."""

    def __init__(self, mode: str) -> None:
        super().__init__(_injected(mode))


@contextmanager
def _operation(
    urn: str, engine: EngineProcess, context: grpc.ServicerContext, *, outlives_engine: bool
) -> Generator[None]:
    """Run a create, update or delete in this block. If the engine dies during the operation, this process ends.

    This is not so for a resource whose operations outlive the engine.

    An operation that went on would create a resource that the next command does not know. The supervisor starts the
    process again, and the command that comes next repairs what was left.
    """
    done = False

    def end() -> None:
        if not done:
            os._exit(1)

    if not outlives_engine and not context.add_callback(end):
        end()
    try:
        with _fault(urn, engine):
            yield
    finally:
        done = True


@contextmanager
def _fault(urn: str, engine: EngineProcess) -> Generator[None]:
    """Inject the fault that the engine's environment variable MLFLOW_EKS_FAULT asks for.

    The variable is `PLACE:MODE`. PLACE is the number of a create, update or delete in this run, from 1. It can also be
    a resource's logical name, for the first operation on that resource. MODE is one of:

    - `error`: the operation fails before it acts.
    - `error-after`: the operation acts, then fails. The engine is told which resource was created, as by a real
      provider that fails while it waits for a new resource.
    - `kill`, `kill-after`: the engine is killed before or after the operation acts.
    - `lost`: the operation acts, then fails, and the engine is not told which resource was created.
    """
    wanted = engine.environment.get("MLFLOW_EKS_FAULT")
    if not wanted:
        yield
        return
    place, _, mode = wanted.rpartition(":")
    if mode not in _FAULTS or not place:
        raise OperationError(
            f"MLFLOW_EKS_FAULT is {wanted!r}; write NUMBER:error or NAME:error, or another mode: {', '.join(_FAULTS[1:])}"
        )
    number, earlier = _operations_so_far(urn, engine.pid)
    due = number == int(place) if place.isdigit() else _name(urn) == place and urn not in earlier
    if due and mode in {"error", "kill"}:
        _fail(mode, engine.pid)
    yield
    if due:
        _fail(mode, engine.pid)


def _operations_so_far(urn: str, engine: int) -> tuple[int, list[str]]:
    """Count this operation, and return the count and the URNs of the operations before it.

    The count is a file that `tests/local/faults.py` reads: the engine's pid, then one line per operation with its URN.
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
        servicer, request, context = cast(tuple[Servicer, Message, grpc.ServicerContext], args)
        connection = servicer.connections[context.peer()]
        provider = connection.provider
        status.set(functools.partial(connection.engine.show, getattr(request, "urn", "")))
        try:
            return method(*args, **kwargs)
        except (OperationError, InvalidInput, _CreatedButFailed) as error:
            text = str(error)
        except provider.errors as error:
            text = provider.error_text(error)
        except Exception as error:
            text = f"the local stack's stand-in for {provider.package} has a bug: {error!r}"
            traceback.print_exc(file=sys.stderr)
        context.abort(grpc.StatusCode.UNKNOWN, text)
        raise AssertionError("abort raises")

    return answer


@dataclass(frozen=True)
class _Connection:
    """A connection of an engine."""

    provider: Provider
    engine: EngineProcess


class Servicer(ResourceProviderServicer):
    """The gRPC service that engines call. It decodes, calls the stand-in, and encodes.

    An engine opens a connection for each provider of its program, and configures that. So each connection has a provider
    object of its own.
    """

    def __init__(self, new_provider: Callable[[], Provider]) -> None:
        self._new_provider = new_provider
        self.connections: dict[str, _Connection] = {}
        """Connections by the peer's address. An entry stays until this process ends: some hundred bytes a command."""

    def Attach(self, request: plugin_pb2.PluginAttach, context: grpc.ServicerContext) -> empty_pb2.Empty:
        engine = EngineProcess(request.address)
        engine.lend_environment()
        self.connections[context.peer()] = _Connection(self._new_provider(), engine)
        return empty_pb2.Empty()

    @_answers
    def GetPluginInfo(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(version=self.connections[context.peer()].provider.version)

    @_answers
    def Cancel(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> empty_pb2.Empty:
        return empty_pb2.Empty()

    @_answers
    def CheckConfig(
        self, request: provider_pb2.CheckRequest, context: grpc.ServicerContext
    ) -> provider_pb2.CheckResponse:
        try:
            self.connections[context.peer()].provider.check_config(
                _plain_map(PropertyValue.unmarshal_map(request.news))
            )
        except InvalidInput as error:
            return _refusal(error)
        return provider_pb2.CheckResponse(inputs=request.news)

    @_answers
    def DiffConfig(self, request: provider_pb2.DiffRequest, context: grpc.ServicerContext) -> provider_pb2.DiffResponse:
        return _diff_response(request, Resource(), replaced_by=_nothing)

    @_answers
    def Configure(
        self, request: provider_pb2.ConfigureRequest, context: grpc.ServicerContext
    ) -> provider_pb2.ConfigureResponse:
        self.connections[context.peer()].provider.configure(_plain_map(PropertyValue.unmarshal_map(request.args)))
        # Without acceptOutputs, unknown values arrive as the protocol's string, which the SDK can decode.
        return provider_pb2.ConfigureResponse(acceptSecrets=True, supportsPreview=True)

    @_answers
    def Invoke(self, request: provider_pb2.InvokeRequest, context: grpc.ServicerContext) -> provider_pb2.InvokeResponse:
        arguments = _plain_map(PropertyValue.unmarshal_map(request.args))
        result = self.connections[context.peer()].provider.function(request.tok)(arguments)
        response = provider_pb2.InvokeResponse()
        # The field's name, `return`, is a keyword of Python.
        getattr(response, "return").CopyFrom(_marshal(result, {}))
        return response

    @_answers
    def Check(self, request: provider_pb2.CheckRequest, context: grpc.ServicerContext) -> provider_pb2.CheckResponse:
        resource = self._resource(request.urn, context)
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
        resource = self._resource(request.urn, context)
        return _diff_response(request, resource, resource.replaced_by)

    @_answers
    def Create(self, request: provider_pb2.CreateRequest, context: grpc.ServicerContext) -> provider_pb2.CreateResponse:
        resource = self._resource(request.urn, context)
        marked = PropertyValue.unmarshal_map(request.properties)
        inputs = _plain_map(marked)
        if request.preview:
            outputs = inputs | dict.fromkeys(resource.computed, UNKNOWN)
            return provider_pb2.CreateResponse(properties=_marshal(outputs, marked, resource.secret))
        answer = provider_pb2.CreateResponse()
        try:
            with self._operation(request.urn, context):
                answer.id, outputs = resource.create(inputs)
                answer.properties.CopyFrom(_marshal(inputs | outputs, marked, resource.secret))
        except _CreatedButFailed as error:
            _report_created(context, error, answer)
            raise
        return answer

    @_answers
    def Read(self, request: provider_pb2.ReadRequest, context: grpc.ServicerContext) -> provider_pb2.ReadResponse:
        resource = self._resource(request.urn, context)
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
        resource = self._resource(request.urn, context)
        marked = PropertyValue.unmarshal_map(request.news)
        inputs = _plain_map(marked)
        old = _plain_map(PropertyValue.unmarshal_map(request.old_inputs))
        state = _plain_map(PropertyValue.unmarshal_map(request.olds))
        if request.preview:
            kept = {name: value for name, value in state.items() if name not in old or name in resource.computed}
            outputs = inputs | kept
        else:
            kept = {name: value for name, value in state.items() if name not in old}
            with self._operation(request.urn, context):
                outputs = kept | inputs | resource.update(request.id, old, inputs)
        return provider_pb2.UpdateResponse(properties=_marshal(outputs, marked, resource.secret))

    @_answers
    def Delete(self, request: provider_pb2.DeleteRequest, context: grpc.ServicerContext) -> empty_pb2.Empty:
        resource = self._resource(request.urn, context)
        with self._operation(request.urn, context):
            resource.delete(request.id, _plain_map(PropertyValue.unmarshal_map(request.properties)))
        return empty_pb2.Empty()

    def _resource(self, urn: str, context: grpc.ServicerContext) -> Resource:
        return self.connections[context.peer()].provider.resource(_type(urn))

    def _operation(self, urn: str, context: grpc.ServicerContext) -> AbstractContextManager[None]:
        outlives_engine = self._resource(urn, context).outlives_engine
        return _operation(urn, self.connections[context.peer()].engine, context, outlives_engine=outlives_engine)


def _type(urn: str) -> str:
    # A URN is urn:pulumi:stack::project::parent$type::name, and the name can contain "::".
    return urn.split("::", 3)[2].rsplit("$", 1)[-1]


def _name(urn: str) -> str:
    return urn.split("::", 3)[3]


def _refusal(error: InvalidInput) -> provider_pb2.CheckResponse:
    return provider_pb2.CheckResponse(failures=[provider_pb2.CheckFailure(property=error.name, reason=error.reason)])


def _nothing(old: Properties, new: Properties) -> frozenset[str]:
    return frozenset()


def _diff_response(
    request: provider_pb2.DiffRequest,
    resource: Resource,
    replaced_by: Callable[[Properties, Properties], frozenset[str]],
) -> provider_pb2.DiffResponse:
    old = _plain_map(PropertyValue.unmarshal_map(request.old_inputs))
    outputs = _plain_map(PropertyValue.unmarshal_map(request.olds))
    old |= {name: resource.as_compared(name, old[name], outputs) for name in resource.deferred & old.keys()}
    new = _plain_map(PropertyValue.unmarshal_map(request.news))
    replace = replaced_by(old, new)
    names = sorted(changed(old, new))
    replaces = [name for name in names if name in replace]
    return provider_pb2.DiffResponse(
        changes=provider_pb2.DiffResponse.DIFF_SOME if names else provider_pb2.DiffResponse.DIFF_NONE,
        diffs=names,
        replaces=replaces,
        deleteBeforeReplace=resource.delete_before_replace and bool(replaces),
        detailedDiff=_detailed_diff(old, new, replace, resource.deferred),
        hasDetailedDiff=True,
    )
