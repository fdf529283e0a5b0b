"""Two sites in one program from the wheel: they share a server and an ingress controller, and neither gets at the other's.

The tests are steps of one way, in the order in which they are written.
"""

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import psycopg
import pytest

from components.mlflow_release.names import DATABASE_SECRET
from local import aws_account
from local.cluster.objects import Objects
from local.mlflow_scripts import run_afresh
from local.stack import LocalStack, Project, new_stack
from local.supervisor.client import Supervisor
from tests import ROOT
from tests.docs_commands import blocks
from tests.local import faults
from tests.wheel import install

pytestmark = pytest.mark.local

PROGRAM = ROOT / "tests" / "local" / "second_program" / "__main__.py"
TEAMS = ("red", "blue")
OTHER = {"red": "blue", "blue": "red"}

# What DNS would do.
RESOLVE = """
import socket

look_up = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **more: look_up("localhost" if host.endswith(".example.com") else host, *rest, **more)
"""
LOG_A_RUN = """
import mlflow

mlflow.set_experiment("of " + mlflow.get_tracking_uri())
with mlflow.start_run() as run:
    mlflow.log_text("hello", "note.txt")
assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/note.txt") == "hello"
print(run.info.run_id)
"""
SEES_THE_CHECKOUT = """
import importlib.util
import pulumi

pulumi.export("seen", [name for name in ("components", "settings", "wiring", "operations") if importlib.util.find_spec(name)])
"""


@dataclass
class Sites:
    """The program, and what a user of its sites has."""

    stack: LocalStack
    project: Project
    before: Counter[str]
    """Objects on the local stack before the program runs."""

    def outputs(self) -> dict[str, Any]:
        return json.loads(self.project.pulumi("stack", "output", "--json", "--show-secrets").stdout)

    def status(self, team: str, password: str) -> int:
        """Ask a site through HAProxy, as its administrator."""
        path = "/api/2.0/mlflow/experiments/search?max_results=1"
        return self.stack.get(path, login=("admin", password), headers={"Host": f"{team}.example.com"}).status

    def client(self, team: str, password: str, script: str) -> str:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.project.folder),
            "MLFLOW_TRACKING_URI": f"https://{team}.example.com:{self.stack.https_port}",
            "MLFLOW_TRACKING_INSECURE_TLS": "true",
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": password,
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "PYTHONWARNINGS": "ignore",
        }
        return run_afresh("3.15.1", RESOLVE + script, environment)


@pytest.fixture(scope="module")
def sites() -> Iterator[Sites]:
    with new_stack("second") as stack:
        # Starts the engine, the account and the plugins; this checkout's own program is not brought up.
        stack.command("preview")
        project = Project(stack, "second", PROGRAM.read_text())
        install(project.folder)
        project.pulumi("config", "set", "aws:region", aws_account.REGION)
        project.pulumi("config", "set", "cluster", aws_account.CLUSTER)
        before = faults.outside(stack)
        project.pulumi("up", "--yes", "--skip-preview")
        yield Sites(stack, project, before)


def test_this_program_and_that_of_the_page_have_the_types_that_the_package_promises(sites: Sites) -> None:
    (page,) = [block.text for block in blocks("docs/use-a-component.md") if block.language == "python"]
    (sites.project.folder / "page.py").write_text(page)
    settings = {
        "typeCheckingMode": "strict",
        "venvPath": str(ROOT),
        "venv": ".venv",
        "include": ["__main__.py", "page.py"],
    }
    (sites.project.folder / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [ROOT / ".venv" / "bin" / "pyright", "-p", sites.project.folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_a_program_of_another_project_does_not_see_this_checkout(sites: Sites) -> None:
    other = Project(sites.stack, "other", SEES_THE_CHECKOUT)
    other.pulumi("up", "--yes", "--skip-preview")
    assert json.loads(other.pulumi("stack", "output", "--json").stdout) == {"seen": []}


def test_a_second_up_changes_nothing(sites: Sites) -> None:
    unchanged = sites.project.pulumi("preview", "--expect-no-changes", ok=False)
    assert unchanged.returncode == 0, unchanged.stdout


@pytest.mark.parametrize("team", TEAMS)
def test_a_site_takes_its_own_login_and_not_the_others(sites: Sites, team: str) -> None:
    outputs = sites.outputs()
    assert sites.status(team, outputs[f"{team}Password"]) == 200
    assert sites.status(team, outputs[f"{OTHER[team]}Password"]) == 401


@pytest.mark.parametrize("team", TEAMS)
def test_a_run_is_on_its_own_site_with_its_artifact_in_the_folder_of_its_own_bucket(sites: Sites, team: str) -> None:
    outputs = sites.outputs()
    run = sites.client(team, outputs[f"{team}Password"], LOG_A_RUN)
    endpoint = f"http://127.0.0.1:{Supervisor(sites.stack.folder).free_port(aws_account.PROCESS)}"
    login = {"aws_access_key_id": "local", "aws_secret_access_key": "local", "region_name": aws_account.REGION}
    s3: Any = boto3.client("s3", endpoint_url=endpoint, **login)
    keys = {
        name: [one["Key"] for one in s3.list_objects_v2(Bucket=outputs[f"{name}Bucket"]).get("Contents", ())]
        for name in TEAMS
    }
    assert [key for key in keys[team] if run in key] == [f"{team}/1/{run}/artifacts/note.txt"]
    assert not [key for key in keys[OTHER[team]] if run in key]


@pytest.mark.parametrize("team", TEAMS)
def test_the_login_of_a_database_is_for_that_database_only(sites: Sites, team: str) -> None:
    server = sites.outputs()["server"]
    login = Objects(sites.stack.folder / "cluster" / "objects").secret_data(team, DATABASE_SECRET)
    at_server = {"host": server["host"], "port": int(server["port"]), "user": login["username"], "sslmode": "require"}
    with psycopg.connect(**at_server, password=login["password"], dbname=team) as own:
        assert own.execute("SELECT count(*) FROM runs").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match=f'permission denied for database "{OTHER[team]}"'):
        psycopg.connect(**at_server, password=login["password"], dbname=OTHER[team])


def test_destroy_leaves_nothing_behind(sites: Sites) -> None:
    sites.project.pulumi("destroy", "--yes", "--skip-preview")
    assert faults.differences(faults.outside(sites.stack), sites.before) == []
