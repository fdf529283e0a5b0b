"""Every control that applies is met or waived, and the gate notices one that is not."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from local import tools
from tests import ROOT
from tests.controls import project_checks, terraform_plan, verdict, write_page
from tests.controls.verdict import STACKS, Finding
from tests.unit.harness import Deployment, Resource, deploy, plain, stack_config

Inputs = dict[str, Any]


def changed(deployment: Deployment, name: str, change: Callable[[Inputs], Any]) -> Deployment:
    """Return the deployment with changed inputs of one resource."""
    assert deployment.named(name)

    def edited(resource: Resource) -> Resource:
        if resource.name != name:
            return resource
        inputs = json.loads(json.dumps(plain(resource.inputs)))
        change(inputs)
        return dataclasses.replace(resource, inputs=inputs)

    return dataclasses.replace(deployment, resources=[edited(resource) for resource in deployment.resources])


def without(deployment: Deployment, *names: str) -> Deployment:
    assert all(deployment.named(name) for name in names)
    return dataclasses.replace(
        deployment, resources=[resource for resource in deployment.resources if resource.name not in names]
    )


def setting(**values: Any) -> Callable[[Inputs], None]:
    return lambda inputs: inputs.update(values)


def at(path: str, value: Any) -> Callable[[Inputs], None]:
    """Return a change that sets a nested value of the inputs. JSON texts on the path are parsed and written again."""

    def change(inputs: Any, keys: Sequence[str]) -> None:
        key: Any = int(keys[0]) if isinstance(inputs, list) else keys[0]
        if len(keys) == 1:
            inputs[key] = value
        elif isinstance(inputs[key], str):
            document = json.loads(inputs[key])
            change(document, keys[1:])
            inputs[key] = json.dumps(document)
        else:
            change(inputs[key], keys[1:])

    return lambda inputs: change(inputs, path.split("/"))


def annotation(key: str, value: str) -> Callable[[Inputs], None]:
    annotations = {f"service.beta.kubernetes.io/aws-load-balancer-{key}": value}
    return lambda inputs: inputs["values"]["controller"]["service"]["annotations"].update(annotations)


# Faults that Checkov must find. With a misspelt argument or a lost reference in terraform_plan.py, most of its checks would pass.
BROKEN: Mapping[str, tuple[str, Callable[[Inputs], None]]] = {
    "CKV_AWS_16": ("postgres-instance", setting(storageEncrypted=False)),
    "CKV_AWS_17": ("postgres-instance", setting(publiclyAccessible=True)),
    "CKV_AWS_118": ("postgres-instance", setting(monitoringInterval=0)),
    "CKV_AWS_129": ("postgres-instance", setting(enabledCloudwatchLogsExports=[])),
    "CKV_AWS_133": ("postgres-instance", setting(backupRetentionPeriod=0)),
    "CKV_AWS_157": ("postgres-instance", setting(multiAz=False)),
    "CKV_AWS_161": ("postgres-instance", setting(iamDatabaseAuthenticationEnabled=False)),
    "CKV_AWS_211": ("postgres-instance", setting(caCertIdentifier="rds-ca-2019")),
    "CKV_AWS_226": ("postgres-instance", setting(autoMinorVersionUpgrade=False)),
    "CKV_AWS_293": ("postgres-instance", setting(deletionProtection=False)),
    "CKV_AWS_353": ("postgres-instance", setting(performanceInsightsEnabled=False)),
    "CKV2_AWS_60": ("postgres-instance", setting(copyTagsToSnapshot=False)),
    "CKV2_AWS_69": ("postgres-parameters", at("parameters/0/value", "0")),
    "CKV2_AWS_5": ("postgres-instance", setting(vpcSecurityGroupIds=["sg-0e15e"])),
    "CKV_AWS_23": ("postgres-from-cluster", lambda inputs: inputs.pop("description", None)),
    "CKV_AWS_24": ("postgres-from-cluster", setting(cidrIpv4="0.0.0.0/0", fromPort=0, toPort=65535)),
    "CKV_AWS_25": ("postgres-from-cluster", setting(cidrIpv4="0.0.0.0/0", fromPort=0, toPort=65535)),
    "CKV_AWS_53": ("artifacts-bucket-private", setting(blockPublicAcls=False)),
    "CKV_AWS_54": ("artifacts-bucket-private", setting(blockPublicPolicy=False)),
    "CKV_AWS_55": ("artifacts-bucket-private", setting(ignorePublicAcls=False)),
    "CKV_AWS_56": ("artifacts-bucket-private", setting(restrictPublicBuckets=False)),
    "CKV2_AWS_6": ("artifacts-bucket-private", setting(bucket="another-bucket")),
    "CKV2_AWS_65": ("artifacts-bucket-no-acls", at("rule/objectOwnership", "ObjectWriter")),
    "CKV_AWS_145": (
        "artifacts-bucket-encryption",
        at("rules/0/applyServerSideEncryptionByDefault/sseAlgorithm", "AES256"),
    ),
    "CKV_AWS_21": ("artifacts-bucket-versions", at("versioningConfiguration/status", "Suspended")),
    "CKV_AWS_300": (
        "artifacts-bucket-lifecycle",
        lambda inputs: inputs["rules"][0].pop("abortIncompleteMultipartUpload"),
    ),
    "CKV2_AWS_61": ("artifacts-bucket-lifecycle", setting(bucket="another-bucket")),
    "CKV_AWS_70": ("artifacts-bucket-tls-only", at("policy/Statement/0/Effect", "Allow")),
    "CKV_AWS_60": ("artifacts-role", at("assumeRolePolicy/Statement/0/Principal", {"AWS": "*"})),
    "CKV_AWS_62": ("artifacts-policy", at("policy/Statement/1/Action", "*")),
    "CKV_AWS_63": ("artifacts-policy", at("policy/Statement/1/Action", "*")),
    "CKV_AWS_355": ("artifacts-policy", at("policy/Statement/1/Resource", "*")),
    "CKV_AWS_319": ("postgres-alarms-cpu", setting(actionsEnabled=False)),
    "CKV_K8S_21": ("mlflow-postgres-database-secret", at("metadata/namespace", "default")),
    "CKV_K8S_31": ("mlflow-release", at("values/podSecurityContext", {})),
    "CKV_K8S_13": ("ingress-release", at("values/controller/resources", {})),
    "CKV2_K8S_6": ("mlflow-network-policy", at("spec/podSelector/matchLabels", {"app": "another"})),
}

# Faults that this project's checks must find, one at a time.
OWN_BROKEN: Sequence[tuple[str, str, Callable[[Inputs], Any]]] = [
    ("RDS.9", "postgres-instance", setting(enabledCloudwatchLogsExports=["upgrade"])),
    ("RDS.11", "postgres-instance", setting(backupRetentionPeriod=6)),
    ("RDS.20", "postgres-events", setting(eventCategories=["failure", "maintenance"])),
    ("RDS.36", "postgres-parameters", at("parameters/1/value", "ddl")),
    ("RDS.38", "postgres-parameters", at("parameters/0/value", "0")),
    ("RDS.38", "postgres-instance", lambda inputs: inputs.pop("parameterGroupName")),
    ("RDS.38", "database-server", setting(sslmode="prefer")),
    ("RDS.38", "mlflow-release", at("values/extraEnvVars/PGSSLMODE", "prefer")),
    ("RDS.46", "postgres-subnets", setting(subnetIds=["subnet-0aa", "subnet-0cc"])),
    ("RDS.46", "postgres-subnets", setting(subnetIds=["subnet-0aa"])),
    ("RDS.46", "postgres-instance", lambda inputs: inputs.pop("dbSubnetGroupName")),
    ("database-reach", "postgres-sg", setting(egress=[{"protocol": "-1", "cidrBlocks": ["0.0.0.0/0"]}])),
    ("database-reach", "postgres-from-cluster", setting(cidrIpv4="0.0.0.0/0", referencedSecurityGroupId=None)),
    ("database-reach", "postgres-from-cluster", setting(toPort=5433)),
    ("kept-data", "postgres-instance", setting(skipFinalSnapshot=True)),
    ("kept-data", "artifacts-bucket", setting(forceDestroy=True)),
    ("alarms", "postgres-alarms-storage", setting(alarmActions=[])),
    ("tags", "postgres-events", lambda inputs: inputs.pop("tags")),
    ("S3.5", "artifacts-bucket-tls-only", at("policy/Statement/0/Condition/Bool/aws:SecureTransport", "true")),
    ("S3.5", "artifacts-bucket-tls-only", at("policy/Statement/0/Action", "s3:PutObject")),
    ("S3.10", "artifacts-bucket-lifecycle", at("rules/0/status", "Disabled")),
    ("IAM.21", "artifacts-policy", at("policy/Statement/1/Action", ["s3:Get*"])),
    ("IAM.21", "artifacts-policy", at("policy/Statement/0/Resource", "arn:aws:s3:::*")),
    ("signed-addresses", "artifacts-policy", at("policy/Statement/2/Action", "s3:PutObject")),
    ("principals", "artifacts-role", at("assumeRolePolicy/Statement/0/Principal", {"AWS": ["*"]})),
    ("principals", "artifacts-bucket-tls-only", at("policy/Statement/0/Effect", "Allow")),
    ("confused-deputy", "artifacts-role", at("assumeRolePolicy/Statement/0/Condition", {})),
    ("load-balancer-reach", "ingress-release", at("values/controller/service/enablePorts/stat", True)),
    ("load-balancer-reach", "ingress-release", annotation("scheme", "internet-facing")),
    ("ELB.17", "ingress-release", annotation("ssl-negotiation-policy", "ELBSecurityPolicy-2016-08")),
    ("ELB.18", "ingress-release", at("values/controller/service/enablePorts/http", True)),
    ("login", "mlflow-release", at("values/auth/enabled", False)),
    ("login", "mlflow-release", at("values/extraEnvVars/MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", "*")),
    ("pod-security", "mlflow-namespace", at("metadata/labels", {})),
    ("pod-security", "ingress-namespace", at("metadata/labels", {"pod-security.kubernetes.io/enforce": "baseline"})),
    ("network-policy", "mlflow-network-policy", at("spec/egress/1/to", [])),
    ("network-policy", "mlflow-network-policy", at("spec/policyTypes", ["Ingress"])),
    ("network-policy", "mlflow-network-policy", at("spec/ingress/0/from", [])),
    ("network-policy", "ingress-network-policy", at("spec/ingress/0/ports/0/port", 1024)),
    ("network-policy", "ingress-network-policy", at("spec/egress/0/to", [])),
    ("network-policy", "ingress-network-policy", at("spec/egress/1/ports", [])),
    ("disruption-budget", "ingress-release", at("values/controller/PodDisruptionBudget/enable", False)),
    ("container-resources", "mlflow-release", at("values/resources/limits", {})),
    ("service-account-token", "mlflow-release", at("values/serviceAccount/automount", True)),
]


@pytest.fixture(scope="session")
def deployments() -> dict[str, Deployment]:
    return {stack: deploy(stack_config(stack), stack=stack) for stack in STACKS}


@pytest.fixture(scope="session")
def broken(deployments: dict[str, Deployment]) -> Deployment:
    deployment = deployments["prod"]
    for name, change in BROKEN.values():
        deployment = changed(deployment, name, change)
    return deployment


@pytest.fixture(scope="session")
def uv() -> Path:
    return tools.uv_bin()


@pytest.fixture(scope="session")
def from_checkov(
    uv: Path, deployments: dict[str, Deployment], broken: Deployment, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Finding]]:
    """Return Checkov's findings for each stack, and for a prod with all faults of BROKEN."""
    asked = deployments | {"broken": broken}
    with ThreadPoolExecutor() as pool:
        answers = {
            name: pool.submit(verdict.checkov, uv, deployment, tmp_path_factory.mktemp(name))
            for name, deployment in asked.items()
        }
        return {name: answer.result() for name, answer in answers.items()}


def judge(findings: Sequence[Finding], waivers: Sequence[verdict.Waiver], stack: str) -> None:
    waived = [waiver for waiver in waivers if stack in waiver.stacks]
    sentences = [
        f"{failure} (mend it, or waive it with a reason that a reviewer accepts)"
        for failure in verdict.not_waived(findings, waived)
    ]
    sentences += [
        f"{waiver} (this waiver excuses nothing any more: remove it)"
        for waiver in verdict.without_a_failure(findings, waived)
    ]
    # The message holds the list, because pytest shortens a long one.
    assert not sentences, "\n".join([f"{stack}, see tests/controls/waivers.yaml:", *sentences])


def is_ours(waiver: verdict.Waiver) -> bool:
    return set(waiver.checks) <= project_checks.CHECKS.keys()


@pytest.mark.parametrize("stack", STACKS)
def test_every_control_that_we_check_ourselves_is_met_or_waived(deployments: dict[str, Deployment], stack: str) -> None:
    judge(
        project_checks.findings(deployments[stack]), [waiver for waiver in verdict.waivers() if is_ours(waiver)], stack
    )


@pytest.mark.parametrize("stack", STACKS)
def test_every_control_that_checkov_checks_is_met_or_waived(from_checkov: dict[str, list[Finding]], stack: str) -> None:
    judge(from_checkov[stack], [waiver for waiver in verdict.waivers() if not is_ours(waiver)], stack)


@pytest.mark.parametrize("stack", STACKS)
def test_every_control_of_the_table_is_checked_where_it_says(
    from_checkov: dict[str, list[Finding]], deployments: dict[str, Deployment], stack: str
) -> None:
    checked = {finding.check for finding in from_checkov[stack] + project_checks.findings(deployments[stack])}
    table = {check for rows in verdict.table().values() for row in rows for check in row.checks if stack in row.stacks}
    optional = set() if stack == "prod" else {"CKV_AWS_319"}  # comes with the alarms
    assert not table - checked - optional, (
        "nothing was checked for these; a control that looks at nothing is always met"
    )


def test_every_check_of_ours_and_every_waiver_stands_in_the_table() -> None:
    table = {check for rows in verdict.table().values() for row in rows for check in row.checks}
    assert not project_checks.CHECKS.keys() - table
    assert not {check for waiver in verdict.waivers() for check in waiver.checks} - table


def test_every_control_says_what_meets_it_and_it_is_there() -> None:
    for row in [row for rows in verdict.table().values() for row in rows]:
        waived = {check for waiver in verdict.waivers() for check in waiver.checks}
        assert row.by or row.chart or row.elsewhere or set(row.checks) <= waived, f"{row.control}: by whom?"
        for entry in row.by:
            file, _, text = entry.partition(": ")
            assert text in (ROOT / file).read_text(), f"{row.control}: {file} does not say {text!r}"


def test_the_page_says_what_the_table_and_the_waivers_say() -> None:
    assert write_page.PAGE.read_text() == write_page.render(), "python -m tests.controls.write_page"


@pytest.mark.parametrize("check", BROKEN)
def test_checkov_would_notice(from_checkov: dict[str, list[Finding]], broken: Deployment, check: str) -> None:
    assert _failed(from_checkov["broken"], check) - _failed(from_checkov["prod"], check), (
        f"{check} passes although {BROKEN[check][0]} is wrong"
    )


@pytest.mark.parametrize(
    ("check", "name", "change"), OWN_BROKEN, ids=[f"{check}-{name}" for check, name, _ in OWN_BROKEN]
)
def test_our_own_checks_would_notice(
    deployments: dict[str, Deployment], check: str, name: str, change: Callable[[Inputs], Any]
) -> None:
    right = deployments["prod"]
    assert _failed(project_checks.findings(changed(right, name, change)), check) - _failed(
        project_checks.findings(right), check
    )


def test_a_lost_resource_is_noticed_like_a_wrong_one(deployments: dict[str, Deployment]) -> None:
    lost = {
        "RDS.20": "postgres-events",
        "S3.5": "artifacts-bucket-tls-only",
        "S3.10": "artifacts-bucket-lifecycle",
        "disruption-budget": "mlflow-disruption-budget",
    }
    missed = [
        check
        for check, name in lost.items()
        if not _failed(project_checks.findings(without(deployments["prod"], name)), check)
    ]
    assert not missed


def test_a_failure_without_a_waiver_and_a_waiver_without_a_failure_are_both_told() -> None:
    waiver = verdict.Waiver(["A"], "aws_s3_bucket.*", "because")
    failure, met = Finding("A", "aws_s3_bucket.x", passed=False), Finding("A", "aws_s3_bucket.x", passed=True)
    assert verdict.not_waived([failure], [waiver]) == []
    assert verdict.not_waived([failure], []) == ["A aws_s3_bucket.x"]
    assert verdict.not_waived([Finding("A", "aws_db_instance.x", passed=False)], [waiver]) == ["A aws_db_instance.x"]
    assert verdict.without_a_failure([met], [waiver]) == ["A aws_s3_bucket.*"]


def test_the_plan_keeps_which_resource_refers_to_which(deployments: dict[str, Deployment]) -> None:
    configuration = terraform_plan.terraform_plan(deployments["prod"])["configuration"]["root_module"]["resources"]
    references = {
        (resource["name"], argument): expression["references"][-1]
        for resource in configuration
        for argument, expression in resource["expressions"].items()
    }
    bucket = {name: to for (name, argument), to in references.items() if argument == "bucket"}
    assert len(bucket) == 6
    assert set(bucket.values()) == {"aws_s3_bucket.artifacts-bucket"}
    assert {argument: to for (name, argument), to in references.items() if name == "postgres-instance"} == {
        "db_subnet_group_name": "aws_db_subnet_group.postgres-subnets",
        "monitoring_role_arn": "aws_iam_role.postgres-monitoring",
        "parameter_group_name": "aws_db_parameter_group.postgres-parameters",
        "vpc_security_group_ids": "aws_security_group.postgres-sg",
    }


def test_a_type_that_the_plan_does_not_know_is_an_error(deployments: dict[str, Deployment]) -> None:
    key = dataclasses.replace(deployments["prod"].named("artifacts-role"), type="aws:iam/accessKey:AccessKey")
    with pytest.raises(LookupError, match=re.escape("aws:iam/accessKey:AccessKey")):
        terraform_plan.terraform_plan(dataclasses.replace(deployments["prod"], resources=[key]))


def _failed(findings: Sequence[Finding], check: str) -> set[str]:
    return {finding.resource for finding in findings if finding.check == check and not finding.passed}
