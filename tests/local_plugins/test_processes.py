"""A plugin is installed where the engine looks, starts, answers with its version, and ends silently with its engine.

With a plugin server (a nursery) the plugin is a fork, without one it is a new process. The engine sees no difference.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import grpc
import pytest
from google.protobuf import empty_pb2
from pulumi.runtime.proto import language_pb2_grpc, provider_pb2_grpc

from local import paths
from local.plugins import install, language

PACKAGES = ("aws", "kubernetes", "postgresql", "random")


class Nursery:
    """A plugin server that runs until the end of the block."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> "Nursery":
        command = [sys.executable, "-m", "local.plugins.nursery", str(self.path)]
        # The umask differs from the callers', so that a test can see which one a fork has.
        self.process = subprocess.Popen(command, cwd=paths.CHECKOUT, env={"PATH": os.defpath}, umask=0o077)
        eventually(self.path.exists)
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()

    def plugins(self) -> list[int]:
        """Return the running processes that it has forked."""
        return [
            int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with Nursery(tmp_path_factory.mktemp("machine") / "nursery") as running:
        yield running


@pytest.fixture
def forking(nursery: Nursery, tmp_path: Path) -> Path:
    """A folder with installed plugins that a plugin server forks."""
    install(tmp_path / "home", tmp_path / "bin", nursery.path)
    return tmp_path


@pytest.fixture(params=["alone", "forked"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with installed plugins, which are forked or new processes."""
    if request.param == "forked":
        return request.getfixturevalue("forking")
    install(tmp_path / "home", tmp_path / "bin", tmp_path / "nursery")
    return tmp_path


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def command_line(pid: int) -> bytes:
    """Return the command line of a process, empty if the process has ended."""
    file = Path(f"/proc/{pid}/cmdline")
    return file.read_bytes() if file.exists() else b""


def launcher(home: Path, package: str) -> Path:
    if package == "language":
        return home / "bin" / "pulumi-language-python"
    return home / f"home/plugins/resource-{package}-v{version(f'pulumi-{package}')}/pulumi-resource-{package}"


@pytest.fixture
def process(home: Path, package: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "MLFLOW_EKS_STACK_DIR": str(home), "AWS_REGION": "eu-west-1"}
    with subprocess.Popen(
        [launcher(home, package), "127.0.0.1:1"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        yield started
        started.kill()


@pytest.mark.parametrize("package", [*PACKAGES, "language"])
def test_a_plugin_says_its_version_and_ends_quietly(process: subprocess.Popen[str], package: str):
    assert process.stdout is not None
    with grpc.insecure_channel(f"127.0.0.1:{int(process.stdout.readline())}") as channel:
        stub = (
            language_pb2_grpc.LanguageRuntimeStub if package == "language" else provider_pb2_grpc.ResourceProviderStub
        )
        answer = stub(channel).GetPluginInfo(empty_pb2.Empty(), timeout=20)
    assert answer.version == version("pulumi" if package == "language" else f"pulumi-{package}")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 0


def test_a_plugin_does_not_outlive_the_engine(home: Path):
    engine = "import subprocess, sys; p = subprocess.Popen([sys.argv[1], 'x'], stdout=subprocess.PIPE); p.stdout.readline(); print(p.pid, flush=True); p.wait()"
    with subprocess.Popen(
        [sys.executable, "-c", engine, launcher(home, "random")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        plugin = int(process.stdout.readline())
        process.kill()
    eventually(lambda: not command_line(plugin))


@contextmanager
def started(home: Path, package: str) -> Generator[subprocess.Popen[str]]:
    """Provide a plugin that has printed its port."""
    with subprocess.Popen(
        [launcher(home, package), "127.0.0.1:1"],
        cwd=home,
        env=os.environ | {"MLFLOW_EKS_STACK_DIR": str(home)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 20)[0], "the plugin printed no port within 20 s"
            assert process.stdout.readline().strip().isdigit()
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_fork_ends_with_what_the_engine_started(nursery: Nursery, forking: Path, number: signal.Signals):
    with started(forking, "random") as process:
        (fork,) = nursery.plugins()
        process.send_signal(number)
        eventually(lambda: not command_line(fork))


def test_what_the_engine_started_ends_with_the_fork(nursery: Nursery, forking: Path):
    with started(forking, "random") as process:
        os.kill(nursery.plugins()[0], signal.SIGKILL)
        process.wait(timeout=20)


def test_a_fork_has_the_surroundings_of_its_caller(nursery: Nursery, forking: Path):
    with started(forking, "random") as process:
        (fork,) = nursery.plugins()
        assert Path(f"/proc/{fork}/cwd").readlink() == forking
        assert Path(f"/proc/{fork}/fd/1").readlink() == Path(f"/proc/{process.pid}/fd/1").readlink()
        masks = {
            Path(f"/proc/{pid}/status").read_text().partition("Umask:")[2].split()[0] for pid in (fork, process.pid)
        }
        assert len(masks) == 1


def test_a_fork_whose_engine_is_gone_before_it_serves_ends(nursery: Nursery, forking: Path):
    # The fork cannot print its port, which raises an exception. It must end and not accept calls as a plugin server.
    with subprocess.Popen(
        [launcher(forking, "random"), "127.0.0.1:1"],
        env=os.environ | {"MLFLOW_EKS_STACK_DIR": str(forking)},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.wait(timeout=20)
    eventually(lambda: not nursery.plugins())


def test_without_its_nursery_the_next_plugin_is_a_process_of_its_own_while_forks_still_run(tmp_path: Path):
    install(tmp_path / "home", tmp_path / "bin", tmp_path / "nursery")
    with Nursery(tmp_path / "nursery") as ending, started(tmp_path, "random") as fork:
        ending.process.kill()
        ending.process.wait()
        with started(tmp_path, "random") as process:
            assert b"launch.py" not in command_line(process.pid)
        assert b"launch.py" in command_line(fork.pid)


def test_a_nursery_that_is_older_than_its_files_makes_room_for_a_new_one(nursery: Nursery, forking: Path):
    def is_forked() -> bool:
        with started(forking, "random") as process:
            return b"launch.py" in command_line(process.pid)

    eventually(is_forked)
    (paths.CHECKOUT / "local" / "plugins" / "random.py").touch()
    assert not is_forked()
    eventually(is_forked)


def test_installing_again_changes_nothing(tmp_path: Path):
    def files() -> dict[Path, bytes]:
        install(tmp_path / "home", tmp_path / "bin", tmp_path / "nursery")
        return {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    assert files() == files()


def test_the_second_run_of_a_program_imports_its_modules_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "counting_module.py").write_text("count = 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for _ in range(2):
        language._forget_modules_in(tmp_path)
        module = __import__("counting_module")
        assert module.count == 0
        module.count += 1
    assert "pytest" in sys.modules
