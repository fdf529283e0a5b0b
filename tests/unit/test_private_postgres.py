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
    ANY_CLUSTER,
    CLUSTER_SECURITY_GROUP,
    ELSEWHERE,
    MINIMAL,
    PRIVATE_A,
    PRIVATE_B,
    PRIVATE_C,
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
    return PrivatePostgres("postgres", wiring.postgres(settings, look_up_eks_cluster(settings.cluster.name), None))


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


def test_the_release_waits_for_a_snapshot_that_a_new_mlflow_replaces_and_nothing_else(prod: Deployment) -> None:
    now, chart, image, password = (
        deploy(changed(MINIMAL, changes))
        for changes in (
            {},
            {"mlflow.chartVersion": "1.8.1"},
            {"mlflow.image": {"tag": "3.17.2_RC.1"}},
            {"database.rotation": 3, "mlflow.workers": 1, "mlflow.image": {"tag": "3.15.1"}},
        )
    )
    names = [one.named("postgres-upgrade-snapshot")["dbSnapshotIdentifier"] for one in (now, chart, image)]
    assert names == [f"postgres-before-mlflow-{version}-0a0b0c0d" for version in ("3-15-1", "3-7-0", "3-17-2-rc-1")]
    assert all(re.fullmatch(r"[a-z]([a-z0-9]|-(?!-))*[a-z0-9]", name) for name in names), "RDS takes no such name"
    for one in (now, chart, image, password):
        assert "postgres-upgrade-snapshot" in one.named("mlflow-release").depends_on
    suffix = "postgres-upgrade-snapshot-suffix"
    assert (
        password.named(suffix)["keepers"] == now.named(suffix)["keepers"] == {"mlflow": "3-15-1", "instance": "db-0123"}
    )


def test_snapshots_of_a_protected_stack_outlive_the_next_upgrade_and_the_stack(
    dev: Deployment, prod: Deployment
) -> None:
    assert prod.named("postgres-upgrade-snapshot").retain_on_delete
    assert not dev.named("postgres-upgrade-snapshot").retain_on_delete
    # A protected resource cannot be replaced, so no second upgrade would pass.
    assert not prod.named("postgres-upgrade-snapshot").protect


def test_without_a_snapshot_the_release_waits_for_none() -> None:
    for without in (
        deploy(changed(MINIMAL, {"postgres.snapshotBeforeUpgrade": False})),
        deploy(ANY_CLUSTER, secrets=["postgres"]),
    ):
        assert not [resource for resource in without.resources if "snapshot" in resource.type.lower()]
        assert without.named("mlflow-release")


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


def test_the_clusters_group_needs_no_id_in_a_list() -> None:
    listed = instance({"postgres.allowFrom": {"cluster": True, "securityGroups": ["sg-0ba5"]}})
    assert {rule["referencedSecurityGroupId"] for rule in rules(listed)} == {CLUSTER_SECURITY_GROUP, "sg-0ba5"}


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        ("cluster", {"cluster": True, "securityGroups": ["sg-0ba5"]}, "postgres-from-cluster"),
        ("cluster", {"securityGroups": [CLUSTER_SECURITY_GROUP, "sg-0ba5"]}, "postgres-from-cluster"),
        ("cluster", {"cluster": True, "securityGroups": [CLUSTER_SECURITY_GROUP]}, "postgres-from-cluster"),
        ("vpc", {"cidrs": ["10.0.0.0/16", "10.9.0.0/16"]}, "postgres-from-vpc"),
    ],
)
def test_a_source_has_one_rule_however_it_was_written(before: Any, after: Any, rule: str) -> None:
    # AWS refuses a second rule for the same source, and the engine makes the new one before it deletes the old one.
    for sources in (before, after):
        made = instance({"postgres.allowFrom": sources}).of_type(RULE)
        assert rule in {each.name for each in made}
        of_source = [each.inputs.get("cidrIpv4") or each.inputs.get("referencedSecurityGroupId") for each in made]
        assert len(of_source) == len({*of_source})


@pytest.mark.parametrize(
    ("nodes", "let_in"),
    [
        ({"i-0a": [CLUSTER_SECURITY_GROUP]}, True),
        ({"i-0a": ["sg-0d"], "i-0b": [CLUSTER_SECURITY_GROUP]}, False),
        ({}, True),
    ],
)
def test_nodes_that_the_database_does_not_let_in_are_told_of(nodes: Mapping[str, Any], let_in: bool) -> None:
    deployment = deploy(MINIMAL, account=Account(node_groups=nodes))
    told = [warning for warning in deployment.warnings if "postgres.allowFrom lets in" in warning]
    assert bool(told) is not let_in
    if told:
        assert CLUSTER_SECURITY_GROUP in told[0]
        assert "1 nodes" in told[0]
        assert "i-0a" in told[0]


def test_nodes_that_cannot_be_listed_stop_nobody() -> None:
    deployment = deploy(MINIMAL, account=Account(failing={"ec2/getInstances:getInstances": "UnauthorizedOperation"}))
    assert any("ec2:DescribeInstances" in warning for warning in deployment.warnings)
    assert deployment.named("postgres-instance")


def test_networks_decide_for_themselves_which_nodes_they_let_in() -> None:
    config = changed(MINIMAL, {"postgres.allowFrom": {"cidrs": ["10.0.0.0/16"]}})
    deployment = deploy(config, account=Account(node_groups={"i-0a": ["sg-0d"]}))
    assert not [warning for warning in deployment.warnings if "postgres.allowFrom lets in" in warning]


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


def test_a_subnet_whose_route_table_nobody_can_see_is_not_taken_for_a_private_one() -> None:
    # In a VPC that another account shares, the main table belongs to that account.
    account = Account(own_tables={PRIVATE_A: "rtb-private"}, route_tables=["rtb-private"])
    refusal = refused(MINIMAL, account=account, program=the_instance_alone)
    assert isinstance(refusal.error, pulumi.RunError)
    assert f"the route tables of {PRIVATE_B}, {PUBLIC} cannot be read" in refusal.message
    assert "postgres.subnetIds" in refusal.message


def test_a_subnet_in_a_local_zone_is_left_to_others() -> None:
    account = Account(
        cluster_subnets=[PRIVATE_A, PRIVATE_B, PRIVATE_C],
        zones={PRIVATE_A: "eu-west-1a", PRIVATE_B: "eu-west-1b", PRIVATE_C: "eu-west-1-dub-1a"},
        local_zones=["eu-west-1-dub-1a"],
    )
    assert instance({}, account).named("postgres-subnets")["subnetIds"] == [PRIVATE_A, PRIVATE_B]


def test_a_change_of_the_clusters_subnets_is_nobodys_change_of_the_database(
    dev: Deployment, chosen: Deployment
) -> None:
    # RDS refuses to give up a subnet in use, in the middle of somebody's `up`.
    assert list(dev.named("postgres-subnets").ignore_changes) == ["subnetIds"]
    assert list(chosen.named("postgres-subnets").ignore_changes) == []


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


def instance(changes: Mapping[str, Any], account: Account | None = None) -> Deployment:
    return deploy(changed(MINIMAL, changes), account=account, program=the_instance_alone)


def test_a_new_major_version_is_an_upgrade_in_place_where_the_settings_allow_it(dev: Deployment) -> None:
    # Without this input RDS refuses a change of engine_version to another major version, so a typing error is no upgrade.
    assert dev.named("postgres-instance")["allowMajorVersionUpgrade"] is False
    asked = instance({"postgres.engineVersion": "18", "postgres.allowMajorUpgrade": True})
    assert asked.named("postgres-instance")["allowMajorVersionUpgrade"] is True


def test_the_group_of_an_upgrade_that_waits_stays_until_it_is_no_longer_used(dev: Deployment, prod: Deployment) -> None:
    # RDS refuses to delete a group in use, and until the maintenance window the old one is.
    assert prod.named("postgres-instance")["applyImmediately"] is False
    assert prod.named("postgres-parameters").retain_on_delete
    assert dev.named("postgres-instance")["applyImmediately"] is True
    assert not dev.named("postgres-parameters").retain_on_delete


def test_when_changes_are_made_is_the_owners_choice() -> None:
    at_once = instance(
        {
            "postgres.applyImmediately": True,
            "postgres.backupWindow": "01:00-01:30",
            "postgres.maintenanceWindow": "sun:03:00-sun:04:00",
        }
    ).named("postgres-instance")
    assert (at_once["applyImmediately"], at_once["deletionProtection"]) == (True, True)
    assert (at_once["backupWindow"], at_once["maintenanceWindow"]) == ("01:00-01:30", "sun:03:00-sun:04:00")


def test_nothing_in_the_settings_replaces_the_database(dev: Deployment, prod: Deployment) -> None:
    for deployment in (dev, prod):
        ignored = set(deployment.named("postgres-instance").ignore_changes)
        assert {"identifier", "engine", "username", "kmsKeyId", "storageEncrypted"} <= ignored


def test_the_instance_keeps_the_name_that_it_has() -> None:
    account = Account(instances={"postgres-instance-1a2b3c4": {}})
    config = changed(MINIMAL, {})
    deployment = deploy(config, account=account)
    assert deployment.named("postgres-instance")["identifier"] == "postgres-instance-1a2b3c4"
    assert deployment.named("postgres-log-upgrade")["name"] == "/aws/rds/instance/postgres-instance-1a2b3c4/upgrade"


def test_the_logs_are_kept_for_a_time_and_go_with_the_stack(dev: Deployment) -> None:
    identifier = dev.named("postgres-instance")["identifier"]
    for log in ("postgresql", "upgrade"):
        group = dev.named(f"postgres-log-{log}")
        assert group["name"] == f"/aws/rds/instance/{identifier}/{log}"
        assert group["retentionInDays"] == 30
        # RDS makes the group that it does not find, and that one is kept for ever.
        assert group.name in dev.named("postgres-instance").depends_on


def test_a_class_that_the_region_does_not_offer_is_refused_before_anything_is_made() -> None:
    refusal = refused(
        changed(MINIMAL, {"postgres.instanceClass": "db.foo.bar"}), account=Account(classes_not_offered=["db.foo.bar"])
    )
    assert isinstance(refusal.error, pulumi.RunError)
    assert "db.foo.bar with gp3 is not offered for PostgreSQL 17.6" in refusal.message
    assert "aws rds describe-orderable-db-instance-options" in refusal.message
    assert not [resource for resource in refusal.deployment.resources if resource.type == INSTANCE]


def test_several_offers_of_a_class_are_an_offer() -> None:
    account = Account(failing={"getOrderableDbInstance": "multiple RDS DB Instance Classes match the criteria"})
    assert instance({}, account).named("postgres-instance")


@pytest.mark.parametrize(("storage", "there", "striped"), [(399, 20, False), (400, 20, True), (50, 450, True)])
def test_a_volume_that_rds_stripes_is_asked_for_with_what_that_includes(
    storage: int, there: int, striped: bool
) -> None:
    # RDS refuses the 3,000 operations of a smaller volume for a larger one.
    account = Account(instances={"postgres-0a0b0c0d": {"allocatedStorage": there}})
    config = changed(MINIMAL, {"postgres.allocatedStorage": storage, "postgres.maxAllocatedStorage": 1000})
    made = deploy(config, account=account).named("postgres-instance").inputs
    assert (made.get("iops"), made.get("storageThroughput")) == ((12000, 500) if striped else (None, None))


def test_another_volume_type_is_not_asked_for_operations() -> None:
    made = instance(
        {"postgres.allocatedStorage": 400, "postgres.maxAllocatedStorage": 0, "postgres.storageType": "gp2"}
    )
    assert "iops" not in made.named("postgres-instance").inputs


def test_what_forces_tls_is_applied_as_aws_says_it_is(dev: Deployment) -> None:
    # Another word would be a difference in each preview with a refresh.
    (force,) = (item for item in dev.named("postgres-parameters")["parameters"] if item["name"] == "rds.force_ssl")
    assert force["applyMethod"] == "pending-reboot"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("engine", "postgres"),
        ("port", 5432),
        ("copyTagsToSnapshot", True),
        ("iamDatabaseAuthenticationEnabled", True),
        ("performanceInsightsEnabled", True),
        ("caCertIdentifier", "rds-ca-rsa2048-g1"),
        ("databaseInsightsMode", "standard"),
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
    every = prod.of_type("aws:cloudwatch/metricAlarm:MetricAlarm")
    alarms = [alarm for alarm in every if alarm["namespace"] == "AWS/RDS"]
    assert {alarm["metricName"] for alarm in alarms} == {
        "CPUUtilization",
        "FreeableMemory",
        "FreeStorageSpace",
        "DatabaseConnections",
    }
    for alarm in alarms:
        assert alarm["alarmActions"] == alarm["okActions"] == [topic]
        assert alarm["dimensions"] == {"DBInstanceIdentifier": "postgres-instance"}
        # Fifteen minutes, as the descriptions say, so that a backup or a large query raises no alarm.
        assert (alarm["statistic"], alarm["period"], alarm["evaluationPeriods"]) == ("Average", 300, 3)
    # An instance that is down sends no data. One alarm says so.
    silence = {alarm["metricName"]: alarm["treatMissingData"] for alarm in alarms}
    assert [metric for metric, treatment in silence.items() if treatment == "breaching"] == ["CPUUtilization"]
    assert {treatment for metric, treatment in silence.items() if metric != "CPUUtilization"} == {"missing"}
    for events in prod.of_type("aws:rds/eventSubscription:EventSubscription"):
        assert events["snsTopic"] == topic
        assert events["sourceIds"], "events of every database in the account would go there"
    events = prod.named("postgres-events")
    assert events["sourceIds"] == ["postgres-instance"]
    assert {"failover", "failure", "low storage", "deletion"} <= set(events["eventCategories"])


def test_alarms_know_the_size_of_the_instance(prod: Deployment) -> None:
    storage, connections = prod.named("postgres-alarms-storage"), prod.named("postgres-alarms-connections")
    # Half of what is left when RDS enlarges the storage by itself.
    assert (storage["comparisonOperator"], storage["threshold"]) == ("LessThanThreshold", 2.5 * 2**30)
    # A db.m7g.large has 874 connections, and the alarm is at four fifths of them.
    assert (connections["comparisonOperator"], connections["threshold"]) == ("GreaterThanThreshold", 699)


def test_alarms_follow_what_is_there_and_not_what_waits() -> None:
    topic = {"postgres.alarmTopicArn": "arn:aws:sns:eu-west-1:123456789012:alarms"}
    there = Account(instances={"postgres-0a0b0c0d": {"allocatedStorage": 80, "dbInstanceClass": "db.t3.micro"}})
    larger = changed(MINIMAL, {**topic, "postgres.instanceClass": "db.t3.medium"})
    waits = deploy(larger, account=there)
    assert waits.named("postgres-alarms-storage")["threshold"] == 4 * 2**30
    assert waits.named("postgres-alarms-connections")["threshold"] == 68, "four fifths of the 85 of a db.t3.micro"
    at_once = deploy(changed(larger, {"postgres.applyImmediately": True}), account=there)
    assert at_once.named("postgres-alarms-connections")["threshold"] > 200


def test_the_alarm_on_connections_is_above_what_the_pods_keep_open() -> None:
    settings = {
        "postgres.alarmTopicArn": "arn:aws:sns:eu-west-1:123456789012:alarms",
        "postgres.instanceClass": "db.t3.medium",
        "mlflow.workers": 2,
        "mlflow.replicas": 9,
    }
    alarm = deploy(changed(MINIMAL, settings)).named("postgres-alarms-connections")
    # Nine pods keep 360 of the 423 connections. Four fifths would be 338.
    assert alarm["threshold"] == 391
    assert alarm["alarmDescription"].endswith("more than 391 connections (92 %)")


def test_a_class_whose_connections_are_not_known_has_no_alarm_on_them() -> None:
    config = changed(
        MINIMAL,
        {
            "postgres.instanceClass": "db.z1d.large",
            "postgres.alarmTopicArn": "arn:aws:sns:eu-west-1:123456789012:alarms",
        },
    )

    def instance_and_alarms() -> None:
        PostgresAlarms("postgres-alarms", wiring.alarms(reader.load(), the_instance_alone(), None))

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
