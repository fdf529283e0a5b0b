"""A resource whose creation was interrupted is looked up under the id that it would have."""

import json
from pathlib import Path

import pytest

from local.pulumi_cli.recovery import likely_id


@pytest.mark.parametrize(
    ("kind", "inputs", "expected"),
    [
        ("kubernetes:core/v1:Namespace", {"metadata": {"name": "mlflow"}}, "mlflow"),
        ("kubernetes:core/v1:Secret", {"metadata": {"name": "auth", "namespace": "mlflow"}}, "mlflow/auth"),
        ("kubernetes:helm.sh/v3:Release", {"name": "mlflow", "namespace": "mlflow", "values": {}}, "mlflow/mlflow"),
        ("postgresql:index/schema:Schema", {"name": "mlflow", "database": "db"}, "db.mlflow"),
        ("aws:rds/instance:Instance", {"identifier": "postgres-1a2b3c"}, "postgres-1a2b3c"),
        ("aws:iam/rolePolicy:RolePolicy", {"role": "artifacts", "name": "bucket"}, "artifacts:bucket"),
        ("random:index/randomPassword:RandomPassword", {"length": 20}, None),
    ],
)
def test_the_id_follows_from_the_inputs(
    tmp_path: Path, kind: str, inputs: dict[str, object], expected: str | None
) -> None:
    assert likely_id(kind, inputs, tmp_path, "http://127.0.0.1:1") == expected


def test_an_association_is_found_by_its_service_account(tmp_path: Path) -> None:
    kind = "aws:eks/podIdentityAssociation:PodIdentityAssociation"
    inputs = {"clusterName": "c", "namespace": "mlflow", "serviceAccount": "mlflow", "roleArn": "arn"}
    assert likely_id(kind, inputs, tmp_path, "http://127.0.0.1:1") is None
    (tmp_path / "pod-identity.json").write_text(json.dumps({"a-1": {**inputs, "namespace": "other"}, "a-2": inputs}))
    assert likely_id(kind, inputs, tmp_path, "http://127.0.0.1:1") == "a-2"
