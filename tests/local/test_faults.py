"""An error is reported in one line, and a plain `make up` repairs the stack. A process that dies is started again.

These tests inject faults at a sample of the operations. `python -m tests.local.faults` does so at every operation.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL, Literal

from local import aws_account
from local.cluster.objects import Objects
from local.cluster.revisions import Revisions
from local.mlflow_scripts import ScriptError
from local.stack import PYTHON, LocalStack, free_ports
from local.supervisor.client import Supervisor
from local.supervisor.spec import ProcessSpec
from tests import ROOT
from tests.local import faults
from tests.local.docs_shell import Shell
from tests.local.faults import NEVER, View

pytestmark = [pytest.mark.local, pytest.mark.slow]

SAMPLE = (
    "postgres-sg",
    "postgres-instance",
    "database-owner",
    "database-schema",
    "mlflow-postgres-database-secret",
    "mlflow-release",
)
"""Resources with a fault.

Each depends on the one before, so a failure of one keeps the next from being created meanwhile.

They are the first resource on AWS, the server, a role and the schema on it, a Secret, and the release.
"""
LOG_UNTIL_REFUSED = """
import mlflow
from mlflow.entities import Metric
client = mlflow.MlflowClient()
run = client.create_run("0").info.run_id
answer = "never refused"
for batch in range(100):
    try:
        client.log_batch(run, [Metric(f"m{n}", batch, 0, batch) for n in range(1000)])
    except Exception:
        answer = "refused"
        break
print(answer)
"""
LOG_A_METRIC = "import mlflow\nwith mlflow.start_run(): mlflow.log_metric('a', 1)\nprint('logged')"


@pytest.fixture(scope="module")
def undisturbed(stack: LocalStack) -> View:
    return faults.view(stack)


@pytest.fixture(scope="module")
def battered() -> Iterator[LocalStack]:
    """A stack that is deployed. Each test breaks it and repairs it."""
    new = faults.new_stack("test-battered")
    try:
        new.up()
        yield new
    finally:
        faults.remove(new)


@pytest.mark.parametrize(
    ("kind", "sample"),
    [("error", SAMPLE), ("kill", SAMPLE), ("error-after", SAMPLE[:3]), ("kill-after", SAMPLE[:3])],
    ids=["error", "kill", "error-after", "kill-after"],
)
def test_after_a_fault_at_each_of_these_operations_one_plain_up_completes_the_stack(
    own_stack: LocalStack, undisturbed: View, kind: str, sample: Sequence[str]
) -> None:
    for name in sample:
        struck = faults.strike(own_stack, f"{name}:{kind}")
        assert struck.happened, f"{name} was not reached:\n{struck.said}"
    own_stack.command("up")
    assert faults.differences(faults.view(own_stack), undisturbed) == []


def test_after_ctrl_c_in_the_middle_a_plain_up_completes_the_stack(own_stack: LocalStack, undisturbed: View) -> None:
    with subprocess.Popen(
        [PYTHON, "-m", "local", "up"],
        cwd=ROOT,
        env=own_stack.environment() | {"MLFLOW_EKS_FAULT": NEVER},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A terminal sends Ctrl-C to the whole group, so the command needs its own. A process that a shell runs in the
        # background ignores SIGINT, so the handler is set here.
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    ) as running:
        wait_until(lambda: len(faults.operations(own_stack)) >= 25)
        os.killpg(running.pid, signal.SIGINT)
        output, _ = running.communicate(timeout=300)
    assert running.returncode != 0
    assert "Traceback" not in output
    own_stack.command("up")
    assert faults.differences(faults.view(own_stack), undisturbed) == []


def test_the_state_is_in_files_that_are_put_in_place_whole(stack: LocalStack) -> None:
    # The engine truncates an attributes file and then writes it. A kill in between would leave a state that cannot be
    # read.
    assert list((stack.folder / "backend").rglob("local.json"))
    assert not list((stack.folder / "backend").rglob("*.attrs"))


@pytest.mark.parametrize("kind", ["error", "kill", "kill-after"])
def test_down_leaves_nothing_of_a_half_made_stack(own_stack: LocalStack, kind: str) -> None:
    struck = faults.strike(own_stack, f"postgres-instance:{kind}")
    assert struck.happened, struck.said
    own_stack.command("down")
    assert not own_stack.folder.exists()
    wait_until(lambda: not list(faults.strays(own_stack.folder)) and not processes_of(own_stack))


@pytest.mark.parametrize("killed", ["engine and plugin", "engine"])
def test_a_destroy_that_is_killed_while_it_uninstalls_mlflow_is_an_error_until_it_is_repaired(
    own_stack: LocalStack, undisturbed: View, killed: str
) -> None:
    own_stack.up()
    command = [PYTHON, "-m", "local", "down"]
    with subprocess.Popen(command, cwd=ROOT, env=own_stack.environment(), stdout=subprocess.DEVNULL) as running:
        wait_until(lambda: helm_remembers(own_stack) == "uninstalling")
        (lock,) = (own_stack.folder / "backend" / ".pulumi" / "locks").rglob("*.json")
        os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)
        if killed == "engine and plugin":
            kill(own_stack, "plugins")
        assert running.wait(60) == 1
    if killed == "engine":
        # The plugin goes on with the uninstall, and then only the state still has the release.
        wait_until(lambda: helm_remembers(own_stack) is None)
    for arguments in (("preview",), ("up", "--yes", "--skip-preview")):
        own_stack.pulumi("cancel", "--yes", ok=False)
        refused = own_stack.pulumi(*arguments, ok=False)
        assert refused.returncode != 0
        assert "resource 'mlflow/mlflow' does not exist" in refused.stdout + refused.stderr
    if killed == "engine and plugin":
        # The way on a cluster.
        Shell(own_stack).run(f"{PYTHON} -m operations.unstick local", "pulumi up --refresh")
    own_stack.command("up")
    assert faults.differences(faults.view(own_stack), undisturbed) == []


def helm_remembers(stack: LocalStack) -> str | None:
    """Return the status of MLflow's newest revision."""
    record = Revisions(Objects(stack.folder / "cluster" / "objects")).last("mlflow", "mlflow")
    return record["status"]["status"] if record else None


def test_an_unreachable_database_is_told_by_host_and_port_and_the_right_address_is_enough(
    own_stack: LocalStack, undisturbed: View
) -> None:
    closed, _ = free_ports()
    failed = own_stack.command(
        "up", "--config-path", "--config", f"mlflow-eks:database.adminAddress=127.0.0.1:{closed}", ok=False
    )
    assert failed.returncode != 0
    told = [line for line in (failed.stdout + failed.stderr).splitlines() if "cannot connect to PostgreSQL" in line]
    assert told
    assert all(f"127.0.0.1:{closed}" in line and "refused" in line for line in told), told
    own_stack.command("up")
    assert faults.differences(faults.view(own_stack), undisturbed) == []


def test_a_master_password_that_is_wrong_is_told_and_a_new_one_puts_it_right(battered: LocalStack) -> None:
    before = faults.view(battered)
    wrong = f"wrong-{secrets.token_hex(8)}"
    with battered.rdsadmin() as server:
        server.execute(SQL("ALTER ROLE postgres PASSWORD {}").format(Literal(wrong)))
    failed = battered.command(*faults.up_arguments(1), ok=False)
    assert failed.returncode != 0
    (server,) = servers(battered)
    port = Supervisor(battered.folder).free_port(f"rds-{server.name}")
    told = [line for line in (failed.stdout + failed.stderr).splitlines() if "cannot connect to PostgreSQL" in line]
    assert told
    assert all(f"127.0.0.1:{port}/" in line and "password authentication failed" in line for line in told), told
    # The pods have another login, so they keep working.
    assert logs_in(battered)
    new = secrets.token_hex(16)
    battered.pulumi("config", "set", "--path", "--secret", "mlflow-eks:postgres.masterPassword", new)
    battered.pulumi("up", "--yes", "--skip-preview")
    with psycopg.connect(
        host="127.0.0.1", port=port, user="postgres", password=new, dbname="mlflow", sslmode="require"
    ):
        pass
    # Return to the settings of the checkout: a generated password, and the first login role active.
    battered.command("up")
    assert faults.differences(faults.view(battered), before) == []


def test_mlflow_outlives_the_sudden_death_of_its_database_under_load(battered: LocalStack) -> None:
    (server,) = servers(battered)
    mlflow = process(battered, "mlflow.")
    with load(battered) as answers:
        wait_until(lambda: answers[200] > 20)
        kill(battered, f"rds-{server.name}")
        wait_until(lambda: process(battered, "rds-").restarts > 0 and process(battered, "rds-").ready)
        seen = answers[200]
        wait_until(lambda: answers[200] > seen + 20)
    assert process(battered, "mlflow.").pid == mlflow.pid
    wait_until(lambda: logs_a_metric(battered))


@pytest.mark.parametrize("name", ["mlflow.", "haproxy.", aws_account.PROCESS])
def test_a_process_that_is_killed_comes_back(battered: LocalStack, name: str) -> None:
    killed = process(battered, name)
    kill(battered, killed.name)
    wait_until(lambda: process(battered, name).pid not in {None, killed.pid} and process(battered, name).ready)
    wait_until(lambda: logs_in(battered))
    wait_until(lambda: logs_a_metric(battered))


def test_after_the_death_of_the_whole_machine_a_plain_up_brings_everything_back(battered: LocalStack) -> None:
    before = faults.view(battered)
    run = battered.client("import mlflow\nwith mlflow.start_run() as run: pass\nprint(run.info.run_id)")
    supervisor = int((battered.folder / "supervisor" / "pid").read_text())
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: not processes_of(battered))
    battered.command("up")
    assert faults.differences(faults.view(battered), before) == []
    assert battered.client(f"import mlflow\nprint(mlflow.get_run('{run}').info.run_id)") == run


def test_after_a_full_disk_the_database_goes_on_when_there_is_space_again(battered: LocalStack) -> None:
    with small_disk(battered) as disk:
        wait_until(lambda: logs_in(battered))
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(b"\0" * 65536):
                pass
        assert battered.client(LOG_UNTIL_REFUSED) == "refused"
        assert "No space left on device" in Supervisor(battered.folder).log(process(battered, "rds-").name).read_text()
        filler.unlink()
        wait_until(lambda: process(battered, "rds-").ready and logs_in(battered))
        wait_until(lambda: logs_a_metric(battered))


# Helpers of the tests


def wait_until(true: Callable[[], bool], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"the condition was not met within {seconds:.0f} s"
        time.sleep(0.2)


def servers(stack: LocalStack) -> list[Path]:
    return sorted((stack.folder / "postgres").glob("*"))


def process(stack: LocalStack, name: str) -> Any:
    (only,) = [status for status in Supervisor(stack.folder).list() if status.name.startswith(name)]
    return only


def kill(stack: LocalStack, name: str) -> None:
    os.kill(process(stack, name).pid, signal.SIGKILL)


def processes_of(stack: LocalStack) -> list[int]:
    """Return the ids of processes whose command contains the stack's folder."""
    pids: list[int] = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"{stack.folder}/" in command.read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                pids.append(int(command.parent.name))
    return pids


def logs_in(stack: LocalStack) -> bool:
    admin = faults.secret_data(stack, faults.ADMIN_SECRET)
    login = (admin["admin-user"], admin["admin-password"])
    with contextlib.suppress(OSError):
        return stack.get("/api/2.0/mlflow/experiments/search?max_results=1", login=login).status == 200
    return False


def logs_a_metric(stack: LocalStack) -> bool:
    # MLflow's pool still has connections that died with the server. Each makes one request fail.
    with contextlib.suppress(ScriptError):
        return stack.client(LOG_A_METRIC) == "logged"
    return False


@contextlib.contextmanager
def load(stack: LocalStack) -> Iterator[Counter[int]]:
    """Run four clients without a pause, and provide the number of answers by status. Status 0: no answer."""
    answers: Counter[int] = Counter()
    admin = faults.secret_data(stack, faults.ADMIN_SECRET)
    login = (admin["admin-user"], admin["admin-password"])
    end = threading.Event()

    def ask() -> None:
        while not end.is_set():
            try:
                answer = stack.get("/api/2.0/mlflow/experiments/search?max_results=1", login=login)
                answers[answer.status] += 1
            except OSError:
                answers[0] += 1

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        yield answers
    finally:
        end.set()
        for client in clients:
            client.join()
        print(f"answers by status: {dict(answers)}")


@contextlib.contextmanager
def small_disk(stack: LocalStack) -> Iterator[Path]:
    """Move the database's files to a disk of 300 MB for the block.

    Skip the test where such a disk cannot be mounted.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    (server,) = servers(stack)
    data, aside = server / "data", server / "data.aside"
    supervisor, name = Supervisor(stack.folder), f"rds-{server.name}"
    spec = ProcessSpec(**json.loads((stack.folder / "supervisor" / "specs" / f"{name}.json").read_text()))
    supervisor.delete(name)
    data.rename(aside)
    data.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300m", "mlflow-eks-test", data]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    try:
        copy(aside, data)
        supervisor.keep_running(spec)
        if mounted.returncode != 0:
            pytest.skip(f"root cannot mount here: {mounted.stderr.strip()}")
        yield data
    finally:
        supervisor.delete(name)
        if mounted.returncode == 0:
            shutil.rmtree(aside)
            copy(data, aside)
            subprocess.run(["umount", data], check=True)
        shutil.rmtree(data)
        aside.rename(data)
        supervisor.keep_running(spec)


def copy(source: Path, target: Path) -> None:
    """Copy a folder with owners and modes, which PostgreSQL checks."""
    subprocess.run(["cp", "-a", f"{source}/." if target.exists() else source, target], check=True)
