"""A runner for the workflows of this repository: jobs in the order of their needs, steps in theirs, each `run` in bash.

It knows what these workflows use, and raises an error for anything else. Actions of others are stood in for: a checkout is a clone, a login
to AWS is written down, and artifacts go to the stand-in for GitHub's API.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from tests import ROOT
from tests.github_server import REPOSITORY, TOKEN, GitHubServer
from tests.workflows.expressions import PLAIN, UnsupportedError, as_text, evaluate, fill

JOB_KEYS = {
    *("name", "if", "needs", "strategy", "runs-on", "environment", "concurrency", "timeout-minutes", "permissions"),
    *("env", "defaults", "steps", "uses", "with"),
}
STEP_KEYS = {"name", "id", "if", "env", "run", "uses", "with", "shell"}
_STATUS = re.compile(r"\b(always|success|failure|cancelled)\(")

StandIn = Callable[["Job"], int]
"""Function in the place of a step. It returns the step's exit status."""


@dataclass(frozen=True)
class Event:
    """Reason of a run, with its commit."""

    name: str
    commit: str
    ref: str = "refs/heads/main"
    inputs: Mapping[str, str] = field(default_factory=dict)
    pull: Mapping[str, Any] | None = None
    """The pull request, as in the event's payload."""


@dataclass
class Outcome:
    """The result of a job."""

    name: str
    result: str
    """`success`, `failure`, `skipped` or `refused`, the last for a deployment that nobody approved."""
    log: str = ""
    summary: str = ""
    steps: list[str] = field(default_factory=list)
    """Names of the steps that ran."""
    runner: str = ""
    logins: list[str] = field(default_factory=list)
    """Roles that were assumed."""

    @property
    def errors(self) -> list[str]:
        """The sentences that GitHub shows at the top of a run."""
        return re.findall(r"^::error::(.*)$", self.log, re.MULTILINE)


@dataclass
class Machines:
    """The repository on GitHub, with machines that run its jobs."""

    git: Path
    """Repository whose commits are checked out."""
    github: GitHubServer
    folder: Path
    """Folder for the jobs."""
    programs: Path
    """Folder with stand-ins for `pulumi` and others, first on the PATH."""
    variables: Mapping[str, str]
    """Variables of the repository."""
    environments: Mapping[str, Mapping[str, str]]
    """Environment to its variables."""
    guarded: Sequence[str] = ()
    """Environments that ask for an approval."""
    approve: Callable[[str], bool] = lambda _: True
    """Answer of the reviewers for an environment."""
    stand_ins: Mapping[str, StandIn] = field(default_factory=dict)
    """Step's name to a function in its place."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of every step, as a machine has them."""
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def start(self, workflow: str, event: Event, run: int | None = None) -> "Run":
        """Run a workflow to its end. With the number of an earlier run, run that again."""
        number = next(self.numbers) if run is None else run
        known = {each["id"]: each for each in self.github.runs}
        attempt = known[number].get("run_attempt", 1) + 1 if number in known else 1
        head = event.pull["head"]["sha"] if event.pull else event.commit
        self.github.add_run(
            number,
            path=f".github/workflows/{workflow}.yml",
            head_sha=head,
            run_attempt=attempt,
            status="in_progress",
            conclusion=None,
        )
        made = Run(self, event, number, attempt)
        made.workflow(self.read(event.commit, workflow), {**event.inputs}, "")
        ended = "success" if made.succeeded else "failure"
        self.github.add_run(number, status="completed", conclusion=ended)
        return made

    def read(self, commit: str, workflow: str) -> dict[str, Any]:
        """Return a workflow as it is at a commit."""
        path = f".github/workflows/{workflow}.yml"
        shown = subprocess.run(
            ["git", "show", f"{commit}:{path}"], cwd=self.git, capture_output=True, text=True, check=True
        )
        # BaseLoader, because other loaders read the key `on` as a boolean.
        return yaml.load(shown.stdout, Loader=yaml.BaseLoader)


@dataclass
class Run:
    """A run of a workflow."""

    machines: Machines
    event: Event
    number: int
    attempt: int
    jobs: dict[str, Outcome] = field(default_factory=dict)
    """Jobs by their names, those of called workflows as `caller / job`."""

    @property
    def succeeded(self) -> bool:
        """True if no job failed."""
        return all(job.result in ("success", "skipped") for job in self.jobs.values())

    @property
    def errors(self) -> list[str]:
        """All sentences at the top of the run."""
        return [error for job in self.jobs.values() for error in job.errors]

    @property
    def log(self) -> str:
        """The logs of all jobs."""
        return "\n".join(job.log for job in self.jobs.values())

    def contexts(self, **more: Any) -> dict[str, Any]:
        """Return what an expression of this run can name."""
        github = {
            "event_name": self.event.name,
            "ref": self.event.ref,
            "repository": REPOSITORY,
            "run_id": self.number,
            "server_url": "https://github.com",
            "token": TOKEN,
            "event": {"pull_request": self.event.pull or {}},
        }
        return {"github": github, "vars": self.machines.variables, "inputs": self.event.inputs, **more}

    def workflow(self, document: Mapping[str, Any], inputs: Mapping[str, Any], prefix: str) -> str:
        """Run the jobs of a workflow, and return the result of all of them."""
        results: dict[str, dict[str, str]] = {}
        for name, job in document["jobs"].items():
            if unknown := set(job) - JOB_KEYS:
                raise UnsupportedError(f"{name}: {unknown}")
            needs = [job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", [])
            needed = {need: results[need] for need in needs}
            contexts = self.contexts(inputs=inputs, needs=needed)
            functions = _state(all(each["result"] == "success" for each in needed.values()))
            if not _wanted(job.get("if"), contexts, functions):
                results[name] = {"result": "skipped"}
                self.jobs[prefix + name] = Outcome(prefix + name, "skipped")
                continue
            found: list[str] = []
            for values in _matrix(job, contexts):
                title = prefix + name + "".join(f" ({value})" for value in values.values())
                found.append(self._job(title, job, {**contexts, "matrix": values}))
            results[name] = {"result": next((each for each in found if each != "success"), "success")}
        return next(
            (each["result"] for each in results.values() if each["result"] not in ("success", "skipped")), "success"
        )

    def _job(self, title: str, job: Mapping[str, Any], contexts: dict[str, Any]) -> str:
        if "uses" in job:
            called = self.machines.read(self.event.commit, Path(job["uses"]).stem)
            declared = called["on"]["workflow_call"]["inputs"]
            given = {key: fill(value, contexts) for key, value in job.get("with", {}).items()}
            assert set(given) <= set(declared), f"{title}: {set(given) - set(declared)} is no input"
            inputs = {key: given.get(key, each.get("default")) for key, each in declared.items()}
            return self.workflow(called, inputs, f"{title} / ")
        environment = fill(job.get("environment"), contexts)
        outcome = Outcome(title, "success", runner=as_text(fill(job["runs-on"], contexts)))
        self.jobs[title] = outcome
        if environment:
            assert environment in self.machines.environments, f"{title}: there is no environment {environment}"
            if environment in self.machines.guarded and not self.machines.approve(environment):
                outcome.result = "refused"
                return "failure"
            # The variables of the environment are there for its steps, and not for `if` or `runs-on` of the job.
            contexts["vars"] = {**self.machines.variables, **self.machines.environments[environment]}
        Job(self, job, contexts, outcome).run()
        return outcome.result


def _matrix(job: Mapping[str, Any], contexts: Mapping[str, Any]) -> list[dict[str, Any]]:
    matrix = {key: fill(value, contexts) for key, value in job.get("strategy", {}).get("matrix", {}).items()}
    assert all(matrix.values()), "GitHub refuses a matrix without values"
    return [dict(zip(matrix, values, strict=True)) for values in itertools.product(*matrix.values())]


def _state(succeeded: bool) -> dict[str, Any]:
    """Return the functions of an expression that ask for the state of what came before."""
    return {
        **PLAIN,
        "success": lambda: succeeded,
        "failure": lambda: not succeeded,
        "always": lambda: True,
        "cancelled": lambda: False,
    }


def _wanted(condition: str | None, contexts: Mapping[str, Any], functions: Mapping[str, Any]) -> bool:
    if condition is None:
        return functions["success"]()
    text = condition.strip()
    if text.startswith("${{"):
        text = text.removeprefix("${{").removesuffix("}}")
    value = bool(evaluate(text, contexts, functions))
    # GitHub puts `success() &&` in front of a condition that does not ask for the state itself.
    return value if _STATUS.search(text) else value and functions["success"]()


@dataclass
class Job:
    """A job on its machine."""

    run_: Run
    document: Mapping[str, Any]
    contexts: dict[str, Any]
    outcome: Outcome
    steps: dict[str, Any] = field(default_factory=dict)
    """Outputs of the steps that have an id."""
    failed: bool = False
    credentials: bool = False
    """True after the login to AWS."""

    def __post_init__(self) -> None:
        """Make the machine's folders."""
        name = re.sub(r"\W+", "-", self.outcome.name)
        machine = self.run_.machines.folder / f"{self.run_.number}-{self.run_.attempt}-{name}"
        self.workspace, self.temp = machine / "workspace", machine / "temp"
        self.temp.mkdir(parents=True)
        self.workspace.mkdir()
        self.contexts["runner"] = {"temp": str(self.temp)}

    def run(self) -> None:
        """Run the steps."""
        for step in self.document["steps"]:
            self._step(step, self.contexts, self.document.get("env", {}), composite=False)
        self.outcome.result = "failure" if self.failed else "success"
        summary = self.temp / "summary"
        self.outcome.summary = summary.read_text() if summary.exists() else ""

    def _step(
        self, step: Mapping[str, Any], contexts: dict[str, Any], env: Mapping[str, str], *, composite: bool
    ) -> None:
        if unknown := set(step) - STEP_KEYS:
            raise UnsupportedError(f"{step.get('name')}: {unknown}")
        contexts = {**contexts, "steps": self.steps}
        if not _wanted(step.get("if"), contexts, _state(not self.failed)):
            return
        name = step.get("name") or step["uses"].partition("@")[0]
        self.outcome.steps.append(name)
        self.outcome.log += f"##[group]{name}\n"
        stand_in = self.run_.machines.stand_ins.get(name)
        if stand_in:
            status = stand_in(self)
        elif "run" in step:
            assert step.get("shell") == "bash" or not composite, f"{name}: a step of an action names its shell"
            status = self._bash(step, contexts, env)
        elif step["uses"].startswith("./.github/actions/"):
            self._composite(step, contexts, env)
            return
        else:
            inputs = {key: fill(value, contexts) for key, value in step.get("with", {}).items()}
            status = ACTIONS[step["uses"].partition("@")[0]](self, inputs)
        if status:
            self.outcome.log += f"##[error]exit code {status}\n"
            self.failed = True

    def _composite(self, step: Mapping[str, Any], contexts: dict[str, Any], env: Mapping[str, str]) -> None:
        document = yaml.safe_load((self.workspace / step["uses"] / "action.yml").read_text())
        given = {key: fill(value, contexts) for key, value in step.get("with", {}).items()}
        declared: Mapping[str, Any] = document["inputs"]
        assert set(given) <= set(declared), f"{step['uses']}: {set(given) - set(declared)} is no input"
        inputs = {key: given.get(key, each.get("default", "")) for key, each in declared.items()}
        outer, self.steps = self.steps, {}
        for each in document["runs"]["steps"]:
            self._step(each, {**contexts, "inputs": inputs}, env, composite=True)
        self.steps = outer

    def _bash(self, step: Mapping[str, Any], contexts: Mapping[str, Any], env: Mapping[str, str]) -> int:
        output = self.temp / "output"
        output.write_text("")
        event = self.run_.event
        machines = self.run_.machines
        environment = {
            "PATH": f"{machines.programs}:{os.environ['PATH']}",
            "HOME": str(self.temp),
            "LANG": "C.UTF-8",
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_API_URL": machines.github.url,
            "GITHUB_REPOSITORY": REPOSITORY,
            "GITHUB_SHA": event.commit,
            "GITHUB_REF_NAME": event.ref.removeprefix("refs/heads/"),
            "GITHUB_RUN_ID": str(self.run_.number),
            "GITHUB_RUN_ATTEMPT": str(self.run_.attempt),
            "GITHUB_OUTPUT": str(output),
            "GITHUB_STEP_SUMMARY": str(self.temp / "summary"),
            "RUNNER_TEMP": str(self.temp),
            "PULUMI_HOME": str(self.temp / "pulumi-home"),
            # The stand-in for `pulumi` refuses to look at a stack without it.
            **({"AWS_SESSION_TOKEN": "of-this-job"} if self.credentials else {}),
            **machines.extra,
            **{key: as_text(fill(value, contexts)) for key, value in {**env, **step.get("env", {})}.items()},
        }
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=self.workspace,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
            check=False,
        )
        self.outcome.log += done.stdout
        if "id" in step:
            lines = [line.partition("=") for line in output.read_text().splitlines()]
            self.steps[step["id"]] = {"outputs": {name: value for name, _, value in lines}}
        return done.returncode

    # Actions of others

    def checkout(self, inputs: Mapping[str, Any]) -> int:
        """Clone the commit of the run."""
        assert inputs["persist-credentials"] == "false"
        git = self.run_.machines.git
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", "--shared", git, self.workspace], check=True)
        subprocess.run(["git", "checkout", "--quiet", self.run_.event.commit], cwd=self.workspace, check=True)
        return 0

    def nothing(self, inputs: Mapping[str, Any]) -> int:
        """Stand in for an installation."""
        assert not self.credentials, "nothing is installed after the login"
        return 0

    def login(self, inputs: Mapping[str, Any]) -> int:
        """Stand in for the login to AWS."""
        self.credentials = True
        self.outcome.logins.append(f"{inputs['role-to-assume']} for {inputs['role-duration-seconds']} s")
        return 0

    def upload(self, inputs: Mapping[str, Any]) -> int:
        """Keep a file as an artifact."""
        file = Path(inputs["path"])
        if not file.exists():
            return 0 if inputs.get("if-no-files-found") == "ignore" else 1
        self.run_.machines.github.add_artifact(self.run_.number, inputs["name"], {file.name: file.read_text()})
        return 0

    def download(self, inputs: Mapping[str, Any]) -> int:
        """Unpack artifacts of this run."""
        wanted = inputs.get("name") or inputs["pattern"]
        assert "name" in inputs or inputs["merge-multiple"] == "true"
        found = [
            each
            for each in self.run_.machines.github.artifacts
            if each["run"] == self.run_.number and fnmatch(each["name"], wanted)
        ]
        folder = self.workspace / inputs["path"]
        for each in found:
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in each["files"].items():
                (folder / name).write_text(text)
        return 0 if found or "pattern" in inputs else 1


ACTIONS: Mapping[str, Callable[[Job, Mapping[str, Any]], int]] = {
    "actions/checkout": Job.checkout,
    "actions/setup-python": Job.nothing,
    "pulumi/actions": Job.nothing,
    "aws-actions/configure-aws-credentials": Job.login,
    "actions/upload-artifact": Job.upload,
    "actions/download-artifact": Job.download,
}


def installed_program(job: Job) -> int:
    """Stand in for the installation of the program: the packages of this checkout are used."""
    assert not job.credentials, "nothing is installed after the login"
    venv = job.workspace / ".venv"
    venv.mkdir()
    (venv / "bin").mkdir()
    # Not the whole folder: a workspace that is deleted must not take this checkout's packages with it.
    script = venv / "bin" / "python"
    script.write_text(f'#!/bin/sh\nexec "{sys.prefix}/bin/python" "$@"\n')
    script.chmod(0o755)
    return 0


def clean(folder: Path) -> None:
    """Delete the folders of ended jobs."""
    shutil.rmtree(folder, ignore_errors=True)


__all__ = ["ROOT", "Event", "Machines", "Outcome", "Run", "clean", "installed_program"]
