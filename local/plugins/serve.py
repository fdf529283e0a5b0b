"""What every stand-in plugin is to the engine: a gRPC server on loopback that lives exactly as long as the engine does."""

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

# The engine allows messages of this size; gRPC's own default of 4 MiB is too little for a large program's state.
_MAX_MESSAGE_BYTES = 400 * 1024 * 1024
# Operations block their thread (a release waits for its pods), and the engine runs many at once.
_THREADS = 64


@dataclass(frozen=True)
class Call:
    """Who started this plugin."""

    engine: int
    """The engine's process."""
    address: str
    """The engine's own service: by Pulumi's contract a plugin's last argument."""
    line: int
    """A descriptor that becomes readable when the engine has no more use for the plugin, or has died."""

    @classmethod
    def from_parent(cls) -> "Call":
        """Of a plugin that is a process below the engine."""
        engine = os.getppid()
        return cls(engine, sys.argv[-1], os.pidfd_open(engine))


def serve(register: Callable[[grpc.Server], None], call: Call) -> None:
    """Serve what `register` adds until the engine says goodbye (SIGINT) or dies."""
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
    # An engine that was killed says nothing: a plugin that went on would make things behind the back of the next command.
    while not stop.is_set() and not select.select([call.line], [], [], 0.1)[0]:
        pass
    server.stop(grace=None)
    sys.stdout.flush()
    # An operation in progress must not keep the process: the engine has stopped listening to it.
    os._exit(0)
