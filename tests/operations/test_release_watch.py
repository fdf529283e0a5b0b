"""Each cause of a failing release is said in words while it lasts, and no secret of a log is shown."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from operations.release_watch import Finding, Watch, findings, masked
from operations.stack_cluster import Kubectl, KubectlError
from tests import ROOT
from tests.operations.test_unstick import PROGRAM

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def ago(seconds: int) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def pod(*containers: Mapping[str, Any], init: Sequence[Mapping[str, Any]] = (), **status: Any) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "metadata": {"name": "mlflow-1"},
        "status": {"phase": "Pending", "initContainerStatuses": [*init], "containerStatuses": [*containers], **status},
    }


def container(name: str = "mlflow", **state: Any) -> dict[str, Any]:
    return {"name": name, "ready": False, "restartCount": 0, **state}


def running(seconds: int) -> dict[str, Any]:
    return {"state": {"running": {"startedAt": ago(seconds)}}}


def event(reason: str, message: str, kind: str = "ReplicaSet", seconds: int = 5, **more: Any) -> dict[str, Any]:
    about = {"kind": kind, "name": "mlflow-7d9"}
    times = {"lastTimestamp": ago(seconds)}
    return {
        "kind": "Event",
        "type": "Warning",
        "reason": reason,
        "message": message,
        "involvedObject": about,
        **times,
        **more,
    }


def service(seconds: int, **status: Any) -> dict[str, Any]:
    spec = {"type": "LoadBalancer", "loadBalancerClass": "service.k8s.aws/nlb"}
    return {
        "kind": "Service",
        "metadata": {"name": "edge", "creationTimestamp": ago(seconds)},
        "spec": spec,
        "status": status,
    }


CRASHED = {"terminated": {"exitCode": 1, "reason": "Error"}}
KILLED = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
WAITING = container("mlflow", state={"waiting": {"reason": "PodInitializing"}})

CAUSES = {
    "image that cannot be pulled": (
        pod(container(state={"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image mlflow:0"}})),
        Finding("pod mlflow-1, container mlflow", "ImagePullBackOff", "Back-off pulling image mlflow:0"),
    ),
    "key that a Secret does not have": (
        pod(container(state={"waiting": {"reason": "CreateContainerConfigError", "message": "couldn't find key a"}})),
        Finding("pod mlflow-1, container mlflow", "CreateContainerConfigError", "couldn't find key a"),
    ),
    "server that ends": (
        pod(container(state=BACK_OFF, lastState=CRASHED, restartCount=3)),
        Finding(
            "pod mlflow-1, container mlflow",
            "Error",
            "ended with status 1, started again 3 times",
            ("mlflow-1", "mlflow"),
            ended=True,
        ),
    ),
    "migration that is killed for its memory": (
        pod(WAITING, init=[container("migration", state=BACK_OFF, lastState=KILLED, restartCount=1)]),
        Finding(
            "pod mlflow-1, container migration",
            "OOMKilled",
            "ended with status 137, started again 1 times",
            ("mlflow-1", "migration"),
            ended=True,
        ),
    ),
    "migration that has just ended": (
        pod(WAITING, init=[container("migration", state=CRASHED)]),
        Finding(
            "pod mlflow-1, container migration", "Error", "ended with status 1", ("mlflow-1", "migration"), ended=False
        ),
    ),
    "database that does not answer the migration": (
        pod(WAITING, init=[container("migration", **running(45))]),
        Finding(
            "pod mlflow-1, container migration", "NotReady", "runs for 45 s and is not ready", ("mlflow-1", "migration")
        ),
    ),
    "node that is full": (
        pod(
            conditions=[
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient cpu"}
            ]
        ),
        Finding("pod mlflow-1", "Unschedulable", "Insufficient cpu"),
    ),
    "load balancer without an address": (
        service(90),
        Finding(
            "service edge",
            "NoAddress",
            "its load balancer (class: service.k8s.aws/nlb) has no address yet; minutes are usual, and without any event no "
            "controller serves that class",
        ),
    ),
    "quota": (
        event("FailedCreate", 'pods "mlflow-7d9-x" is forbidden: exceeded quota: small'),
        Finding("replicaset mlflow-7d9", "FailedCreate", 'pods "mlflow-7d9-x" is forbidden: exceeded quota: small'),
    ),
    "policy that refuses the pod": (
        {
            "kind": "Deployment",
            "metadata": {"name": "mlflow"},
            "status": {
                "conditions": [
                    {
                        "type": "ReplicaFailure",
                        "status": "True",
                        "reason": "FailedCreate",
                        "message": "violates PodSecurity",
                    }
                ]
            },
        },
        Finding("deployment mlflow", "FailedCreate", "violates PodSecurity"),
    ),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_a_cause_is_found(cause: str) -> None:
    answer, expected = CAUSES[cause]
    assert list(findings([answer], NOW - timedelta(minutes=1), NOW)) == [expected]


@pytest.mark.parametrize(
    "usual",
    [
        pod(container(**running(5))),
        pod(WAITING, init=[container("migration", **running(20))]),
        pod({**container(**running(600)), "ready": True}, conditions=[{"type": "Ready", "status": "True"}]),
        pod(container(state={"terminated": {"exitCode": 0}}), phase="Succeeded"),
        pod(container(state=CRASHED), phase="Failed") | {"metadata": {"name": "old", "deletionTimestamp": ago(1)}},
        service(10),
        service(90, loadBalancer={"ingress": [{"ip": "10.0.0.1"}]}),
        event("FailedCreate", "of an hour ago", seconds=3600),
        event("Unhealthy", "Readiness probe failed: connection refused", "Pod"),
        event("Scaled", "a") | {"type": "Normal"},
    ],
)
def test_what_every_rollout_has_is_no_finding(usual: Mapping[str, Any]) -> None:
    assert list(findings([usual], NOW - timedelta(minutes=1), NOW)) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "postgresql+psycopg2://mlflow_user:p4ss@db:5432/mlflow",
            "postgresql+psycopg2://mlflow_user:***@db:5432/mlflow",
        ),
        ("Authorization: Basic YWRtaW46cGFzc3dvcmQ=", "Authorization: Basic ***"),
        ("authorization: bearer eyJhbGciOiJI.eyJz.x", "authorization: bearer ***"),
        ("PGPASSWORD=hunter2 PGHOST=db", "PGPASSWORD=*** PGHOST=db"),
        ("{'admin_password': 'two words', 'a': 1}", "{'admin_password': ***, 'a': 1}"),
        ("AWS_SECRET_ACCESS_KEY: abc/def", "AWS_SECRET_ACCESS_KEY: ***"),
        ("key AKIAIOSFODNN7EXAMPLE used", "key *** used"),
        ("GET /b?X-Amz-Signature=0a1b&x=1", "GET /b?X-Amz-Signature=***&x=1"),
        (f"got {'aB3' * 11} from psql", "got *** from psql"),
        ("image mlflow@sha256:" + "ab12" * 16, "image mlflow@sha256:" + "ab12" * 16),
        ("password authentication failed for user mlflow_user", "password authentication failed for user mlflow_user"),
    ],
)
def test_secrets_are_masked_and_reasons_are_not(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_a_reason_is_said_once_with_the_end_of_the_log() -> None:
    answer = CAUSES["server that ends"][0]
    commands: list[Sequence[str]] = []

    class Cluster(Kubectl):
        def __call__(self, *arguments: str) -> str:
            commands.append(arguments)
            return "connecting\npassword=hunter2 refused\n" if "logs" in arguments else json.dumps({"items": [answer]})

    said: list[str] = []
    watch = Watch("dev", "pulumi", said.append)
    for _ in range(3):
        watch.look(Cluster([]), "mlflow")
    assert said == [
        "mlflow: pod mlflow-1, container mlflow: Error: ended with status 1, started again 3 times\n"
        "    | connecting\n    | password=*** refused"
    ]
    (log,) = [command for command in commands if "logs" in command]
    assert "--previous" in log


def test_a_log_that_is_gone_is_no_error() -> None:
    answer = CAUSES["server that ends"][0]

    class Cluster(Kubectl):
        def __call__(self, *arguments: str) -> str:
            if "logs" in arguments:
                raise KubectlError("previous terminated container not found")
            return json.dumps({"items": [answer]})

    said: list[str] = []
    Watch("dev", "pulumi", said.append).look(Cluster([]), "mlflow")
    assert "(no log: previous terminated container not found)" in said[0]


def run(folder: Path, kubectl: Any, *command: str) -> subprocess.CompletedProcess[str]:
    provider = {"type": "pulumi:providers:kubernetes", "inputs": {"context": "kind"}}
    namespace = {"type": "kubernetes:core/v1:Namespace", "inputs": {"metadata": {"name": "mlflow"}}}
    table = {
        "pulumi": [(["export"], {"deployment": {"resources": [provider, namespace]}})],
        "kubectl": [(["logs"], "Is the server running on that host?"), (["get"], kubectl)],
    }
    file = folder / "answers.json"
    file.write_text(json.dumps(table))
    for name in table:
        program = folder / name
        program.write_text(PROGRAM.format(python=sys.executable, table=str(file), name=name))
        program.chmod(0o755)
    return subprocess.run(
        [sys.executable, "-m", "operations.release_watch", "--stack", "dev", "--", *command],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


UNTIL_SAID = "for _ in $(seq 100); do grep -q logs {log} && sleep 1 && exit 3; sleep 0.1; done"


def test_a_command_that_fails_ends_with_the_reasons_and_its_status(tmp_path: Path) -> None:
    until_said = UNTIL_SAID.format(log=tmp_path / "answers.json.log")
    done = run(tmp_path, {"items": [CAUSES["server that ends"][0]]}, "sh", "-c", until_said)
    assert done.returncode == 3
    assert done.stdout == ""
    assert "Seen while the command ran:" in done.stderr
    assert done.stderr.count("| Is the server running on that host?") == 2


@pytest.mark.parametrize("status", [0, 7])
def test_a_cluster_that_cannot_be_asked_changes_nothing_for_the_command(tmp_path: Path, status: int) -> None:
    done = run(tmp_path, "error: no such host", "sh", "-c", f"sleep 2; echo up; exit {status}")
    assert (done.returncode, done.stdout) == (status, "up\n")
    assert done.stderr.strip() == "watch: error: no such host"
