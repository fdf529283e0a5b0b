"""A plugin is installed where the engine looks, starts, says its version, and ends with the engine: quietly, whatever happens."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import grpc
import pytest
from google.protobuf import empty_pb2
from pulumi.runtime.proto import language_pb2_grpc, provider_pb2_grpc

from local.plugins import install, language

PACKAGES = ("aws", "kubernetes", "postgresql", "random")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    install(tmp_path / "home", tmp_path / "bin")
    return tmp_path


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
    deadline = time.monotonic() + 20
    while Path(f"/proc/{plugin}/cmdline").exists() and Path(f"/proc/{plugin}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "the plugin still runs"
        time.sleep(0.1)


def test_installing_again_changes_nothing(home: Path):
    before = {file: file.read_bytes() for file in home.rglob("*") if file.is_file()}
    install(home / "home", home / "bin")
    assert {file: file.read_bytes() for file in home.rglob("*") if file.is_file()} == before


def test_the_second_run_of_a_program_imports_its_modules_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "counting_module.py").write_text("count = 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for _ in range(2):
        language._forget_modules_in(tmp_path)
        module = __import__("counting_module")
        assert module.count == 0
        module.count += 1
    assert "pytest" in sys.modules
