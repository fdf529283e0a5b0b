"""The parts of the workflows that a wrong edit would weaken silently.

They run on GitHub with this repository's rights.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from operations.review.comment import render
from tests import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
ACTIONS = sorted((ROOT / ".github" / "actions").glob("*/action.y*ml"))
STACKS = ["dev", "prod"]

PIN = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
EVENTS_WITH_SECRETS_FOR_FORKS = {"pull_request_target", "workflow_run", "issue_comment"}

by_file = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
by_file_or_action = pytest.mark.parametrize(
    "path", [*WORKFLOWS, *ACTIONS], ids=lambda path: f"{path.parent.name}-{path.stem}"
)


def read(path: Path) -> dict[str, Any]:
    # BaseLoader keeps every scalar as text. Other loaders read the key `on` as a boolean.
    return yaml.load(path.read_text(), Loader=yaml.BaseLoader)


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in WORKFLOWS:
        for name, job in read(path)["jobs"].items():
            yield f"{path.stem}-{name}", job


def steps(document: dict[str, Any]) -> list[dict[str, Any]]:
    if "runs" in document:
        return document["runs"]["steps"]
    return [step for job in document["jobs"].values() for step in job.get("steps", [])]


by_job = pytest.mark.parametrize("job", [job for _, job in jobs()], ids=[name for name, _ in jobs()])


def test_the_workflows_are_where_github_looks_for_them() -> None:
    assert [path.name for path in WORKFLOWS] == [
        "checks.yml",
        "cluster.yml",
        "deploy.yml",
        "drift.yml",
        "preview.yml",
        "up.yml",
        "weekly.yml",
    ]
    assert [path.parent.name for path in ACTIONS] == ["open-stack"]


@by_file_or_action
def test_every_action_is_pinned_to_a_commit_and_says_its_version(path: Path) -> None:
    used = re.findall(r"^\s*(?:- )?uses: (.+)$", path.read_text(), re.MULTILINE)
    assert used
    for reference in used:
        if reference.startswith("./"):
            assert (ROOT / reference).exists(), f"{reference} does not exist in this repository"
        else:
            assert PIN.fullmatch(reference), (
                f"{reference}: a tag can be moved, a commit cannot; write owner/name@<40 hex> # vX.Y.Z"
            )


def test_an_action_has_one_version_everywhere() -> None:
    pins: dict[str, set[str]] = {}
    for path in [*WORKFLOWS, *ACTIONS]:
        for name, pin in re.findall(r"uses: ([\w./-]+)@(.+)$", path.read_text(), re.MULTILINE):
            pins.setdefault(name, set()).add(pin)
    assert {name: sorted(found) for name, found in pins.items() if len(found) > 1} == {}


@by_file
def test_a_workflow_starts_with_no_permission(path: Path) -> None:
    assert read(path)["permissions"] == {}, (
        "without this line a job has all permissions; each job must list those that it needs"
    )


@by_job
def test_a_job_has_only_the_permissions_it_needs(job: dict[str, Any]) -> None:
    permissions: dict[str, str] = job["permissions"]
    written = {name for name, access in permissions.items() if access == "write"}
    assert permissions.get("contents", "read") == "read"
    assert len(written) <= 1, "the job that has AWS credentials must not write to the repository as well"
    assert written <= {"id-token", "pull-requests", "issues"}


@by_file
def test_no_event_hands_secrets_to_the_code_of_a_fork(path: Path) -> None:
    assert not EVENTS_WITH_SECRETS_FOR_FORKS & set(read(path)["on"])


@by_file_or_action
def test_there_is_no_credential_that_outlives_the_job(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"\bsecrets\.\w", text), "AWS is reached through OIDC and GitHub through the job's own token"
    assert not re.search(r"access[-_]key", text, re.IGNORECASE)
    for step in steps(read(path)):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] == "false", "later steps could read the token from .git/config"


@by_file_or_action
def test_no_script_is_put_together_from_an_expression(path: Path) -> None:
    for step in steps(read(path)):
        assert "${{" not in step.get("run", ""), "the value of an expression would be run as code; pass it through env"


@by_job
def test_a_job_ends_after_an_hour_at_most(job: dict[str, Any]) -> None:
    if "steps" in job:
        assert int(job["timeout-minutes"]) <= 60, "the AWS credentials live for an hour"


@by_job
def test_a_job_with_credentials_says_whose_approval_it_needs(job: dict[str, Any]) -> None:
    if "steps" in job and "id-token" in job["permissions"]:
        assert job["environment"], "the IAM role trusts an environment, not every job of the repository"


def test_a_fork_and_a_package_nobody_has_read_get_no_preview() -> None:
    condition = read(ROOT / ".github/workflows/preview.yml")["jobs"]["preview"]["if"]
    assert "github.event.pull_request.head.repo.full_name == github.repository" in condition
    assert "github.event.pull_request.user.login != 'dependabot[bot]'" in condition


@pytest.mark.parametrize("workflow", ["checks", "cluster"])
def test_forks_code_runs_on_githubs_machines_only(workflow: str) -> None:
    jobs = read(ROOT / f".github/workflows/{workflow}.yml")["jobs"].values()
    assert all(job["runs-on"].startswith("ubuntu-") for job in jobs)


def test_a_cluster_is_tried_when_what_runs_on_it_changes() -> None:
    events = read(ROOT / ".github/workflows/cluster.yml")["on"]
    watched = {"__main__.py", "wiring.py", "components/**", "settings/**", "requirements.txt"}
    assert watched <= set(events["pull_request"]["paths"])
    assert events["push"]["paths"] == events["pull_request"]["paths"]
    assert events["schedule"]


def test_prod_is_deployed_after_dev() -> None:
    deployments = read(ROOT / ".github/workflows/deploy.yml")["jobs"]
    assert {name: job["with"]["stack"] for name, job in deployments.items()} == {stack: stack for stack in STACKS}
    assert deployments["prod"]["needs"] == "dev"


def test_each_up_is_followed_by_a_verification_that_waits_for_the_load_balancer() -> None:
    done = steps(read(ROOT / ".github/workflows/up.yml"))
    assert [step["name"] for step in done if "name" in step] == ["Up", "Show the outputs", "Verify"]
    assert "operations.verify --wait" in done[-1]["run"]


@pytest.mark.parametrize("workflow", ["preview", "drift"])
def test_every_stack_on_aws_is_watched(workflow: str) -> None:
    job = read(ROOT / f".github/workflows/{workflow}.yml")["jobs"][workflow]
    assert job["strategy"]["matrix"]["stack"] == STACKS
    files = {path.name.split(".")[1] for path in ROOT.glob("Pulumi.*.yaml")} - {"local"}
    assert files == set(STACKS)


class Shell:
    """A shell that runs a step's script as a runner does, with stand-ins for programs that use the network."""

    def __init__(self, folder: Path) -> None:
        self.temp = folder / "temp"
        self.summary = folder / "summary"
        self._calls = folder / "calls"
        self._bin = folder / "bin"
        self.temp.mkdir()
        self._bin.mkdir()
        self._bin.joinpath("python").symlink_to(sys.executable)

    def stand_in(self, program: str, script: str) -> None:
        path = self._bin / program
        path.write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" "$*" >> "{self._calls}"\n{script}\n')
        path.chmod(0o755)

    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines() if self._calls.exists() else []

    def run(self, path: str, name: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
        script = next(step["run"] for step in steps(read(ROOT / ".github" / path)) if step.get("name") == name)
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=cwd,
            env={
                "PATH": f"{self._bin}:{os.environ['PATH']}",
                "PYTHONDONTWRITEBYTECODE": "1",
                "RUNNER_TEMP": str(self.temp),
                "GITHUB_STEP_SUMMARY": str(self.summary),
                "GITHUB_REPOSITORY": "someone/mlflow-eks",
                "LOG": "https://github.com/someone/mlflow-eks/actions/runs/1",
                **env,
            },
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


MARKER = "<!-- mlflow-eks preview dev -->"
NOTHING_CHANGES = "echo '{}'"


def test_the_comment_is_found_again_by_what_the_renderer_writes_first(shell: Shell) -> None:
    assert render("dev", "{}").splitlines()[0] == MARKER
    assert "<!-- mlflow-eks preview $stack -->" in (ROOT / ".github/workflows/preview.yml").read_text()


def test_a_preview_leaves_a_comment(shell: Shell) -> None:
    shell.stand_in("pulumi", NOTHING_CHANGES)
    assert shell.run("workflows/preview.yml", "Preview", STACK="dev").returncode == 0
    comment = (shell.temp / "dev.md").read_text()
    assert comment.startswith(MARKER)
    assert "failed" not in comment
    assert shell.summary.read_text() == comment


def test_a_preview_that_fails_fails_the_job_and_says_so_in_the_comment(shell: Shell) -> None:
    shell.stand_in("pulumi", f"{NOTHING_CHANGES}; exit 3")
    assert shell.run("workflows/preview.yml", "Preview", STACK="dev").returncode == 3
    comment = (shell.temp / "dev.md").read_text()
    assert comment.startswith(MARKER)
    assert "**The preview failed**" in comment


def test_a_preview_that_cannot_start_says_so_too(shell: Shell) -> None:
    shell.stand_in("pulumi", "exit 6")
    assert shell.run("workflows/preview.yml", "Preview", STACK="dev").returncode == 6
    assert "[the log](https://github.com/someone/mlflow-eks/actions/runs/1)" in (shell.temp / "dev.md").read_text()


@pytest.mark.parametrize(
    ("found", "request_made"),
    [
        ("", "POST repos/someone/mlflow-eks/issues/7/comments"),
        (r"41\n42\n", "PATCH repos/someone/mlflow-eks/issues/comments/41"),
    ],
    ids=["none yet", "one from before"],
)
def test_the_comment_is_edited_not_repeated(shell: Shell, tmp_path: Path, found: str, request_made: str) -> None:
    shell.stand_in("gh", f"case $* in *--paginate*) printf '{found}' ;; esac")
    (tmp_path / "comments").mkdir()
    (tmp_path / "comments" / "dev.md").write_text(MARKER)
    ended = shell.run(
        "workflows/preview.yml",
        "Write one comment per stack, or edit the one that is there",
        tmp_path,
        PULL_REQUEST="7",
    )
    assert ended.returncode == 0, ended.stderr
    assert f"api --silent --method {request_made} --field body=@comments/dev.md" in shell.calls()
    assert len(shell.calls()) == 2 * len(STACKS)
    # If a stack has no preview any more, its old comment must not stay.
    assert (tmp_path / "comments" / "prod.md").read_text().splitlines()[:2] == [
        "<!-- mlflow-eks preview prod -->",
        "## Preview of `prod`: none",
    ]


@pytest.mark.parametrize(
    ("status", "job", "report"),
    [(0, 0, ""), (7, 0, "If it is to stay"), (1, 1, None)],
    ids=["as the program says", "drifted", "could not be compared"],
)
def test_drift_is_told_apart_from_a_check_that_failed(shell: Shell, status: int, job: int, report: str | None) -> None:
    shell.stand_in("pulumi", f"{NOTHING_CHANGES}; exit {status}")
    assert shell.run("workflows/drift.yml", "Compare", STACK="dev").returncode == job
    assert "--expect-no-changes" in shell.calls()[0]
    left = shell.temp / "dev.md"
    if report is None:
        assert not left.exists()
    else:
        assert bool(left.read_text()) == bool(report)
        assert report in left.read_text()


@pytest.mark.parametrize(
    ("report", "found", "requests"),
    [
        (
            "drifted",
            "",
            ["POST repos/someone/mlflow-eks/issues --raw-field title=Drift: dev --field body=@reports/dev.md"],
        ),
        ("drifted", "5", ["PATCH repos/someone/mlflow-eks/issues/5 --field body=@reports/dev.md"]),
        ("", "5", ["PATCH repos/someone/mlflow-eks/issues/5 --raw-field state=closed"]),
        ("", "", []),
        (None, "5", ["PATCH repos/someone/mlflow-eks/issues/5 --field body=@reports/dev.md"]),
    ],
    ids=["opened", "edited", "closed", "none needed", "not compared"],
)
def test_a_stack_has_one_issue(
    shell: Shell, tmp_path: Path, report: str | None, found: str, requests: list[str]
) -> None:
    shell.stand_in("gh", f"case $*$TITLE in *--paginate*dev) printf '{found}' ;; esac")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "prod.md").touch()
    if report is not None:
        (tmp_path / "reports" / "dev.md").write_text(report)
    ended = shell.run("workflows/drift.yml", "Open, edit or close one issue per stack", tmp_path)
    assert ended.returncode == 0, ended.stderr
    calls = [call for call in shell.calls() if "--paginate" not in call]
    assert calls == [f"api --silent --method {request}" for request in requests]


VARIABLES = {
    "STACK": "dev",
    "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/mlflow-eks-dev",
    "AWS_REGION": "eu-west-1",
    "PULUMI_BACKEND_URL": "s3://state",
    "PULUMI_SECRETS_PROVIDER": "awskms://alias/pulumi?region=eu-west-1",
}


def open_stack(shell: Shell, folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    return shell.run("actions/open-stack/action.yml", "Name what is not set up", folder, **{**VARIABLES, **changes})


def test_a_stack_that_is_set_up_opens(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "Pulumi.dev.yaml").write_text(
        f"secretsprovider: {VARIABLES['PULUMI_SECRETS_PROVIDER']}\nconfig: {{}}\n"
    )
    ended = open_stack(shell, tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "")


@pytest.mark.parametrize("name", sorted(set(VARIABLES) - {"STACK"}))
def test_a_variable_that_is_missing_is_named(shell: Shell, tmp_path: Path, name: str) -> None:
    ended = open_stack(shell, tmp_path, **{name: ""})
    assert ended.returncode == 1
    assert f"The variable {name} is empty" in ended.stdout


def test_a_stack_whose_secrets_hang_on_a_passphrase_is_refused(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "Pulumi.dev.yaml").write_text("config: {}\n")
    ended = open_stack(shell, tmp_path)
    assert ended.returncode == 1
    assert "pulumi stack init dev --secrets-provider 'awskms://alias/pulumi?region=eu-west-1'" in ended.stdout
