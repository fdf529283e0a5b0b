# boto3 and jmespath have no types of their own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Compute the id of a resource whose creation was interrupted, to find out whether it exists.

The id of most types follows from the inputs. AWS assigns the id of the others, and they are found by the inputs that
must be unique. A type that is missing here can be created a second time without a conflict.
"""

import json
from pathlib import Path
from typing import Any

from local import aws_account

_IDS = {
    "aws:iam/role:Role": "{name}",
    "aws:iam/rolePolicy:RolePolicy": "{role}:{name}",
    "aws:iam/rolePolicyAttachment:RolePolicyAttachment": "{role}/{policyArn}",
    "aws:rds/instance:Instance": "{identifier}",
    "aws:rds/parameterGroup:ParameterGroup": "{name}",
    "aws:rds/snapshot:Snapshot": "{dbSnapshotIdentifier}",
    "aws:rds/subnetGroup:SubnetGroup": "{name}",
    "aws:s3/bucket:Bucket": "{bucket}",
    "postgresql:index/database:Database": "{name}",
    "postgresql:index/role:Role": "{name}",
    "postgresql:index/schema:Schema": "{database}.{name}",
}
"""Resource type to the pattern of its id, with the names of inputs in braces."""


def likely_id(kind: str, inputs: dict[str, Any], stack: Path, endpoint: str) -> str | None:
    """Return the id of a resource, if it was created, or None if there is nothing to look for.

    Args:
        kind: type of the resource, as in its URN.
        inputs: inputs of the resource.
        stack: folder of the stack.
        endpoint: URL of the local AWS API.
    """
    if kind.startswith("kubernetes:"):
        metadata: dict[str, str] = inputs.get("metadata") or inputs
        return "/".join(metadata[key] for key in ("namespace", "name") if key in metadata)
    if kind == "aws:eks/podIdentityAssociation:PodIdentityAssociation":
        return _pod_identity(inputs, stack)
    if kind == "aws:ec2/securityGroup:SecurityGroup":
        return _security_group(inputs, endpoint)
    if kind == "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule":
        return _ingress_rule(inputs, endpoint)
    return _IDS[kind].format_map(inputs) if kind in _IDS else None


def _pod_identity(inputs: dict[str, Any], stack: Path) -> str | None:
    file = stack / "pod-identity.json"
    associations: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    unique = ("clusterName", "namespace", "serviceAccount")
    return next(
        (name for name, other in associations.items() if all(other[key] == inputs[key] for key in unique)), None
    )


def _ec2(endpoint: str) -> Any:
    import boto3  # noqa: PLC0415 - loading it takes longer than the rest of a command, and few commands need it

    key = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
    return boto3.client("ec2", endpoint_url=endpoint, region_name=aws_account.REGION, **key)


def _security_group(inputs: dict[str, Any], endpoint: str) -> str | None:
    unique = {"group-name": inputs["name"], "vpc-id": inputs["vpcId"]}
    filters = [{"Name": name, "Values": [value]} for name, value in unique.items()]
    groups = _ec2(endpoint).describe_security_groups(Filters=filters)["SecurityGroups"]
    return groups[0]["GroupId"] if groups else None


def _ingress_rule(inputs: dict[str, Any], endpoint: str) -> str | None:
    in_group = [{"Name": "group-id", "Values": [inputs["securityGroupId"]]}]
    for rule in _ec2(endpoint).describe_security_group_rules(Filters=in_group)["SecurityGroupRules"]:
        source = rule.get("CidrIpv4") or rule.get("ReferencedGroupInfo", {}).get("GroupId")
        wanted = inputs.get("cidrIpv4") or inputs.get("referencedSecurityGroupId")
        if not rule["IsEgress"] and (rule["FromPort"], source) == (inputs["fromPort"], wanted):
            return rule["SecurityGroupRuleId"]
    return None
