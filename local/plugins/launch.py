# ruff: noqa: PTH100, PTH109, PTH119, PTH120 - pathlib takes longer to import than all the rest
"""What the engine starts as a plugin: it has the nursery fork one and stands for it, or becomes the plugin itself.

Run by `python -I -S`, which takes 10 ms; so it imports only what such a Python has, and nothing of this project.
"""

import json
import os
import select
import signal
import socket
import sys
from types import FrameType


def _call_nursery(nursery: str, plugin: str, arguments: list[str], engine: int) -> socket.socket | None:
    """The line to a new plugin, when there is one."""
    umask = os.umask(0)
    os.umask(umask)
    call = {
        "plugin": plugin,
        "engine": engine,
        "address": arguments[-1],
        "folder": os.getcwd(),
        "umask": umask,
        "environment": dict(os.environ),
    }
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        # A socket's path may have 107 characters only.
        folder = os.open(os.path.dirname(nursery), os.O_PATH)
        line.connect(f"/proc/self/fd/{folder}/{os.path.basename(nursery)}")
        socket.send_fds(line, [json.dumps(call).encode()], [0, 1, 2])
        return line if line.recv(1) else None
    except OSError:
        return None


def _stand_for(line: socket.socket, engine: int) -> None:
    """End when the plugin ends, and have it end when the engine wants that or has died."""

    def hang_up(number: int, frame: FrameType | None) -> None:
        line.shutdown(socket.SHUT_WR)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hang_up)
    ended = os.pidfd_open(engine)
    while line not in (readable := select.select([line, ended], [], [])[0]):
        if ended in readable:
            # The plugin notices: this was its only line.
            return
    # Nothing is ever sent: this is the end of the plugin.


def main(module: str, nursery: str, *arguments: str) -> None:
    """Be the plugin of that module."""
    engine = os.getppid()
    if line := _call_nursery(nursery, module, list(arguments), engine):
        _stand_for(line, engine)
        return
    checkout = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    os.environ["PYTHONPATH"] = checkout
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606 - there is no shell to be had


if __name__ == "__main__":
    main(*sys.argv[1:])
