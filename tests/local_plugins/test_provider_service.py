"""The base of the stand-ins answers as a real provider: unknown values in previews, secrets kept, clear errors."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2, struct_pb2
from pulumi.provider.experimental.property_value import PropertyValue
from pulumi.runtime import rpc
from pulumi.runtime.proto import EngineServicer, engine_pb2, engine_pb2_grpc, provider_pb2, status_pb2

from local.plugins import provider_service
from local.plugins.engine_process import EngineProcess
from local.plugins.provider_base import (
    UNKNOWN,
    InvalidInput,
    OperationError,
    Properties,
    Provider,
    Resource,
    State,
    status,
)
from local.plugins.provider_service import Servicer
from local.plugins.server import serve
from local.stack import free_ports

ENGINE_PORT = free_ports()[0]
URN = "urn:pulumi:dev::project::component$box:index/lid:Lid::the::lid"


class Lid(Resource):
    token = "box:index/lid:Lid"
    supported = frozenset({"colour", "key", "labels", "name", "size"})
    computed = frozenset({"address"})
    replace = frozenset({"size"})
    secret = frozenset({"pin"})
    autoname = "name"
    exists = True

    def check(self, inputs: Properties) -> Properties:
        if inputs.get("colour") == "pink":
            raise InvalidInput("colour", "there is no pink")
        return inputs

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        if inputs.get("colour") == "broken":
            raise OperationError("out of lids: buy some")
        if inputs.get("colour") == "bug":
            raise KeyError("oops")
        status.get()("screwing it on")
        return inputs["name"], {"address": "here", "pin": "1234"}

    def read(self, resource_id: str, inputs: Properties, outputs: Properties) -> State | None:
        return State(resource_id, inputs | {"colour": "blue"}, outputs) if self.exists else None

    def update(self, resource_id: str, old: Properties, inputs: Properties) -> Properties:
        return {"address": "moved"}

    def delete(self, resource_id: str, properties: Properties) -> None:
        pass


class Box(Provider):
    package = "box"
    version = "1.2.3"


class RefusedError(Exception):
    pass


class Context:
    trailing: tuple[tuple[str, bytes], ...] = ()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return True

    def set_trailing_metadata(self, trailing: tuple[tuple[str, bytes], ...]) -> None:
        Context.trailing = trailing

    def abort(self, code: grpc.StatusCode, text: str) -> None:
        raise RefusedError(text)


@pytest.fixture
def lid() -> Lid:
    return Lid()


class Engine(EngineServicer):
    """The service of an engine, which keeps the messages that it gets."""

    def __init__(self) -> None:
        self.messages: list[engine_pb2.LogRequest] = []

    def Log(self, request: engine_pb2.LogRequest, context: grpc.ServicerContext) -> empty_pb2.Empty:  # noqa: N802
        self.messages.append(request)
        return empty_pb2.Empty()


@pytest.fixture(autouse=True)
def engine() -> Iterator[Engine]:
    engine = Engine()
    server = serve(ENGINE_PORT, lambda server: engine_pb2_grpc.add_EngineServicer_to_server(engine, server))
    yield engine
    server.stop(grace=None)


def servicer_for(box: Box, engine_pid: int) -> Servicer:
    """Return the service of a stand-in to which an engine has attached."""
    engine = EngineProcess(f"127.0.0.1:{ENGINE_PORT}")
    engine.__dict__.update(pid=engine_pid, environment=os.environ)
    servicer = Servicer(lambda: box)
    servicer.connections[Context().peer()] = provider_service._Connection(box, engine)
    return servicer


@pytest.fixture
def call(lid: Lid) -> Callable[..., Any]:
    box = Box([lid], {"box:index:open": lambda arguments: {"angle": arguments["angle"]}})
    servicer = servicer_for(box, os.getpid())
    return lambda method, **fields: getattr(servicer, method)(
        getattr(provider_pb2, f"{REQUESTS[method]}Request")(**fields), Context()
    )


REQUESTS = {name: name for name in ("Create", "Update", "Read", "Check", "Diff", "Delete", "Invoke")}
SECRET = PropertyValue("s3cret", is_secret=True)


def struct(**values: Any) -> struct_pb2.Struct:
    marked = {
        key: value if isinstance(value, PropertyValue) else provider_service.to_property(value)
        for key, value in values.items()
    }
    return PropertyValue.marshal_map(marked)


def plain(message: struct_pb2.Struct) -> Properties:
    return {key: provider_service.to_plain(value) for key, value in PropertyValue.unmarshal_map(message).items()}


def secrets_in(message: struct_pb2.Struct) -> set[str]:
    return {key for key, value in PropertyValue.unmarshal_map(message).items() if value.contains_secret()}


def test_values_survive_the_way_to_the_engine_and_back():
    values = {"n": 3, "f": 1.5, "s": "x", "b": True, "l": [1, {"a": []}], "u": UNKNOWN, "deep": {"u": [UNKNOWN]}}
    assert plain(struct(**values)) == values


def test_an_unknown_value_is_the_string_that_the_engine_agreed_on():
    assert provider_service.to_property(UNKNOWN).value == rpc.UNKNOWN


def test_the_preview_of_a_creation_invents_no_outputs(call: Callable[..., Any]):
    response = call("Create", urn=URN, properties=struct(name="a", colour=UNKNOWN), preview=True)
    assert response.id == ""
    assert plain(response.properties) == {"name": "a", "colour": UNKNOWN, "address": UNKNOWN}


def test_a_status_is_shown_at_the_resource_and_not_kept(call: Callable[..., Any], engine: Engine):
    call("Create", urn=URN, properties=struct(name="a", colour="red"))
    (message,) = engine.messages
    assert (message.urn, message.message, message.ephemeral) == (URN, "screwing it on", True)


def test_secrets_stay_secret_in_outputs(call: Callable[..., Any]):
    nested = PropertyValue({"open": PropertyValue("x"), "hidden": SECRET})
    response = call("Create", urn=URN, properties=struct(name="a", key=SECRET, labels=nested))
    assert secrets_in(response.properties) == {"key", "labels", "pin"}
    assert not PropertyValue.unmarshal_map(response.properties)["labels"].is_secret, "only the hidden label is"
    read = call("Read", urn=URN, id="a", inputs=struct(name="a", key=SECRET), properties=response.properties)
    assert secrets_in(read.properties) == {"key", "labels", "pin"}
    assert secrets_in(read.inputs) == {"key"}


def test_a_name_is_made_up_once_and_kept(call: Callable[..., Any]):
    first = plain(call("Check", urn=URN, news=struct(), randomSeed=b"seed").inputs)["name"]
    assert first.startswith("the::lid-")
    again = call("Check", urn=URN, news=struct(), olds=struct(name=first), randomSeed=b"another")
    assert plain(again.inputs)["name"] == first


def test_an_input_that_the_stand_in_does_not_know_is_refused(call: Callable[..., Any]):
    (failure,) = call("Check", urn=URN, news=struct(hinge="brass")).failures
    assert failure.property == "hinge"


def test_a_refused_value_names_its_property(call: Callable[..., Any]):
    (failure,) = call("Check", urn=URN, news=struct(colour="pink")).failures
    assert (failure.property, failure.reason) == ("colour", "there is no pink")


def test_a_difference_is_an_update_or_a_replacement(call: Callable[..., Any]):
    old, new = (
        struct(colour="red", size=1, labels={"a": "1", "b.c": "2"}),
        struct(colour="red", size=2, labels={"a": "1"}),
    )
    response = call("Diff", urn=URN, id="a", old_inputs=old, news=new)
    assert response.changes == provider_pb2.DiffResponse.DIFF_SOME
    assert list(response.replaces) == ["size"]
    kinds = {path: provider_pb2.PropertyDiff.Kind.Name(diff.kind) for path, diff in response.detailedDiff.items()}
    assert kinds == {"size": "UPDATE_REPLACE", 'labels["b.c"]': "DELETE"}


def test_no_difference_is_no_change(call: Callable[..., Any]):
    response = call("Diff", urn=URN, id="a", old_inputs=struct(key=SECRET), news=struct(key="s3cret"))
    assert response.changes == provider_pb2.DiffResponse.DIFF_NONE


def test_the_preview_of_an_update_keeps_what_is_known(call: Callable[..., Any]):
    state = struct(name="a", colour="red", address="here", pin="1234")
    response = call(
        "Update",
        urn=URN,
        id="a",
        olds=state,
        old_inputs=struct(name="a", colour="red"),
        news=struct(name="a"),
        preview=True,
    )
    assert plain(response.properties) == {"name": "a", "address": "here", "pin": "1234"}


def test_a_resource_that_is_gone_has_no_id(call: Callable[..., Any], lid: Lid):
    lid.exists = False
    assert call("Read", urn=URN, id="a").id == ""


def test_reading_finds_what_somebody_changed(call: Callable[..., Any]):
    response = call("Read", urn=URN, id="a", inputs=struct(name="a", colour="red"))
    assert plain(response.inputs)["colour"] == "blue"


@pytest.mark.parametrize(
    ("colour", "text"),
    [("broken", "out of lids: buy some"), ("bug", "the local stack's stand-in for box has a bug: KeyError('oops')")],
)
def test_an_error_is_one_text(call: Callable[..., Any], colour: str, text: str):
    with pytest.raises(RefusedError) as error:
        call("Create", urn=URN, properties=struct(name="a", colour=colour))
    assert str(error.value) == text


def test_an_unknown_type_or_function_is_named(call: Callable[..., Any]):
    with pytest.raises(RefusedError, match="box:index/cup:Cup"):
        call("Create", urn=URN.replace("lid:Lid", "cup:Cup"))
    with pytest.raises(RefusedError, match="box:index:close"):
        call("Invoke", tok="box:index:close")


def test_a_function_is_answered(call: Callable[..., Any]):
    response = call("Invoke", tok="box:index:open", args=struct(angle=90))
    assert plain(getattr(response, "return")) == {"angle": 90}


def test_the_nth_operation_of_a_run_fails(call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_EKS_STACK_DIR", str(tmp_path))
    monkeypatch.setenv("MLFLOW_EKS_FAULT", "2:error")
    call("Create", urn=URN, properties=struct(name="a"), preview=True)
    call("Create", urn=URN, properties=struct(name="a"))
    with pytest.raises(RefusedError, match="fault injected"):
        call("Delete", urn=URN, id="a")
    call("Create", urn=URN, properties=struct(name="b"))


def test_the_count_starts_over_with_the_next_run(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_EKS_STACK_DIR", str(tmp_path))
    monkeypatch.setenv("MLFLOW_EKS_FAULT", "1:error-after")
    (tmp_path / "fault-count").write_text(f"1\n{URN}\n")
    with pytest.raises(RefusedError, match="fault injected"):
        call("Create", urn=URN, properties=struct(name="a"))


def test_the_first_operation_on_a_named_resource_fails(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_EKS_STACK_DIR", str(tmp_path))
    monkeypatch.setenv("MLFLOW_EKS_FAULT", "the::lid:error")
    call("Create", urn=f"{URN}-of-another", properties=struct(name="a"))
    with pytest.raises(RefusedError, match="fault injected"):
        call("Create", urn=URN, properties=struct(name="a"))
    call("Delete", urn=URN, id="a")


def test_the_engine_learns_what_was_made_before_a_creation_failed(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_EKS_STACK_DIR", str(tmp_path))
    monkeypatch.setenv("MLFLOW_EKS_FAULT", "1:error-after")
    with pytest.raises(RefusedError, match="fault injected"):
        call("Create", urn=URN, properties=struct(name="a"))
    ((key, details),) = Context.trailing
    status, created = status_pb2.Status.FromString(details), provider_pb2.ErrorResourceInitFailed()
    assert key == "grpc-status-details-bin"
    assert status.details[0].Unpack(created)
    assert created.id == "a"
    assert plain(created.properties) == {"name": "a", "address": "here", "pin": "1234"}
    assert secrets_in(created.properties) == {"pin"}


def test_of_a_lost_answer_the_engine_learns_nothing(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_EKS_STACK_DIR", str(tmp_path))
    monkeypatch.setenv("MLFLOW_EKS_FAULT", "1:lost")
    monkeypatch.setattr(Context, "trailing", ())
    with pytest.raises(RefusedError, match="fault injected"):
        call("Create", urn=URN, properties=struct(name="a"))
    assert Context.trailing == ()


def test_an_update_without_a_difference_keeps_what_a_resource_that_cannot_change_knows(
    call: Callable[..., Any], lid: Lid, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Lid, "update", Resource.update)
    state, inputs = struct(name="a", address="here", pin="1234"), struct(name="a")
    response = call("Update", urn=URN, id="a", olds=state, old_inputs=inputs, news=inputs)
    assert plain(response.properties) == {"name": "a", "address": "here", "pin": "1234"}
    assert secrets_in(response.properties) == {"pin"}
    with pytest.raises(RefusedError, match="cannot change size in place"):
        call("Update", urn=URN, id="a", olds=state, old_inputs=inputs, news=struct(name="a", size=2))


def test_the_engine_is_killed_where_a_fault_says_so(tmp_path: Path):
    plugin = (
        "import os\n"
        "from tests.local_plugins.test_provider_service import Box, Context, Lid, URN, provider_pb2, servicer_for, struct\n"
        "request = provider_pb2.CreateRequest(urn=URN, properties=struct(name='a'))\n"
        "servicer_for(Box([Lid()]), os.getppid()).Create(request, Context())\n"
    )
    engine = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    environment = {**os.environ, "MLFLOW_EKS_STACK_DIR": str(tmp_path), "MLFLOW_EKS_FAULT": "1:kill"}
    killed = subprocess.run([sys.executable, "-c", engine, plugin], env=environment, check=False)
    assert killed.returncode == -9


def test_a_fault_that_cannot_be_is_refused(call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_EKS_FAULT", "soon")
    with pytest.raises(RefusedError, match="NUMBER:error"):
        call("Create", urn=URN, properties=struct(name="a"))
