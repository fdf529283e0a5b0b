"""The supervisor keeps declared processes running, says why one cannot run, and leaves no process behind."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from local.supervisor.client import Supervisor
from local.supervisor.spec import ProcessSpec, Status, SupervisorError

PYTHON = sys.executable
ENV = {"PATH": os.environ["PATH"]}


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path)
    assert supervisor.start()
    yield supervisor
    supervisor.stop()


def eventually(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def status(supervisor: Supervisor, name: str) -> Status:
    declared = supervisor.get(name)
    assert declared is not None
    return declared


def pid_of(supervisor: Supervisor, name: str) -> int:
    pid = status(supervisor, name).pid
    assert pid is not None
    return pid


def sleeper(name: str = "sleeper", seconds: int = 1000) -> ProcessSpec:
    return ProcessSpec(name, ["sleep", str(seconds)], ENV)


def web_server(supervisor: Supervisor, folder: Path) -> ProcessSpec:
    port = supervisor.free_port("web")
    argv = [PYTHON, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    return ProcessSpec("web", argv, ENV, cwd=str(folder), ready={"http": f"http://127.0.0.1:{port}/"})


def test_a_process_is_ready_when_it_answers(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.keep_running(web_server(supervisor, tmp_path), timeout=20)
    assert status(supervisor, "web").ready


def test_an_identical_put_changes_nothing(supervisor: Supervisor) -> None:
    supervisor.keep_running(sleeper())
    before = supervisor.list()
    supervisor.keep_running(sleeper())
    assert supervisor.list() == before


def test_a_different_spec_restarts_the_process(supervisor: Supervisor) -> None:
    supervisor.keep_running(sleeper(seconds=1000))
    before = pid_of(supervisor, "sleeper")
    supervisor.keep_running(sleeper(seconds=1001))
    assert pid_of(supervisor, "sleeper") != before
    assert not alive(before)


def test_a_process_that_dies_is_started_again(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.keep_running(web_server(supervisor, tmp_path), timeout=20)
    before = pid_of(supervisor, "web")
    os.kill(before, signal.SIGKILL)
    eventually(lambda: (now := status(supervisor, "web")).ready and now.pid != before)
    assert status(supervisor, "web").restarts == 1


def test_a_process_that_exits_raises_with_the_end_of_its_log(supervisor: Supervisor) -> None:
    with pytest.raises(SupervisorError, match=r"(?s)broken exited with 3.*no such table"):
        supervisor.keep_running(ProcessSpec("broken", ["sh", "-c", "echo no such table; exit 3"], ENV))
    supervisor.delete("broken")
    assert supervisor.get("broken") is None


def test_a_program_that_is_not_there_is_named(supervisor: Supervisor) -> None:
    with pytest.raises(SupervisorError, match="no-such-program"):
        supervisor.keep_running(ProcessSpec("missing", ["/no-such-program"], ENV))


def test_a_process_that_never_answers_raises_in_time(supervisor: Supervisor) -> None:
    silent = replace(sleeper(), ready={"tcp": f"127.0.0.1:{supervisor.free_port('silent')}"})
    with pytest.raises(SupervisorError, match=r"was not ready after 0\.5 s"):
        supervisor.keep_running(silent, timeout=0.5)


def test_changed_files_are_reloaded_without_a_restart(supervisor: Supervisor, tmp_path: Path) -> None:
    config, seen = tmp_path / "etc" / "config", tmp_path / "seen"
    # This is not a shell script, because dash loses a signal that arrives while it starts a command.
    script = (
        "import shutil, signal, sys, time\n"
        "copy = lambda *_: shutil.copyfile(*sys.argv[1:])\n"
        "signal.signal(signal.SIGHUP, copy)\n"
        "copy()\n"
        "while True: time.sleep(0.1)"
    )
    argv = [sys.executable, "-c", script, str(config), str(seen)]
    spec = ProcessSpec("reloads", argv, ENV, files={str(config): "one"}, reload_signal="SIGHUP")
    supervisor.keep_running(spec)
    before = pid_of(supervisor, "reloads")
    eventually(lambda: seen.exists() and seen.read_text() == "one")
    assert config.stat().st_mode & 0o777 == 0o600
    supervisor.keep_running(replace(spec, files={str(config): "two"}))
    eventually(lambda: seen.read_text() == "two")
    assert pid_of(supervisor, "reloads") == before
    supervisor.delete("reloads")
    assert not config.exists()


def test_delete_ends_what_the_process_has_forked(supervisor: Supervisor, tmp_path: Path) -> None:
    child = tmp_path / "child"
    supervisor.keep_running(ProcessSpec("forks", ["sh", "-c", f"sleep 1000 & echo $! > {child}; wait"], ENV))
    pid = int(child.read_text())
    supervisor.delete("forks")
    assert not alive(pid)


def test_what_a_process_has_started_may_finish_its_work_after_it(supervisor: Supervisor, tmp_path: Path) -> None:
    started, finished = tmp_path / "started", tmp_path / "finished"
    server = (
        "import pathlib, signal, sys, time\n"
        "started, finished = map(pathlib.Path, sys.argv[1:])\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), finished.touch(), sys.exit()))\n"
        "started.touch()\n"
        "while True: time.sleep(0.1)"
    )
    command = '"$0" -c "$1" "$2" "$3" & wait'
    supervisor.keep_running(
        ProcessSpec("parent", ["sh", "-c", command, sys.executable, server, str(started), str(finished)], ENV)
    )
    eventually(started.exists)
    supervisor.delete("parent")
    assert finished.exists()


def test_a_process_that_ignores_the_stop_signal_is_killed(supervisor: Supervisor) -> None:
    stubborn = ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]
    supervisor.keep_running(ProcessSpec("stubborn", stubborn, ENV, stop_timeout=0.3))
    pid = pid_of(supervisor, "stubborn")
    supervisor.delete("stubborn")
    assert not alive(pid)


def test_run_waits_for_the_end_and_raises_when_it_fails(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.run(ProcessSpec("init", ["sh", "-c", f"echo done > {tmp_path}/out"], ENV), timeout=10)
    assert (tmp_path / "out").read_text() == "done\n"
    with pytest.raises(SupervisorError, match=r"(?s)init exited with 1.*locked"):
        supervisor.run(ProcessSpec("init", ["sh", "-c", "echo locked; exit 1"], ENV), timeout=10)
    with pytest.raises(SupervisorError, match="was not done after"):
        supervisor.run(ProcessSpec("init", ["sleep", "1000"], ENV), timeout=0.3)


def test_a_port_is_remembered_by_its_name(supervisor: Supervisor, tmp_path: Path) -> None:
    port = supervisor.free_port("postgres")
    assert supervisor.free_port("moto") != port
    supervisor.stop()
    supervisor.start()
    assert supervisor.free_port("postgres") == port


def test_a_second_start_changes_nothing(supervisor: Supervisor) -> None:
    supervisor.keep_running(sleeper())
    before = supervisor.list()
    assert not supervisor.start()
    assert supervisor.list() == before


@pytest.mark.parametrize("victim", ["supervisor", "guardian"])
def test_a_killed_daemon_leaves_no_process_and_the_next_starts_them_again(
    supervisor: Supervisor, tmp_path: Path, victim: str
) -> None:
    grandchild = tmp_path / "grandchild"
    # The grandchild starts a new session, as PostgreSQL's processes do, so it is in no process group of its parent.
    supervisor.keep_running(
        ProcessSpec("forks", ["sh", "-c", f"setsid sleep 1000 & echo $! > {grandchild}; wait"], ENV)
    )
    daemon = int((supervisor.folder / "pid").read_text())
    left = [pid_of(supervisor, "forks"), int(grandchild.read_text())]
    guardian = int(Path(f"/proc/{daemon}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(daemon if victim == "supervisor" else guardian, signal.SIGKILL)
    eventually(lambda: not alive(left[0]))
    if victim == "supervisor":
        eventually(lambda: not alive(left[1]))
    with pytest.raises(SupervisorError, match="make up"):
        eventually(lambda: not supervisor.list())
    assert supervisor.start()
    eventually(lambda: status(supervisor, "forks").ready)
    if victim == "guardian":
        os.kill(left[1], signal.SIGKILL)


def test_a_stopped_machine_says_what_to_do(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path / "nowhere")
    supervisor.stop()
    with pytest.raises(SupervisorError, match="start it with `make up`"):
        supervisor.list()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a process as another user")
def test_a_process_can_run_as_another_user(supervisor: Supervisor, tmp_path: Path) -> None:
    config = tmp_path / "etc" / "config"
    for folder in tmp_path.parents:
        if folder.name.startswith(("pytest-", "popen-")):
            folder.chmod(0o711)
    tmp_path.chmod(0o711)
    script = f"id -un; cat {config}; exit 7"
    spec = ProcessSpec("other", ["sh", "-c", script], ENV, user="nobody", files={str(config): "private"})
    with pytest.raises(SupervisorError, match=r"(?s)exited with 7.*nobody\nprivate"):
        supervisor.keep_running(spec)
