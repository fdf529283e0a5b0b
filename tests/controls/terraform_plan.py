"""A stack's resources in the forms that Checkov reads: a Terraform plan for AWS, manifests for Kubernetes.

Both are made from a recording of the whole program. So a new resource of the program is checked automatically, and one
of an unknown type is an error. References between resources become references of the plan, because Checkov's graph
checks (CKV2_*) follow only those.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tests.contract.recordings import recording
from tests.unit.harness import Deployment, Resource, plain

TYPES = {
    "aws:cloudwatch/logGroup:LogGroup": "aws_cloudwatch_log_group",
    "aws:cloudwatch/metricAlarm:MetricAlarm": "aws_cloudwatch_metric_alarm",
    "aws:ec2/securityGroup:SecurityGroup": "aws_security_group",
    "aws:eks/podIdentityAssociation:PodIdentityAssociation": "aws_eks_pod_identity_association",
    "aws:iam/role:Role": "aws_iam_role",
    "aws:iam/rolePolicy:RolePolicy": "aws_iam_role_policy",
    "aws:iam/rolePolicyAttachment:RolePolicyAttachment": "aws_iam_role_policy_attachment",
    "aws:rds/eventSubscription:EventSubscription": "aws_db_event_subscription",
    "aws:rds/instance:Instance": "aws_db_instance",
    "aws:rds/parameterGroup:ParameterGroup": "aws_db_parameter_group",
    "aws:rds/snapshot:Snapshot": "aws_db_snapshot",
    "aws:rds/subnetGroup:SubnetGroup": "aws_db_subnet_group",
    "aws:route53/record:Record": "aws_route53_record",
    "aws:s3/bucket:Bucket": "aws_s3_bucket",
    "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": "aws_s3_bucket_lifecycle_configuration",
    "aws:s3/bucketOwnershipControls:BucketOwnershipControls": "aws_s3_bucket_ownership_controls",
    "aws:s3/bucketPolicy:BucketPolicy": "aws_s3_bucket_policy",
    "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": "aws_s3_bucket_public_access_block",
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": "aws_s3_bucket_server_side_encryption_configuration",
    "aws:s3/bucketVersioning:BucketVersioning": "aws_s3_bucket_versioning",
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": "aws_vpc_security_group_ingress_rule",
}
"""Pulumi's type to Terraform's."""

SINGULAR = {"aliases": "alias", "parameters": "parameter", "rules": "rule"}
"""Pulumi's name of a list to the name of the block that Terraform repeats instead."""

MAPS = {"dimensions", "tags"}
"""Arguments whose keys belong to the user. Every other object is a block."""


def terraform_plan(deployment: Deployment) -> dict[str, Any]:
    """Return the output of `terraform show -json` for the AWS resources of a first deployment."""
    resources = [resource for resource in deployment.resources if resource.type.startswith("aws:")]
    unknown = sorted({resource.type for resource in resources} - TYPES.keys())
    if unknown:
        raise LookupError(
            f"tests/controls/terraform_plan.py does not know {', '.join(unknown)}; add to TYPES, then see what Checkov says"
        )
    addresses = {resource.name: address(resource) for resource in resources}
    planned: list[dict[str, Any]] = []
    changes: list[dict[str, Any]] = []
    configuration: list[dict[str, Any]] = []
    for resource in resources:
        head = {
            "address": addresses[resource.name],
            "mode": "managed",
            "type": TYPES[resource.type],
            "name": resource.name,
        }
        values, expressions = _arguments(resource, addresses)
        planned.append(head | {"values": values})
        change = {
            "actions": ["create"],
            "before": None,
            "after": values,
            "after_unknown": dict.fromkeys(expressions.keys() - values.keys(), True),
        }
        changes.append(head | {"change": change})
        configuration.append(head | {"expressions": expressions})
    return {
        "format_version": "1.2",
        "terraform_version": "1.9.8",
        "planned_values": {"root_module": {"resources": planned}},
        "resource_changes": changes,
        "configuration": {"root_module": {"resources": configuration}},
    }


def address(resource: Resource) -> str:
    """Return a resource's address in findings and waivers: Terraform's for AWS, `Kind.name` for the others."""
    return f"{TYPES.get(resource.type, resource.type.rsplit(':', 1)[-1])}.{resource.name}"


def _arguments(resource: Resource, addresses: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return Terraform's values, and the references of those that come from another resource."""
    values: dict[str, Any] = {}
    expressions: dict[str, Any] = {}
    for key, value in plain(resource.inputs).items():
        name, converted = _argument(key, value)
        references = _references(json.dumps(value), resource.depends_on, addresses)
        if references:
            expressions[name] = {"references": references}
        # In a first plan, a value from another resource is unknown. A policy is an exception: Checkov needs its text,
        # which only contains the name of the other resource.
        if not references or (isinstance(value, str) and value.startswith("{")):
            values[name] = converted
    return values, expressions


def _references(value: str, depends_on: Sequence[str], addresses: Mapping[str, str]) -> list[str]:
    """Return the references in a value.

    The mocks put a resource's name into all its outputs, so the name shows a reference.
    """
    named = [
        name
        for name in depends_on
        if name in addresses and re.search(rf"(?<![\w-]){re.escape(name)}(-id|-\d+)?(?![\w-])", value)
    ]
    return [reference for name in sorted(named) for reference in (f"{addresses[name]}.id", addresses[name])]


def _argument(key: str, value: Any) -> tuple[str, Any]:
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", SINGULAR.get(key, key)).lower()
    return name, value if name in MAPS else _block(value)


def _block(value: Any) -> Any:
    if isinstance(value, Mapping):
        return [dict(_argument(key, inner) for key, inner in value.items())]
    if isinstance(value, list):
        return [inner for item in value for inner in (_block(item) if isinstance(item, Mapping) else [item])]
    # The engine's protocol has floating-point numbers only.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def manifests(deployment: Deployment) -> list[dict[str, Any]]:
    """Return the Kubernetes objects that the program creates itself."""
    return [
        _whole(plain(resource.inputs))
        for resource in deployment.resources
        if resource.type.startswith("kubernetes:")
        and resource.type != "kubernetes:helm.sh/v3:Release"
        and not resource.read
    ]


def chart_manifests(deployment: Deployment) -> list[dict[str, Any]]:
    """Return the charts' Deployments. Parts that values set are this stack's, the rest is recorded from Helm."""
    return [
        _CHARTS[release["chart"]](_whole(plain(release.inputs)))
        for release in deployment.of_type("kubernetes:helm.sh/v3:Release")
    ]


def _mlflow(release: dict[str, Any]) -> dict[str, Any]:
    values = release["values"]
    facts = _facts(release)

    def container(recorded: Mapping[str, Any]) -> dict[str, Any]:
        resources = {"resources": values["resources"]} if "resources" in recorded else {}
        return {**_container(recorded), **resources}

    pod = {
        **facts["pod"],
        "serviceAccountName": values["serviceAccount"]["name"],
        "securityContext": values["podSecurityContext"],
        "initContainers": [container(facts["initContainers"][name]) for name in facts["initOrder"]],
        "containers": [container(recorded) for recorded in facts["containers"].values()],
        "affinity": values.get("affinity", {}),
    }
    (service,) = facts["services"].values()
    return _workload(release, values["replicaCount"], service["spec"]["selector"], values["podAnnotations"], pod)


def _haproxy(release: dict[str, Any]) -> dict[str, Any]:
    controller = release["values"]["controller"]
    facts = _facts(release)
    (service,) = facts["services"].values()
    (recorded,) = facts["containers"].values()
    container = _container(recorded) | {"resources": controller["resources"]}
    spread = {"topologySpreadConstraints": controller["topologySpreadConstraints"]}
    pod = {**facts["pod"], **spread, "containers": [container]}
    return _workload(release, controller["replicaCount"], service["spec"]["selector"], {}, pod)


_CHARTS = {"mlflow": _mlflow, "kubernetes-ingress": _haproxy}


def _facts(release: Mapping[str, Any]) -> Mapping[str, Any]:
    return recording(f"{release['chart']}-{release['version']}/prod")["facts"]


def _container(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return a container in the API's form. A recording has the environment as a map."""
    names = ("name", "image", "command", "args", "securityContext", "livenessProbe", "readinessProbe", "resources")
    return {name: recorded[name] for name in names if name in recorded} | {
        "env": [_variable(name, value) for name, value in recorded["env"].items()]
    }


def _variable(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {"name": name, "valueFrom": value}
    if value.startswith("secret:"):
        secret, key = value.removeprefix("secret:").split("/")
        return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}
    return {"name": name, "value": value}


def _workload(
    release: Mapping[str, Any],
    replicas: int,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    pod: Mapping[str, Any],
) -> dict[str, Any]:
    metadata = {"name": release["name"], "namespace": release["namespace"], "labels": labels}
    template = {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def _whole(value: Any) -> Any:
    """Return a value with whole numbers as integers. The engine's protocol has floating-point numbers only."""
    if isinstance(value, Mapping):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
