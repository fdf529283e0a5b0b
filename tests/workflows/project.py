"""A repository with pull requests, and the stack that its workflows deploy."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from local.stack import LocalStack
from tests import ROOT
from tests.github_server import REPOSITORY, GitHubServer
from tests.local.account import aws_client
from tests.workflows.runner import Event, Machines, Run, installed_program

PROVIDER = "awskms://alias/mlflow-eks-dev?region=eu-west-1"
SETTINGS = {"AWS_REGION": "eu-west-1", "PULUMI_BACKEND_URL": "s3://state", "PULUMI_SECRETS_PROVIDER": PROVIDER}
FOLDERS = ("components", "local", "operations", "settings", ".github")
INSTALL = (
    'if [ "$1 $2" = "plugin install" ]; then folder="$PULUMI_HOME/plugins/resource-$4-v$5"; '
    'mkdir -p "$folder" && echo code > "$folder/pulumi-resource-$4"; exit; fi'
)
"""Stand-in for `pulumi plugin install resource NAME VERSION`."""
SECTION = "mlflow-eks:postgres"


class Told:
    """A stack that a stand-in for `pulumi` tells about. Takes a second a step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def programs(self, folder: Path) -> None:
        """Write the programs that the jobs call."""
        script = f'#!/bin/sh\n{INSTALL}\nexport PYTHONPATH="{ROOT}"\nexec "{sys.executable}" -m tests.workflows.told_pulumi "$@"\n'
        (folder / "pulumi").write_text(script)
        (folder / "aws").write_text("""#!/bin/sh\necho '{"DBInstances": [{}]}'\n""")

    def environment(self) -> dict[str, str]:
        """Return the variables of a step."""
        return {"TOLD_STATE": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}

    def stand_ins(self) -> dict[str, Any]:
        """Return functions in the place of steps."""
        return {"Verify": lambda _: 0, "Look at what no alarm watches": lambda _: 0}

    def read(self, name: str = "cloud") -> dict[str, Any]:
        """Return the instance as it is there."""
        return json.loads((self.folder / f"{name}.json").read_text())

    def deploy(self, inputs: Mapping[str, Any]) -> None:
        """Write what an `up` leaves."""
        for name in ("state", "cloud"):
            (self.folder / f"{name}.json").write_text(json.dumps(inputs))

    def backup_days(self) -> int:
        """Return the days of backup of the database."""
        return self.read()["backupRetentionDays"]

    def change_by_hand(self, days: int) -> None:
        """Change the database past Pulumi."""
        (self.folder / "cloud.json").write_text(json.dumps(self.read() | {"backupRetentionDays": days}))

    @contextmanager
    def deployed_by_somebody(self, **settings: Any) -> Iterator[None]:
        """Deploy something else with Pulumi, until the end of the block."""
        before = self.read()
        self.deploy(before | settings)
        yield
        self.deploy(before)

    def lock(self, host: str, at: str) -> None:
        """Leave the lock of a killed command."""
        (self.folder / "lock").write_text(f"created by runner@{host} (pid 4711) at {at}\n")


class Real:
    """The local stack: the real engine, program, database and MLflow."""

    def __init__(self, stack: LocalStack) -> None:
        self.stack = stack

    def programs(self, folder: Path) -> None:
        """Write the programs that the jobs call."""
        # The stack that the workflows call dev is called local there.
        script = (
            "#!/usr/bin/env bash\n"
            f"{INSTALL}\n"
            'if [ -z "$AWS_SESSION_TOKEN" ]; then echo "error: no credentials" >&2; exit 1; fi\n'
            'arguments=(); for each in "$@"; do [ "$each" = dev ] && each=local; arguments+=("$each"); done\n'
            f'exec "{sys.prefix}/bin/python" -m local pulumi "${{arguments[@]}}"\n'
        )
        (folder / "pulumi").write_text(script)
        (folder / "aws").write_text(f'#!/bin/sh\nexec "{sys.prefix}/bin/python" -m local aws "$@"\n')
        # The local cluster has no API for kubectl.
        (folder / "kubectl").write_text("#!/bin/sh\n")

    def environment(self) -> dict[str, str]:
        """Return the variables of a step."""
        kept = ("MLFLOW_EKS_", "HOME", "USER")
        mine = {key: value for key, value in self.stack.environment().items() if key.startswith(kept)}
        return {**mine, "MLFLOW_TRACKING_INSECURE_TLS": "true", "PYTHONDONTWRITEBYTECODE": "1"}

    def stand_ins(self) -> dict[str, Any]:
        """Return functions in the place of steps."""
        return {}

    def _instance(self) -> Any:
        (instance,) = aws_client(self.stack, "rds").describe_db_instances()["DBInstances"]
        return instance

    def backup_days(self) -> int:
        """Return the days of backup of the database."""
        return self._instance()["BackupRetentionPeriod"]

    def change_by_hand(self, days: int) -> None:
        """Change the database past Pulumi."""
        name = self._instance()["DBInstanceIdentifier"]
        aws_client(self.stack, "rds").modify_db_instance(
            DBInstanceIdentifier=name, BackupRetentionPeriod=days, ApplyImmediately=True
        )

    @contextmanager
    def deployed_by_somebody(self, **settings: Any) -> Iterator[None]:
        """Deploy something else with Pulumi, until the end of the block."""
        project = self.stack.folder / "project"
        texts = {name: (project / name).read_text() for name in ("Pulumi.local.yaml", "settings-of-checkout.yaml")}
        kept = {"postgres__backupRetentionDays": self.backup_days()}
        self.stack.up(**kept, **{f"postgres__{key}": value for key, value in settings.items()})
        # The deployments go on with the settings of their commit.
        for name, text in texts.items():
            (project / name).write_text(text)
        yield
        self.stack.up(**kept)
        for name, text in texts.items():
            (project / name).write_text(text)

    def lock(self, host: str, at: str) -> None:
        """Leave the lock of a killed command."""
        folder = self.stack.folder / "backend" / ".pulumi" / "locks" / "organization" / "mlflow-eks" / "local"
        folder.mkdir(parents=True, exist_ok=True)
        content = {"pid": 4711, "username": "runner", "hostname": host, "timestamp": at}
        (folder / "11111111-2222-3333-4444-555555555555.json").write_text(json.dumps(content))


Stack = Told | Real


@dataclass
class Project:
    """The repository, its pull requests and its machines."""

    git: Path
    github: GitHubServer
    stack: Stack
    machines: Machines
    heads: dict[int, str] = field(default_factory=dict)
    """Pull request to the last commit of its branch."""

    def run_git(self, *arguments: str) -> str:
        """Run git in the repository."""
        identity = ["-c", "user.name=ada", "-c", "user.email=ada@example.com", "-c", "advice.detachedHead=false"]
        command = ["git", *identity, *arguments]
        done = subprocess.run(command, cwd=self.git, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    @property
    def main(self) -> str:
        """Newest commit of main."""
        return self.run_git("rev-parse", "main")

    def commit(self, settings: Mapping[str, Any], files: Mapping[str, str] | None = None) -> str:
        """Commit other settings of the database, on the branch that is checked out."""
        for stack in ("dev", "local"):
            file = self.git / f"Pulumi.{stack}.yaml"
            content = yaml.safe_load(file.read_text())
            content["config"][SECTION] = content["config"].get(SECTION, {}) | dict(settings)
            file.write_text(yaml.safe_dump(content))
        for name, text in (files or {}).items():
            (self.git / name).parent.mkdir(parents=True, exist_ok=True)
            (self.git / name).write_text(text)
        self.run_git("add", "--all")
        self.run_git("commit", "--quiet", "--message", "change")
        return self.run_git("rev-parse", "HEAD")

    def open(self, number: int, files: Mapping[str, str] | None = None, **settings: Any) -> Run:
        """Open a pull request, and preview it."""
        self.run_git("checkout", "--quiet", "-B", f"change-{number}", "main")
        self.heads[number] = self.commit(settings, files)
        return self.preview(number)

    def push(self, number: int, **settings: Any) -> Run:
        """Push to a pull request, and preview it."""
        self.run_git("checkout", "--quiet", f"change-{number}")
        self.heads[number] = self.commit(settings)
        return self.preview(number)

    def preview(self, number: int, repository: str = REPOSITORY, user: str = "ada") -> Run:
        """Run the preview of a pull request."""
        self.run_git("checkout", "--quiet", "--detach", "main")
        self.run_git("merge", "--quiet", "--no-ff", "--message", f"Merge {number}", self.heads[number])
        pull = {
            "number": number,
            "head": {"sha": self.heads[number], "repo": {"full_name": repository}},
            "user": {"login": user},
        }
        commit = self.run_git("rev-parse", "HEAD")
        return self.machines.start("preview", Event("pull_request", commit, f"refs/pull/{number}/merge", pull=pull))

    def merge(self, number: int) -> Event:
        """Merge a pull request, and return the push to main."""
        self.run_git("checkout", "--quiet", "main")
        self.run_git("merge", "--quiet", "--squash", self.heads[number])
        self.run_git("commit", "--quiet", "--message", f"Change {number}")
        self.github.pulls.append(
            {
                "number": number,
                "merged_at": f"2026-01-01T00:00:{number:02}Z",
                "merge_commit_sha": self.main,
                "base": {"ref": "main"},
                "head": {"sha": self.heads[number]},
            }
        )
        return Event("push", self.main)

    def deploy(self, event: Event | None = None, run: int | None = None) -> Run:
        """Run the deployment of a push. With the number of a run, run that again."""
        return self.machines.start("deploy", event or Event("push", self.main), run)

    def by_hand(self, reason: str, stack: str = "dev") -> Run:
        """Deploy by hand what was not reviewed."""
        return self.machines.start(
            "deploy", Event("workflow_dispatch", self.main, inputs={"stack": stack, "reason": reason})
        )

    def comment(self, number: int) -> str:
        """Return the one comment on a pull request."""
        (only,) = self.github.comments[number]
        return only["body"]


def new_project(folder: Path, github: GitHubServer, stack: Stack) -> Project:
    """Make a repository with the files of this checkout, and machines for its jobs."""
    git = folder / "git"
    git.mkdir(parents=True)
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        source = ROOT / name
        if source.is_file() and ("/" not in name or name.startswith(FOLDERS)) and not name.endswith(".db"):
            (git / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, git / name)
    # The program of dev is that of the local stack, with a key as `stack init` writes it.
    (git / "Pulumi.dev.yaml").write_text(f"secretsprovider: {PROVIDER}\n" + (ROOT / "Pulumi.local.yaml").read_text())
    programs = folder / "bin"
    programs.mkdir()
    stack.programs(programs)
    for program in programs.iterdir():
        program.chmod(0o755)
    github.git = git
    role = "arn:aws:iam::123456789012:role/mlflow-eks-dev"
    environments = {
        "dev-preview": {**SETTINGS, "AWS_ROLE_ARN": f"{role}-preview"},
        "dev-plan": {**SETTINGS, "AWS_ROLE_ARN": f"{role}-preview"},
        "dev": {**SETTINGS, "AWS_ROLE_ARN": role},
    }
    machines = Machines(
        git,
        github,
        folder / "machines",
        programs,
        {"STACKS": '["dev"]', "RUNNER_PREVIEW": "previews", "RUNNER_UP": "deployments"},
        environments,
        guarded=["dev"],
        stand_ins={"Install the program": installed_program, **stack.stand_ins()},
        extra=stack.environment(),
    )
    project = Project(git, github, stack, machines)
    project.run_git("init", "--quiet", "--initial-branch", "main")
    project.commit({"backupRetentionDays": 1})
    return project
