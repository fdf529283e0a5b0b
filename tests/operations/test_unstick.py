import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from operations import unstick
from operations.stack_cluster import Kubectl, KubectlError, Release, State
from operations.unstick import Revision, free_release, to_forget
from tests import ROOT

MLFLOW = Release("mlflow", "mlflow", 60)
RELEASE = {
    "type": "kubernetes:helm.sh/v3:Release",
    "inputs": {"name": "mlflow", "namespace": "mlflow", "timeout": 600},
}
PROVIDER = {"type": "pulumi:providers:kubernetes", "inputs": {"kubeconfig": "{}"}}
NAMESPACE = {"type": "kubernetes:core/v1:Namespace", "inputs": {"metadata": {"name": "mlflow"}}}
FREE = "error: no resource named 'x' found"
PROGRAM = """\
#!{python}
import json, sys
table = json.load(open({table!r}))
arguments = sys.argv[1:]
with open({table!r} + ".log", "a") as log:
    log.write(" ".join([{name!r}, *arguments]) + "\\n")
for words, answer in table[{name!r}]:
    if all(word in arguments for word in words):
        if isinstance(answer, str) and answer.startswith("error"):
            sys.exit(answer)
        print(answer if isinstance(answer, str) else json.dumps(answer), end="")
        break
"""
"""A program that answers from a table and writes down its arguments."""


@dataclass
class Machine:
    """Programs `pulumi` and `kubectl` with prepared answers."""

    folder: Path
    state: Mapping[str, Any]
    secrets: Sequence[str] = ()
    refresh: str = FREE

    def run(self) -> tuple[int, str, list[str]]:
        """Run the command, and return its status, what it printed, and the commands that changed something."""
        table = {
            "pulumi": [(["export"], {"deployment": self.state}), (["refresh"], self.refresh)],
            "kubectl": [(["get", "owner=helm,name=mlflow"], "\n".join(self.secrets)), (["get"], "")],
        }
        file = self.folder / "answers.json"
        file.write_text(json.dumps(table))
        for name in table:
            program = self.folder / name
            program.write_text(PROGRAM.format(python=sys.executable, table=str(file), name=name))
            program.chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-m", "operations.unstick", "dev"],
            cwd=ROOT,
            env={**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        log = Path(f"{file}.log").read_text().splitlines()
        changes = [line for line in log if " delete " in line or " cancel " in line]
        return done.returncode, done.stdout + done.stderr, changes


def state(*resources: Mapping[str, Any], creating: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    pending = [{"type": "creating", "resource": each} for each in creating]
    return {"resources": [PROVIDER, NAMESPACE, *resources], "pending_operations": pending}


def locked(host: str, pid: int) -> str:
    return f"error: the stack is currently locked by 1 lock(s).\n  file:///a.json: created by ada@{host} (pid {pid}) at now"


@pytest.mark.parametrize(
    ("statuses", "forgotten"),
    [
        ([], []),
        (["deployed"], []),
        (["superseded", "failed", "deployed"], []),
        (["deployed", "pending-upgrade"], ["v2"]),
        (["superseded", "failed", "pending-rollback"], ["v3"]),
        (["pending-install"], ["v1"]),
        (["superseded", "uninstalling"], ["v1", "v2"]),
    ],
)
def test_helm_forgets_what_it_cannot_go_on_from(statuses: Sequence[str], forgotten: Sequence[str]) -> None:
    revisions = [Revision(f"v{number}", number, status) for number, status in enumerate(statuses, 1)]
    assert [each.secret for each in to_forget(revisions)] == forgotten


def test_a_killed_upgrade_is_freed_and_the_next_command_named(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    secrets = ["sh.helm.release.v1.mlflow.v1  1  deployed", "sh.helm.release.v1.mlflow.v2  2  pending-upgrade"]
    machine = Machine(tmp_path, state(RELEASE), secrets, locked(socket.gethostname(), ended.pid))
    code, said, changes = machine.run()
    assert code == 0, said
    assert f"lock: removed, because its owner has ended ({ended.pid})." in said
    assert "mlflow/mlflow: was pending-upgrade. Helm has forgotten revision 2; what runs is as it was." in said
    assert "pulumi up --refresh --stack dev" in said
    assert [line.split(" ", 1)[0] for line in changes] == ["pulumi", "kubectl"]
    assert changes[1].endswith("-n mlflow delete secret sh.helm.release.v1.mlflow.v2")


# Without its plugin, an engine ends in order: no lock, and no interrupted operation in the state.
def test_an_installation_of_which_the_state_knows_nothing_is_freed(tmp_path: Path) -> None:
    machine = Machine(tmp_path, state(), ["sh.helm.release.v1.mlflow.v1 1 pending-install"])
    code, said, changes = machine.run()
    assert code == 0, said
    assert "mlflow/mlflow: was pending-install. Helm has forgotten revision 1; what runs is as it was." in said
    assert "pulumi up --refresh --stack dev" in said
    assert any(line.endswith("-n mlflow delete secret sh.helm.release.v1.mlflow.v1") for line in changes)


# A plugin that goes on without its engine finishes the installation, and the state does not hear of it.
@pytest.mark.parametrize("status", ["pending-install", "deployed"])
def test_a_killed_installation_is_found_by_the_operation_in_the_state(tmp_path: Path, status: str) -> None:
    machine = Machine(tmp_path, state(creating=[RELEASE]), [f"sh.helm.release.v1.mlflow.v1 1 {status}"])
    code, said, changes = machine.run()
    assert code == 0, said
    assert len(changes) == 1
    assert "pulumi refresh --clear-pending-creates --stack dev\n  pulumi up --stack dev" in said


def test_a_resource_that_may_be_half_created_is_asked_about(tmp_path: Path) -> None:
    bucket = {"type": "aws:s3/bucket:Bucket", "inputs": {}}
    _, said, changes = Machine(tmp_path, state(creating=[RELEASE, bucket])).run()
    assert changes == []
    assert "mlflow/mlflow: Helm knows no such release." in said
    assert "--clear-pending-creates" not in said
    assert "pulumi refresh --stack dev " in said


def test_a_stack_that_is_not_stuck_is_left_alone(tmp_path: Path) -> None:
    machine = Machine(tmp_path, state(RELEASE), ["sh.helm.release.v1.mlflow.v3 3 deployed"])
    code, said, changes = machine.run()
    assert (code, changes) == (0, [])
    assert "mlflow/mlflow: nothing to do, revision 3 is deployed." in said


@pytest.mark.parametrize(
    ("here", "sentence"),
    [
        (False, "which cannot be seen from here. If that command has ended, run `pulumi cancel --stack dev`"),
        (True, "which runs: wait until it ends, or end it."),
    ],
)
def test_the_lock_of_a_command_that_may_run_is_left_alone(tmp_path: Path, here: bool, sentence: str) -> None:
    lock = locked(socket.gethostname() if here else "elsewhere", os.getpid())
    machine = Machine(tmp_path, state(RELEASE), ["v1 1 pending-install"], lock)
    code, said, changes = machine.run()
    assert (code, changes) == (1, [])
    assert sentence in said
    assert "Traceback" not in said


def test_another_error_of_pulumi_is_shown(tmp_path: Path) -> None:
    code, said, _ = Machine(tmp_path, state(), refresh="error: passphrase must be set").run()
    assert code == 1
    assert "passphrase must be set" in said


def test_a_plugin_that_still_works_on_the_release_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    statuses = iter(["pending-upgrade", "pending-upgrade", "deployed"])
    asked: list[Sequence[str]] = []

    class Cluster(Kubectl):
        def __call__(self, *arguments: str) -> str:
            asked.append(arguments)
            return f"v2 2 {next(statuses)}"

    monkeypatch.setattr(unstick.time, "sleep", lambda _: None)
    assert free_release(Cluster([]), MLFLOW, lambda: True) == "mlflow/mlflow: nothing to do, revision 2 is deployed."
    assert len(asked) == 3


def test_a_plugin_that_never_ends_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cluster(Kubectl):
        def __call__(self, *arguments: str) -> str:
            return "v2 2 pending-upgrade"

    monkeypatch.setattr(unstick.time, "sleep", lambda _: None)
    with pytest.raises(KubectlError, match="pulumi-resource-kubernetes still works on it after 0 s"):
        free_release(Cluster([]), Release("mlflow", "mlflow", 0), lambda: True)


@pytest.mark.parametrize(
    ("inputs", "arguments"),
    [
        ({"context": "node"}, ["--context", "node"]),
        # Pulumi takes the variable KUBECONFIG for the setting.
        (
            {"context": "node", "kubeconfig": "/home/me/config"},
            ["--kubeconfig", "/home/me/config", "--context", "node"],
        ),
    ],
    ids=["the usual file", "a file that a variable names"],
)
def test_kubectl_asks_the_cluster_of_the_state(inputs: dict[str, Any], arguments: Sequence[str]) -> None:
    with State(
        releases=[], namespaces=[], half_made=[], lost=[], being_created=[], provider=inputs
    ).kubectl() as kubectl:
        assert kubectl.cluster == arguments
