"""The CronJob of `retention`: it may do what the server may, nobody reaches it, and it never runs twice at once."""

from typing import Any

import pytest

from components.mlflow_release.names import POD_LABELS
from tests.unit.harness import MINIMAL, Deployment, changed, deploy


@pytest.fixture(scope="module")
def on() -> Deployment:
    return deploy(changed(MINIMAL, {"retention": {"deletedDays": 30, "deleteTracesDays": 365}}))


def job(deployment: Deployment) -> dict[str, Any]:
    (found,) = deployment.of_type("kubernetes:batch/v1:CronJob")
    return found["spec"]


def pod(deployment: Deployment) -> dict[str, Any]:
    return job(deployment)["jobTemplate"]["spec"]["template"]


def container(deployment: Deployment) -> dict[str, Any]:
    (found,) = pod(deployment)["spec"]["containers"]
    return found


def variables(deployment: Deployment) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container(deployment)["env"] if "value" in one}


def test_nothing_goes_by_default() -> None:
    assert deploy(MINIMAL).of_type("kubernetes:batch/v1:CronJob") == []


def test_two_passes_never_run_at_once_and_a_failed_one_is_not_repeated_at_once(on: Deployment) -> None:
    assert job(on)["concurrencyPolicy"] == "Forbid"
    assert job(on)["timeZone"] == "Etc/UTC"
    assert job(on)["jobTemplate"]["spec"]["backoffLimit"] == 0


def test_the_pass_has_the_servers_image_and_identity_and_no_token_of_the_cluster(on: Deployment) -> None:
    assert container(on)["image"] == "burakince/mlflow:3.15.1"
    assert pod(on)["spec"]["serviceAccountName"] == on.values["serviceAccount"]["name"]
    assert pod(on)["spec"]["automountServiceAccountToken"] is False


def test_the_database_password_is_only_named(on: Deployment) -> None:
    secrets = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in container(on)["env"] if "valueFrom" in one}
    assert secrets == {
        "PGUSER": {"name": "postgres-database-secret", "key": "username"},
        "PGPASSWORD": {"name": "postgres-database-secret", "key": "password"},
    }
    assert variables(on)["PGCHANNELBINDING"] == "require"


def test_the_pass_takes_what_the_settings_say_from_the_servers_folder(on: Deployment) -> None:
    told = variables(on)
    assert told["CLEAN_UP_DELETED_DAYS"] == "30"
    assert told["CLEAN_UP_DELETE_TRACES_DAYS"] == "365"
    assert "CLEAN_UP_ARCHIVE_TRACES_DAYS" not in told
    assert told["CLEAN_UP_DRY_RUN"] == "false"
    s3 = on.values["artifactRoot"]["s3"]
    assert told["CLEAN_UP_FILES"] == f"s3://{s3['bucket']}/{s3['path']}"


def test_no_request_is_sent_to_the_pass_and_nobody_reaches_it(on: Deployment) -> None:
    labels = pod(on)["metadata"]["labels"]
    assert not POD_LABELS.items() <= labels.items()
    (policy,) = (
        found["spec"]
        for found in on.of_type("kubernetes:networking.k8s.io/v1:NetworkPolicy")
        if found["spec"]["podSelector"]["matchLabels"] == labels
    )
    assert policy["ingress"] == []
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}


def test_the_pass_runs_as_the_restricted_standard_asks(on: Deployment) -> None:
    assert pod(on)["spec"]["securityContext"]["runAsNonRoot"] is True
    assert pod(on)["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(on)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def test_an_authority_and_a_private_registry_are_the_passs_too() -> None:
    chosen = deploy(
        changed(
            MINIMAL,
            {
                "retention": {"deletedDays": 30},
                "database.caFile": "tests/unit/authority.pem",
                "images": {"registry": "registry.example.com/mirror", "pullSecret": "registry-login"},
            },
        )
    )
    assert container(chosen)["image"] == "registry.example.com/mirror/burakince/mlflow:3.15.1"
    assert pod(chosen)["spec"]["imagePullSecrets"] == [{"name": "registry-login"}]
    assert variables(chosen)["PGSSLROOTCERT"].rpartition("/")[0] in [
        mount["mountPath"] for mount in container(chosen)["volumeMounts"]
    ]


def test_the_pass_begins_when_the_tables_are_there(on: Deployment) -> None:
    assert "mlflow-release" in on.named("mlflow-clean-up").depends_on
