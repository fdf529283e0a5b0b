# ruff: noqa: D102, S105 - the docstrings of the methods, and the types of the tables, are in `Resource`; a token is a type's name
# boto3 and jmespath have no types of their own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""EC2: security groups."""

import jmespath

from local.plugins.aws.api import as_written, call, retag, unless_gone
from local.plugins.provider_base import Properties, Resource, State


class SecurityGroup(Resource):
    """A security group without rules. The real provider, too, removes AWS's default rule for all outgoing traffic."""

    token = "aws:ec2/securityGroup:SecurityGroup"
    supported = frozenset({"description", "name", "tags", "vpcId"})
    replace = frozenset({"description", "name", "vpcId"})
    computed = frozenset({"arn", "ownerId"})
    autoname = "name"

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        answer = call(
            "ec2",
            "create_security_group",
            GroupName=inputs["name"],
            Description=inputs.get("description", "Managed by Pulumi"),
            VpcId=inputs["vpcId"],
        )
        group = answer["GroupId"]
        default_rule = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
        call("ec2", "revoke_security_group_egress", GroupId=group, IpPermissions=default_rule)
        retag("ec2", group, {}, inputs.get("tags", {}))
        return group, self._outputs(group) or {}

    def read(self, resource_id: str, inputs: Properties, outputs: Properties) -> State | None:
        answer = unless_gone("ec2", "describe_security_groups", GroupIds=[resource_id])
        if answer is None:
            return None
        (group,) = answer["SecurityGroups"]
        fixed = {"name": group["GroupName"], "description": group["Description"], "vpcId": group["VpcId"]}
        return State(resource_id, inputs or fixed, self._outputs(resource_id) or {})

    def update(self, resource_id: str, old: Properties, inputs: Properties) -> Properties:
        retag("ec2", resource_id, old.get("tags", {}), inputs.get("tags", {}))
        return self._outputs(resource_id) or {}

    def delete(self, resource_id: str, properties: Properties) -> None:
        unless_gone("ec2", "delete_security_group", GroupId=resource_id)

    @staticmethod
    def _outputs(group: str) -> Properties | None:
        answer = unless_gone("ec2", "describe_security_groups", GroupIds=[group])
        return jmespath.search("SecurityGroups[0].{arn: SecurityGroupArn, ownerId: OwnerId}", answer)


class SecurityGroupIngressRule(Resource):
    """A rule that allows traffic from one network or one security group to a range of ports."""

    token = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
    supported = frozenset(
        {
            "cidrIpv4",
            "description",
            "fromPort",
            "ipProtocol",
            "referencedSecurityGroupId",
            "securityGroupId",
            "tags",
            "toPort",
        }
    )
    replace = frozenset({"securityGroupId"})
    computed = frozenset({"securityGroupRuleId"})

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        permission = {"IpProtocol": inputs["ipProtocol"], "FromPort": inputs["fromPort"], "ToPort": inputs["toPort"]}
        described = {"Description": inputs["description"]} if "description" in inputs else {}
        if "cidrIpv4" in inputs:
            permission["IpRanges"] = [{"CidrIp": inputs["cidrIpv4"], **described}]
        else:
            permission["UserIdGroupPairs"] = [{"GroupId": inputs["referencedSecurityGroupId"], **described}]
        answer = call(
            "ec2", "authorize_security_group_ingress", GroupId=inputs["securityGroupId"], IpPermissions=[permission]
        )
        rule = answer["SecurityGroupRules"][0]["SecurityGroupRuleId"]
        retag("ec2", rule, {}, inputs.get("tags", {}))
        return rule, {"securityGroupRuleId": rule}

    def read(self, resource_id: str, inputs: Properties, outputs: Properties) -> State | None:
        answer = unless_gone("ec2", "describe_security_group_rules", SecurityGroupRuleIds=[resource_id])
        rule = jmespath.search("SecurityGroupRules[0]", answer)
        if rule is None:
            return None
        source = {"referencedSecurityGroupId": jmespath.search("ReferencedGroupInfo.GroupId", rule)}
        api = {name[0].lower() + name[1:]: value for name, value in rule.items()} | source
        fixed = {"securityGroupId": rule["GroupId"]}
        described = {name: as_written(value, api.get(name)) for name, value in inputs.items()} or fixed
        return State(resource_id, described, {"securityGroupRuleId": resource_id})

    def update(self, resource_id: str, old: Properties, inputs: Properties) -> Properties:
        rule = {
            name[0].upper() + name[1:]: value
            for name, value in inputs.items()
            if name not in {"securityGroupId", "tags"}
        }
        if "ReferencedSecurityGroupId" in rule:
            rule["ReferencedGroupId"] = rule.pop("ReferencedSecurityGroupId")
        change = [{"SecurityGroupRuleId": resource_id, "SecurityGroupRule": rule}]
        call("ec2", "modify_security_group_rules", GroupId=inputs["securityGroupId"], SecurityGroupRules=change)
        retag("ec2", resource_id, old.get("tags", {}), inputs.get("tags", {}))
        return {"securityGroupRuleId": resource_id}

    def delete(self, resource_id: str, properties: Properties) -> None:
        group = properties["securityGroupId"]
        unless_gone("ec2", "revoke_security_group_ingress", GroupId=group, SecurityGroupRuleIds=[resource_id])
