# ruff: noqa: D102, N802 - the service's methods are named and described in its protocol
"""The stand-in for `pulumi-language-python`, the language host in Pulumi's own download.

It runs the program in a new process and reports errors as the official host does. In one `pulumi up` the engine runs
the program twice: for the preview, then for the update. Python's fork server makes these processes. It has imported the
SDKs already, which takes longer than everything else that the program does.
"""

import asyncio
import io
import logging
import multiprocessing
import os
import platform
import runpy
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path

import grpc
import pulumi
from google.protobuf import empty_pb2
from pulumi.runtime import reset_options, run_in_stack, set_all_config
from pulumi.runtime.proto import LanguageRuntimeServicer, language_pb2, plugin_pb2

from local import paths
from local.plugins.engine_process import EngineProcess

RUNTIME = "python"
_PROCESSES = multiprocessing.get_context("forkserver")


def load_sdks() -> None:
    """Start the fork server, which imports the SDKs while this process goes on."""
    _PROCESSES.set_forkserver_preload(["local.plugins.preloaded_sdks"])
    forkserver.ensure_running()


class Host(LanguageRuntimeServicer):
    """The gRPC service of a language host, for Python programs."""

    def __init__(self) -> None:
        # An entry stays until this process ends, which is some hundred bytes a command.
        self._engines: dict[str, EngineProcess] = {}

    def Handshake(
        self, request: language_pb2.LanguageHandshakeRequest, context: grpc.ServicerContext
    ) -> language_pb2.LanguageHandshakeResponse:
        self._engines[context.peer()] = EngineProcess(request.engine_address)
        return language_pb2.LanguageHandshakeResponse()

    def GetPluginInfo(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(version=version("pulumi"))

    def About(self, request: language_pb2.AboutRequest, context: grpc.ServicerContext) -> language_pb2.AboutResponse:
        return language_pb2.AboutResponse(executable=sys.executable, version=platform.python_version())

    def GetRequiredPackages(
        self, request: language_pb2.GetRequiredPackagesRequest, context: grpc.ServicerContext
    ) -> language_pb2.GetRequiredPackagesResponse:
        # The SDKs name their plugin with each resource, so the engine needs no list in advance.
        return language_pb2.GetRequiredPackagesResponse()

    def Run(self, request: language_pb2.RunRequest, context: grpc.ServicerContext) -> language_pb2.RunResponse:
        answers, answer = _PROCESSES.Pipe(duplex=False)
        engine = self._engines[context.peer()]
        process = _PROCESSES.Process(target=_run, args=(request.SerializeToString(), engine, answer))
        process.start()
        # Only the program's process holds that end now, so its death ends the wait below.
        answer.close()
        # The call ends early if the engine is killed or interrupted for the second time.
        context.add_callback(process.kill)
        try:
            return language_pb2.RunResponse.FromString(answers.recv_bytes())
        except EOFError:
            process.join()
            return language_pb2.RunResponse(error=f"The program's process ended with code {process.exitcode}")
        finally:
            process.join()


def _run(serialized: bytes, engine: EngineProcess, answer: Connection) -> None:
    """Run the program in this process and send the answer to `Run`."""
    request = language_pb2.RunRequest.FromString(serialized)
    engine.lend_environment()
    # With the official host a program imports from its own folder and from the virtualenv only. This checkout is on the
    # path for the stand-ins; a program of another project that imports `components` must fail here too.
    sys.path[:] = [folder for folder in sys.path if folder not in {"", str(paths.CHECKOUT)}]
    os.chdir(request.pwd)
    reset_options(
        project=request.project,
        stack=request.stack,
        organization=request.organization or "organization",
        monitor_address=request.monitor_address,
        engine_address=engine.address,
        parallel=request.parallel,
        preview=request.dryRun,
    )
    set_all_config(dict(request.config), list(request.configSecretKeys))
    program = Path(request.info.program_directory, request.info.entry_point)
    answer.send_bytes(_result(program, request.parallel).SerializeToString())


def _result(program: Path, parallel: int) -> language_pb2.RunResponse:
    # A failed program leaves futures that are never awaited, and asyncio would print each of them.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    loop = asyncio.new_event_loop()
    executor = ThreadPoolExecutor(max_workers=max(parallel, 1) * 4)
    loop.set_default_executor(executor)

    def run() -> None:
        with redirect_stdout(_Lines(pulumi.log.info)), redirect_stderr(_Lines(pulumi.log.info)):
            runpy.run_path(str(program), run_name="__main__")

    try:
        loop.run_until_complete(run_in_stack(run))
    except pulumi.RunError as error:
        pulumi.log.error(str(error))
        return _exited(1)
    except SystemExit as error:
        return _exited(error.code)
    except Exception:
        pulumi.log.error("Program failed with an unhandled exception:\n" + _program_traceback(program))
        return language_pb2.RunResponse(bail=True)
    finally:
        executor.shutdown(wait=True)
        loop.close()
    return language_pb2.RunResponse()


class _Lines(io.TextIOBase):
    """A stream whose lines become messages of the engine, which prints them below the resources."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._begun = ""

    def write(self, text: str, /) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._log(line)
        return len(text)

    def close(self) -> None:
        if self._begun:
            self._log(self._begun)
        super().close()


def _exited(code: str | int | None) -> language_pb2.RunResponse:
    """Return the answer for a program that ended with this exit code."""
    return language_pb2.RunResponse(error=f"Program exited with non-zero exit code: {code}" if code else "")


def _program_traceback(program: Path) -> str:
    """Return the traceback of the current exception, without the frames of this file and the SDK above the program."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    main = str(program / "__main__.py" if program.is_dir() else program)
    for index, frame in enumerate(frames):
        if frame.filename == main:
            return traceback.format_exc(limit=index - len(frames))
    return traceback.format_exc()
