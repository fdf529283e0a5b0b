"""The commands of a deployment, on a stand-in for GitHub's API."""

import json
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from operations.deployments import drift, newest, owner, reviewed
from operations.deployments.github import GitHub, RefusedError
from tests.github_server import REPOSITORY, TOKEN, GitHubServer, serving_github

INSTANCE = "urn:pulumi:dev::mlflow-eks::mlflow-eks:index:PrivatePostgres$aws:rds/instance:Instance::postgres"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitHubServer]:
    with serving_github(tmp_path) as serving:
        yield serving


@pytest.fixture
def github(server: GitHubServer) -> GitHub:
    return GitHub(server.url, REPOSITORY, TOKEN)


# The newest commit


class Repository:
    """A git repository with a branch `main`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.git("init", "--quiet", "--initial-branch", "main")

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=ada", "-c", "user.email=ada@example.com"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=True).stdout.strip()

    def commit(self, *files: str) -> str:
        for name in files:
            file = self.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(file.read_text() + "x" if file.exists() else "x")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "change")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


@pytest.mark.parametrize(
    ("later", "stops"),
    [
        ([], None),
        (["README.md", "docs/a/page.md", "tests/unit/test_a.py", "local/x.py"], None),
        (["docs/page.md", "wiring.py"], "has moved on to [0-9a-f]{9}, for example wiring.py"),
        (["Pulumi.dev.yaml"], "for example Pulumi.dev.yaml"),
    ],
    ids=["nothing", "no deployment", "program", "settings"],
)
def test_a_run_of_an_older_commit_stops_where_a_newer_one_deploys(
    repository: Repository, github: GitHub, later: list[str], stops: str | None
) -> None:
    commit = repository.commit("wiring.py")
    if later:
        repository.commit(*later)
    said = newest.refusal(github, commit, "main", newest.ignored_paths())
    if stops is None:
        assert said is None
    else:
        assert said
        assert re.search(stops, said)


def test_a_commit_that_main_does_not_have_is_not_deployed(repository: Repository, github: GitHub) -> None:
    repository.commit("wiring.py")
    repository.git("checkout", "--quiet", "-b", "other")
    commit = repository.commit("wiring.py")
    said = newest.refusal(github, commit, "main", [])
    assert said == f"Not deployed: main does not contain {commit[:9]}, the commit of this run. Deploy what is on main."


def test_the_patterns_of_the_workflow_are_of_the_two_kinds_that_are_understood() -> None:
    patterns = newest.ignored_paths()
    assert patterns
    for pattern in patterns:
        plain = pattern.removeprefix("**") if pattern.startswith("**") else pattern.removesuffix("/**")
        assert "*" not in plain
        assert plain != pattern


# What was reviewed


def pull(number: int = 7, **changes: Any) -> dict[str, Any]:
    return {
        "number": number,
        "merged_at": "2026-01-01T00:00:00Z",
        "merge_commit_sha": "abc123",
        "base": {"ref": "main"},
        "head": {"sha": "feed"},
        **changes,
    }


def test_the_record_is_that_of_the_last_preview_of_the_merged_pull_request(
    server: GitHubServer, github: GitHub
) -> None:
    server.pulls = [pull(6, commits=["abc123"], merge_commit_sha="other", head={"sha": "beef"}), pull()]
    for run, head in ((1, "feed"), (2, "feed"), (3, "beef")):
        server.add_run(run, head_sha=head)
        server.add_artifact(run, "reviewed-dev", {reviewed.FILE: f"of run {run}"})
        server.add_artifact(run, "reviewed-prod", {reviewed.FILE: "of prod"})
    text, run = reviewed.record(github, "abc123", "dev", "tree")
    assert (text, run.rpartition("/")[2]) == ("of run 2", "2")


@pytest.mark.parametrize(
    ("pulls", "runs", "expired", "said"),
    [
        ([], [{}], False, "came by no pull request"),
        ([pull(merged_at=None)], [{}], False, "came by no pull request"),
        ([pull(base={"ref": "release"})], [{}], False, "came by no pull request"),
        ([pull()], [], False, "pull request 7 has no preview of dev that is still kept"),
        ([pull()], [{}], True, "has no preview of dev that is still kept"),
        ([pull()], [{"path": ".github/workflows/mine.yml"}], False, "has no preview of dev"),
        ([pull()], [{"head_repository": {"full_name": "mallory/mlflow-eks"}}], False, "has no preview of dev"),
        ([pull()], [{"head_sha": "older"}], False, "has no preview of dev"),
    ],
    ids=["pushed", "not merged", "elsewhere", "none", "expired", "other workflow", "fork", "older push"],
)
def test_nothing_else_counts_as_reviewed(
    server: GitHubServer, github: GitHub, pulls: list[Any], runs: list[Any], expired: bool, said: str
) -> None:
    server.pulls = pulls
    for number, changes in enumerate(runs, 1):
        server.add_run(number, **{"head_sha": "feed", **changes})
        server.add_artifact(number, "reviewed-dev", {reviewed.FILE: "{}"}, expired=expired)
    with pytest.raises(reviewed.NoneReviewedError, match=said) as refused:
        reviewed.record(github, "abc123", "dev", "tree")
    assert "docs/deployments.md#without-a-review" in str(refused.value)


def test_a_wrong_token_is_one_sentence(server: GitHubServer) -> None:
    with pytest.raises(RefusedError, match="GitHub answered 401 to GET commits/abc/pulls"):
        reviewed.record(GitHub(server.url, REPOSITORY, "wrong"), "abc", "dev", "tree")


# The lock


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def left(server: GitHubServer, run: int, minutes: int, host: str = "runner-1", attempt: int = 1) -> None:
    """Leave the file of a deployment that started some minutes from noon."""
    started = (NOON + timedelta(minutes=minutes)).isoformat()
    content = {"run": run, "attempt": attempt, "host": host, "started": started}
    server.add_artifact(run, "owner-dev", {owner.FILE: json.dumps(content)})


def test_the_lock_of_a_killed_run_may_be_freed(server: GitHubServer, github: GitHub) -> None:
    server.add_run(1, status="completed", conclusion="cancelled")
    server.add_run(2)
    left(server, 1, -5)
    left(server, 2, 5)
    over, said = owner.verdict(github, "dev", "runner-1", NOON)
    assert over
    assert said == f"https://github.com/{REPOSITORY}/actions/runs/1, which is over (cancelled)"


def test_the_lock_of_an_earlier_attempt_of_the_same_run_may_be_freed(server: GitHubServer, github: GitHub) -> None:
    server.add_run(1, run_attempt=2)
    left(server, 1, -5)
    assert owner.verdict(github, "dev", "runner-1", NOON)[0]


@pytest.mark.parametrize(
    ("host", "minutes", "said"),
    [
        ("runner-1", -5, "actions/runs/1, which is in progress: wait until it ends, and do not cancel it"),
        ("laptop", -5, "no deployment of this repository ran on laptop then, so it is a person's"),
        ("runner-1", 5, "no deployment of this repository ran on runner-1 then"),
    ],
    ids=["running", "a person's", "of before"],
)
def test_any_other_lock_is_left_alone(server: GitHubServer, github: GitHub, host: str, minutes: int, said: str) -> None:
    server.add_run(1)
    left(server, 1, minutes)
    over, sentence = owner.verdict(github, "dev", host, NOON)
    assert not over
    assert said in sentence


# Drift


def step(op: str, urn: str = INSTANCE, *paths: str) -> dict[str, Any]:
    differs = {path: {"kind": "update"} for path in paths}
    return {"op": op, "urn": urn, "detailedDiff": differs, "newState": {"inputs": {"identifier": "postgres-1"}}}


@pytest.mark.parametrize(
    ("plain", "refreshed", "expected"),
    [
        ([step("same")], [step("same"), step("refresh")], 0),
        ([step("update", INSTANCE, "tags")], [step("update", INSTANCE, "tags")], 0),
        ([step("same")], [step("update", INSTANCE, "tags")], 1),
        # The deployment changes the resource anyway, and would take back more than was reviewed.
        ([step("update", INSTANCE, "tags")], [step("update", INSTANCE, "tags", "port")], 1),
        ([step("same")], [step("create")], 1),
    ],
    ids=["none", "reviewed", "changed", "changed more", "deleted"],
)
def test_drift_is_what_only_a_refresh_shows(plain: list[Any], refreshed: list[Any], expected: int) -> None:
    assert len(drift.added({"steps": plain}, {"steps": refreshed})) == expected


def test_drift_is_named_and_ends_with_its_own_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = "urn:pulumi:dev::mlflow-eks::aws:s3/bucket:Bucket::artifacts`\n# x"
    for name, steps in {"plain": [], "refreshed": [step("delete", bucket, "tags.Team")]}.items():
        (tmp_path / name).write_text(json.dumps({"steps": steps}))
    monkeypatch.setattr("sys.argv", ["drift", "--stack", "dev", str(tmp_path / "plain"), str(tmp_path / "refreshed")])
    with pytest.raises(SystemExit) as ended:
        drift.main()
    assert ended.value.code == 3
    assert "- `delete` `artifacts' # x`: `tags.Team`" in capsys.readouterr().out


def test_what_waits_for_the_maintenance_window_is_no_drift(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Rds:
        def __call__(self, *arguments: str) -> Any:
            assert arguments[-1] == "postgres-1"
            return {"DBInstances": [{"PendingModifiedValues": {"MultiAZ": True}}]}

    monkeypatch.setattr("operations.aws_cli.from_config", lambda _: Rds())
    for name, steps in {"plain": [], "refreshed": [step("update", INSTANCE, "multiAz")]}.items():
        (tmp_path / name).write_text(json.dumps({"steps": steps}))
    monkeypatch.setattr("sys.argv", ["drift", "--stack", "dev", str(tmp_path / "plain"), str(tmp_path / "refreshed")])
    drift.main()
    assert "Waits for the maintenance window" in capsys.readouterr().out
