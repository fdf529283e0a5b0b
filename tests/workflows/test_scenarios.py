"""The life of a change, from the pull request to the update, as the workflows carry it out."""

import json
import socket
from datetime import UTC, datetime, timedelta

from operations.deployments.owner import FILE
from operations.review.record import FORMAT
from tests.github_server import TOKEN
from tests.workflows.project import PROVIDER, Project
from tests.workflows.runner import Event

PLAN, UP = "dev / plan", "dev / up"
PREVIEW, COMMENT = "preview (dev) / preview", "preview (dev) / comment"


def test_a_pull_request_has_one_comment_that_follows_its_pushes(project: Project) -> None:
    run = project.open(7, backupRetentionDays=3)
    assert run.succeeded, run.log
    first = project.comment(7)
    assert first.startswith("<!-- mlflow-eks preview dev -->\n")
    assert "`3`" in first
    again = project.push(7, backupRetentionDays=4)
    assert "`4`" in project.comment(7)
    assert "`3`" not in project.comment(7)

    # The code of the pull request ran with the reading role, on the machine of the previews, and could not comment.
    preview, comment = again.jobs[PREVIEW], again.jobs[COMMENT]
    assert preview.logins == ["arn:aws:iam::123456789012:role/mlflow-eks-dev-preview for 3600 s"]
    assert preview.runner == "previews"
    assert (comment.runner, comment.logins) == ("ubuntu-24.04", [])
    assert "actions/checkout" not in comment.steps
    assert TOKEN not in again.log

    (record,) = [
        each["files"]["record.json"]
        for each in project.github.artifacts
        if each["run"] == again.number and "reviewed" in each["name"]
    ]
    tree = project.run_git("rev-parse", f"{again.event.commit}^{{tree}}")
    found = json.loads(record)
    assert (found["format"], found["stack"], found["tree"]) == (FORMAT, "dev", tree)


def test_what_was_reviewed_is_deployed_after_an_approval_and_verified(project: Project) -> None:
    project.open(7, backupRetentionDays=5)
    event = project.merge(7)
    asked: list[str] = []
    project.machines.approve = lambda environment: bool(asked.append(environment)) or True
    run = project.deploy(event)
    assert run.succeeded, run.log
    assert project.stack.backup_days() == 5
    assert asked == ["dev"]
    plan, up = run.jobs[PLAN], run.jobs[UP]
    # The approval comes after the comparison, and its reader finds the plan in the run's summary.
    assert "`5`" in plan.summary
    assert plan.logins == ["arn:aws:iam::123456789012:role/mlflow-eks-dev-preview for 3600 s"]
    assert up.logins == ["arn:aws:iam::123456789012:role/mlflow-eks-dev for 10800 s"]
    assert (plan.runner, up.runner) == ("deployments", "deployments")
    assert up.steps[-4:-1] == ["Leave that for a run that finds our lock", "Up", "Show the outputs"]
    assert up.steps[-1] == "Verify"
    # Only dev is set up.
    assert run.jobs["prod"].result == "skipped"
    assert "::notice::prod is not deployed" in run.jobs["stacks"].log


def test_a_stack_that_somebody_deployed_otherwise_is_not_deployed_unread(project: Project) -> None:
    project.open(7, backupRetentionDays=11)
    event = project.merge(7)
    before = project.stack.backup_days()
    with project.stack.deployed_by_somebody(maxAllocatedStorage=400):
        run = project.deploy(event)
    assert run.jobs[PLAN].result == "failure"
    assert run.errors == [
        "Not deployed: this would do something else to dev than what was reviewed; the run's summary says what."
    ]
    assert "maxAllocatedStorage" in run.jobs[PLAN].summary
    assert run.jobs[UP].result == "skipped"
    assert project.stack.backup_days() == before


def test_drift_opens_an_issue_stops_a_deployment_and_closes_the_issue_again(project: Project) -> None:
    project.open(7, backupRetentionDays=14)
    assert project.deploy(project.merge(7)).succeeded
    project.open(8, files={"operations/new.py": ""})
    event = project.merge(8)
    project.stack.change_by_hand(15)
    night = project.machines.start("drift", Event("schedule", project.main))
    assert night.succeeded, night.log
    assert night.jobs["drift (dev)"].logins == ["arn:aws:iam::123456789012:role/mlflow-eks-dev-preview for 3600 s"]
    (issue,) = project.github.issues
    assert (issue["title"], issue["state"]) == ("Drift: dev", "open")
    assert "backupRetention" in issue["body"]
    run = project.deploy(event)
    assert run.errors == [
        "Not deployed: somebody changed dev by hand, see the run's summary. Put it into the program, or take it back "
        "(docs/deployments.md#drift)."
    ]
    assert run.jobs[UP].result == "skipped"
    project.stack.change_by_hand(14)
    assert project.machines.start("drift", Event("schedule", project.main)).succeeded
    assert [each["state"] for each in project.github.issues] == ["closed"]
    assert project.stack.backup_days() == 14


def test_a_certificate_or_backup_that_verify_complains_of_is_told_in_the_issue_of_the_night(told: Project) -> None:
    # The stand-in for `pulumi` knows no command that verify asks for.
    told.machines.stand_ins = {
        name: step for name, step in told.machines.stand_ins.items() if not name.startswith("Look")
    }
    night = told.machines.start("drift", Event("schedule", told.main))
    assert night.succeeded, night.log
    (issue,) = told.github.issues
    assert issue["state"] == "open"
    assert "told_pulumi has no config" in issue["body"]


def test_what_nobody_reviewed_is_deployed_by_hand_only_and_its_plan_is_shown(project: Project) -> None:
    project.run_git("checkout", "--quiet", "main")
    commit = project.commit({"backupRetentionDays": 16})
    run = project.deploy()
    assert run.jobs[PLAN].result == "failure"
    assert f"{commit[:9]} came by no pull request, so nobody has read its preview" in run.errors[0]
    by_hand = project.by_hand("the pull request's artifacts are gone; `$(id)`")
    assert by_hand.succeeded, by_hand.log
    plan = by_hand.jobs[PLAN]
    assert "::warning::Nobody has reviewed what this deployment does to dev." in plan.log
    assert "**Not reviewed.** Reason given: the pull request s artifacts are gone" in plan.summary
    assert "`16`" in plan.summary
    assert project.stack.backup_days() == 16


def test_the_next_run_frees_the_lock_of_a_killed_one_and_of_nobody_else(project: Project) -> None:
    project.open(7, backupRetentionDays=17)
    event = project.merge(7)
    now = datetime.now(UTC)
    killed = {
        "run": 900,
        "attempt": 1,
        "host": socket.gethostname(),
        "started": (now - timedelta(minutes=9)).isoformat(),
    }
    project.github.add_artifact(900, "owner-dev", {FILE: json.dumps(killed)})
    project.github.add_run(900, path=".github/workflows/deploy.yml")
    project.stack.lock(socket.gethostname(), (now - timedelta(minutes=8)).isoformat(timespec="seconds"))

    run = project.deploy(event)
    assert run.jobs[UP].result == "failure"
    assert "actions/runs/900, which is in progress: wait until it ends, and do not cancel it" in run.log

    project.github.add_run(900, status="completed", conclusion="timed_out")
    run = project.deploy(event, run=run.number)
    assert run.succeeded, run.log
    assert "actions/runs/900, which is over (timed_out)" in run.log
    assert project.stack.backup_days() == 17


# The rest asks nothing of the stack that the stand-in does not know.


def test_an_old_run_does_not_bring_its_commit_back(told: Project) -> None:
    told.open(7, backupRetentionDays=6)
    old = told.merge(7)
    told.open(8, backupRetentionDays=7)
    told.merge(8)
    before = told.stack.backup_days()
    run = told.deploy(old)
    newest = told.main[:9]
    assert run.jobs[PLAN].result == "failure"
    assert run.jobs[UP].result == "skipped"
    assert len(run.errors) == 1
    assert (
        f"this run is of {old.commit[:9]}, and main has moved on to {newest}, for example Pulumi.dev.yaml."
        in run.errors[0]
    )
    again = told.deploy(old, run=run.number)
    assert again.errors == run.errors
    assert told.stack.backup_days() == before


def test_an_approval_that_comes_after_the_next_merge_deploys_nothing(told: Project) -> None:
    told.open(7, backupRetentionDays=8)
    event = told.merge(7)
    before = told.stack.backup_days()

    def late(_: str) -> bool:
        told.open(8, backupRetentionDays=9)
        told.merge(8)
        return True

    told.machines.approve = late
    run = told.deploy(event)
    assert run.jobs[PLAN].result == "success", run.log
    assert run.jobs[UP].result == "failure"
    assert "main has moved on" in run.errors[0]
    assert "Up" not in run.jobs[UP].steps
    assert told.stack.backup_days() == before


def test_a_stack_that_changes_between_plan_and_approval_is_not_deployed(told: Project) -> None:
    told.open(7, backupRetentionDays=12)
    event = told.merge(7)
    before = told.stack.backup_days()

    def changed_meanwhile(_: str) -> bool:
        told.stack.change_by_hand(13)
        return True

    told.machines.approve = changed_meanwhile
    run = told.deploy(event)
    # The deployment would set the reviewed value, and take back one that nobody saw when it was reviewed.
    assert run.jobs[PLAN].result == "success", run.log
    assert run.errors[0].startswith("Not deployed: somebody changed dev by hand")
    assert told.stack.backup_days() == 13
    told.stack.change_by_hand(before)


def test_a_pull_request_of_a_fork_or_of_dependabot_gets_no_preview(told: Project) -> None:
    told.open(7, backupRetentionDays=3)
    for repository, user in (("mallory/mlflow-eks", "mallory"), ("acme/mlflow-eks", "dependabot[bot]")):
        run = told.preview(7, repository, user)
        assert {job.result for job in run.jobs.values()} == {"skipped"}


def test_a_preview_that_a_person_starts_for_a_branch_counts_as_reviewed(told: Project) -> None:
    told.machines.variables = {**told.machines.variables, "STACKS": "[]"}
    told.open(7, backupRetentionDays=3)
    told.machines.variables = {**told.machines.variables, "STACKS": '["dev"]'}
    run = told.machines.start("preview", Event("workflow_dispatch", told.heads[7], "refs/heads/change-7"))
    assert run.succeeded, run.log
    assert run.jobs[COMMENT].result == "skipped"
    assert told.deploy(told.merge(7)).succeeded


def test_a_repository_without_stacks_is_green_and_says_so(told: Project) -> None:
    told.machines.variables = {}
    assert {job.result for job in told.open(7, backupRetentionDays=3).jobs.values()} == {"skipped"}
    run = told.deploy(told.merge(7))
    assert run.succeeded
    assert run.jobs["stacks"].log.count("::notice::") == 2
    assert run.jobs["dev"].result == "skipped"
    assert {job.result for job in told.machines.start("drift", Event("schedule", told.main)).jobs.values()} == {
        "skipped"
    }


def test_prod_waits_for_the_verification_of_dev(told: Project) -> None:
    machines = told.machines
    machines.variables = {**machines.variables, "STACKS": '["dev", "prod"]', "RUNNER_UP_PROD": "prods"}
    for name in ("preview", "plan"):
        machines.environments = {**machines.environments, f"prod-{name}": machines.environments["dev-plan"]}
    machines.environments = {**machines.environments, "prod": machines.environments["dev"]}
    file = told.git / "Pulumi.prod.yaml"
    told.commit({"backupRetentionDays": 2}, {"Pulumi.prod.yaml": f"secretsprovider: {PROVIDER}\n{file.read_text()}"})
    told.open(7, backupRetentionDays=3)
    event = told.merge(7)
    machines.stand_ins = {**machines.stand_ins, "Verify": lambda _: 1}
    run = told.deploy(event)
    assert run.jobs[UP].result == "failure"
    assert run.jobs["prod"].result == "skipped"
    machines.stand_ins = {**machines.stand_ins, "Verify": lambda _: 0}
    run = told.deploy(event, run=run.number)
    assert run.succeeded, run.log
    assert run.jobs["prod / up"].runner == "prods"


def test_nothing_is_deployed_that_the_reviewers_refuse(told: Project) -> None:
    told.open(7, backupRetentionDays=3)
    told.machines.approve = lambda _: False
    run = told.deploy(told.merge(7))
    assert run.jobs[UP].result == "refused"
    assert told.stack.backup_days() == 1
