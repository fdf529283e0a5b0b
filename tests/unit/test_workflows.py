"""The parts of the workflows that a wrong edit would weaken silently.

They run on GitHub with this repository's rights.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from operations.bootstrap.account import HOUR, SESSION_OF_UP
from operations.review.comment import render
from tests import ROOT
from tests.github_server import BOT, REPOSITORY, TOKEN, GitHubServer, serving_github
from tests.unit.harness import Deployment

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
ACTIONS = sorted((ROOT / ".github" / "actions").glob("*/action.y*ml"))
STACKS = ["dev", "prod"]
PREVIEWS = 900
"""Seconds for the installation and two previews."""

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
        "preview-stack.yml",
        "preview.yml",
        "up.yml",
        "weekly.yml",
    ]
    assert [path.parent.name for path in ACTIONS] == ["open-stack", "preview-again"]


@by_file_or_action
def test_every_action_is_pinned_to_a_commit_and_says_its_version(path: Path) -> None:
    for reference in re.findall(r"^\s*(?:- )?uses: (.+)$", path.read_text(), re.MULTILINE):
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
    # A job that calls a workflow has no step of its own. Its permissions are the most that the jobs of that workflow may ask for.
    assert len(written) <= 1 or "steps" not in job, (
        "the job that has AWS credentials must not write to the repository as well"
    )
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


# Times


@by_job
def test_a_job_ends_before_its_credentials(job: dict[str, Any]) -> None:
    if "steps" not in job:
        return
    opened = [step["with"] for step in job["steps"] if step.get("uses") == "./.github/actions/open-stack"]
    lives = int(opened[0].get("session-seconds", HOUR)) if opened else HOUR
    # A job without credentials ends within the hour all the same: a runner that hangs costs.
    assert int(job["timeout-minutes"]) * 60 <= lives


def test_a_role_allows_the_session_that_its_job_asks_for() -> None:
    asked = {
        name: int(step["with"].get("session-seconds", HOUR))
        for name, job in jobs()
        for step in job.get("steps", [])
        if step.get("uses") == "./.github/actions/open-stack"
    }
    assert asked.pop("up-up") == SESSION_OF_UP
    assert asked == {"up-plan": HOUR, "preview-stack-preview": HOUR, "drift-drift": HOUR}
    default = read(ROOT / ".github/actions/open-stack/action.yml")["inputs"]["session-seconds"]["default"]
    assert int(default) == HOUR


@pytest.mark.parametrize("stack", STACKS)
def test_the_longest_update_of_a_stack_fits_into_its_job(stack: str, request: pytest.FixtureRequest) -> None:
    deployment: Deployment = request.getfixturevalue(stack)
    made: dict[str, int] = {}
    for resource in deployment.resources:
        # One change of the instance, or its replacement, and then both releases.
        if resource.type == "aws:rds/instance:Instance":
            made["instance"] = max(int(limit.removesuffix("m")) * 60 for limit in resource.timeouts.values())
        elif resource.type == "kubernetes:helm.sh/v3:Release":
            made[resource.name] = int(resource["timeout"])
    assert len(made) == 3
    job = read(ROOT / ".github/workflows/up.yml")["jobs"]["up"]
    verify = next(step["run"] for step in job["steps"] if step.get("name") == "Verify")
    made["verify"] = int(re.findall(r"--wait (\d+)", verify)[0])
    assert sum(made.values()) + PREVIEWS <= int(job["timeout-minutes"]) * 60, made


@by_job
def test_a_job_with_credentials_says_whose_approval_it_needs(job: dict[str, Any]) -> None:
    if "steps" in job and "id-token" in job["permissions"]:
        assert job["environment"], "the IAM role trusts an environment, not every job of the repository"


def test_a_fork_and_a_package_nobody_has_read_get_no_preview() -> None:
    condition = read(ROOT / ".github/workflows/preview.yml")["jobs"]["preview"]["if"]
    assert read(ROOT / ".github/workflows/preview-stack.yml")["on"].keys() == {"workflow_call"}
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
    deployments.pop("stacks")
    assert {name: job["with"]["stack"] for name, job in deployments.items()} == {stack: stack for stack in STACKS}
    assert deployments["prod"]["needs"] == "dev"
    assert "needs.dev.result == 'success' || needs.dev.result == 'skipped'" in deployments["prod"]["if"]


def test_each_up_is_followed_by_a_verification_that_waits_for_the_load_balancer() -> None:
    names = [step.get("name") for step in read(ROOT / ".github/workflows/up.yml")["jobs"]["up"]["steps"]]
    assert names.index("Up") < names.index("Verify")
    verify = next(step for step in steps(read(ROOT / ".github/workflows/up.yml")) if step.get("name") == "Verify")
    assert "operations.verify --wait" in verify["run"]


@pytest.mark.parametrize("job", ["plan", "up"])
def test_nothing_is_deployed_without_a_comparison(job: str) -> None:
    found = read(ROOT / ".github/workflows/up.yml")["jobs"][job]["steps"]
    compared = next(
        number for number, step in enumerate(found) if step.get("uses") == "./.github/actions/preview-again"
    )
    before = " ".join(step.get("run", "") for step in found[:compared])
    after = " ".join(step.get("run", "") for step in found[compared:])
    assert "operations.deployments.newest" in before
    assert "pulumi up" not in before
    assert ("pulumi up" in after) == (job == "up")
    assert not any("continue-on-error" in step for step in found)


def test_the_approval_stands_between_the_plan_and_the_update() -> None:
    plan, up = read(ROOT / ".github/workflows/up.yml")["jobs"].values()
    assert up["needs"] == "plan"
    assert (plan["environment"], up["environment"]) == ("${{ inputs.stack }}-plan", "${{ inputs.stack }}")
    assert up["concurrency"] == {"group": "up-${{ inputs.stack }}", "cancel-in-progress": "false"}


@pytest.mark.parametrize("workflow", ["preview", "drift"])
def test_every_stack_that_is_set_up_is_watched(workflow: str) -> None:
    job = read(ROOT / f".github/workflows/{workflow}.yml")["jobs"][workflow]
    assert job["strategy"]["matrix"]["stack"] == "${{ fromJSON(vars.STACKS) }}"
    assert "vars.STACKS != ''" in job["if"], "a matrix of nothing is an error"
    files = {path.name.split(".")[1] for path in ROOT.glob("Pulumi.*.yaml")} - {"local"}
    assert files == set(STACKS)


def test_a_branchs_code_and_an_update_share_no_machine_and_no_environment() -> None:
    places = {name: (job["runs-on"], job.get("environment")) for name, job in jobs() if "steps" in job}
    preview, environment = places.pop("preview-stack-preview")
    assert "RUNNER_PREVIEW" in preview
    assert environment == "${{ inputs.stack }}-preview"
    assert not [name for name, (runner, _) in places.items() if "RUNNER_PREVIEW" in runner]
    assert not [name for name, (_, other) in places.items() if other and "-preview" in other]
    assert {name for name, (runner, _) in places.items() if "RUNNER_UP" in runner} == {
        "up-plan",
        "up-up",
        "drift-drift",
    }


@by_file_or_action
def test_no_command_logs_what_pulumi_hides(path: Path) -> None:
    # At -v=9 the CLI's log has the administrator's password.
    for step in steps(read(path)):
        assert not re.search(
            r"(^|\s)(-v\b|--verbose|--logtostderr|--logflow|--show-secrets|TF_LOG)", step.get("run", "")
        )
        assert not {"TF_LOG", "PULUMI_DEBUG_COMMANDS"} & set(step.get("env", {}))


def test_no_plugin_is_downloaded_after_the_login() -> None:
    found = steps(read(ROOT / ".github/actions/open-stack/action.yml"))
    plugins = next(number for number, step in enumerate(found) if "operations.plugins install" in step.get("run", ""))
    login = next(number for number, step in enumerate(found) if "configure-aws-credentials@" in step.get("uses", ""))
    assert plugins < login == len(found) - 1


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
                "GITHUB_REPOSITORY": REPOSITORY,
                "GH_TOKEN": TOKEN,
                "GITHUB_SHA": "0123456789abcdef",
                "LOG": "https://github.com/acme/mlflow-eks/actions/runs/1",
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


def test_the_comment_is_found_again_by_what_the_renderer_writes_first() -> None:
    assert render("dev", "{}").splitlines()[0] == MARKER
    assert "<!-- mlflow-eks preview $STACK -->" in (ROOT / ".github/workflows/preview-stack.yml").read_text()


def test_a_preview_leaves_a_comment_and_a_record(shell: Shell) -> None:
    shell.stand_in("pulumi", "echo '{\"steps\": []}'")
    assert shell.run("workflows/preview-stack.yml", "Preview", STACK="dev").returncode == 0
    comment = (shell.temp / "comment.md").read_text()
    assert comment.startswith(MARKER)
    assert "failed" not in comment
    assert shell.summary.read_text() == comment
    ended = shell.run("workflows/preview-stack.yml", "Record what is reviewed", STACK="dev")
    assert ended.returncode == 0, ended.stderr
    record = json.loads((shell.temp / "record.json").read_text())
    tree = subprocess.run(["git", "rev-parse", "HEAD^{tree}"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (record["stack"], record["tree"]) == ("dev", tree.stdout.strip())


@pytest.mark.parametrize(("script", "status"), [(f"{NOTHING_CHANGES}; exit 3", 3), ("exit 6", 6)])
def test_a_preview_that_fails_fails_the_job_and_says_so_in_the_comment(shell: Shell, script: str, status: int) -> None:
    shell.stand_in("pulumi", script)
    assert shell.run("workflows/preview-stack.yml", "Preview", STACK="dev").returncode == status
    comment = (shell.temp / "comment.md").read_text()
    assert comment.startswith(MARKER)
    assert "failed" in comment
    assert "https://github.com/acme/mlflow-eks/actions/runs/1" in comment


COMMENT_STEP = "Write one comment, or edit the one that is there"


def comment(shell: Shell, folder: Path, github: GitHubServer, text: str | None) -> None:
    if text is not None:
        (folder / "comments").mkdir(exist_ok=True)
        (folder / "comments" / "comment.md").write_text(text)
    ended = shell.run(
        "workflows/preview-stack.yml",
        COMMENT_STEP,
        folder,
        STACK="dev",
        PULL_REQUEST="7",
        GITHUB_API_URL=github.url,
    )
    assert ended.returncode == 0, ended.stderr
    assert TOKEN not in ended.stdout + ended.stderr


def test_the_comment_is_edited_not_repeated(shell: Shell, tmp_path: Path) -> None:
    with serving_github() as github:
        # A person's comments come first, one of them with the marker pasted into it, and fill the first page.
        people = [{"id": number, "user": {"login": "ada"}, "body": MARKER} for number in range(1, 101)]
        github.comments[7] = list(people)
        comment(shell, tmp_path, github, f'{MARKER}\nfirst, with "quotes", `$(ticks)` and \u00e9\n')
        comment(shell, tmp_path, github, f"{MARKER}\nsecond\n")
        assert github.comments[7][:100] == people
        assert [each["body"] for each in github.comments[7][100:]] == [f"{MARKER}\nsecond\n"]


@pytest.mark.parametrize("text", [None, "", "no marker"])
def test_an_old_comment_does_not_stay_when_there_is_no_new_one(shell: Shell, tmp_path: Path, text: str | None) -> None:
    with serving_github() as github:
        github.comments[7] = [{"id": 1, "user": {"login": BOT}, "body": f"{MARKER}\nold"}]
        comment(shell, tmp_path, github, text)
        (only,) = github.comments[7]
        assert only["body"].splitlines()[:2] == [MARKER, "## Preview of `dev`: none"]


def test_a_comment_is_never_longer_than_github_takes(shell: Shell, tmp_path: Path) -> None:
    with serving_github() as github:
        comment(shell, tmp_path, github, f"{MARKER}\n" + "x" * 100_000)
        assert 60_000 < len(github.comments[7][0]["body"]) < 65_536


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
    ("report", "before", "after"),
    [
        ("drifted", None, ("open", "drifted")),
        ("drifted", "old", ("open", "drifted")),
        ("", "old", ("closed", "old")),
        ("", None, None),
        (None, "old", ("open", "could not be compared")),
    ],
    ids=["opened", "edited", "closed", "none needed", "not compared"],
)
def test_a_stack_has_one_issue(
    shell: Shell, tmp_path: Path, report: str | None, before: str | None, after: tuple[str, str] | None
) -> None:
    (tmp_path / "reports").mkdir()
    if report is not None:
        (tmp_path / "reports" / "dev.md").write_text(report)
    with serving_github() as github:
        title = "Drift: dev"
        github.issues = [{"number": 1, "state": "open", "user": {"login": "ada"}, "title": title, "body": "a person's"}]
        if before:
            github.issues.append({"number": 2, "state": "open", "user": {"login": BOT}, "title": title, "body": before})
        ended = shell.run(
            "workflows/drift.yml",
            "Open, edit or close one issue per stack",
            tmp_path,
            GITHUB_API_URL=github.url,
            STACKS='["dev"]',
        )
        assert ended.returncode == 0, ended.stderr
        assert github.issues[0]["body"] == "a person's"
        if after is None:
            assert len(github.issues) == 1
        else:
            (issue,) = github.issues[1:]
            assert issue["state"] == after[0]
            assert after[1] in issue["body"]


@pytest.mark.parametrize(
    ("stacks", "missing"), [('["dev", "prod"]', []), ('["dev"]', ["prod"]), ("[]", ["dev", "prod"])]
)
def test_a_stack_that_is_not_set_up_is_told_in_a_sentence(shell: Shell, stacks: str, missing: list[str]) -> None:
    ended = shell.run("workflows/deploy.yml", "Say which stacks are not set up", STACKS=stacks)
    assert ended.returncode == 0
    assert re.findall(r"::notice::(\w+) is not deployed", ended.stdout) == missing


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
