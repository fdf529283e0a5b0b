"""The Pulumi CLI of a local stack: its options and its copy of the settings."""

import sys
from pathlib import Path

import pytest

from local import paths
from local.pulumi_cli.engine import Engine, EngineError


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """An engine whose CLI prints its arguments."""
    cli = tmp_path / "bin" / "pulumi"
    cli.parent.mkdir()
    cli.write_text('#!/bin/sh\necho "$@"\n')
    cli.chmod(0o755)
    return Engine(tmp_path)


@pytest.mark.parametrize(
    ("command", "terminal", "quiet"),
    [("up", False, True), ("destroy", False, True), ("up", True, False), ("stack", False, False)],
)
def test_only_a_terminal_gets_the_dots_of_the_progress(
    engine: Engine,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    terminal: bool,
    quiet: bool,
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    engine.run(command, "--yes")
    assert ("--suppress-progress" in capfd.readouterr().out) == quiet


# The first pause lets this process set its signal handlers, else the signal would end it.
@pytest.mark.parametrize(
    ("signals", "said"), [("sleep 1; kill -INT $PPID; sleep 1", "Pulumi was interrupted"), ("", "^$")]
)
def test_an_interruption_is_named_and_another_failure_is_left_to_pulumi(
    engine: Engine, signals: str, said: str
) -> None:
    (engine.folder / "bin" / "pulumi").write_text(f"#!/bin/sh\n{signals}\nexit 1\n")
    with pytest.raises(EngineError, match=said):
        engine.run("destroy", "--yes")


def test_settings_that_are_not_yaml_are_refused_with_file_and_line(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, checkout = tmp_path / "project", tmp_path / "checkout"
    for folder in (project, checkout):
        folder.mkdir()
    for name in ("Pulumi.local.yaml", "settings-of-checkout.yaml"):
        (project / name).write_text("encryptionsalt: v1\nconfig: {}\n")
    (checkout / "Pulumi.local.yaml").write_text("config:\n  mlflow-eks:mlflow:\n    host: localhost\n   workers: 1\n")
    monkeypatch.setattr(paths, "CHECKOUT", checkout)
    with pytest.raises(EngineError, match=rf"{checkout}/Pulumi.local.yaml, line 4: .*; check indentation"):
        engine.follow_checkout()
