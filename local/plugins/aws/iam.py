# ruff: noqa: D102, RUF012, S105 - the docstrings of the methods, and the types of the tables, are in `Resource`; a token is a type's name
# boto3 and jmespath have no types of their own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""IAM roles with their policies, and their EKS Pod Identity associations."""

import json
import secrets
import threading

import jmespath

from local import paths
from local.plugins.aws.api import ApiResource, as_written, call, client, unless_gone
from local.plugins.provider_base import OperationError, Properties, Resource, State


class Role(ApiResource):
    """An IAM role."""

    token = "aws:iam/role:Role"
    service = "iam"
    calls = ("create_role", "get_role", "update_role", "delete_role")
    answer_path = "Role"
    key = "RoleName"
    parameter_names = {"name": key, "assumeRolePolicy": "AssumeRolePolicyDocument"}
    input_paths = {"permissionsBoundary": "PermissionsBoundary.PermissionsBoundaryArn"}
    output_paths = {"arn": "Arn", "uniqueId": "RoleId"}
    computed = frozenset({"arn", "uniqueId"})
    autoname = "name"
    replace = frozenset({"name", "path"})
    optional = frozenset({"path"})

    def update(self, resource_id: str, old: Properties, inputs: Properties) -> Properties:
        call("iam", "update_assume_role_policy", RoleName=resource_id, PolicyDocument=inputs["assumeRolePolicy"])
        boundary = inputs.get("permissionsBoundary")
        if boundary and boundary != old.get("permissionsBoundary"):
            call("iam", "put_role_permissions_boundary", RoleName=resource_id, PermissionsBoundary=boundary)
        elif not boundary and old.get("permissionsBoundary"):
            call("iam", "delete_role_permissions_boundary", RoleName=resource_id)
        return super().update(resource_id, old, inputs)


class RolePolicy(Resource):
    """An inline policy of a role."""

    token = "aws:iam/rolePolicy:RolePolicy"
    supported = frozenset({"name", "policy", "role"})
    replace = frozenset({"name", "role"})
    autoname = "name"

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        call(
            "iam",
            "put_role_policy",
            RoleName=inputs["role"],
            PolicyName=inputs["name"],
            PolicyDocument=inputs["policy"],
        )
        return f"{inputs['role']}:{inputs['name']}", {}

    def read(self, resource_id: str, inputs: Properties, outputs: Properties) -> State | None:
        role, _, name = resource_id.partition(":")
        answer = unless_gone("iam", "get_role_policy", RoleName=role, PolicyName=name)
        if answer is None:
            return None
        policy = as_written(inputs.get("policy", "{}"), answer["PolicyDocument"])
        return State(resource_id, {"role": role, "name": name, "policy": policy})

    def update(self, resource_id: str, old: Properties, inputs: Properties) -> Properties:
        return self.create(inputs)[1]

    def delete(self, resource_id: str, properties: Properties) -> None:
        role, _, name = resource_id.partition(":")
        unless_gone("iam", "delete_role_policy", RoleName=role, PolicyName=name)


class RolePolicyAttachment(Resource):
    """A managed policy, attached to a role."""

    token = "aws:iam/rolePolicyAttachment:RolePolicyAttachment"
    supported = frozenset({"policyArn", "role"})
    replace = supported

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        call("iam", "attach_role_policy", RoleName=inputs["role"], PolicyArn=inputs["policyArn"])
        return f"{inputs['role']}/{inputs['policyArn']}", {}

    def read(self, resource_id: str, inputs: Properties, outputs: Properties) -> State | None:
        role, _, policy = resource_id.partition("/")
        attached = unless_gone("iam", "list_attached_role_policies", RoleName=role) or {}
        if policy not in jmespath.search("AttachedPolicies[].PolicyArn", attached):
            return None
        return State(resource_id, {"role": role, "policyArn": policy})

    def delete(self, resource_id: str, properties: Properties) -> None:
        role, _, policy = resource_id.partition("/")
        unless_gone("iam", "detach_role_policy", RoleName=role, PolicyArn=policy)


class PodIdentityAssociation(Resource):
    """The role of a service account's pods. moto lacks Pod Identity, so the associations are in a file of the stack."""

    token = "aws:eks/podIdentityAssociation:PodIdentityAssociation"
    supported = frozenset({"clusterName", "namespace", "roleArn", "serviceAccount", "tags"})
    replace = frozenset({"clusterName", "namespace", "serviceAccount"})
    computed = frozenset({"associationArn", "associationId"})

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        with self._lock:
            associations = self._associations()
            key = tuple(inputs[name] for name in sorted(self.replace))
            if any(key == tuple(other[name] for name in sorted(self.replace)) for other in associations.values()):
                raise OperationError(
                    f"service account {inputs['namespace']}/{inputs['serviceAccount']} has an association already"
                )
            association = f"a-{secrets.token_hex(8)}"
            self._write(associations | {association: inputs})
        return association, self._outputs(association, inputs)

    def read(self, resource_id: str, inputs: Properties, outputs: Properties) -> State | None:
        # An import names the cluster, too.
        association = resource_id.rpartition(",")[2]
        actual = self._associations().get(association)
        return None if actual is None else State(association, actual, self._outputs(association, actual))

    def update(self, resource_id: str, old: Properties, inputs: Properties) -> Properties:
        with self._lock:
            self._write(self._associations() | {resource_id: inputs})
        return self._outputs(resource_id, inputs)

    def delete(self, resource_id: str, properties: Properties) -> None:
        with self._lock:
            self._write({name: item for name, item in self._associations().items() if name != resource_id})

    @staticmethod
    def _outputs(association: str, inputs: Properties) -> Properties:
        region = client("eks").meta.region_name
        arn = f"arn:aws:eks:{region}:123456789012:podidentityassociation/{inputs['clusterName']}/{association}"
        return {"associationArn": arn, "associationId": association}

    @staticmethod
    def _associations() -> dict[str, Properties]:
        file = paths.stack_dir() / "pod-identity.json"
        return json.loads(file.read_text()) if file.exists() else {}

    @staticmethod
    def _write(associations: dict[str, Properties]) -> None:
        (paths.stack_dir() / "pod-identity.json").write_text(json.dumps(associations, indent=1))
