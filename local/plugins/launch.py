# ruff: noqa: PTH100, PTH109, PTH119, PTH120 - pathlib takes longer to import than all the rest
"""What the engine starts as a plugin: it has the nursery fork one and stands for it, or becomes the plugin itself.

Run by `python -I -S`, which takes 10 ms; so it imports only what such a Python has, and nothing of this project. `socket`, `signal`
and `json` would take longer than all of that: in their place are the module below the first, Ctrl-C as Python has it, and NULs.
"""

import _socket
import os
import select
import sys


def _call_nursery(nursery: str, plugin: str, arguments: list[str], engine: int) -> _socket.socket | None:
    """The line to a new plugin, when there is one."""
    umask = os.umask(0)
    os.umask(umask)
    words = [plugin, str(engine), arguments[-1], os.getcwd(), str(umask), *(f"{k}={v}" for k, v in os.environ.items())]
    standard = b"".join(number.to_bytes(4, sys.byteorder) for number in (0, 1, 2))
    line = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        # A socket's path may have 107 characters only.
        folder = os.open(os.path.dirname(nursery), os.O_PATH)
        line.connect(f"/proc/self/fd/{folder}/{os.path.basename(nursery)}")
        line.sendmsg([os.fsencode("\0".join(words))], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, standard)])
        return line if line.recv(1) else None
    except OSError:
        return None


def _stand_for(line: _socket.socket, engine: int) -> None:
    """End when the plugin ends, and have it end when the engine wants that or has died."""
    ended = os.pidfd_open(engine)
    readable: list[_socket.socket | int] = []
    while line not in readable:
        try:
            readable = select.select([line, ended], [], [])[0]
        except KeyboardInterrupt:
            line.shutdown(_socket.SHUT_WR)
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
