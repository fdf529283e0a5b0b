"""The page on lost entries of the state has every kind of resource that the program makes."""

import pytest

from tests import lost_state_page
from tests.contract.cases import CASES
from tests.docs_commands import prose
from tests.lost_state_page import fits, import_ids
from tests.unit.harness import MINIMAL, changed, deploy

ALARMS = changed(MINIMAL, {"postgres.alarmTopicArn": "arn:aws:sns:eu-west-1:123456789012:oncall"})
SEVERAL = [CASES[case] for case in ("mlflow-1.11.5/prod", "mlflow-1.11.5/local", "mlflow-1.11.5/replicas")]


def test_the_table_has_every_kind_of_resource() -> None:
    made = {
        (each.type, each.name)
        for config in [*SEVERAL, ALARMS]
        for each in deploy(config).resources
        # The Deployment is only read: `up` reads it again.
        if not each.type.startswith(("mlflow-eks:", "pulumi:", "kubernetes:apps/v1:Deployment"))
    }
    generated = {name for kind, name in made if kind.startswith("random:")}
    assert {kind for kind, _ in made if not kind.startswith("random:")} - import_ids().keys() == set()
    page = prose(lost_state_page.PAGE)
    assert {name for name in generated if f"`{name}`" not in page} == set()


@pytest.mark.parametrize(
    ("form", "resource_id", "right"),
    [
        ("NAMESPACE/NAME", "mlflow/mlflow", True),
        ("NAMESPACE/NAME", "mlflow", False),
        ("ROLE:NAME", "role:policy", True),
        ("sgr-ID", "sg-1", False),
        ("CLUSTER,a-ID", "my-cluster,a-1", True),
    ],
)
def test_an_id_has_the_form_of_its_kind(form: str, resource_id: str, right: bool) -> None:
    assert fits(form, resource_id) == right
