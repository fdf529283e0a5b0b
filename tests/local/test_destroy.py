"""A protected stack refuses to be destroyed. The way in docs/stuck-states.md destroys it completely."""

import json

import pytest

from local.stack import LocalStack
from tests.local import faults

pytestmark = pytest.mark.local

LOG_A_RUN = """
import mlflow
with mlflow.start_run() as run:
    mlflow.log_text("kept", "note.txt")
print(run.info.run_id)
"""
READ_IT = "import mlflow; print(mlflow.artifacts.load_text('runs:/{}/note.txt'))"


def test_a_protected_stack_stays_and_one_that_is_not_leaves_nothing_behind(own_stack: LocalStack) -> None:
    own_stack.command("preview")
    before = faults.outside(own_stack)
    own_stack.up(protect=True)
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
    own_stack.pulumi("destroy", "--yes")
    assert faults.differences(faults.outside(own_stack), before) == []
    state = json.loads(own_stack.pulumi("stack", "export").stdout)
    assert state["deployment"].get("resources", []) == []
