"""Tools are installed once, completely or not at all, and an error says what is missing and what to do."""

import os
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest

from local import paths, tools
from local.tools import Say, Tool, ToolError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_EKS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def dummy(script: str = "pass", runs: list[str] | None = None) -> Tool:
    def install(tool: Tool, say: Say) -> None:
        if runs is not None:
            runs.append(tool.name)
        time.sleep(0.1)
        tools._execute(tool, [sys.executable, "-c", script])  # pyright: ignore[reportPrivateUsage]
        tool.path.write_text("program")

    return Tool("dummy", "1.0", "program", install)


def test_a_tool_is_installed_once_however_many_want_it() -> None:
    runs: list[str] = []
    threads = [threading.Thread(target=tools.ensure, args=(dummy(runs=runs),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert runs == ["dummy"]
    assert tools.ensure(dummy()).read_text() == "program"


def test_an_installation_that_was_interrupted_is_done_again() -> None:
    with pytest.raises(ToolError):
        tools.ensure(dummy("raise SystemExit(1)"))
    tool = dummy()
    tool.path.write_text("half")
    assert not tool.complete
    assert tools.ensure(tool).read_text() == "program"


def test_a_failure_ends_with_the_last_line_of_the_output_and_where_the_rest_is() -> None:
    with pytest.raises(ToolError, match=r"dummy 1\.0 could not be installed: no compiler\n.*dummy-1\.0\.log"):
        tools.ensure(dummy("print('checking'); print('no compiler'); raise SystemExit(1)"))


def test_without_a_network_it_says_so() -> None:
    with pytest.raises(ToolError, match="cannot be reached: go online, then again"):
        tools.ensure(dummy("raise SystemExit('error: Could not resolve host')"))


def test_a_full_disk_is_refused_before_anything_is_installed(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr(tools, "POSTGRES_USER", None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**10, 9 * 10**9, 10**9))  # pyright: ignore
    with pytest.raises(ToolError, match=r"1\.0 GB free .* needs 3 GB: make room, or set MLFLOW_EKS_HOME"):
        tools.check_machine([dummy()])
    assert not home.exists()
    tools.check_machine([])


def test_a_home_that_the_user_of_the_database_cannot_enter_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(tools, "POSTGRES_USER", "nobody")
    with pytest.raises(ToolError, match=f"user nobody, who cannot enter {tmp_path}: set MLFLOW_EKS_HOME"):
        tools.check_machine([])


def test_a_home_that_cannot_be_written_to_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ToolError, match="cannot be written to: set MLFLOW_EKS_HOME to a folder of yours"):
        tools.ensure(dummy())


def test_a_user_id_that_no_user_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(ToolError, match="user id 54321 has no entry in /etc/passwd"):
        tools.check_machine([])


def test_an_mlflow_that_no_chart_runs_is_refused() -> None:
    with pytest.raises(ToolError, match=r"no local MLflow 2\.0\.0, only .*3\.15\.1 and 3\.7\.0"):
        tools.mlflow("2.0.0")


def test_folders_can_be_passed_through_but_not_listed(home: Path) -> None:
    tools.ensure(dummy())
    assert home.stat().st_mode & 0o777 == 0o711
    assert paths.tools_dir().stat().st_mode & 0o777 == 0o711
