"""The engine at the other end of a connection to the plugin server."""

import contextlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import grpc
from pulumi.runtime.proto import EngineStub, engine_pb2


@dataclass(frozen=True)
class EngineProcess:
    """The process of a Pulumi command."""

    address: str
    """`host:port` of the engine's gRPC service, which the engine tells each plugin."""

    @cached_property
    def pid(self) -> int:
        """Process id: the owner of the socket that listens on the address (proc_net(5), proc_pid_fd(5)).

        Raises:
            ProcessLookupError: no process that this user can see listens there.
        """
        port = f":{int(self.address.rpartition(':')[2]):04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        # State 0A is LISTEN, and the tenth column is the socket's inode.
        sockets = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(port) and row[3] == "0A"}
        for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
            with contextlib.suppress(OSError):
                if str(descriptor.readlink()) in sockets:
                    return int(descriptor.parts[2])
        raise ProcessLookupError(f"no process listens on {self.address}")

    @cached_property
    def environment(self) -> dict[str, str]:
        """Environment that the command was started with.

        Raises:
            ProcessLookupError: the engine has ended.
        """
        variables = Path(f"/proc/{self.pid}/environ").read_text(errors="surrogateescape").split("\0")
        return dict(variable.split("=", 1) for variable in variables if "=" in variable)

    def lend_environment(self) -> None:
        """Give this process the engine's environment, as a plugin that the engine starts inherits it."""
        for name in os.environ.keys() - self.environment.keys():
            del os.environ[name]
        os.environ.update(self.environment)

    def show(self, urn: str, text: str) -> None:
        """Show a text as the current status of a resource, until the next one replaces it."""
        # An operation can outlive its engine.
        with contextlib.suppress(grpc.RpcError), grpc.insecure_channel(self.address) as channel:
            message = engine_pb2.LogRequest(severity=engine_pb2.INFO, message=text, urn=urn, ephemeral=True)
            EngineStub(channel).Log(message)  # pyright: ignore[reportUnknownMemberType] - the SDK's type is incomplete
