"""The gRPC server of a plugin. It listens on loopback and lives exactly as long as its engine."""

import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import FrameType

import grpc

_MAX_MESSAGE_BYTES = 400 * 1024 * 1024
"""Largest message in bytes, the engine's own limit. gRPC's default, 4 MiB, is too small for a large program's state."""
_THREADS = 64
"""Operations that can run at once. Each blocks its thread: a release, for example, waits for its pods."""


@dataclass(frozen=True)
class Call:
    """The engine that started this plugin, and the connection to it."""

    engine: int
    """Process id of the engine."""
    address: str
    """`host:port` of the engine's gRPC service. It is the last argument of every plugin."""
    line: int
    """File descriptor that becomes readable when the engine no longer needs the plugin, or has died."""

    @classmethod
    def from_parent(cls) -> "Call":
        """Return the engine of a plugin that is the engine's child process."""
        engine = os.getppid()
        return cls(engine, sys.argv[-1], os.pidfd_open(engine))


def serve(register: Callable[[grpc.Server], None], call: Call) -> None:
    """Serve until the engine sends SIGINT or dies, then end this process.

    Args:
        register: function that adds the plugin's service to a server.
        call: the engine.
    """
    stop = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    options = [
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ]
    server = grpc.server(ThreadPoolExecutor(max_workers=_THREADS), options=options)
    register(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    # A killed engine sends no signal. A plugin that went on would create resources unknown to the next command.
    while not stop.is_set() and not select.select([call.line], [], [], 0.1)[0]:
        pass
    server.stop(grace=None)
    sys.stdout.flush()
    # A normal exit would wait for the operations in progress, whose results the engine no longer reads.
    os._exit(0)
