"""The plugin server: a process that has imported the plugins' modules, and forks a plugin when an engine starts one.

A preview without changes spends most of its time on imports: gRPC, boto3 and the SDKs, in four plugins and the language
host of every command. The supervisor runs this process, and the engine starts `launch.py`. If there is no plugin
server, or a file has changed since it was loaded, `launch.py` runs the plugin in a new Python instead.
"""

import contextlib
import gc
import importlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import pulumi

from local import paths
from local.plugins import LANGUAGE, PROVIDERS
from local.plugins.aws import api
from local.plugins.serve import Call
from local.supervisor.spec import short_path

SDKS = (
    *(f"pulumi_aws.{service}" for service in ("ec2", "eks", "iam", "rds", "s3")),
    *(f"pulumi_kubernetes.{group}" for group in ("core.v1", "helm.v3", "networking.v1")),
    "pulumi_postgresql",
    "pulumi_random",
    "pydantic.main",
)
"""Modules that the program imports. Of a large SDK, only the parts that every stack uses."""


def _loaded_from() -> dict[Path, float]:
    """Return the loaded files of this project and the folder of the packages, each with its time of modification."""
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    ours = [Path(file) for file in files if file and Path(file).is_relative_to(paths.CHECKOUT / "local")]
    return {path: path.stat().st_mtime for path in [*ours, Path(pulumi.__file__).parent.parent]}


def _changed(loaded: dict[Path, float]) -> bool:
    try:
        return any(path.stat().st_mtime != time for path, time in loaded.items())
    except FileNotFoundError:
        return True


def _answer(listener: socket.socket, line: socket.socket) -> None:
    """Fork the plugin that a message asks for."""
    message, descriptors, _, _ = socket.recv_fds(line, 1_000_000, 3)
    if message and not os.fork():
        # The fork must not return: it would accept calls as a second plugin server, whose forks do not work.
        try:
            listener.close()
            _become(message, line, descriptors)
        except ConnectionError:
            # The caller has closed the connection already.
            pass
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    for descriptor in descriptors:
        os.close(descriptor)


def _become(message: bytes, line: socket.socket, descriptors: Sequence[int]) -> None:
    """Turn this process into the plugin that a message asks for."""
    plugin, engine, address, folder, umask, *environment = os.fsdecode(message).split("\0")
    for standard, descriptor in enumerate(descriptors):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    for variable in environment:
        name, _, value = variable.partition("=")
        os.environ[name] = value
    os.umask(int(umask))
    os.chdir(folder)
    line.send(b"!")
    importlib.import_module(plugin).main(Call(int(engine), address, line.fileno()))


def main(path: Path) -> None:
    """Accept calls on a socket for ever."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with short_path(path.parent) as folder:
        listener.bind(f"{folder}/{path.name}")
    # A caller waits until these imports are done, which take no longer than its own imports would.
    listener.listen(64)
    # Modules are never freed. The garbage collector would still search them again and again, which was measured as a
    # quarter of the time of these imports.
    gc.disable()
    for module in (*PROVIDERS.values(), LANGUAGE, *SDKS):
        # Some SDKs load their parts only when an attribute is read.
        getattr(importlib.import_module(module), "__all__", None)
    api.load_models()
    loaded = _loaded_from()
    # Let the kernel remove forks that have ended, which would remain as zombies otherwise.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # The collector writes to the objects that it searches, and the forks then have their own copies of that memory.
    gc.collect()
    gc.freeze()
    gc.enable()
    while True:
        line, _ = listener.accept()
        with line:
            if _changed(loaded):
                line.close()
                os.execv(sys.executable, sys.orig_argv)  # noqa: S606 - itself, without a shell
            with contextlib.suppress(ConnectionError):
                _answer(listener, line)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
