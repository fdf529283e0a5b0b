"""Another namespace and another load balancer replace what Kubernetes cannot change, and the preview says so."""

import pytest

from local.stack import LocalStack

pytestmark = pytest.mark.local

LOG_A_RUN = """
import mlflow
with mlflow.start_run() as run:
    mlflow.log_text("kept", "note.txt")
print(run.info.run_id)
"""
READ_IT = "import mlflow; print(mlflow.artifacts.load_text('runs:/{}/note.txt'))"


def test_other_namespaces_and_another_load_balancer_are_what_the_preview_says(own_stack: LocalStack) -> None:
    own_stack.up()
    run = own_stack.client(LOG_A_RUN)
    moved = {
        "mlflow__namespace": "tracking",
        "ingress__namespace": "edge",
        "ingress__loadBalancerClass": "eks.amazonaws.com/nlb",
    }
    of_class = own_stack.changes(ingress__loadBalancerClass="eks.amazonaws.com/nlb")
    assert of_class["replace"] == ["ingress-release"]
    assert {"ingress-namespace", "ingress-release", "mlflow-namespace", "mlflow-release"} <= set(
        own_stack.changes(**moved)["replace"]
    )
    own_stack.up(**moved)
    assert own_stack.changes() == {}
    assert own_stack.client(READ_IT.format(run)) == "kept"
