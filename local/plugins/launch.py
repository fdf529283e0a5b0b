# ruff: noqa: PTH100, PTH109, PTH119, PTH120 - pathlib takes longer to import than all the rest
"""The program that the engine starts as a plugin.

It asks the plugin server (`nursery.py`) to fork the plugin, and waits until the plugin ends. If there is no plugin
server, it runs the plugin itself.

`python -I -S` starts in 10 ms, so this file imports built-in modules only. Importing `socket`, `signal` and `json`
would take longer than that. `_socket`, KeyboardInterrupt and NUL-separated text replace them.
"""

import _socket
import os
import select
import sys


def _call_nursery(nursery: str, plugin: str, arguments: list[str], engine: int) -> _socket.socket | None:
    """Return the connection to a new plugin, or None if there is no plugin server."""
    umask = os.umask(0)
    os.umask(umask)
    words = [plugin, str(engine), arguments[-1], os.getcwd(), str(umask), *(f"{k}={v}" for k, v in os.environ.items())]
    standard = b"".join(number.to_bytes(4, sys.byteorder) for number in (0, 1, 2))
    line = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        # Linux allows 107 characters for a socket's path (unix(7)).
        folder = os.open(os.path.dirname(nursery), os.O_PATH)
        line.connect(f"/proc/self/fd/{folder}/{os.path.basename(nursery)}")
        line.sendmsg([os.fsencode("\0".join(words))], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, standard)])
        return line if line.recv(1) else None
    except OSError:
        return None


def _stand_for(line: _socket.socket, engine: int) -> None:
    """Wait until the plugin ends. Close the connection, so that the plugin ends, if the engine interrupts or dies."""
    ended = os.pidfd_open(engine)
    readable: list[_socket.socket | int] = []
    while line not in readable:
        try:
            readable = select.select([line, ended], [], [])[0]
        except KeyboardInterrupt:
            line.shutdown(_socket.SHUT_WR)
        if ended in readable:
            # The end of this process closes the connection, and then the plugin ends.
            return
    # The plugin never sends anything, so a readable connection means that the plugin has ended.


def main(module: str, nursery: str, *arguments: str) -> None:
    """Run a plugin for the engine, which is this process's parent."""
    engine = os.getppid()
    if line := _call_nursery(nursery, module, list(arguments), engine):
        _stand_for(line, engine)
        return
    checkout = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    os.environ["PYTHONPATH"] = checkout
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(*sys.argv[1:])
