"""PrivatePostgres: the instance with its groups, and the subnets and versions that are refused."""

import json
import re
from collections.abc import Mapping
from typing import Any

import pulumi
import pytest

import wiring
from components.lookups.eks_cluster import look_up_eks_cluster
from components.postgres_alarms import PostgresAlarms
from components.private_postgres import PrivatePostgres
from settings import reader
from tests.unit.harness import (
    CLUSTER_SECURITY_GROUP,
    ELSEWHERE,
    MINIMAL,
    PRIVATE_A,
    PRIVATE_B,
    PUBLIC,
    Account,
    Deployment,
    Refusal,
    changed,
    deploy,
    refused,
)

INSTANCE = "aws:rds/instance:Instance"
RULE = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"


def the_instance_alone() -> PrivatePostgres:
    """Create the instance as `__main__` does, and leave out the rest of the program, which these tests do not need."""
    settings = reader.load()
    assert settings.cluster.name
    return PrivatePostgres("postgres", wiring.postgres(settings, look_up_eks_cluster(settings.cluster.name)))


@pytest.fixture(scope="module")
def chosen() -> Deployment:
    """A stack that sets what the defaults would choose."""
    return deploy(
        changed(
            MINIMAL,
            {
                "postgres.subnetIds": [PRIVATE_A, PRIVATE_B],
                "postgres.allowFrom": {"cidrs": ["10.9.0.0/16"], "securityGroups": ["sg-0ba5"]},
                "postgres.engineVersion": "16",
                "postgres.monitoringInterval": 0,
                "postgres.masterUsername": "dba",
                "postgres.masterPassword": "correct-horse",
            },
        ),
        secrets=["postgres"],
        # The only subnet of this cluster is public, so the subnets of the settings must be used.
        account=Account(cluster_subnets=[PUBLIC]),
    )


def parameters(deployment: Deployment) -> Mapping[str, str]:
    return {item["name"]: item["value"] for item in deployment.named("postgres-parameters")["parameters"]}


def test_the_instance_cannot_be_reached_from_the_internet(dev: Deployment, prod: Deployment) -> None:
    for deployment in (dev, prod):
        assert deployment.named("postgres-instance")["publiclyAccessible"] is False


def test_the_storage_is_encrypted_with_the_key_that_the_settings_name(dev: Deployment, prod: Deployment) -> None:
    assert dev.named("postgres-instance")["storageEncrypted"] is True
    assert "kmsKeyId" not in dev.named("postgres-instance").inputs
    instance = prod.named("postgres-instance")
    assert instance["storageEncrypted"] is True
    assert instance["kmsKeyId"] == instance["performanceInsightsKmsKeyId"]
    assert instance["kmsKeyId"].startswith("arn:aws:kms:")


def test_connections_without_tls_are_refused_by_the_server(dev: Deployment) -> None:
    assert parameters(dev)["rds.force_ssl"] == "1"


def test_no_statement_is_logged_because_some_carry_passwords(dev: Deployment) -> None:
    actual = parameters(dev)
    # PostgreSQL could log CREATE ROLE … PASSWORD as DDL, because it failed, or because it was slow.
    names = ("log_statement", "log_min_error_statement", "log_min_duration_statement")
    assert [actual[name] for name in names] == ["none", "panic", "-1"]


def test_a_protected_stack_is_protected_everywhere_at_once(prod: Deployment) -> None:
    instance = prod.named("postgres-instance")
    assert instance.protect
    assert instance["deletionProtection"] is True
    assert instance["skipFinalSnapshot"] is False
    assert instance["deleteAutomatedBackups"] is False
    assert instance["applyImmediately"] is False, "a change of the class would restart the database in office hours"


def test_a_stack_that_is_not_protected_goes_away_whole(dev: Deployment) -> None:
    instance = dev.named("postgres-instance")
    assert not instance.protect
    assert instance["deletionProtection"] is False
    assert instance["skipFinalSnapshot"] is True
    assert instance["deleteAutomatedBackups"] is True
    assert instance["applyImmediately"] is True


def test_the_final_snapshots_name_is_not_taken_by_an_earlier_one(prod: Deployment) -> None:
    suffix = prod.named("postgres-final-snapshot")
    assert suffix.type == "random:index/randomId:RandomId"
    assert prod.named("postgres-instance")["finalSnapshotIdentifier"].endswith("0a0b0c0d")
    # Another user name or key replaces the instance. The old one leaves a snapshot with the old name.
    instance = prod.named("postgres-instance")
    assert suffix["keepers"] == {"username": instance["username"], "kms_key": instance["kmsKeyId"]}


def test_the_database_opens_no_connection_itself(dev: Deployment) -> None:
    group = dev.named("postgres-sg")
    assert not group.inputs.get("egress")
    assert not [resource for resource in dev.resources if "egress" in resource.type.lower()]
    # The provider removes AWS's default rule for all outgoing traffic only if no rule is written inline.
    assert "ingress" not in group.inputs
    assert dev.named("postgres-instance")["vpcSecurityGroupIds"] == ["postgres-sg-id"]


def rules(deployment: Deployment) -> list[dict[str, Any]]:
    inputs = [resource.inputs for resource in deployment.of_type(RULE)]
    for rule in inputs:
        assert rule["securityGroupId"] == "postgres-sg-id"
        assert (rule["ipProtocol"], rule["fromPort"], rule["toPort"]) == ("tcp", 5432, 5432)
    return inputs


def test_only_the_cluster_may_connect(dev: Deployment) -> None:
    (rule,) = rules(dev)
    assert rule["referencedSecurityGroupId"] == CLUSTER_SECURITY_GROUP
    assert "cidrIpv4" not in rule


def test_the_whole_vpc_may_connect_where_the_settings_say_so() -> None:
    (rule,) = rules(deploy(changed(MINIMAL, {"postgres.allowFrom": "vpc"}), program=the_instance_alone))
    assert rule["cidrIpv4"] == "10.0.0.0/16"
    assert "referencedSecurityGroupId" not in rule


def test_the_whole_vpc_is_all_of_its_networks() -> None:
    account = Account(cidrs=["10.0.0.0/16", "100.64.0.0/16"])
    config = changed(MINIMAL, {"postgres.allowFrom": "vpc"})
    both = rules(deploy(config, account=account, program=the_instance_alone))
    assert {rule["cidrIpv4"] for rule in both} == {"10.0.0.0/16", "100.64.0.0/16"}


def test_a_network_that_the_vpc_no_longer_has_is_not_let_in() -> None:
    account = Account(former_cidrs=["192.168.0.0/16"])
    config = changed(MINIMAL, {"postgres.allowFrom": "vpc"})
    (rule,) = rules(deploy(config, account=account, program=the_instance_alone))
    assert rule["cidrIpv4"] == "10.0.0.0/16"


def test_a_list_of_sources_replaces_the_cluster(chosen: Deployment) -> None:
    sources = {rule.get("cidrIpv4") or rule.get("referencedSecurityGroupId") for rule in rules(chosen)}
    assert sources == {"10.9.0.0/16", "sg-0ba5"}


def test_descriptions_are_of_the_characters_that_ec2_takes(prod: Deployment) -> None:
    for resource in (prod.named("postgres-sg"), *prod.of_type(RULE)):
        assert re.fullmatch(r"[a-zA-Z0-9 ._\-:/()#,@\[\]+=&;{}!$*]{1,255}", resource["description"])


def test_the_instance_lives_in_the_clusters_private_subnets_only(dev: Deployment) -> None:
    assert dev.named("postgres-subnets")["subnetIds"] == [PRIVATE_A, PRIVATE_B]
    assert dev.named("postgres-instance")["dbSubnetGroupName"] == "postgres-subnets"


def test_subnets_that_the_settings_name_are_used_instead(chosen: Deployment) -> None:
    assert chosen.named("postgres-subnets")["subnetIds"] == [PRIVATE_A, PRIVATE_B]


def refused_subnets(account: Account, *subnets: str) -> Refusal:
    config = changed(MINIMAL, {"postgres.subnetIds": list(subnets)} if subnets else {})
    refusal = refused(config, account=account, program=the_instance_alone)
    assert isinstance(refusal.error, pulumi.RunError)
    assert refusal.message.startswith("subnet")
    assert not refusal.deployment.of_type(INSTANCE), "the instance was created nevertheless"
    return refusal


def test_subnets_in_one_zone_are_refused() -> None:
    account = Account()
    account.zones[PRIVATE_B] = account.zones[PRIVATE_A]
    (problem,) = refused_subnets(account).problems
    assert f"{PRIVATE_A}, {PRIVATE_B} in eu-west-1a" in problem
    assert "two zones at least" in problem
    assert "add one" in problem


def test_a_cluster_without_private_subnets_is_refused() -> None:
    (problem,) = refused_subnets(Account(cluster_subnets=[PUBLIC])).problems
    assert "none found" in problem
    assert "name them or add one" in problem


def test_a_subnet_with_an_internet_route_is_refused() -> None:
    (problem,) = refused_subnets(Account(), PRIVATE_A, PRIVATE_B, PUBLIC).problems
    assert PUBLIC in problem
    assert "igw-01" in problem
    assert "without a route to an internet gateway" in problem


def test_a_subnet_that_inherits_the_internet_route_of_the_main_table_is_refused() -> None:
    account = Account(main_table_is_public=True)
    del account.own_tables[PRIVATE_B]
    (problem,) = refused_subnets(account, PRIVATE_A, PRIVATE_B).problems
    assert PRIVATE_B in problem
    assert "igw-01" in problem


def test_a_subnet_with_a_table_of_its_own_does_not_inherit_the_main_ones_route() -> None:
    deployment = deploy(
        changed(MINIMAL, {"postgres.subnetIds": [PRIVATE_A, PRIVATE_B]}),
        account=Account(main_table_is_public=True),
        program=the_instance_alone,
    )
    assert deployment.named("postgres-subnets")["subnetIds"] == [PRIVATE_A, PRIVATE_B]


def test_a_subnet_without_a_table_of_its_own_is_private_where_the_main_one_is() -> None:
    deployment = deploy(MINIMAL, account=Account(own_tables={PUBLIC: "rtb-public"}), program=the_instance_alone)
    assert deployment.named("postgres-subnets")["subnetIds"] == [PRIVATE_A, PRIVATE_B]


def test_a_subnet_of_another_vpc_is_refused() -> None:
    message = refused_subnets(Account(), PRIVATE_A, PRIVATE_B, ELSEWHERE).message
    assert f"{ELSEWHERE} are not in vpc-0c1, the cluster's VPC" in message
    # The message lists the subnets that could be written.
    assert f"name subnets of that VPC: {PRIVATE_A}, {PRIVATE_B}, {PUBLIC}" in message


def test_everything_that_is_wrong_with_the_subnets_is_in_one_message() -> None:
    problems = refused_subnets(Account(), PRIVATE_A, PUBLIC).problems
    assert ["is public" in problem for problem in problems] == [True, False]
    assert "two zones at least" in problems[1]


def test_a_preview_refuses_subnets_too_and_nothing_that_waits_for_the_database_is_shown() -> None:
    refusal = refused(changed(MINIMAL, {"postgres.subnetIds": [PRIVATE_A, PUBLIC]}), preview=True)
    assert isinstance(refusal.error, pulumi.RunError)
    assert PUBLIC in refusal.message
    shown = {resource.name for resource in refusal.deployment.resources}
    assert not shown & {"postgres-instance", "database-user", "database-database", "mlflow-release"}


def test_an_engine_version_that_the_region_lacks_is_refused() -> None:
    refusal = refused(MINIMAL, account=Account(versions={"15", "16"}), program=the_instance_alone)
    assert isinstance(refusal.error, pulumi.RunError)
    assert "engine version 17 of PostgreSQL is not offered" in refusal.message
    assert "aws rds describe-db-engine-versions --engine postgres" in refusal.message
    assert not refusal.deployment.of_type(INSTANCE)


def test_the_parameters_are_of_the_engines_family_and_named_by_the_provider(
    dev: Deployment, chosen: Deployment
) -> None:
    assert dev.named("postgres-parameters")["family"] == "postgres17"
    assert chosen.named("postgres-parameters")["family"] == "postgres16"
    # With a fixed name, the group of the next family could not be created before this group is deleted.
    assert "name" not in dev.named("postgres-parameters").inputs
    assert dev.named("postgres-instance")["parameterGroupName"] == "postgres-parameters"


def test_minor_upgrades_are_rds_business(dev: Deployment) -> None:
    instance = dev.named("postgres-instance")
    assert instance["autoMinorVersionUpgrade"] is True
    # A minor version here would be a downgrade, which RDS refuses, after the first upgrade in a maintenance window.
    assert instance["engineVersion"] == "17"


def test_a_new_major_version_in_the_settings_is_an_upgrade_in_place(dev: Deployment) -> None:
    # Without this input, RDS refuses a change of engine_version to another major version.
    assert dev.named("postgres-instance")["allowMajorVersionUpgrade"] is True


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("engine", "postgres"),
        ("port", 5432),
        ("copyTagsToSnapshot", True),
        ("iamDatabaseAuthenticationEnabled", True),
        ("performanceInsightsEnabled", True),
        ("caCertIdentifier", "rds-ca-rsa2048-g1"),
        ("enabledCloudwatchLogsExports", ["postgresql", "upgrade"]),
        ("monitoringInterval", 60),
    ],
)
def test_the_instance_meets_the_control(dev: Deployment, key: str, value: Any) -> None:
    assert dev.named("postgres-instance")[key] == value


def test_size_and_care_follow_the_settings(prod: Deployment) -> None:
    instance = prod.named("postgres-instance")
    expected = {
        "instanceClass": "db.m7g.large",
        "allocatedStorage": 50,
        "maxAllocatedStorage": 500,
        "storageType": "gp3",
        "multiAz": True,
        "backupRetentionPeriod": 30,
    }
    assert {key: instance[key] for key in expected} == expected


def test_the_engine_waits_for_as_long_as_an_instance_takes(prod: Deployment) -> None:
    timeouts = prod.named("postgres-instance").timeouts
    assert {what: int(time.removesuffix("m")) >= 60 for what, time in timeouts.items()} == dict.fromkeys(
        ("create", "update", "delete"), True
    )


def test_the_masters_password_is_generated_in_an_alphabet_that_survives(dev: Deployment) -> None:
    generated = dev.named("postgres-master")
    assert generated["length"] >= 24
    assert generated["special"] is False
    assert dev.named("postgres-instance")["password"] == "generated-postgres-master"


def test_a_password_that_is_given_is_used_and_none_is_generated(chosen: Deployment) -> None:
    instance = chosen.named("postgres-instance")
    assert (instance["username"], instance["password"]) == ("dba", "correct-horse")
    assert "postgres-master" not in {resource.name for resource in chosen.resources}
    server = chosen.named("database-server")
    assert (server["username"], server["password"]) == ("dba", "correct-horse")


def test_rds_may_send_enhanced_monitoring(dev: Deployment) -> None:
    role = dev.named("postgres-monitoring")
    (statement,) = json.loads(role["assumeRolePolicy"])["Statement"]
    assert statement["Principal"] == {"Service": "monitoring.rds.amazonaws.com"}
    # Otherwise any AWS account could make RDS use this role.
    assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}
    assert dev.named("postgres-monitoring-policy")["policyArn"].endswith("/AmazonRDSEnhancedMonitoringRole")
    assert dev.named("postgres-instance")["monitoringRoleArn"].endswith("role/postgres-monitoring")


def test_the_instance_waits_until_its_role_may_send(dev: Deployment) -> None:
    assert "postgres-monitoring-policy" in dev.named("postgres-instance").depends_on


def test_without_enhanced_monitoring_there_is_no_role_for_it(chosen: Deployment) -> None:
    assert chosen.named("postgres-instance")["monitoringInterval"] == 0
    assert "monitoringRoleArn" not in chosen.named("postgres-instance").inputs
    assert not [resource for resource in chosen.resources if "monitoring" in resource.name]


def test_alarms_go_to_the_topic_and_so_does_the_all_clear(prod: Deployment) -> None:
    topic = "arn:aws:sns:eu-west-1:123456789012:platform-alarms"
    alarms = prod.of_type("aws:cloudwatch/metricAlarm:MetricAlarm")
    assert {alarm["metricName"] for alarm in alarms} == {
        "CPUUtilization",
        "FreeableMemory",
        "FreeStorageSpace",
        "DatabaseConnections",
    }
    for alarm in alarms:
        assert alarm["alarmActions"] == alarm["okActions"] == [topic]
        assert alarm["dimensions"] == {"DBInstanceIdentifier": "postgres-instance"}
        assert alarm["treatMissingData"] == "breaching", (
            "an instance that is down sends no data, and the alarm would stay silent"
        )
        # Fifteen minutes, as the descriptions say, so that a backup or a large query raises no alarm.
        assert (alarm["statistic"], alarm["period"], alarm["evaluationPeriods"]) == ("Average", 300, 3)
    for events in prod.of_type("aws:rds/eventSubscription:EventSubscription"):
        assert events["snsTopic"] == topic
        assert events["sourceIds"], "events of every database in the account would go there"
    events = prod.named("postgres-events")
    assert events["sourceIds"] == ["postgres-instance"]
    assert {"failover", "failure", "low storage", "deletion"} <= set(events["eventCategories"])


def test_alarms_know_the_size_of_the_instance(prod: Deployment) -> None:
    storage, connections = prod.named("postgres-alarms-storage"), prod.named("postgres-alarms-connections")
    assert (storage["comparisonOperator"], storage["threshold"]) == ("LessThanThreshold", 5 * 2**30)
    # A db.m7g.large has 874 connections, and the alarm is at four fifths of them.
    assert (connections["comparisonOperator"], connections["threshold"]) == ("GreaterThanThreshold", 699)


def test_a_class_whose_connections_are_not_known_has_no_alarm_on_them() -> None:
    config = changed(
        MINIMAL,
        {
            "postgres.instanceClass": "db.z1d.large",
            "postgres.alarmTopicArn": "arn:aws:sns:eu-west-1:123456789012:alarms",
        },
    )

    def instance_and_alarms() -> None:
        PostgresAlarms("postgres-alarms", wiring.alarms(reader.load(), the_instance_alone()))

    names = {resource.name for resource in deploy(config, program=instance_and_alarms).resources}
    assert "postgres-alarms-cpu" in names
    assert "postgres-alarms-connections" not in names


def test_without_a_topic_there_are_neither_alarms_nor_events(dev: Deployment) -> None:
    kinds = {resource.type for resource in dev.resources}
    assert not kinds & {"aws:cloudwatch/metricAlarm:MetricAlarm", "aws:rds/eventSubscription:EventSubscription"}


def test_a_server_that_exists_is_used_and_no_other_is_made() -> None:
    config = changed(MINIMAL, {"postgres.existing": {"host": "db.example.com", "adminPassword": "it's ours"}})
    deployment = deploy(config, secrets=["postgres"])
    assert not [resource for resource in deployment.resources if resource.type.startswith("aws:rds/")]
    assert deployment.outputs["databaseAddress"] == "db.example.com"
    assert deployment.named("artifacts-bucket"), "other AWS resources of the program remain"


def test_everything_in_aws_carries_the_projects_tags(prod: Deployment) -> None:
    tags = {"Project": "mlflow-eks", "Stack": "prod", "Team": "ml-platform", "CostCenter": "1234"}
    # AWS has no tags for policies and attachments, a bucket's settings, and DNS records.
    taggable = [
        resource for resource in prod.resources if resource.type.startswith("aws:") and "tags" in resource.inputs
    ]
    assert {"postgres-instance", "postgres-sg", "artifacts-bucket", "artifacts-role"} <= {r.name for r in taggable}
    for resource in taggable:
        assert resource["tags"] == tags, resource.name
