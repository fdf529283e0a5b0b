"""The plugin server answers for each plugin, knows the engine at the other end, and ends with an engine that dies."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import grpc
import pytest
from google.protobuf import empty_pb2, struct_pb2
from pulumi.runtime.proto import language_pb2, language_pb2_grpc, plugin_pb2, provider_pb2, provider_pb2_grpc

from local import paths
from local.plugins import language_host, start_and_attach
from local.plugins.engine_process import EngineProcess
from local.stack import free_ports

SLOW_BOX = """
import sys
import threading
import time

from pulumi.runtime.proto import provider_pb2_grpc

from local.plugins.server import serve
from local.plugins.provider_service import Servicer
from tests.local_plugins.test_provider_service import Box, Lid

class SlowLid(Lid):
    outlives_engine = sys.argv[2:] == ["outlives_engine"]

    def create(self, inputs):
        print("begun", flush=True)
        time.sleep(60)

    def read(self, resource_id, inputs, outputs):
        print("begun", flush=True)
        time.sleep(60)

kept = serve(int(sys.argv[1]), lambda server: provider_pb2_grpc.add_ResourceProviderServicer_to_server(
    Servicer(lambda: Box([SlowLid()])), server))
print("ready", flush=True)
threading.Event().wait()
"""
"""A plugin server with one package, whose resource takes a minute to create or read."""
CALLER = """
import sys
import grpc
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc

with grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}") as channel:
    stub = provider_pb2_grpc.ResourceProviderStub(channel)
    stub.Attach(plugin_pb2.PluginAttach(address=sys.argv[2]))
    method, urn = sys.argv[3], "urn:pulumi:dev::project::box:index/lid:Lid::lid"
    getattr(stub, method)(getattr(provider_pb2, f"{method}Request")(urn=urn))
"""
"""An engine that attaches and calls one method."""


@contextmanager
def running(*command: str | Path, **environment: str) -> Generator[subprocess.Popen[str]]:
    """Provide a Python process, and kill it at the end of the block."""
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=paths.CHECKOUT,
        env={"PATH": os.defpath, **environment},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def listening() -> Generator[str]:
    """Provide the address of a socket on which this process listens, as an engine does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(scope="module")
def ports() -> Generator[dict[str, int]]:
    """Ports of a running plugin server."""
    names = (*start_and_attach.PACKAGES, start_and_attach.LANGUAGE)
    numbers = {name: free_ports()[0] for name in names}
    with running("-m", "local.plugins.server", *(f"{name}:{port}" for name, port in numbers.items())):
        yield numbers


@pytest.mark.parametrize("package", start_and_attach.PACKAGES)
def test_a_provider_says_its_version_to_an_engine_that_attaches(
    ports: dict[str, int], package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    script = "import socket, sys, time; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); print(s.getsockname()[1], flush=True); time.sleep(60)"
    with running("-c", script, MLFLOW_EKS_STACK_DIR=str(tmp_path)) as engine:
        address = f"127.0.0.1:{line(engine)}"
        with grpc.insecure_channel(f"127.0.0.1:{ports[package]}") as channel:
            stub = provider_pb2_grpc.ResourceProviderStub(channel)
            stub.Attach(plugin_pb2.PluginAttach(address=address), timeout=30, wait_for_ready=True)
            assert stub.GetPluginInfo(empty_pb2.Empty(), timeout=30).version == version(f"pulumi-{package}")


def test_the_language_host_says_its_version(ports: dict[str, int]):
    with grpc.insecure_channel(f"127.0.0.1:{ports[start_and_attach.LANGUAGE]}") as channel:
        stub = language_pb2_grpc.LanguageRuntimeStub(channel)
        # Without an answer to this call the engine does not attach.
        stub.Handshake(language_pb2.LanguageHandshakeRequest(engine_address="127.0.0.1:1"), wait_for_ready=True)
        assert stub.GetPluginInfo(empty_pb2.Empty(), timeout=30).version == version("pulumi")


def test_each_connection_has_its_own_configuration(ports: dict[str, int]):
    config = struct_pb2.Struct()
    config.update({"superuser": "false", "host": "127.0.0.1", "username": "one"})
    wrong = struct_pb2.Struct()
    wrong.update({"superuser": "true", "host": "127.0.0.1", "username": "other"})
    with listening() as address:
        for args, accepted in ((config, True), (wrong, False)):
            with grpc.insecure_channel(f"127.0.0.1:{ports['postgresql']}") as channel:
                stub = provider_pb2_grpc.ResourceProviderStub(channel)
                stub.Attach(plugin_pb2.PluginAttach(address=address), timeout=30, wait_for_ready=True)
                if accepted:
                    stub.Configure(provider_pb2.ConfigureRequest(args=args), timeout=30)
                else:
                    with pytest.raises(grpc.RpcError):
                        stub.Configure(provider_pb2.ConfigureRequest(args=args), timeout=30)


@pytest.mark.parametrize(
    ("method", "resource", "ends"), [("Create", [], True), ("Read", [], False), ("Create", ["outlives_engine"], False)]
)
def test_the_server_ends_with_an_engine_that_dies_during_a_change_unless_the_change_goes_on(
    method: str, resource: list[str], ends: bool
):
    port = str(free_ports()[0])
    with listening() as address, running("-c", SLOW_BOX, port, *resource) as server:
        assert line(server) == "ready"
        with running("-c", CALLER, port, address, method) as engine:
            assert line(server) == "begun"
            engine.kill()
            engine.wait()
        if ends:
            assert server.wait(timeout=20) == 1
        else:
            time.sleep(1)
            assert server.poll() is None


def test_the_process_behind_an_address_is_found_with_its_environment():
    with listening() as address:
        engine = EngineProcess(address)
        assert engine.pid == os.getpid()
        assert engine.environment["PATH"]
    with pytest.raises(ProcessLookupError, match=address):
        _ = EngineProcess(address).pid


def test_an_attached_plugin_has_the_environment_of_the_engine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "environ", dict(os.environ) | {"LEFT_BY_ANOTHER_COMMAND": "x"})
    engine = EngineProcess("127.0.0.1:1")
    monkeypatch.setitem(engine.__dict__, "environment", {"PATH": "/bin", "MLFLOW_EKS_STACK_DIR": "/stack"})
    engine.lend_environment()
    assert os.environ == {"PATH": "/bin", "MLFLOW_EKS_STACK_DIR": "/stack"}


def test_an_edit_of_a_stand_in_restarts_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "local" / "plugins" / "random.py"
    file.parent.mkdir(parents=True)
    monkeypatch.setattr(paths, "CHECKOUT", tmp_path)
    hashes: list[str] = []
    for text in ("first", "first", "second"):
        file.write_text(text)
        hashes.append(start_and_attach._code())
    assert hashes[0] == hashes[1] != hashes[2]


def test_what_a_program_prints_reaches_the_engine_line_by_line():
    messages: list[str] = []
    with language_host._Lines(messages.append) as stream:
        print("one\ntwo", file=stream)
        print("three", end="", file=stream)
        assert messages == ["one", "two"]
    assert messages == ["one", "two", "three"]
