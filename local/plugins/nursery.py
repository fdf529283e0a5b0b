"""One process with everything imported that a plugin needs, which forks one whenever an engine starts one.

What a preview without changes costs is mostly imports: gRPC, boto3 and the SDKs, in four plugins and the language host of every
command. The machine runs this process, and `launch.py` is what the engine starts. Where there is no nursery, or its modules are
older than their files, a plugin is a Python of its own, as it would be without all this.
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
"""What the program imports; of a large SDK the parts that every stack uses."""


def _loaded_from() -> dict[Path, float]:
    """The files of this project that are loaded here, and the folder of the packages; when each was changed."""
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    ours = [Path(file) for file in files if file and Path(file).is_relative_to(paths.CHECKOUT / "local")]
    return {path: path.stat().st_mtime for path in [*ours, Path(pulumi.__file__).parent.parent]}


def _changed(loaded: dict[Path, float]) -> bool:
    try:
        return any(path.stat().st_mtime != time for path, time in loaded.items())
    except FileNotFoundError:
        return True


def _answer(listener: socket.socket, line: socket.socket) -> None:
    """Fork the plugin that is called for."""
    message, descriptors, _, _ = socket.recv_fds(line, 1_000_000, 3)
    if message and not os.fork():
        # A fork that came back from here would answer calls as a second nursery, and what it forks then does not work.
        try:
            listener.close()
            _become(message, line, descriptors)
        except ConnectionError:
            # Who has hung up already is not there to be told.
            pass
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    for descriptor in descriptors:
        os.close(descriptor)


def _become(message: bytes, line: socket.socket, descriptors: Sequence[int]) -> None:
    """Be the plugin that is called for."""
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
    """Answer calls for ever."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with short_path(path.parent) as folder:
        listener.bind(f"{folder}/{path.name}")
    # Who calls meanwhile waits for these imports, which take no longer than its own would.
    listener.listen(64)
    # It would look through everything again and again, a quarter of the time, and free nothing: modules stay.
    gc.disable()
    for module in (*PROVIDERS.values(), LANGUAGE, *SDKS):
        # An SDK loads a part of it when something is asked of it.
        getattr(importlib.import_module(module), "__all__", None)
    api.load_models()
    loaded = _loaded_from()
    # A fork that has ended is nobody's business.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # What the collector looks at is written to, and no longer shared with the forks.
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
