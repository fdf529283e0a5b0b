# ruff: noqa: D102, N802 - the service's methods are named and described in its protocol
"""The stand-in for `pulumi-language-python`, the language host in Pulumi's own download.

It runs the program in its own process and its own Python, and reports errors as the official host does. In one
`pulumi up` the engine runs the program twice: for the preview, then for the update.
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

from local import paths
from local.plugins.serve import Call, serve


class Host(LanguageRuntimeServicer):
    """The gRPC service of a language host, for Python programs."""

    def __init__(self, call: Call) -> None:
        self.call = call

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
        # The SDK keeps options and configuration in context variables. A copy per run hides those of the run before.
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
        # A failed program leaves futures that are never awaited, and asyncio would print each of them.
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
    """Return the answer for a program that ended with this exit code."""
    return language_pb2.RunResponse(error=f"Program exited with non-zero exit code: {code}" if code else "")


def _forget_modules_in(program: Path) -> None:
    """Remove the program's own modules from `sys.modules`, so that each run imports them as a new process would."""
    folder = program if program.is_dir() else program.parent
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        # The virtualenv is usually in the checkout, too, and its packages cannot be imported twice.
        own = file is not None and file.startswith(f"{folder}/") and not file.startswith(f"{sys.prefix}/")
        # This module is in the checkout as well, and it is running.
        if own and name.partition(".")[0] not in {"__main__", "local"}:
            del sys.modules[name]


def _program_traceback(program: Path) -> str:
    """Return the traceback of the current exception, without the frames of this file and the SDK above the program."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    main = str(program / "__main__.py" if program.is_dir() else program)
    for index, frame in enumerate(frames):
        if frame.filename == main:
            return traceback.format_exc(limit=index - len(frames))
    return traceback.format_exc()


def main(call: Call) -> None:
    """Run the language host for this engine."""
    # With the official host a program imports from its own folder and from the virtualenv only. This checkout is on the path for the
    # stand-ins; a program of another project that imports `components` must fail here too.
    sys.path[:] = [folder for folder in sys.path if folder != str(paths.CHECKOUT)]
    serve(lambda server: language_pb2_grpc.add_LanguageRuntimeServicer_to_server(Host(call), server), call)


if __name__ == "__main__":
    main(Call.from_parent())
