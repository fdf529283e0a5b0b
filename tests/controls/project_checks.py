"""Checks of this project, for controls that Checkov lacks or passes without looking.

CKV2_AWS_69 passes an instance without a parameter group, CKV2_AWS_30 any instance, CKV_AWS_129 one log of two, and
CKV_AWS_133 a backup of one day. The S3 transport check looks at ACLs only. No check looks at route tables, tags or the
principals of a role. A check has AWS's id where AWS has one.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.controls.terraform_plan import address
from tests.controls.verdict import Finding
from tests.unit.harness import Account, Deployment, Resource, plain

Verdicts = Iterator[tuple[Resource, bool]]
"""Resources, each with True if it meets the control."""

BUCKET = "aws:s3/bucket:Bucket"
INSTANCE = "aws:rds/instance:Instance"
RELEASE = "kubernetes:helm.sh/v3:Release"
UNTAGGABLE = {"Record", "RolePolicy", "RolePolicyAttachment"}
"""Types without tags in AWS. The parts of a bucket (BucketPolicy and so on) have none either."""
EVERYWHERE = {"0.0.0.0/0", "::/0"}
ENCRYPTED = {"require", "verify-ca", "verify-full"}
"""Values of `sslmode` that always encrypt."""
TRANSFERS = {"s3:GetObject", "s3:PutObject"}
"""Actions of an address that a client gets."""
RECOMMENDED_TLS = {
    "ELBSecurityPolicy-TLS13-1-2-Res-2021-06",
    "ELBSecurityPolicy-TLS13-1-2-Res-FIPS-2023-04",
    "ELBSecurityPolicy-TLS13-1-2-Res-PQ-2025-09",
    "ELBSecurityPolicy-TLS13-1-2-Res-FIPS-PQ-2025-09",
    "ELBSecurityPolicy-TLS13-1-3-2021-06",
    "ELBSecurityPolicy-TLS13-1-3-FIPS-2023-04",
    "ELBSecurityPolicy-TLS13-1-3-PQ-2025-09",
    "ELBSecurityPolicy-TLS13-1-3-FIPS-PQ-2025-09",
}
"""TLS policies that ELB.17 accepts, as listed on its page. ELBSecurityPolicy-TLS13-1-2-2021-06 is not one of them."""

CHECKS: dict[str, Callable[[Deployment], Verdicts]] = {}
"""Id to the check. A check's function name is its title."""


def findings(deployment: Deployment) -> list[Finding]:
    return [
        Finding(check, address(resource), passed, function.__name__.replace("_", " "))
        for check, function in CHECKS.items()
        for resource, passed in function(deployment)
    ]


def _check(name: str) -> Callable[[Callable[[Deployment], Verdicts]], Callable[[Deployment], Verdicts]]:
    def register(function: Callable[[Deployment], Verdicts]) -> Callable[[Deployment], Verdicts]:
        CHECKS[name] = function
        return function

    return register


# The database


@_check("RDS.9")
def both_logs_go_to_cloudwatch(deployment: Deployment) -> Verdicts:
    for instance in deployment.of_type(INSTANCE):
        yield instance, {"postgresql", "upgrade"} <= set(_inputs(instance).get("enabledCloudwatchLogsExports", []))


@_check("RDS.11")
def backups_reach_back_a_week(deployment: Deployment) -> Verdicts:
    for instance in deployment.of_type(INSTANCE):
        yield instance, _inputs(instance).get("backupRetentionPeriod", 0) >= 7


@_check("RDS.20")
def somebody_hears_of_the_instance(deployment: Deployment) -> Verdicts:
    for instance in deployment.of_type(INSTANCE):
        yield (
            instance,
            {"configuration change", "failure", "maintenance"} <= _events(deployment, "db-instance", instance.name),
        )


@_check("RDS.21")
def somebody_hears_of_the_parameters(deployment: Deployment) -> Verdicts:
    for group in deployment.of_type("aws:rds/parameterGroup:ParameterGroup"):
        yield group, "configuration change" in _events(deployment, "db-parameter-group", group.name)


@_check("RDS.22")
def somebody_hears_of_db_security_groups(deployment: Deployment) -> Verdicts:
    for instance in deployment.of_type(INSTANCE):
        yield instance, {"configuration change", "failure"} <= _events(deployment, "db-security-group", "")


@_check("RDS.23")
def the_port_is_not_the_usual_one(deployment: Deployment) -> Verdicts:
    for instance in deployment.of_type(INSTANCE):
        yield instance, _inputs(instance).get("port", 5432) != 5432


@_check("RDS.25")
def the_administrator_has_a_name_of_its_own(deployment: Deployment) -> Verdicts:
    for instance in deployment.of_type(INSTANCE):
        yield instance, _inputs(instance)["username"] not in {"admin", "postgres"}


@_check("RDS.26")
def a_backup_plan_takes_the_instance_in(deployment: Deployment) -> Verdicts:
    plans = [resource for resource in deployment.resources if resource.type.startswith("aws:backup/selection:")]
    for instance in deployment.of_type(INSTANCE):
        yield instance, any(instance.name in selection.depends_on for selection in plans)


@_check("RDS.36")
def no_statement_is_logged_because_some_have_passwords(deployment: Deployment) -> Verdicts:
    silent = {"log_statement": "none", "log_min_error_statement": "panic", "log_min_duration_statement": "-1"}
    for instance in deployment.of_type(INSTANCE):
        yield instance, silent.items() <= _parameters(deployment, instance).items()


@_check("RDS.38")
def every_connection_is_encrypted(deployment: Deployment) -> Verdicts:
    for instance in deployment.of_type(INSTANCE):
        yield instance, _parameters(deployment, instance).get("rds.force_ssl") == "1"
    for provider in deployment.of_type("pulumi:providers:postgresql"):
        yield provider, _inputs(provider).get("sslmode") in ENCRYPTED
    mlflow = _release(deployment, "mlflow")
    yield mlflow, mlflow["values"]["extraEnvVars"].get("PGSSLMODE") in ENCRYPTED


@_check("RDS.46")
def its_subnets_are_private_and_in_two_zones(deployment: Deployment) -> Verdicts:
    account = Account()
    for group in deployment.of_type("aws:rds/subnetGroup:SubnetGroup"):
        subnets = _inputs(group)["subnetIds"]
        tables = [account.own_tables.get(subnet, "rtb-main") for subnet in subnets]
        routes = [
            route
            for table in tables
            for route in account.answer("aws:ec2/getRouteTable:getRouteTable", {"routeTableId": table})["routes"]
        ]
        private = not any(route["gatewayId"].startswith("igw-") for route in routes)
        yield group, private and len({account.zones[subnet] for subnet in subnets}) >= 2
    for instance in deployment.of_type(INSTANCE):
        yield instance, "dbSubnetGroupName" in instance.inputs


@_check("database-reach")
def only_named_sources_reach_the_database_and_it_reaches_nobody(deployment: Deployment) -> Verdicts:
    for group in deployment.of_type("aws:ec2/securityGroup:SecurityGroup"):
        inline = _inputs(group).keys() & {"egress", "ingress"}
        out = [
            resource
            for resource in deployment.resources
            if "EgressRule" in resource.type or resource.type.endswith(":SecurityGroupRule")
        ]
        yield group, not inline and not out
    for rule in deployment.of_type("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"):
        inputs = _inputs(rule)
        sources = {inputs.get(key) for key in ("cidrIpv4", "cidrIpv6", "referencedSecurityGroupId", "prefixListId")} - {
            None
        }
        one_port = inputs["ipProtocol"] == "tcp" and inputs["fromPort"] == inputs["toPort"] == 5432
        yield rule, one_port and len(sources) == 1 and not sources & EVERYWHERE


@_check("kept-data")
def data_survives_a_mistake(deployment: Deployment) -> Verdicts:
    for instance in deployment.of_type(INSTANCE):
        inputs = _inputs(instance)
        snapshot = not inputs.get("skipFinalSnapshot", False) and bool(inputs.get("finalSnapshotIdentifier"))
        yield instance, instance.protect and snapshot and inputs.get("deleteAutomatedBackups") is False
    for bucket in deployment.of_type(BUCKET):
        yield bucket, bucket.protect and not _inputs(bucket).get("forceDestroy", False)
    for database in deployment.of_type("postgresql:index/database:Database"):
        yield database, database.protect


@_check("alarms")
def somebody_is_told_before_it_hurts(deployment: Deployment) -> Verdicts:
    alarms = [_inputs(alarm) for alarm in deployment.of_type("aws:cloudwatch/metricAlarm:MetricAlarm")]
    for instance in deployment.of_type(INSTANCE):
        metrics = {
            alarm["metricName"]
            for alarm in alarms
            if alarm["alarmActions"] and alarm["dimensions"] == {"DBInstanceIdentifier": instance.name}
        }
        yield instance, metrics >= {"CPUUtilization", "DatabaseConnections", "FreeStorageSpace", "FreeableMemory"}


# Everything in AWS


@_check("tags")
def every_resource_says_whose_it_is(deployment: Deployment) -> Verdicts:
    for resource in deployment.resources:
        kind = resource.type.rsplit(":", 1)[-1]
        part_of_a_bucket = kind.startswith("Bucket") and kind != "Bucket"
        if resource.type.startswith("aws:") and not part_of_a_bucket and kind not in UNTAGGABLE:
            yield resource, {"Project", "Stack"} <= _inputs(resource).get("tags", {}).keys()


@_check("S3.5")
def the_bucket_refuses_plain_http(deployment: Deployment) -> Verdicts:
    for bucket in deployment.of_type(BUCKET):
        policies = [
            json.loads(policy["policy"])
            for policy in deployment.of_type("aws:s3/bucketPolicy:BucketPolicy")
            if bucket.name in policy.depends_on
        ]
        arn = f"arn:aws:s3:::{bucket.name}-1234567"
        yield (
            bucket,
            any(_refuses_plain_http(statement, arn) for policy in policies for statement in policy["Statement"]),
        )


@_check("S3.10")
def old_versions_go_away(deployment: Deployment) -> Verdicts:
    lifecycles = deployment.of_type("aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration")
    for bucket in deployment.of_type(BUCKET):
        rules = [rule for lifecycle in lifecycles if bucket.name in lifecycle.depends_on for rule in lifecycle["rules"]]
        yield bucket, any(rule["status"] == "Enabled" and "noncurrentVersionExpiration" in rule for rule in rules)


@_check("IAM.21")
def permissions_name_actions_and_resources(deployment: Deployment) -> Verdicts:
    for policy, document in _policies(deployment, "aws:iam/rolePolicy:RolePolicy", "policy"):
        allowed = [statement for statement in document["Statement"] if statement["Effect"] == "Allow"]
        yield (
            policy,
            all(
                not any("*" in action for action in _list(statement["Action"]))
                and all(_is_named(arn) for arn in _list(statement["Resource"]))
                for statement in allowed
            ),
        )


@_check("signed-addresses")
def an_address_that_the_pods_sign_is_denied_what_a_transfer_does_not_need(deployment: Deployment) -> Verdicts:
    signed = {"s3:authType": "REST-QUERY-STRING"}
    for policy, document in _policies(deployment, "aws:iam/rolePolicy:RolePolicy", "policy"):
        denied = [statement for statement in document["Statement"] if statement["Effect"] == "Deny"]
        for_signed = [one for one in denied if signed in one["Condition"].values()]
        everything = [one for one in for_signed if one.get("Action") == "s3:*" and len(one["Condition"]) == 1]
        beyond_transfers = [one for one in for_signed if set(one.get("NotAction", ["*"])) <= TRANSFERS]
        yield policy, bool(everything or beyond_transfers)


@_check("principals")
def everybody_is_named_only_to_be_refused(deployment: Deployment) -> Verdicts:
    documents = [
        *_policies(deployment, "aws:iam/role:Role", "assumeRolePolicy"),
        *_policies(deployment, "aws:s3/bucketPolicy:BucketPolicy", "policy"),
    ]
    for resource, document in documents:
        allowed = [statement for statement in document["Statement"] if statement["Effect"] != "Deny"]
        yield (
            resource,
            all("Principal" in statement and "*" not in json.dumps(statement["Principal"]) for statement in allowed),
        )


@_check("confused-deputy")
def a_service_assumes_a_role_for_this_account_only(deployment: Deployment) -> Verdicts:
    for role, document in _policies(deployment, "aws:iam/role:Role", "assumeRolePolicy"):
        for statement in document["Statement"]:
            keys = {key for operator in statement.get("Condition", {}).values() for key in operator}
            federated = "Federated" in statement["Principal"]
            yield role, any(key.endswith(":sub") for key in keys) if federated else "aws:SourceAccount" in keys


# The load balancer and the login


@_check("load-balancer-reach")
def the_load_balancer_is_internal_or_lets_in_named_networks(deployment: Deployment) -> Verdicts:
    ingress = _release(deployment, "kubernetes-ingress")
    service = ingress["values"]["controller"]["service"]
    scheme = _annotations(ingress).get("scheme")
    networks = set(service.get("loadBalancerSourceRanges", []))
    published = {port for port, on in service["enablePorts"].items() if on}
    yield (
        ingress,
        (scheme == "internal" or (bool(networks) and not networks & EVERYWHERE)) and published <= {"http", "https"},
    )


@_check("ELB.17")
def the_load_balancer_speaks_modern_tls_only(deployment: Deployment) -> Verdicts:
    ingress = _release(deployment, "kubernetes-ingress")
    if "ssl-cert" in _annotations(ingress):
        yield ingress, _annotations(ingress).get("ssl-negotiation-policy") in RECOMMENDED_TLS


@_check("ELB.18")
def people_cannot_send_a_password_in_clear(deployment: Deployment) -> Verdicts:
    ingress, mlflow = _release(deployment, "kubernetes-ingress"), _release(deployment, "mlflow")
    controller = ingress["values"]["controller"]
    if "ssl-cert" in _annotations(ingress):
        # A network load balancer that terminates TLS cannot redirect HTTP, so its HTTP port must be closed.
        yield (
            ingress,
            _annotations(ingress)["ssl-ports"] == "https" and not controller["service"]["enablePorts"]["http"],
        )
    else:
        site = mlflow["values"]["ingress"]
        yield ingress, controller["config"]["ssl-redirect"] == "true"
        yield mlflow, site["annotations"]["haproxy.org/ssl-redirect"] == "true" and bool(site.get("tls"))


@_check("ELB.22")
def the_load_balancer_encrypts_towards_haproxy(deployment: Deployment) -> Verdicts:
    ingress = _release(deployment, "kubernetes-ingress")
    if "ssl-cert" in _annotations(ingress):
        yield (
            ingress,
            ingress["values"]["controller"]["service"].get("targetPorts", {}).get("https", "https") == "https",
        )


@_check("login")
def a_login_and_the_origin_stand_before_mlflow(deployment: Deployment) -> Verdicts:
    mlflow = _release(deployment, "mlflow")
    environment = mlflow["values"]["extraEnvVars"]
    hosts, origins = (
        environment["MLFLOW_SERVER_ALLOWED_HOSTS"].split(","),
        environment["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"].split(","),
    )
    yield mlflow, mlflow["values"].get("auth", {}).get("enabled", False) and "*" not in hosts and "*" not in origins


# The cluster


@_check("pod-security")
def namespaces_admit_restricted_pods_only(deployment: Deployment) -> Verdicts:
    for namespace in deployment.of_type("kubernetes:core/v1:Namespace"):
        level = _inputs(namespace)["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce")
        yield namespace, level == "restricted"


@_check("network-policy")
def the_pods_talk_to_named_peers_only(deployment: Deployment) -> Verdicts:
    for policy in deployment.of_type("kubernetes:networking.k8s.io/v1:NetworkPolicy"):
        spec = _inputs(policy)["spec"]
        # The ports of the site are for its clients, whom the load balancer chooses.
        come_in = all(
            rule.get("ports") and (rule.get("from") or {port["port"] for port in rule["ports"]} == {8080, 8443})
            for rule in spec["ingress"]
        )
        # HAProxy reaches all ports in the namespaces that it serves.
        go_out = all(
            rule.get("to") and (rule.get("ports") or all("namespaceSelector" in peer for peer in rule["to"]))
            for rule in spec["egress"]
        )
        yield policy, set(spec["policyTypes"]) == {"Ingress", "Egress"} and come_in and go_out


@_check("disruption-budget")
def a_drained_node_leaves_a_pod(deployment: Deployment) -> Verdicts:
    mlflow, ingress = _release(deployment, "mlflow"), _release(deployment, "kubernetes-ingress")
    if mlflow["values"]["replicaCount"] > 1:
        yield mlflow, bool(deployment.of_type("kubernetes:policy/v1:PodDisruptionBudget"))
    controller = ingress["values"]["controller"]
    if controller["replicaCount"] > 1:
        yield ingress, controller["PodDisruptionBudget"]["enable"]


@_check("container-resources")
def what_can_be_sized_is(deployment: Deployment) -> Verdicts:
    mlflow, ingress = _release(deployment, "mlflow"), _release(deployment, "kubernetes-ingress")
    for release, resources in (
        (mlflow, mlflow["values"]["resources"]),
        (ingress, ingress["values"]["controller"]["resources"]),
    ):
        yield (
            release,
            {"cpu", "memory"} <= resources.get("requests", {}).keys() and "memory" in resources.get("limits", {}),
        )


@_check("service-account-token")
def mlflow_gets_no_token_of_the_cluster(deployment: Deployment) -> Verdicts:
    mlflow = _release(deployment, "mlflow")
    yield mlflow, mlflow["values"]["serviceAccount"].get("automount", True) is False


def _inputs(resource: Resource) -> dict[str, Any]:
    return plain(resource.inputs)


def _release(deployment: Deployment, chart: str) -> Resource:
    (release,) = (release for release in deployment.of_type(RELEASE) if release["chart"] == chart)
    return release


def _annotations(ingress: Resource) -> dict[str, str]:
    """Return the annotations of HAProxy's Service for the AWS load balancer, without their common prefix."""
    annotations = ingress["values"]["controller"]["service"].get("annotations", {})
    return {
        key.removeprefix("service.beta.kubernetes.io/aws-load-balancer-"): value for key, value in annotations.items()
    }


def _events(deployment: Deployment, source: str, name: str) -> set[str]:
    """Return the event categories that subscriptions have for a source.

    One without names is for all sources of its kind.
    """
    subscriptions = [
        _inputs(subscription) for subscription in deployment.of_type("aws:rds/eventSubscription:EventSubscription")
    ]
    return {
        category
        for subscription in subscriptions
        if subscription["sourceType"] == source
        and name in subscription.get("sourceIds", [name])
        and subscription.get("enabled", True)
        for category in subscription["eventCategories"]
    }


def _parameters(deployment: Deployment, instance: Resource) -> dict[str, str]:
    groups = [
        group
        for group in deployment.of_type("aws:rds/parameterGroup:ParameterGroup")
        if group.name == _inputs(instance).get("parameterGroupName")
    ]
    return {parameter["name"]: parameter["value"] for group in groups for parameter in group["parameters"]}


def _policies(deployment: Deployment, kind: str, key: str) -> Iterator[tuple[Resource, dict[str, Any]]]:
    for resource in deployment.of_type(kind):
        yield resource, json.loads(resource[key])


def _refuses_plain_http(statement: Mapping[str, Any], arn: str) -> bool:
    return (
        statement["Effect"] == "Deny"
        and statement["Principal"] in ("*", {"AWS": "*"})
        and statement["Action"] == "s3:*"
        and {arn, f"{arn}/*"} <= set(_list(statement["Resource"]))
        and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    )


def _is_named(arn: str) -> bool:
    """Return True if an ARN has no wildcard, except after the resource's name, as for all objects of a bucket."""
    return "*" not in arn.removesuffix("/*") and arn.startswith("arn:")


def _list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
