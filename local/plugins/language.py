# ruff: noqa: D102, N802 - the service's methods are named and described in its protocol
"""The Python language host: what `pulumi-language-python` of Pulumi's own download is to the engine.

It runs the program of the checkout in its own process, with the Python it was itself started with, and reports errors as the
official host does. The engine runs the program twice for one `pulumi up`: for the preview, then for the update.
"""

import asyncio
import contextvars
import logging
import os
import platform
import runpy
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import grpc
import pulumi
from google.protobuf import empty_pb2
from pulumi.runtime import reset_options, run_in_stack, set_all_config
from pulumi.runtime.proto import LanguageRuntimeServicer, language_pb2, language_pb2_grpc, plugin_pb2

from local.plugins.serve import Call, serve


class Host(LanguageRuntimeServicer):
    """What the engine asks a language host, answered for one program in this very Python."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def GetPluginInfo(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(version=version("pulumi"))

    def About(self, request: language_pb2.AboutRequest, context: grpc.ServicerContext) -> language_pb2.AboutResponse:
        return language_pb2.AboutResponse(executable=sys.executable, version=platform.python_version())

    def GetRequiredPackages(
        self, request: language_pb2.GetRequiredPackagesRequest, context: grpc.ServicerContext
    ) -> language_pb2.GetRequiredPackagesResponse:
        # The SDKs ask for their plugins by themselves, with each resource.
        return language_pb2.GetRequiredPackagesResponse()

    def Run(self, request: language_pb2.RunRequest, context: grpc.ServicerContext) -> language_pb2.RunResponse:
        # Options and configuration of the SDK are context variables: a run must not see those of the one before.
        return contextvars.copy_context().run(self._run, request)

    def _run(self, request: language_pb2.RunRequest) -> language_pb2.RunResponse:
        reset_options(
            project=request.project,
            stack=request.stack,
            organization=request.organization or "organization",
            monitor_address=request.monitor_address,
            engine_address=self.call.address,
            parallel=request.parallel,
            preview=request.dryRun,
        )
        set_all_config(dict(request.config), list(request.configSecretKeys))
        program = Path(request.info.program_directory, request.info.entry_point)
        os.chdir(request.pwd)
        _forget_modules_in(program)
        # A failed program leaves futures behind that nobody awaits; asyncio would print each of them.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        loop = asyncio.new_event_loop()
        executor = ThreadPoolExecutor(max_workers=max(request.parallel, 1) * 4)
        loop.set_default_executor(executor)

        def run() -> None:
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
            sys.stdout.flush()
            sys.stderr.flush()
        return language_pb2.RunResponse()


def _exited(code: str | int | None) -> language_pb2.RunResponse:
    """The answer for a program that ended like a process with this code."""
    return language_pb2.RunResponse(error=f"Program exited with non-zero exit code: {code}" if code else "")


def _forget_modules_in(program: Path) -> None:
    """Make the next import of the program's own modules run them again, as in a process of its own."""
    folder = program if program.is_dir() else program.parent
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        # The virtualenv is usually inside the checkout, and its packages cannot be imported twice.
        own = file is not None and file.startswith(f"{folder}/") and not file.startswith(f"{sys.prefix}/")
        # This file, too, is in the checkout.
        if own and name.partition(".")[0] not in {"__main__", "local"}:
            del sys.modules[name]


def _program_traceback(program: Path) -> str:
    """The traceback of the current exception without the frames of this file and of the SDK above the program."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    main = str(program / "__main__.py" if program.is_dir() else program)
    for index, frame in enumerate(frames):
        if frame.filename == main:
            return traceback.format_exc(limit=index - len(frames))
    return traceback.format_exc()


def main(call: Call) -> None:
    """Be the language host of the engine that calls."""
    serve(lambda server: language_pb2_grpc.add_LanguageRuntimeServicer_to_server(Host(call), server), call)


if __name__ == "__main__":
    main(Call.from_parent())
