"""Every AWS resource reads back as it was written, sees changes made elsewhere, and is gone after its deletion."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from local.aws_account import rules
from local.plugins.aws import api, cloudwatch, ec2, iam, lookups, rds, route53, s3
from local.plugins.provider_base import InvalidInput, OperationError, Properties, Resource

REGION = "eu-west-1"


def trust(service: str) -> str:
    statement = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


TRUST = trust("rds.amazonaws.com")
TOPIC = f"arn:aws:sns:{REGION}:123456789012:alerts"
TAGS = {"app": "mlflow"}


class Server:
    """A fake of an instance's PostgreSQL server. test_postgresql.py uses the real one."""

    started: ClassVar[dict[str, dict[str, str]]] = {}
    versions: ClassVar[dict[str, str]] = {}
    passwords: ClassVar[dict[str, str]] = {}
    port = 25432

    def __init__(self, identifier: str) -> None:
        self.identifier = identifier

    @property
    def exists(self) -> bool:
        return self.identifier in self.started

    def start(self, parameters: dict[str, str], version: str) -> None:
        self.started[self.identifier] = parameters
        self.versions[self.identifier] = version

    def set_master(self, name: str, password: str) -> None:
        self.passwords[self.identifier] = password

    def remove(self) -> None:
        self.started.pop(self.identifier, None)


@pytest.fixture(autouse=True, scope="module")
def clients() -> Iterator[None]:
    api._new_client.cache_clear()
    yield
    api._new_client.cache_clear()


@pytest.fixture(autouse=True)
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.setenv(name, REGION)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "local")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "local")
    monkeypatch.setenv("MLFLOW_EKS_STACK_DIR", str(tmp_path))
    monkeypatch.setattr(rds, "DatabaseServer", Server)
    Server.started, Server.passwords, Server.versions = {}, {}, {}
    with mock_aws():
        api.client("sns").create_topic(Name="alerts")
        yield


@pytest.fixture(autouse=True, scope="module")
def as_aws() -> None:
    rules.install()


@pytest.fixture
def vpc() -> str:
    return api.client("ec2").create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]


@pytest.fixture
def subnets(vpc: str) -> list[str]:
    client = api.client("ec2")
    return [
        client.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{n}.0/24", AvailabilityZone=f"{REGION}{zone}")["Subnet"][
            "SubnetId"
        ]
        for n, zone in enumerate("ab")
    ]


@pytest.fixture
def bucket() -> str:
    return s3.Bucket().create({"bucket": "artifacts"})[0]


def life(resource: Resource, inputs: Properties, change: Properties) -> None:
    """Create, read, change in place and delete a resource."""
    assert resource.check(inputs) == inputs
    resource_id, outputs = resource.create(inputs)
    assert resource.computed <= outputs.keys()
    assert all(outputs[name] is not None for name in resource.computed)
    state = resource.read(resource_id, inputs, outputs)
    assert state is not None
    assert state.inputs == inputs
    imported = resource.read(resource_id, {}, {})
    assert imported is not None
    optional: frozenset[str] = getattr(resource, "optional", frozenset())
    # If one of these differed, the next `up` would replace what was imported.
    assert [name for name in resource.replace - optional if imported.inputs.get(name) != inputs.get(name)] == []
    assert not change.keys() & resource.replace
    if change:
        changed = resource.update(resource_id, inputs, inputs | change)
        assert changed == outputs | {name: changed[name] for name in resource.deferred}
        state = resource.read(resource_id, inputs | change, outputs)
        assert state is not None
        assert state.inputs == inputs | change
    resource.delete(resource_id, inputs | outputs)
    assert resource.read(resource_id, inputs, outputs) is None
    resource.delete(resource_id, inputs | outputs)


def test_subnet_group(subnets: list[str]):
    inputs = {"name": "sg", "description": "d", "subnetIds": subnets[::-1], "tags": TAGS}
    life(rds.SubnetGroup(), inputs, {"description": "other", "tags": {"b": "c"}})


def test_parameter_group():
    one = {"name": "rds.force_ssl", "value": "1"}
    inputs = {"name": "pg", "family": "postgres17", "description": "d", "parameters": [one], "tags": TAGS}
    life(rds.ParameterGroup(), inputs, {"parameters": [one | {"value": "0"}]})


def test_event_subscription(instance: Properties):
    rds.Instance().create(instance)
    inputs = {
        "name": "es",
        "snsTopic": TOPIC,
        "sourceType": "db-instance",
        "sourceIds": [instance["identifier"]],
        "eventCategories": ["failure", "availability"],
        "tags": TAGS,
    }
    life(rds.EventSubscription(), inputs, {})


def test_snapshot(instance: Properties):
    rds.Instance().create(instance)
    life(
        rds.Snapshot(),
        {"dbInstanceIdentifier": "db", "dbSnapshotIdentifier": "before", "tags": TAGS},
        {"tags": {"b": "c"}},
    )


def test_alarm():
    inputs = {
        "name": "cpu",
        "alarmDescription": "d",
        "namespace": "AWS/RDS",
        "metricName": "CPUUtilization",
        "dimensions": {"DBInstanceIdentifier": "db"},
        "statistic": "Average",
        "period": 300,
        "evaluationPeriods": 3,
        "comparisonOperator": "GreaterThanThreshold",
        "threshold": 80,
        "treatMissingData": "breaching",
        "alarmActions": [TOPIC],
        "okActions": [TOPIC],
        "tags": TAGS,
    }
    life(cloudwatch.MetricAlarm(), inputs, {"threshold": 90, "dimensions": {"DBInstanceIdentifier": "other"}})


def test_role():
    inputs = {"name": "r", "assumeRolePolicy": TRUST, "description": "d", "tags": TAGS}
    life(iam.Role(), inputs, {"assumeRolePolicy": trust("eks.amazonaws.com"), "description": "e", "tags": {}})


def test_a_role_has_a_path_and_a_boundary_that_comes_and_goes():
    boundary = "arn:aws:iam::aws:policy/ReadOnlyAccess"
    plain = {"name": "r", "assumeRolePolicy": TRUST, "path": "/platform/"}
    limited = plain | {"permissionsBoundary": boundary}
    life(iam.Role(), limited, {"permissionsBoundary": boundary.replace("ReadOnly", "Administrator")})
    role_id, outputs = iam.Role().create(plain)
    assert outputs["arn"].endswith(":role/platform/r")

    def boundary_in_aws() -> str | None:
        return (
            api.call("iam", "get_role", RoleName="r")["Role"]
            .get("PermissionsBoundary", {})
            .get("PermissionsBoundaryArn")
        )

    iam.Role().update(role_id, plain, limited)
    assert boundary_in_aws() == boundary
    iam.Role().update(role_id, limited, plain)
    assert boundary_in_aws() is None


def test_role_policy():
    iam.Role().create({"name": "r", "assumeRolePolicy": TRUST})
    policy = json.dumps(
        {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    )
    life(iam.RolePolicy(), {"role": "r", "name": "p", "policy": policy}, {"policy": policy.replace("s3", "sqs")})


def test_role_policy_attachment():
    iam.Role().create({"name": "r", "assumeRolePolicy": TRUST})
    document = json.dumps(
        {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    )
    policy = api.client("iam").create_policy(PolicyName="p", PolicyDocument=document)["Policy"]["Arn"]
    life(iam.RolePolicyAttachment(), {"role": "r", "policyArn": policy}, {})


def test_pod_identity():
    inputs = {"clusterName": "c", "namespace": "n", "serviceAccount": "s", "roleArn": "arn:r", "tags": TAGS}
    life(iam.PodIdentityAssociation(), inputs, {"roleArn": "arn:other"})
    iam.PodIdentityAssociation().create(inputs)
    with pytest.raises(OperationError, match="n/s has an association already"):
        iam.PodIdentityAssociation().create(inputs)


def test_security_group(vpc: str):
    group = ec2.SecurityGroup()
    life(group, {"name": "sg", "description": "d", "vpcId": vpc, "tags": TAGS}, {"tags": {"b": "c"}})
    resource_id, _ = group.create({"name": "sg", "vpcId": vpc})
    described = api.client("ec2").describe_security_groups(GroupIds=[resource_id])["SecurityGroups"][0]
    assert described["IpPermissionsEgress"] == [], "outgoing traffic is allowed without a rule of the program"


@pytest.mark.parametrize("source", ["cidrIpv4", "referencedSecurityGroupId"])
def test_ingress_rule(vpc: str, source: str):
    group, _ = ec2.SecurityGroup().create({"name": "sg", "vpcId": vpc})
    ports = {"ipProtocol": "tcp", "fromPort": 5432, "toPort": 5432}
    inputs = {
        "securityGroupId": group,
        source: {"cidrIpv4": "10.0.0.0/16"}.get(source, group),
        "description": "d",
        **ports,
    }
    life(ec2.SecurityGroupIngressRule(), inputs | {"tags": TAGS}, {"fromPort": 5433, "toPort": 5433})


def test_bucket_with_versions_in_it():
    resource = s3.Bucket()
    name, outputs = resource.create({"bucket": "full", "forceDestroy": True})
    client = api.client("s3")
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    for key in ("kept", "deleted", "kept"):
        client.put_object(Bucket=name, Key=key, Body=b"x")
    client.delete_object(Bucket=name, Key="deleted")
    # A destroy deletes the bucket's settings before the bucket.
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Suspended"})
    resource.delete(name, {"bucket": name, "forceDestroy": True} | outputs)
    assert resource.read(name, {}, {}) is None


def test_bucket():
    life(s3.Bucket(), {"bucket": "b-b-b", "tags": TAGS}, {"tags": {"b": "c"}})


BLOCK = {"blockPublicAcls": True, "blockPublicPolicy": True, "ignorePublicAcls": True, "restrictPublicBuckets": True}
EXPIRY = {
    "id": "old-versions",
    "status": "Enabled",
    "filter": {"prefix": ""},
    "noncurrentVersionExpiration": {"noncurrentDays": 30},
    "abortIncompleteMultipartUpload": {"daysAfterInitiation": 7},
}
ENCRYPTION = {"applyServerSideEncryptionByDefault": {"sseAlgorithm": "aws:kms"}, "bucketKeyEnabled": True}
POLICY = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", "Action": "s3:*"}]})


@pytest.mark.parametrize(
    ("resource", "inputs", "change"),
    [
        (s3.BucketPublicAccessBlock(), BLOCK, {"blockPublicAcls": False}),
        (s3.BucketOwnershipControls(), {"rule": {"objectOwnership": "BucketOwnerEnforced"}}, {}),
        (s3.BucketServerSideEncryptionConfiguration(), {"rules": [ENCRYPTION]}, {}),
        (s3.BucketLifecycleConfiguration(), {"rules": [EXPIRY]}, {"rules": [EXPIRY | {"status": "Disabled"}]}),
        (s3.BucketPolicy(), {"policy": POLICY}, {"policy": POLICY.replace("s3:*", "s3:PutObject")}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Resource) else "",
)
def test_bucket_settings(bucket: str, resource: Resource, inputs: Properties, change: Properties):
    life(resource, {"bucket": bucket, **inputs}, change)


def test_versioning_can_only_be_suspended(bucket: str):
    resource = s3.BucketVersioning()
    inputs = {"bucket": bucket, "versioningConfiguration": {"status": "Enabled"}}
    resource_id, _ = resource.create(inputs)
    resource.delete(resource_id, inputs)
    state = resource.read(resource_id, inputs, {})
    assert state is not None
    assert state.inputs["versioningConfiguration"] == {"status": "Suspended"}


def test_record():
    zone = api.client("route53").create_hosted_zone(Name="example.com", CallerReference="1")["HostedZone"]["Id"]
    zone_id = lookups.get_zone({"name": "example.com"})["zoneId"]
    assert zone.endswith(zone_id)
    alias = {"name": "lb.example.net", "zoneId": lookups.get_hosted_zone_id({})["id"], "evaluateTargetHealth": False}
    inputs = {"zoneId": zone_id, "name": "mlflow.example.com", "type": "A", "aliases": [alias]}
    life(route53.Record(), inputs, {"aliases": [alias | {"name": "other.example.net"}]})


@pytest.fixture
def instance(subnets: list[str]) -> Properties:
    rds.SubnetGroup().create({"name": "sg", "description": "d", "subnetIds": subnets})
    rds.ParameterGroup().create(
        {
            "name": "pg",
            "family": "postgres17",
            "description": "d",
            "parameters": [{"name": "log_statement", "value": "none"}],
        }
    )
    return {
        "identifier": "db",
        "engine": "postgres",
        "engineVersion": "17",
        "instanceClass": "db.t3.micro",
        "allocatedStorage": 20,
        "username": "postgres",
        "password": "the-master-password",
        "port": 5432,
        "dbSubnetGroupName": "sg",
        "parameterGroupName": "pg",
        "multiAz": False,
        "storageEncrypted": True,
        "iamDatabaseAuthenticationEnabled": True,
        "enabledCloudwatchLogsExports": ["upgrade", "postgresql"],
        "performanceInsightsEnabled": True,
        "skipFinalSnapshot": True,
        "deleteAutomatedBackups": True,
        "applyImmediately": True,
        "allowMajorVersionUpgrade": True,
        "tags": TAGS,
    }


def test_instance(instance: Properties):
    life(
        rds.Instance(), instance, {"allocatedStorage": 30, "multiAz": True, "password": "another-password", "tags": {}}
    )
    assert Server.passwords["db"] == "another-password"


def test_the_accounts_record_of_an_instance_has_no_password(instance: Properties):
    parameters = rds.Instance().parameters("create_db_instance", instance)
    assert instance["password"] not in json.dumps(parameters)


def test_a_changed_parameter_reaches_the_server(instance: Properties):
    rds.Instance().create(instance)
    old = {
        "name": "pg",
        "family": "postgres17",
        "description": "d",
        "parameters": [{"name": "log_statement", "value": "none"}],
    }
    rds.ParameterGroup().update("pg", old, old | {"parameters": [{"name": "rds.force_ssl", "value": "1"}]})
    assert Server.started["db"] == {"rds.force_ssl": "1"}


def test_a_protected_instance_is_not_deleted(instance: Properties):
    protected = instance | {"deletionProtection": True}
    rds.Instance().create(protected)
    with pytest.raises(Exception, match="protection"):
        rds.Instance().delete("db", protected)
    assert Server("db").exists


@pytest.mark.parametrize("protection", [False, True])
def test_nothing_is_left_of_an_instance_whose_creation_was_interrupted(instance: Properties, protection: bool):
    rds.Instance().create(instance | {"deletionProtection": protection})
    # The engine was killed after the record in the account was created and before the server was.
    Server.started.clear()
    assert rds.Instance().read("db", instance, {}) is None
    assert api.client("rds").describe_db_instances()["DBInstances"] == []


def test_a_final_snapshot_is_made(instance: Properties):
    kept = instance | {"skipFinalSnapshot": False, "finalSnapshotIdentifier": "last"}
    rds.Instance().create(kept)
    rds.Instance().delete("db", kept)
    assert api.client("rds").describe_db_snapshots(DBSnapshotIdentifier="last")["DBSnapshots"]


def test_another_engine_version_is_refused(instance: Properties):
    with pytest.raises(InvalidInput, match=r"only PostgreSQL 17\.6 and 18\.4"):
        rds.Instance().check(instance | {"engineVersion": "16"})
    with pytest.raises(OperationError, match="match the criteria"):
        lookups.get_engine_version({"engine": "postgres", "version": "12"})


# AWS's own rules, in front of moto


def made(instance: Properties, **other: Any) -> Properties:
    """Create an instance and return its inputs and outputs."""
    _, outputs = rds.Instance().create(instance | other)
    return instance | other | outputs


def described(**wanted: Any) -> Any:
    return api.client("rds").describe_db_instances(**wanted)["DBInstances"][0]


def refused_with(code: str, operation: Callable[[], object]) -> str:
    with pytest.raises(ClientError) as error:
        operation()
    assert error.value.response["Error"]["Code"] == code
    return str(error.value)


WAITS = {
    "allocatedStorage": 40,
    "engineVersion": "18",
    "instanceClass": "db.t3.small",
    "multiAz": True,
    "storageType": "gp3",
}


@pytest.mark.parametrize("name", WAITS)
def test_a_change_waits_for_the_window_and_the_next_preview_shows_it_again(instance: Properties, name: str):
    before = instance | {"applyImmediately": False, "storageType": "gp2"}
    instance_id, outputs = rds.Instance().create(before)
    after = before | {name: WAITS[name]}
    outputs |= rds.Instance().update(instance_id, before, after)
    seen = rds.Instance().as_compared(name, after[name], outputs)
    assert seen == {"engineVersion": "17.6"}.get(name, before[name])
    assert len(described()["PendingModifiedValues"]) == 1
    state = rds.Instance().read(instance_id, after, outputs)
    assert state is not None
    assert state.inputs[name] == seen
    # The window.
    api.call("rds", "modify_db_instance", DBInstanceIdentifier="db", ApplyImmediately=True)
    assert described()["PendingModifiedValues"] == {}
    state = rds.Instance().read(instance_id, after, outputs)
    assert state is not None
    assert state.inputs[name] == after[name]


def test_a_change_at_once_carries_out_what_waits(instance: Properties):
    later = instance | {"applyImmediately": False}
    instance_id, _ = rds.Instance().create(later)
    rds.Instance().update(instance_id, later, later | {"instanceClass": "db.t3.small"})
    assert described()["DBInstanceClass"] == "db.t3.micro"
    # What lifts the protection of a stack does this.
    rds.Instance().update(instance_id, later, instance | {"deletionProtection": False})
    assert described()["DBInstanceClass"] == "db.t3.small"


def test_the_server_runs_the_version_of_the_account_and_not_of_the_program(instance: Properties):
    later = instance | {"applyImmediately": False}
    instance_id, _ = rds.Instance().create(later)
    rds.Instance().update(instance_id, later, later | {"engineVersion": "18"})
    assert Server.versions["db"] == "17.6"
    rds.Instance().update(instance_id, later, later | {"engineVersion": "18", "applyImmediately": True})
    assert Server.versions["db"] == "18.4"


def test_the_old_parameter_group_is_in_use_until_the_upgrade_that_waits(instance: Properties):
    later = instance | {"applyImmediately": False}
    instance_id, _ = rds.Instance().create(later)
    rds.ParameterGroup().create({"name": "pg18", "family": "postgres18", "description": "d", "parameters": []})
    rds.Instance().update(instance_id, later, later | {"engineVersion": "18", "parameterGroupName": "pg18"})
    refused_with("InvalidDBParameterGroupState", lambda: rds.ParameterGroup().delete("pg", {}))
    api.call("rds", "modify_db_instance", DBInstanceIdentifier="db", ApplyImmediately=True)
    assert described()["DBParameterGroups"][0]["DBParameterGroupName"] == "pg18"
    rds.ParameterGroup().delete("pg", {})


def test_an_upgrade_that_nobody_allowed_and_a_downgrade_are_refused(instance: Properties):
    instance_id, _ = rds.Instance().create(instance)
    newer = instance | {"engineVersion": "18"}
    refused_with(
        "InvalidParameterCombination",
        lambda: rds.Instance().update(instance_id, instance, newer | {"allowMajorVersionUpgrade": False}),
    )
    rds.Instance().update(instance_id, instance, newer)
    refused_with("InvalidParameterCombination", lambda: rds.Instance().update(instance_id, newer, instance))


def test_a_parameter_group_in_use_is_not_deleted(instance: Properties):
    made(instance)
    message = refused_with("InvalidDBParameterGroupState", lambda: rds.ParameterGroup().delete("pg", {}))
    assert "still members" in message


def test_a_subnet_group_in_use_is_not_deleted(instance: Properties):
    made(instance)
    refused_with("InvalidDBSubnetGroupStateFault", lambda: rds.SubnetGroup().delete("sg", {}))


def test_the_alias_of_a_key_comes_back_as_the_key(instance: Properties):
    key = api.client("kms").create_key()["KeyMetadata"]["Arn"]
    api.client("kms").create_alias(AliasName="alias/db", TargetKeyId=key)
    alias = f"arn:aws:kms:{REGION}:123456789012:alias/db"
    instance_id, outputs = rds.Instance().create(instance | {"kmsKeyId": alias})
    state = rds.Instance().read(instance_id, instance | {"kmsKeyId": alias}, outputs)
    assert state is not None
    assert state.inputs["kmsKeyId"] == key
    assert lookups.get_database_instance({"dbInstanceIdentifier": "db"})["kmsKeyId"] == key


@pytest.mark.parametrize("username", ["user", "select", "a" * 20])
def test_a_master_that_rds_does_not_take_is_refused(instance: Properties, username: str):
    refused_with("InvalidParameterValue", lambda: rds.Instance().create(instance | {"username": username}))


def test_a_class_that_rds_does_not_have_is_refused(instance: Properties):
    wrong = instance | {"instanceClass": "db.foo.bar"}
    refused_with("InvalidParameterCombination", lambda: rds.Instance().create(wrong))
    with pytest.raises(OperationError, match="no RDS DB Instance Classes"):
        lookups.get_orderable_db_instance({"instanceClass": "db.foo.bar"})
    assert lookups.get_orderable_db_instance({"instanceClass": "db.t3.micro"})


@pytest.mark.parametrize(("asked", "has"), [(21, 22), (30, 30)])
def test_storage_grows_by_a_tenth_at_least_which_is_no_difference(instance: Properties, asked: int, has: int):
    instance_id, _ = rds.Instance().create(instance)
    wanted = instance | {"allocatedStorage": asked}
    outputs = rds.Instance().update(instance_id, instance, wanted)
    assert described()["AllocatedStorage"] == has
    assert rds.Instance().as_compared("allocatedStorage", asked, outputs) == asked


def test_storage_is_never_made_smaller(instance: Properties):
    instance_id, _ = rds.Instance().create(instance)
    smaller = instance | {"allocatedStorage": 5}
    refused_with("InvalidParameterCombination", lambda: rds.Instance().update(instance_id, instance, smaller))


def test_a_volume_that_is_striped_is_refused_the_operations_of_a_smaller_one(instance: Properties):
    small = instance | {"storageType": "gp3"}
    instance_id, _ = rds.Instance().create(small)
    large = small | {"allocatedStorage": 400}
    refused_with("InvalidParameterCombination", lambda: rds.Instance().update(instance_id, small, large))
    striped = large | {"iops": 12000, "storageThroughput": 500}
    rds.Instance().update(instance_id, small, striped)
    assert described()["Iops"] == 12000


def test_rds_makes_the_log_groups_that_it_does_not_find_and_leaves_them_behind(instance: Properties):
    names = [f"/aws/rds/instance/db/{log}" for log in ("postgresql", "upgrade")]
    group = cloudwatch.LogGroup()
    group.create({"name": names[0], "retentionInDays": 30})
    instance_id, outputs = rds.Instance().create(instance)
    rds.Instance().delete(instance_id, instance | outputs)
    kept = {
        each["logGroupName"]: each.get("retentionInDays")
        for each in api.call("logs", "describe_log_groups")["logGroups"]
    }
    assert kept == {names[0]: 30, names[1]: None}
    refused_with("ResourceAlreadyExistsException", lambda: group.create({"name": names[1], "retentionInDays": 30}))


def test_log_group():
    life(
        cloudwatch.LogGroup(),
        {"name": "/aws/rds/instance/db/upgrade", "retentionInDays": 30, "tags": TAGS},
        {"retentionInDays": 90, "tags": {"b": "c"}},
    )


@pytest.mark.parametrize("tags", [{"a": "R&D (ml)"}, {"rds:a": "b"}])
def test_tags_that_rds_and_iam_do_not_take_are_refused(instance: Properties, tags: Mapping[str, str]):
    refused_with("InvalidParameterValue", lambda: rds.Instance().create(instance | {"tags": tags}))
    role = {"name": "r", "assumeRolePolicy": TRUST, "tags": tags}
    refused_with("ValidationError", lambda: iam.Role().create(role))


def test_tag_keys_that_differ_in_case_only_are_one_to_iam():
    role = {"name": "r", "assumeRolePolicy": TRUST, "tags": {"Project": "a", "project": "b"}}
    refused_with("InvalidInput", lambda: iam.Role().create(role))


def test_a_subscription_to_a_topic_that_is_not_there_is_refused(instance: Properties):
    made(instance)
    wrong = {
        "name": "es",
        "snsTopic": TOPIC.replace("alerts", "others"),
        "sourceType": "db-instance",
        "sourceIds": ["db"],
    }
    refused_with(
        "SNSTopicArnNotFound", lambda: rds.EventSubscription().create(wrong | {"eventCategories": ["failure"]})
    )


def test_a_source_is_let_in_once_whatever_the_rule_is_called(vpc: str):
    group, _ = ec2.SecurityGroup().create({"name": "a", "description": "d", "vpcId": vpc})
    source, _ = ec2.SecurityGroup().create({"name": "b", "description": "d", "vpcId": vpc})
    rule = {"securityGroupId": group, "ipProtocol": "tcp", "fromPort": 5432, "toPort": 5432}
    for sources in ({"referencedSecurityGroupId": source}, {"cidrIpv4": "10.9.0.0/16"}):
        ec2.SecurityGroupIngressRule().create(rule | sources | {"description": "one"})
        other = rule | sources | {"description": "another"}
        refused_with("InvalidPermission.Duplicate", lambda other=other: ec2.SecurityGroupIngressRule().create(other))


def test_a_security_group_in_use_is_not_deleted(instance: Properties, vpc: str):
    group, _ = ec2.SecurityGroup().create({"name": "a", "description": "d", "vpcId": vpc})
    made(instance, vpcSecurityGroupIds=[group])
    refused_with("DependencyViolation", lambda: ec2.SecurityGroup().delete(group, {}))


def test_the_id_of_an_instance_is_not_its_name(instance: Properties):
    instance_id, outputs = rds.Instance().create(instance)
    assert re.fullmatch("db-[A-Z0-9]{26}", instance_id)
    for name in (instance_id, "db"):
        state = rds.Instance().read(name, {}, {})
        assert state is not None
        assert (state.id, state.inputs["identifier"]) == (instance_id, "db")
    rds.Instance().delete(instance_id, instance | outputs)


def test_the_zone_is_the_public_one_unless_the_private_one_is_asked_for(vpc: str):
    client = api.client("route53")
    place = {"VPCRegion": REGION, "VPCId": vpc}
    private = client.create_hosted_zone(
        Name="example.com", CallerReference="1", VPC=place, HostedZoneConfig={"PrivateZone": True}
    )
    with pytest.raises(OperationError, match="no matching Route 53 Hosted Zone"):
        lookups.get_zone({"name": "example.com"})
    public = client.create_hosted_zone(Name="example.com", CallerReference="2")
    ids = [zone["HostedZone"]["Id"].removeprefix("/hostedzone/") for zone in (public, private)]
    asked = ({"name": "example.com"}, {"name": "example.com", "privateZone": True, "vpcId": vpc})
    assert [lookups.get_zone(each)["zoneId"] for each in asked] == ids
    with pytest.raises(OperationError, match="no matching Route 53 Hosted Zone"):
        lookups.get_zone({"name": "example.com", "privateZone": True, "vpcId": "vpc-0f"})


def test_an_instance_is_found_by_its_tags(instance: Properties):
    made(instance)
    assert lookups.get_database_instances({"tags": TAGS})["instanceIdentifiers"] == ["db"]
    assert lookups.get_database_instances({"tags": TAGS | {"Stack": "other"}})["instanceIdentifiers"] == []


def test_an_input_that_aws_does_not_have_is_refused(instance: Properties):
    with pytest.raises(InvalidInput) as error:
        rds.Instance().check(instance | {"colour": "blue"})
    assert error.value.name == "colour"


def test_networks(vpc: str, subnets: list[str]):
    client = api.client("ec2")
    gateway = client.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    client.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    (main,) = lookups.get_route_tables({"vpcId": vpc})["ids"]
    table = client.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    client.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    client.associate_route_table(RouteTableId=table, SubnetId=subnets[0])
    described = lookups.get_route_table({"routeTableId": table})
    assert [route["gatewayId"] for route in described["routes"]] == [gateway]
    assert [association["subnetId"] for association in described["associations"]] == [subnets[0]]
    assert [association["main"] for association in lookups.get_route_table({"routeTableId": main})["associations"]] == [
        True
    ]
    assert lookups.get_subnet({"id": subnets[1]})["availabilityZone"] == f"{REGION}b"
    assert lookups.get_vpc({"id": vpc})["cidrBlock"] == "10.0.0.0/16"


@pytest.mark.parametrize(
    ("written", "actual", "seen"),
    [
        ({"sseAlgorithm": "aws:kms"}, {"SSEAlgorithm": "AES256"}, {"sseAlgorithm": "AES256"}),
        (["b", "a"], ["a", "b"], ["b", "a"]),
        (["b", "a"], ["a", "c"], ["a", "c"]),
        ({"a": "1"}, [{"Key": "a", "Value": "2"}], {"a": "2"}),
        ('{"a": 1}', {"a": 1}, '{"a": 1}'),
        ('{"a": 1}', {"a": 2}, '{"a": 2}'),
        ("kept", None, "kept"),
    ],
)
def test_what_the_api_says_is_put_as_the_program_wrote_it(written: Any, actual: Any, seen: Any):
    assert api.as_written(written, actual) == seen
