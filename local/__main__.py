"""The local stack's commands: `python -m local up | down | preview | status | logs | run`."""

import argparse
import contextlib
import errno
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from local import aws_account, paths, tools
from local.charts.mlflow import APP_VERSIONS
from local.plugins import start_nursery
from local.progress import Progress, Step, box
from local.pulumi_cli.engine import STACK, Engine, EngineError, ports
from local.supervisor.client import Supervisor
from local.supervisor.spec import SupervisorError
from local.tools import ToolError

DEFAULT_MLFLOW_VERSION = APP_VERSIONS["1.11.5"]
"""What the default chart version runs; another one is installed when a release asks for it."""
RUN = ".venv/bin/python -m local run"
LOAD_BALANCER = "kubernetes-ingress"
"""What is in the name of the process that holds the load balancer's ports."""


class RefusedError(Exception):
    """The command cannot begin; the message says what to do."""


def up(stack: Path, extra: Sequence[str]) -> None:
    """Bring everything up, or what is missing of it."""
    with _only_command(stack):
        _check_ports(Supervisor(stack))
        engine, healed = _start(stack)
        refresh = ["--refresh"] if healed else []
        engine.run("up", "--yes", "--skip-preview", "--stack", STACK, *refresh, *extra)
        outputs = engine.outputs()
    rows = [("URL", outputs["url"])]
    if "adminUser" in outputs:
        password = str(outputs["adminPasswordCommand"]).replace("pulumi", RUN, 1)
        rows += [("user", outputs["adminUser"]), ("password", password)]
    rows += [("certificate", "self-signed, so a browser asks once"), ("logs", "make logs"), ("stop", "make down")]
    print("\n" + box("MLflow runs on this supervisor.", rows))
    if "client" in outputs:
        client = str(outputs["client"]).replace("pulumi", RUN, 1)
        print(f"\nFor an MLflow client in this shell:\n\n{client}\nexport MLFLOW_TRACKING_INSECURE_TLS=true")


def preview(stack: Path, extra: Sequence[str]) -> None:
    """Show what `up` would change."""
    with _only_command(stack):
        engine, _ = _start(stack)
        engine.run("preview", "--stack", STACK, *extra)


def run(stack: Path, extra: Sequence[str]) -> None:
    """Run any pulumi command on the local stack, for example `run stack output`."""
    engine = Engine(stack, _endpoint_if_running(stack))
    if not engine.exists():
        raise RefusedError("there is no local stack yet: `make up` makes it")
    engine.run(*extra)


def down(stack: Path, extra: Sequence[str]) -> None:
    """Destroy the stack and stop the machine; with --force without asking pulumi."""
    if not stack.exists():
        print("There is no local stack.")
        return
    with _only_command(stack):
        engine = Engine(stack)
        if engine.exists() and engine.readable() and "--force" not in extra:
            engine, _ = _start(stack)
            try:
                engine.destroy(*extra)
            except EngineError as error:
                hint = "`make down` goes on from here; `make down FORCE=1` stops all local processes and deletes all data without asking Pulumi"
                raise EngineError(f"{error}\n{hint}".strip()) from error
        Supervisor(stack).stop()
        shutil.rmtree(stack)
    print(f"The local stack is gone. The tools stay for the next one, in {paths.tools_dir()}")


def status(stack: Path, extra: Sequence[str]) -> None:
    """Show what runs."""
    if not stack.exists():
        print("There is no local stack: `make up` makes it.")
        return
    for process in Supervisor(stack).list():
        state = "ready" if process.ready else "starting" if process.running else "waiting to be restarted"
        restarts = f", restarted {process.restarts} times" if process.restarts else ""
        print(f"{process.name:<50} {state}{restarts}")


def logs(stack: Path, extra: Sequence[str]) -> None:
    """Follow the logs of all processes, or of those whose names begin as the arguments say."""
    folder = stack / "supervisor" / "logs"
    files = [log for log in sorted(folder.glob("*.log")) if not extra or log.name.startswith(tuple(extra))]
    if not files:
        raise RefusedError(
            f"there is no log{' of ' + ', '.join(extra) if extra else ''}: `make status` shows what runs"
        )
    with contextlib.suppress(KeyboardInterrupt):
        subprocess.run(["tail", "-n", "20", "-F", *map(str, files)], check=False)


def _start(stack: Path) -> tuple[Engine, bool]:
    """Have the tools, the supervisor, the account; whether the state has to be compared with what is there."""
    supervisor = Supervisor(stack)
    mlflow = tools.mlflow(DEFAULT_MLFLOW_VERSION)
    tools.check_machine([tools.POSTGRES, tools.HAPROXY, mlflow])
    engine = Engine(stack)
    existed = engine.exists()
    if existed and not engine.readable():
        raise RefusedError(
            "the passphrase or the salt of the local stack is gone: `make down` removes the rest, `make up` makes a new one"
        )
    for folder in (paths.home(), stack.parent, stack):
        paths.make_traversable(folder)
    had_account = (supervisor.folder / "aws.journal").exists()
    started = supervisor.start()
    work: dict[str, Callable[[Step], object]] = {
        "pulumi": lambda step: Engine(stack).prepare(tools.pulumi_bin(step.say)),
        "PostgreSQL": lambda step: [tools.ensure(tool, step.say) for tool in (tools.POSTGRES, tools.POSTGRES_DATA)],
        "HAProxy": lambda step: tools.ensure(tools.HAPROXY, step.say),
        f"MLflow {DEFAULT_MLFLOW_VERSION}": lambda step: tools.ensure(mlflow, step.say),
        "AWS account": lambda step: aws_account.start(supervisor),
        "plugins": lambda step: start_nursery(stack),
    }
    try:
        results = _in_parallel(work)
    except BaseException:
        if started and not existed:
            supervisor.stop()
        raise
    engine = Engine(stack, str(results["AWS account"]))
    if not existed:
        return engine, False
    if started:
        _wait_for_processes(supervisor)
    with Progress() as progress, progress.step("recovery") as step:
        engine.recover(step.say)
    return engine, started or not had_account


def _in_parallel(work: dict[str, Callable[[Step], object]]) -> dict[str, object]:
    with Progress() as progress, ThreadPoolExecutor(max_workers=len(work)) as pool:

        def carry_out(task: Callable[[Step], object], step: Step) -> object:
            with step:
                return task(step)

        futures = {title: pool.submit(carry_out, task, progress.step(title)) for title, task in work.items()}
        try:
            return {title: future.result() for title, future in futures.items()}
        except BaseException:
            tools.interrupt()
            raise


def _wait_for_processes(supervisor: Supervisor, seconds: float = 120) -> None:
    """After a restart, give everything time to come back; what does not is for `pulumi up` to say."""
    with Progress() as progress, progress.step("what ran before") as step:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            missing = [process.name for process in supervisor.list() if not process.ready]
            if not missing:
                return
            step.say(f"waiting for {', '.join(missing)}")
            time.sleep(0.5)


def _check_ports(supervisor: Supervisor) -> None:
    with contextlib.suppress(SupervisorError):
        if any(process.running and LOAD_BALANCER in process.name for process in supervisor.list()):
            return
    for port, variable in zip(ports(), ("MLFLOW_EKS_HTTP_PORT", "MLFLOW_EKS_HTTPS_PORT"), strict=True):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                reason = "needs root" if error.errno == errno.EACCES else "is in use by another program"
                raise RefusedError(f"port {port} {reason}: free it, or set {variable} to another port") from error


def _endpoint_if_running(stack: Path) -> str:
    with contextlib.suppress(SupervisorError):
        return f"http://127.0.0.1:{Supervisor(stack).free_port(aws_account.PROCESS)}"
    return Engine.endpoint


@contextlib.contextmanager
def _only_command(stack: Path) -> Generator[None]:
    # Beside the stack's folder, which `down` removes.
    file = stack.with_name(f"{stack.name}.lock")
    paths.make_traversable(stack.parent)
    with contextlib.ExitStack() as held:
        while True:
            lock = held.enter_context(file.open("a+"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                print(
                    f"Waiting for the command that is at work on the local stack (process {lock.read()}).", flush=True
                )
                fcntl.flock(lock, fcntl.LOCK_EX)
            # The one that had it may have removed it meanwhile.
            if file.exists() and file.samefile(f"/proc/self/fd/{lock.fileno()}"):
                break
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            yield
        finally:
            if not stack.exists():
                file.unlink()


COMMANDS = {"up": up, "down": down, "preview": preview, "status": status, "logs": logs, "run": run}


def main(arguments: Sequence[str]) -> int:
    """Carry out one command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m local", description="The local stack.", add_help=False)
    parser.add_argument(
        "command", choices=COMMANDS, help="; ".join(f"{name}: {command.__doc__}" for name, command in COMMANDS.items())
    )
    parsed, extra = parser.parse_known_args(arguments)
    # A tool that the database's user must read is not to be hidden by the user's umask.
    os.umask(0o022)
    try:
        COMMANDS[parsed.command](paths.stack_dir(), extra)
    except (RefusedError, ToolError, SupervisorError, EngineError) as reason:
        if str(reason):
            print(f"error: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. The next `make up` or `make down` goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
