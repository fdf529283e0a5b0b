"""`make drill` and `make restore` on the local stack: its server's data is copied as RDS does, and MLflow reads the copy in its pod."""

import pytest

from local.stack import LocalStack
from tests import ROOT
from tests.local.restored_instances import make_restore

pytestmark = pytest.mark.local

LOG_A_RUN = """
import mlflow
mlflow.set_experiment("restored")
with mlflow.start_run() as run:
    mlflow.log_metrics({"loss": 0.5, "gain": 1.5})
print(run.info.run_id)
"""


def test_a_drill_shows_that_a_copy_has_everything_and_leaves_nothing(stack: LocalStack) -> None:
    stack.client(LOG_A_RUN)
    said = make_restore(stack, "drill")
    assert "The copy has everything." in said
    assert "| runs |" in said
    assert said.rstrip().splitlines()[-1] == "The copy has everything."
    assert not [one.name for one in (stack.folder / "postgres").iterdir() if one.name.endswith("-drill")]
    assert stack.changes() == {}
    assert (ROOT / "artifacts" / "drill-local.md").exists()


@pytest.mark.slow
def test_a_restored_copy_serves_at_the_same_address_and_leaves_nothing_to_change(own_stack: LocalStack) -> None:
    own_stack.up()
    run = own_stack.client(LOG_A_RUN)
    said = make_restore(own_stack, "use", "--yes", "--time", "2026-11-01T00:00:00Z")
    own_stack.pulumi("up", "--refresh", "--yes", "--skip-preview")
    assert "-old1" in said
    assert own_stack.changes() == {}
    assert own_stack.client(f"import mlflow; print(mlflow.get_run({run!r}).data.metrics['loss'])") == "0.5"
