"""The local stack's commands: `python -m local up | down | preview | status | logs | pulumi | aws | maintenance`."""

import argparse
import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from local import aws_account, paths, tools
from local.charts.mlflow import APP_VERSIONS
from local.cluster.objects import Objects
from local.cluster.revisions import Revisions
from local.plugins import start_and_attach as plugins
from local.progress import Progress, Step, box
from local.pulumi_cli.engine import STACK, Engine, EngineError, ports
from local.supervisor.client import Supervisor
from local.supervisor.spec import SupervisorError
from local.tools import ToolError

DEFAULT_MLFLOW_VERSION = APP_VERSIONS["1.11.5"]
"""MLflow of the default chart version. Another one is installed when a release asks for it."""
PULUMI = ".venv/bin/python -m local pulumi"
"""Command that runs the CLI on the local stack."""
MLFLOW_POD = "mlflow.mlflow-"
"""Part of the names of MLflow's processes."""


class RefusedError(Exception):
    """The command cannot begin. The message says what to do."""


def up(stack: Path, extra: Sequence[str]) -> None:
    """Bring up everything that does not run yet."""
    with _only_command(stack):
        _check_ports(stack)
        engine, restarted = _start(stack)
        refresh = _recover(stack, engine, restarted)
        # The box says the same, with commands that work here.
        engine.run("up", "--yes", "--skip-preview", "--suppress-outputs", "--stack", STACK, *refresh, *extra)
        print("\n" + _site(stack, engine))


def _site(stack: Path, engine: Engine) -> str:
    """Return the address of the site and the ways to log in."""
    outputs = engine.outputs()
    rows = [("URL", outputs["url"])]
    if "adminUser" in outputs:
        password = str(outputs["adminPasswordCommand"]).replace("pulumi", PULUMI, 1)
        rows += [("user", outputs["adminUser"]), ("password", password)]
    rows += [("certificate", "self-signed, so a browser asks once"), ("logs", "make logs"), ("stop", "make down")]
    releases = Revisions(Objects(stack / "cluster" / "objects")).newest()
    versions = [release["status"]["appVersion"] for release in releases if release["chart"] == "mlflow"]
    text = box(" ".join(["MLflow", *versions, "runs on this machine."]), rows)
    if "client" in outputs:
        client = (
            str(outputs["client"]).replace("pulumi", PULUMI, 1).partition("\nexport MLFLOW_TRACKING_INSECURE_TLS")[0]
        )
        trust = f"export MLFLOW_TRACKING_SERVER_CERT_PATH={_certificate(stack)}"
        text += f"\n\nFor an MLflow client in this shell:\n\n{client}\n{trust}"
    return text


def _certificate(stack: Path) -> Path:
    """Write the certificate that the site serves to a file, for clients that shall trust it."""
    file = stack / "site.crt"
    file.write_text(ssl.get_server_certificate(("localhost", ports()[1])))
    return file


def preview(stack: Path, extra: Sequence[str]) -> None:
    """Show what `up` would change."""
    with _only_command(stack):
        existed = Engine(stack).exists()
        engine, restarted = _start(stack)
        engine.unlock()
        if engine.interrupted():
            if restarted:
                _wait_for_processes(Supervisor(stack))
            note = (
                "The last command was interrupted: `make up` repairs the stack. This preview shows it as it was left."
            )
            print(note, file=sys.stderr)
            # The state does not know how far the interrupted operation came.
            extra = ["--refresh", *extra]
        detail = [] if "--json" in extra else ["--diff"]
        engine.run("preview", "--stack", STACK, *detail, *extra)
        if not existed:
            started = ", ".join(process.name for process in Supervisor(stack).list())
            note = f"Started for this preview: {started}. `make up` goes on with them, `make down` ends them."
            print(note, file=sys.stderr)


def pulumi(stack: Path, extra: Sequence[str]) -> None:
    """Run any command of the Pulumi CLI on the local stack, for example `pulumi stack output`."""
    engine = Engine(stack, _endpoint_if_running(stack))
    if not engine.exists():
        raise RefusedError("there is no local stack yet: `make up` creates it")
    engine.follow_checkout()
    engine.run(*extra)


def maintenance(stack: Path, extra: Sequence[str]) -> None:
    """Let the maintenance window of the database pass: what waits for it is carried out."""
    if not stack.exists():
        raise RefusedError("there is no local stack yet: `make up` creates it")
    os.environ.update(aws_account.credentials(_endpoint_if_running(stack)))
    # boto3 takes a second to load, which no other command needs to wait for.
    from local.plugins.aws.maintenance import let_pass  # noqa: PLC0415

    print(*let_pass(), sep="\n")


def aws(stack: Path, extra: Sequence[str]) -> None:
    """Send a call to the local AWS account, as the AWS CLI does, for example `aws rds describe-db-instances`."""
    if not stack.exists():
        raise RefusedError("there is no local stack yet: `make up` creates it")
    # boto3 takes half a second to load, and no other command needs it.
    from local.aws_account import command  # noqa: PLC0415

    try:
        print(command.run(_endpoint_if_running(stack), extra))
    except command.CommandError as error:
        raise RefusedError(str(error)) from None


def down(stack: Path, extra: Sequence[str]) -> None:
    """Destroy the stack and stop its processes; with --force without asking Pulumi."""
    if not stack.exists():
        print("There is no local stack.")
        return
    with _only_command(stack):
        engine = Engine(stack)
        if engine.exists() and engine.readable() and "--force" not in extra:
            engine, restarted = _start(stack)
            refresh = _recover(stack, engine, restarted)
            try:
                engine.destroy(*refresh, *extra)
            except EngineError as error:
                hint = (
                    "run `make down` again to continue; `make down FORCE=1` stops all local processes and deletes all data "
                    "without asking Pulumi"
                )
                raise EngineError(f"{error}\n{hint}".strip()) from error
        Supervisor(stack).stop()
        shutil.rmtree(stack)
    print(f"The local stack is gone. The tools stay for the next one, in {paths.tools_dir()}")


def status(stack: Path, extra: Sequence[str]) -> None:
    """Show the site and the processes."""
    if not stack.exists():
        print("There is no local stack: `make up` creates it.")
        return
    processes = Supervisor(stack).list()
    for process in processes:
        state = "ready" if process.ready else "starting" if process.running else "waiting to be restarted"
        restarts = f", restarted {process.restarts} times" if process.restarts else ""
        print(f"{process.name:<50} {state}{restarts}")
    print(f"\n{'folder':<50} {stack}")
    engine = Engine(stack)
    if any(process.ready and MLFLOW_POD in process.name for process in processes) and engine.is_up():
        print("\n" + _site(stack, engine))
    else:
        print("\nMLflow does not run: `make up` starts it, `make down` ends the processes above.")


def logs(stack: Path, extra: Sequence[str]) -> None:
    """Follow the logs of all processes, or of those whose names begin as the arguments say."""
    folder = stack / "supervisor" / "logs"
    files = [log for log in folder.glob("*.log") if not extra or log.name.startswith(tuple(extra))]
    # MLflow's first.
    files.sort(key=lambda log: (MLFLOW_POD not in log.name, log.name))
    if not files:
        raise RefusedError(
            f"there is no log{' of ' + ', '.join(extra) if extra else ''}: `make status` shows what runs"
        )
    with contextlib.suppress(KeyboardInterrupt):
        subprocess.run(["tail", "-n", "20", "-F", *map(str, files)], check=False)


def _start(stack: Path) -> tuple[Engine, bool]:
    """Install the tools, start the supervisor and the AWS account.

    Returns:
        The engine, and True if a stack was there whose processes or account had to be started again.
    """
    supervisor = Supervisor(stack)
    mlflow = tools.mlflow(DEFAULT_MLFLOW_VERSION)
    tools.check_machine([tools.POSTGRES, tools.HAPROXY, mlflow])
    engine = Engine(stack)
    existed = engine.exists()
    if existed and not engine.readable():
        raise RefusedError(
            "the passphrase or the salt of the local stack is gone: `make down` removes the rest, `make up` creates a new stack"
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
        "plugins": lambda step: plugins.start(supervisor),
    }
    try:
        results = _in_parallel(work)
    except BaseException:
        # Nothing that was begun is worth keeping before there is a stack.
        if not existed:
            supervisor.stop()
        raise
    return Engine(stack, str(results["AWS account"])), existed and (started or not had_account)


def _recover(stack: Path, engine: Engine, restarted: bool) -> list[str]:
    """Repair what an interrupted command has left, and wait for what was started again.

    Returns:
        Arguments for the next command. It reads every resource if the state can be wrong about one.
    """
    if restarted:
        _wait_for_processes(Supervisor(stack))
    with Progress() as progress, progress.step("recovery") as step:
        interrupted = engine.unlock(step.say)
        step.say("waiting until Helm has ended")
        helm = Revisions(Objects(stack / "cluster" / "objects"))
        interrupted |= bool(helm.forget_interrupted())
        # After a killed `destroy` the state can have a release that is gone.
        interrupted |= engine.is_up() and "mlflow" not in {release["chart"] for release in helm.newest()}
        engine.recover(step.say)
    return ["--refresh"] if restarted or interrupted else []


def _in_parallel(work: dict[str, Callable[[Step], object]]) -> dict[str, object]:
    with Progress() as progress, ThreadPoolExecutor(max_workers=len(work)) as pool:

        def carry_out(task: Callable[[Step], object], step: Step) -> object:
            with step:
                return task(step)

        futures = {title: pool.submit(carry_out, task, progress.step(title)) for title, task in work.items()}
        try:
            # The first failure ends the others: the build of the CLI alone can take minutes.
            done, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            return {title: future.result() for title, future in futures.items()}
        except BaseException:
            tools.interrupt()
            raise


def _wait_for_processes(supervisor: Supervisor, seconds: float = 120) -> None:
    """Give everything time to come back after a restart. What does not come back is for `pulumi up` to report."""
    with Progress() as progress, progress.step("what ran before") as step:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            missing = [process.name for process in supervisor.list() if not process.ready]
            if not missing:
                return
            step.say(f"waiting for {', '.join(missing)}")
            time.sleep(0.5)


def _check_ports(stack: Path) -> None:
    with contextlib.suppress(SupervisorError):
        own = {name for port in ports() for name in balancers(stack, port)}
        if any(process.running and process.name in own for process in Supervisor(stack).list()):
            return
    for port, variable in zip(ports(), ("MLFLOW_EKS_HTTP_PORT", "MLFLOW_EKS_HTTPS_PORT"), strict=True):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                reason = "needs root" if error.errno == errno.EACCES else f"is in use by {_holder(port)}"
                raise RefusedError(f"port {port} {reason}: free it, or set {variable} to another port") from error


def _holder(port: int) -> str:
    """Return the program that listens on a port, as far as another local stack is it."""
    for stack in (paths.home() / "stacks").glob("*"):
        if any(balancers(stack, port)):
            return f"the local stack in {stack}"
    return "another program"


def balancers(stack: Path, port: int) -> Iterator[str]:
    """Find the declared processes of a stack that stand for a load balancer on a port. Their names depend on the settings."""
    binds = re.compile(rf"^\s*bind 127\.0\.0\.1:{port}\b", re.MULTILINE)
    for file in (stack / "supervisor" / "specs").glob("*.json"):
        spec = json.loads(file.read_text())
        if any(binds.search(text) for text in spec["files"].values()):
            yield spec["name"]


def _endpoint_if_running(stack: Path) -> str:
    with contextlib.suppress(SupervisorError):
        return f"http://127.0.0.1:{Supervisor(stack).free_port(aws_account.PROCESS)}"
    return Engine.endpoint


@contextlib.contextmanager
def _only_command(stack: Path) -> Generator[None]:
    # Next to the stack's folder, because `down` removes that.
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
                    f"Another command (process {lock.read()}) uses this local stack; waiting until it ends.",
                    file=sys.stderr,
                    flush=True,
                )
                fcntl.flock(lock, fcntl.LOCK_EX)
            # The command that held the lock may have removed the file meanwhile.
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


def _left() -> str:
    """Return a sentence about the processes that an interrupted command leaves."""
    with contextlib.suppress(SupervisorError):
        names = [process.name for process in Supervisor(paths.stack_dir()).list() if process.running]
        return f" Still running: {', '.join(names)}." if names else ""
    return ""


COMMANDS = {
    "up": up,
    "down": down,
    "preview": preview,
    "status": status,
    "logs": logs,
    "pulumi": pulumi,
    "aws": aws,
    "maintenance": maintenance,
}


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m local", description="The local stack.", add_help=False)
    parser.add_argument(
        "command", choices=COMMANDS, help="; ".join(f"{name}: {command.__doc__}" for name, command in COMMANDS.items())
    )
    parsed, extra = parser.parse_known_args(arguments)
    # The database runs as another user, who must be able to read the tools whatever the umask is.
    os.umask(0o022)
    try:
        COMMANDS[parsed.command](paths.stack_dir(), extra)
    except (RefusedError, ToolError, SupervisorError, EngineError) as reason:
        if str(reason):
            print(f"error: {reason}", file=sys.stderr)
        return reason.status if isinstance(reason, EngineError) else 1
    except KeyboardInterrupt:
        print(f"Interrupted. Run `make up` to continue or `make down` to remove the stack.{_left()}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
