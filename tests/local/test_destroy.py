"""A protected stack refuses to be destroyed. The way in docs/stuck-states.md destroys it completely."""

import json
from fnmatch import fnmatch

import psycopg
import pytest

from local.stack import LocalStack
from operations.iam.policies import state_paths
from tests.local import faults
from tests.policy_simulation import UP, asked_during, not_allowed

pytestmark = pytest.mark.local

LOG_A_RUN = """
import mlflow
with mlflow.start_run() as run:
    mlflow.log_text("kept", "note.txt")
print(run.info.run_id)
"""
DELETE_IT = """
import os
import mlflow, requests
path = mlflow.get_run("{}").info.artifact_uri.partition(":/")[2]
login = (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"])
url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow-artifacts/artifacts/" + path.lstrip("/") + "/note.txt"
print(requests.delete(url, auth=login, verify=False).status_code)
"""
"""Deletes an artifact, of which a marker and the old version stay in the bucket."""
READ_IT = "import mlflow; print(mlflow.artifacts.load_text('runs:/{}/note.txt'))"


def test_a_protected_stack_stays_and_one_that_is_not_leaves_nothing_behind(own_stack: LocalStack) -> None:
    own_stack.command("preview")
    before = faults.outside(own_stack)
    asked = asked_during(lambda: own_stack.up(protect=True), own_stack)
    whole = faults.outside(own_stack)
    password = own_stack.password()
    run = own_stack.client(LOG_A_RUN, password=password)

    refused = own_stack.pulumi("destroy", "--yes", ok=False)
    assert refused.returncode != 0
    said = refused.stdout + refused.stderr
    for name in ("database-schema", "artifacts-bucket"):
        assert f'::{name}" cannot be deleted\n    because it is protected' in said
    assert "remove the `protect` flag" in said
    assert faults.differences(faults.outside(own_stack), whole) == []
    assert own_stack.changes() == {}

    # Without a preview, the engine deletes every resource that is not protected. No data may be deleted even then.
    refused = own_stack.pulumi("destroy", "--yes", "--skip-preview", ok=False)
    assert refused.returncode != 0
    own_stack.pulumi("up", "--yes", "--skip-preview")
    assert own_stack.client(READ_IT.format(run), password=password) == "kept"

    own_stack.up(protect=False)
    assert own_stack.client(DELETE_IT.format(run), password=password) == "200"
    session = own_stack.connect()
    session.execute("BEGIN")
    session.execute("SELECT * FROM experiments")
    asked_to_destroy = asked_during(lambda: own_stack.pulumi("destroy", "--yes"), own_stack)
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")
    assert faults.differences(faults.outside(own_stack), before) == []
    state = json.loads(own_stack.pulumi("stack", "export").stdout)
    assert state["deployment"].get("resources", []) == []

    backend = own_stack.folder / "backend" / ".pulumi"
    files = [str(path.relative_to(backend)) for path in backend.rglob("*") if path.is_file()]
    assert any(file.startswith("history/") for file in files)
    assert [file for file in files if not any(fnmatch(file, each) for each in state_paths("local"))] == []

    assert {"rds:CreateDBInstance", "iam:CreateRole", "s3:CreateBucket"} <= asked
    assert {"rds:DeleteDBInstance", "iam:DeleteRole", "s3:DeleteObject"} <= asked_to_destroy
    assert not_allowed(UP, asked | asked_to_destroy) == []
