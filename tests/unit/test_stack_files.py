"""The committed stack files are as their first lines say, and Pulumi.yaml asks for what `pulumi new` can write."""

import re
from typing import Any

import pytest
import yaml

from settings.all_settings import Settings
from settings.reader import parse
from tests import ROOT
from tests.unit.harness import Deployment, changed, stack_config

STACKS = ["dev", "prod", "local"]


def loaded(stack: str) -> Settings:
    # No section of these files is a secret, so a password in one of them would be refused here.
    settings, problems = parse(stack_config(stack), set())
    assert problems == []
    assert settings is not None
    return settings


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "Pulumi.yaml").read_text())


@pytest.mark.parametrize("stack", STACKS)
def test_a_stack_file_is_accepted_without_a_warning(stack: str) -> None:
    assert loaded(stack).warnings() == []


@pytest.mark.parametrize("stack", STACKS)
def test_a_stack_file_says_in_which_region(stack: str) -> None:
    config = yaml.safe_load((ROOT / f"Pulumi.{stack}.yaml").read_text())["config"]
    assert {key.split(":")[0] for key in config} == {"aws", "mlflow-eks"}
    assert config["aws:region"]


def test_dev_is_small() -> None:
    settings = loaded("dev")
    postgres = settings.postgres
    assert (postgres.instance_class, postgres.allocated_storage, postgres.multi_az) == ("db.t3.micro", 20, False)
    assert settings.max_replicas == settings.ingress.replicas == 1
    assert postgres.alarm_topic_arn is None


@pytest.mark.parametrize("stack", ["dev", "local"])
def test_a_stack_to_try_things_with_can_be_deleted_whole(request: pytest.FixtureRequest, stack: str) -> None:
    deployment: Deployment = request.getfixturevalue(stack)
    assert [resource.name for resource in deployment.resources if resource.protect] == []
    assert deployment.named("postgres-instance")["skipFinalSnapshot"] is True
    assert deployment.named("artifacts-bucket")["forceDestroy"] is True


def test_prod_protects_everything_that_holds_data(prod: Deployment) -> None:
    protected = {resource.name for resource in prod.resources if resource.protect}
    data = {"postgres-instance", "artifacts-bucket", "database-database", "database-schema"}
    assert protected == data | {"mlflow-passphrase", "mlflow-webhook-key"}


def test_prod_survives_a_zone_and_a_bad_day() -> None:
    postgres = loaded("prod").postgres
    assert postgres.multi_az
    assert postgres.backup_retention_days >= 14
    assert postgres.max_allocated_storage >= 2 * postgres.allocated_storage
    assert postgres.alarm_topic_arn
    assert postgres.kms_key_arn
    assert loaded("prod").max_replicas >= 2
    assert loaded("prod").ingress.replicas >= 2


def test_prod_makes_the_safe_choices() -> None:
    settings = loaded("prod")
    assert settings.protect
    assert settings.postgres.allow_from == "cluster"
    assert settings.url.startswith("https://")
    assert settings.ingress.certificate_arn
    assert settings.ingress.scheme == "internal"
    assert settings.mlflow.chart_version == "1.11.5"
    assert settings.mlflow.auth.mode != "none"
    assert settings.mlflow.cors_allowed_origins == []


@pytest.mark.parametrize("stack", STACKS)
def test_placeholders_are_recognisable(stack: str) -> None:
    # These values belong to no real cluster, account or domain.
    settings = loaded(stack)
    text = (ROOT / f"Pulumi.{stack}.yaml").read_text()
    assert settings.mlflow.host.endswith(("example.com", "localhost"))
    assert text.count("arn:aws:") == text.count("123456789012")


def test_the_project_leaves_wrong_sections_to_the_program(project: dict[str, Any]) -> None:
    # Pulumi checks what is declared here before it starts the program, and ends at the first mistake.
    assert "config" not in project


def test_the_project_runs_in_its_own_virtualenv(project: dict[str, Any]) -> None:
    assert project["name"] == "mlflow-eks"
    assert project["runtime"]["options"]["virtualenv"] == ".venv"


def test_pulumi_new_asks_only_for_what_its_questions_can_write(project: dict[str, Any]) -> None:
    # An answer is a plain string under the whole key. For a part of a section it would be a setting that nothing reads.
    asked = project["template"]["config"]
    assert asked
    assert [key for key in asked if ":" not in key or key.startswith("mlflow-eks:")] == []
    dev = yaml.safe_load((ROOT / "Pulumi.dev.yaml").read_text())["config"]
    assert {key: value["default"] for key, value in asked.items()} == {key: dev[key] for key in asked}


def test_what_pulumi_new_prints_last_sets_the_two_settings(project: dict[str, Any]) -> None:
    commands = re.findall(
        r"pulumi config set --path 'mlflow-eks:([\w.]+)' (\S+)$", project["template"]["quickstart"], re.MULTILINE
    )
    settings, problems = parse(changed({}, dict(commands)), set())
    assert problems == []
    assert settings is not None
    assert len(commands) == 2
