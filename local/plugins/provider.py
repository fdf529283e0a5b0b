# ruff: noqa: N802 - the service's methods are named in its protocol
"""The base of the stand-in providers: Pulumi's resource provider protocol in terms of plain Python values.

A stand-in describes its resource types as subclasses of `Resource` and its functions as plain callables; everything that the
engine asks for in between is here: values that are unknown during a preview, secrets, differences, and faults on request.
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
    """A value that a preview cannot know yet, such as the address of a server that is still to be made."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = Unknown()

Plain = Any
"""None, bool, int, float, str, list, dict with str keys, or UNKNOWN; secrets are unwrapped."""

Properties = dict[str, Plain]


class OperationError(Exception):
    """An error for the person who runs the program: the message says what is wrong and what to do, and holds no secret."""


class InvalidInput(Exception):  # noqa: N818 - it is the answer of a check, not the failure of one
    """An input that the real provider would refuse before it does anything."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name = name
        self.reason = reason


@dataclass(frozen=True)
class State:
    """A resource as it is: its id, its inputs as they would have to be written to get it, and what else is known of it."""

    id: str
    inputs: Properties
    outputs: Properties = field(default_factory=dict[str, Plain])


class Resource:
    """One resource type. The methods take and return plain values; outputs need not repeat the inputs."""

    token: ClassVar[str]
    """The type, as in a URN: `random:index/randomPassword:RandomPassword`."""
    supported: ClassVar[frozenset[str] | None] = None
    """The inputs it knows; any other is refused rather than silently dropped. None: it checks for itself."""
    computed: ClassVar[frozenset[str]] = frozenset()
    """Outputs that are unknown until the resource is created."""
    secret: ClassVar[frozenset[str]] = frozenset()
    """Outputs that are secret whatever the inputs are."""
    replace: ClassVar[frozenset[str]] = frozenset()
    """Inputs that cannot be changed in place."""
    delete_before_replace: ClassVar[bool] = False
    """Whether two of them cannot exist at once, so that the old one goes first."""
    autoname: ClassVar[str | None] = None
    """The input that gets a name with a random end when the program gives none."""

    def check(self, inputs: Properties) -> Properties:
        """Refuse what cannot be (`InvalidInput`), add defaults. Values can be UNKNOWN."""
        return inputs

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        """Make it; return its id and outputs."""
        raise NotImplementedError

    def read(self, resource_id: str, inputs: Properties, outputs: Properties) -> State | None:
        """What is there now, None when it is gone. `inputs` and `outputs` are the last known ones, empty for an import."""
        raise NotImplementedError

    def update(self, resource_id: str, old: Properties, inputs: Properties) -> Properties:
        """Make it as `inputs` say; `old` are the inputs so far. Return the outputs that are not as they were.

        Nothing differs where the engine finishes a creation that had failed in the end.
        """
        if differs := changed(old, inputs):
            raise OperationError(f"{self.token}: the stand-in cannot change {', '.join(sorted(differs))} in place")
        return {}

    def delete(self, resource_id: str, properties: Properties) -> None:
        """Remove it. One that is gone already is no error. `properties` are its inputs and outputs."""
        raise NotImplementedError


Function = Callable[[Properties], Properties]
"""What the program calls to look something up."""


class Provider:
    """One package: its resource types, its functions, its configuration."""

    package: ClassVar[str]
    version: ClassVar[str]
    """That of the package's SDK: the engine starts the plugin of exactly this version."""
    errors: ClassVar[tuple[type[Exception], ...]] = ()
    """Exceptions whose text is meant for the person; any other is a mistake in the stand-in and shows where."""

    def __init__(self, resources: Sequence[Resource], functions: Mapping[str, Function] | None = None) -> None:
        self.resources = {resource.token: resource for resource in resources}
        self.functions = dict(functions or {})

    def check_config(self, config: Properties) -> None:
        """Refuse a configuration that cannot work. Values can be UNKNOWN."""

    def configure(self, config: Properties) -> None:
        """Take the provider's configuration; called once, and only with known values."""

    def error_text(self, error: Exception) -> str:
        """The text of one of `errors`, without secrets."""
        return str(error)

    def resource(self, token: str) -> Resource:
        """The resource type of that name."""
        if token not in self.resources:
            raise OperationError(
                f"the local stack's stand-in for {self.package} has no resource type {token}: add it to local/plugins"
            )
        return self.resources[token]

    def function(self, token: str) -> Function:
        """The function of that name."""
        if token not in self.functions:
            raise OperationError(
                f"the local stack's stand-in for {self.package} has no function {token}: add it to local/plugins"
            )
        return self.functions[token]

    def serve(self, call: Call) -> None:
        """Serve the engine until it stops."""
        servicer = _Servicer(self, call.engine)
        serve(lambda server: provider_pb2_grpc.add_ResourceProviderServicer_to_server(servicer, server), call)


def changed(old: Properties, new: Properties) -> set[str]:
    """The names of the properties that differ."""
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def in_order_of(wanted: Sequence[str] | None, actual: Sequence[str]) -> list[str]:
    """`actual`, in the order of `wanted` when they are the same set: an order that means nothing must not be a difference."""
    return list(wanted) if wanted is not None and sorted(wanted) == sorted(actual) else sorted(actual)


def to_plain(value: PropertyValue) -> Plain:
    """The plain Python value, without marks of secrecy."""
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
    """The value as the engine wants it."""
    if value is UNKNOWN:
        # The SDK cannot marshal its own Computed: the engine takes the agreed string in its place.
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
    """`values` for the engine; what is equal in `like` keeps its marks of secrecy, what had a secret in it stays one."""

    def mark(name: str, value: Plain) -> PropertyValue:
        known = like.get(name)
        if known is not None and to_plain(known) == value and name not in secret:
            return known
        return to_property(value, secret=name in secret or (known is not None and known.contains_secret()))

    return PropertyValue.marshal_map({name: mark(name, value) for name, value in values.items() if value is not None})


_PLAIN_KEY = re.compile(r"[A-Za-z_$][\w$]*")


def _differences(old: Plain, new: Plain, path: str = "") -> Iterator[tuple[str, str]]:
    """The paths that differ, each with ADD, DELETE or UPDATE."""
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


class _MadeButFailed(Exception):  # noqa: N818 - for the engine it is an answer: there is such a resource, and it is not complete
    """A resource was made, and then something about it went wrong."""

    def __init__(self, mode: str) -> None:
        super().__init__(_injected(mode))


@contextmanager
def _fault(urn: str, engine: int) -> Generator[None]:
    """Around each operation: fail, or kill the engine, where MLFLOW_EKS_FAULT says so.

    `3:error` makes the third create, update or delete of a run fail before it acts, `3:kill` kills the engine there. With `-after`
    it happens once the operation has acted: the engine learns of what was made as it does from a real provider that fails while it
    waits for a new resource, or, killed, it does not. `lost` is an answer that never arrives: acted, failed, and no word of what
    was made. Instead of a number, a resource's name is the first operation on that resource.
    """
    wanted = os.environ.get("MLFLOW_EKS_FAULT")
    if not wanted:
        yield
        return
    which, _, mode = wanted.rpartition(":")
    if mode not in _FAULTS or not which:
        raise OperationError(
            f"MLFLOW_EKS_FAULT={wanted}: write NUMBER:error or NAME:error; or {', '.join(_FAULTS[1:])}"
        )
    number, earlier = _operations_so_far(urn, engine)
    due = number == int(which) if which.isdigit() else _name(urn) == which and urn not in earlier
    if due and mode in {"error", "kill"}:
        _fail(mode, engine)
    yield
    if due:
        _fail(mode, engine)


def _operations_so_far(urn: str, engine: int) -> tuple[int, list[str]]:
    """Count this operation; return the count and what the operations before it were on.

    Plugins are processes of their own, so the operations of a run are in a file: the engine's pid, then a URN a line.
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
        raise _MadeButFailed(mode)
    raise OperationError(_injected(mode))


def _report_made(context: grpc.ServicerContext, error: Exception, answer: provider_pb2.CreateResponse) -> None:
    """Have the error that ends this call tell the engine of the resource that was made nevertheless."""
    made = provider_pb2.ErrorResourceInitFailed(id=answer.id, properties=answer.properties, reasons=[str(error)])
    status = status_pb2.Status(code=grpc.StatusCode.UNKNOWN.value[0], message=str(error))
    status.details.add().Pack(made)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))


_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")


def _answers(method: Callable[_Arguments, _Answer]) -> Callable[_Arguments, _Answer]:
    """A method of the service whose errors reach the person as one clear text instead of a stack trace."""

    @functools.wraps(method)
    def answer(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Answer:
        servicer, _, context = cast(tuple[_Servicer, Message, grpc.ServicerContext], args)
        try:
            return method(*args, **kwargs)
        except (OperationError, InvalidInput, _MadeButFailed) as error:
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
    """The engine's side: decodes, decides what a preview can know, calls the stand-in, encodes."""

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
        # Without acceptOutputs unknown values arrive as the agreed string, which the SDK can decode.
        return provider_pb2.ConfigureResponse(acceptSecrets=True, supportsPreview=True)

    @_answers
    def Invoke(self, request: provider_pb2.InvokeRequest, context: grpc.ServicerContext) -> provider_pb2.InvokeResponse:
        arguments = _plain_map(PropertyValue.unmarshal_map(request.args))
        result = self.provider.function(request.tok)(arguments)
        response = provider_pb2.InvokeResponse()
        # `return` is a keyword here.
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
            end = hashlib.sha256(request.randomSeed).hexdigest()[:7]
            inputs[resource.autoname] = olds.get(resource.autoname) or f"{_name(request.urn)}-{end}"
        try:
            if resource.supported is not None and (strange := sorted(inputs.keys() - resource.supported)):
                raise InvalidInput(
                    strange[0], f"the local stack's stand-in for {resource.token} does not know this input"
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
        except _MadeButFailed as error:
            _report_made(context, error, answer)
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
            known = {name: value for name, value in state.items() if name not in old}
            with _fault(request.urn, self.engine):
                outputs = known | inputs | resource.update(request.id, old, inputs)
        return provider_pb2.UpdateResponse(properties=_marshal(outputs, marked, resource.secret))

    @_answers
    def Delete(self, request: provider_pb2.DeleteRequest, context: grpc.ServicerContext) -> empty_pb2.Empty:
        resource = self.provider.resource(_type(request.urn))
        with _fault(request.urn, self.engine):
            resource.delete(request.id, _plain_map(PropertyValue.unmarshal_map(request.properties)))
        return empty_pb2.Empty()


def _type(urn: str) -> str:
    # urn:pulumi:stack::project::parent$type::name, and a name can itself hold "::".
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
