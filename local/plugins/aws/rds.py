# ruff: noqa: D102, RUF012, S105 - the docstrings of the methods, and the types of the tables, are in `Resource`; a token is a type's name
# boto3 and jmespath have no types of their own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""RDS: instances, the groups that they need, and event subscriptions."""

import re
from typing import Any

from local.aws_account import offers
from local.plugins.aws import database_server
from local.plugins.aws.api import ApiResource, call, unless_gone
from local.plugins.aws.database_server import DatabaseServer
from local.plugins.provider_base import (
    UNKNOWN,
    InvalidInput,
    OperationError,
    Plain,
    Properties,
    State,
    changed,
)


def _calls(noun: str) -> tuple[str, str, str, str]:
    return f"create_{noun}", f"describe_{noun}s", f"modify_{noun}", f"delete_{noun}"


class SubnetGroup(ApiResource):
    """A DB subnet group."""

    token = "aws:rds/subnetGroup:SubnetGroup"
    service = "rds"
    # moto loses a subnet group when it is modified. Creating it again replaces it, so that is the modifying call here.
    calls = ("create_db_subnet_group", "describe_db_subnet_groups", "create_db_subnet_group", "delete_db_subnet_group")
    answer_path = "DBSubnetGroups[0]"
    key = "DBSubnetGroupName"
    parameter_names = {"name": key, "description": "DBSubnetGroupDescription"}
    input_paths = {"subnetIds": "Subnets[].SubnetIdentifier"}
    output_paths = {"arn": "DBSubnetGroupArn", "vpcId": "VpcId"}
    autoname = "name"
    replace = frozenset({"name"})
    imported = frozenset({"subnetIds"})


class ParameterGroup(ApiResource):
    """A DB parameter group. A change restarts the servers that use it, at once."""

    token = "aws:rds/parameterGroup:ParameterGroup"
    service = "rds"
    calls = _calls("db_parameter_group")
    answer_path = "DBParameterGroups[0]"
    key = "DBParameterGroupName"
    parameter_names = {"name": key, "family": "DBParameterGroupFamily"}
    output_paths = {"arn": "DBParameterGroupArn"}
    not_parameters = frozenset({"parameters"})
    autoname = "name"
    replace = frozenset({"name", "family", "description"})
    optional = frozenset({"description"})

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        created = super().create(inputs)
        self._set(inputs)
        return created

    def read(self, resource_id: str, inputs: Properties, outputs: Properties) -> State | None:
        state = super().read(resource_id, inputs, outputs)
        if state is not None:
            actual = parameters_of(resource_id)
            listed = [item | {"value": actual.get(item["name"])} for item in inputs.get("parameters", [])]
            state.inputs["parameters"] = listed
        return state

    def update(self, resource_id: str, old: Properties, inputs: Properties) -> Properties:
        kept = {item["name"] for item in inputs.get("parameters", [])}
        # moto has no ResetDBParameterGroup, so a removed parameter gets an empty value. `parameters_of` leaves those
        # out.
        removed = [
            {"name": item["name"], "value": ""} for item in old.get("parameters", []) if item["name"] not in kept
        ]
        self._set(inputs | {"parameters": [*inputs.get("parameters", []), *removed]})
        outputs = super().update(resource_id, old, inputs)
        for instance in call("rds", "describe_db_instances")["DBInstances"]:
            if instance["DBParameterGroups"][0]["DBParameterGroupName"] == resource_id:
                DatabaseServer(instance["DBInstanceIdentifier"]).start(
                    parameters_of(resource_id), instance["EngineVersion"]
                )
        return outputs

    def _set(self, inputs: Properties) -> None:
        parameters = [
            {
                "ParameterName": item["name"],
                "ParameterValue": item["value"],
                "ApplyMethod": item.get("applyMethod", "immediate"),
            }
            for item in inputs.get("parameters", [])
        ]
        call("rds", "modify_db_parameter_group", DBParameterGroupName=inputs["name"], Parameters=parameters)


def parameters_of(group: str) -> dict[str, str]:
    """Return the parameters that a parameter group sets."""
    answer = call("rds", "describe_db_parameters", DBParameterGroupName=group, Source="user")
    return {item["ParameterName"]: item["ParameterValue"] for item in answer["Parameters"] if item["ParameterValue"]}


class Instance(ApiResource):
    """A DB instance: a record in the API, and a PostgreSQL server on loopback."""

    token = "aws:rds/instance:Instance"
    service = "rds"
    calls = _calls("db_instance")
    answer_path = "DBInstances[0]"
    key = "DBInstanceIdentifier"
    parameter_names = {
        "identifier": key,
        "instanceClass": "DBInstanceClass",
        "username": "MasterUsername",
        "parameterGroupName": "DBParameterGroupName",
        "caCertIdentifier": "CACertificateIdentifier",
        "iamDatabaseAuthenticationEnabled": "EnableIAMDatabaseAuthentication",
        "enabledCloudwatchLogsExports": "EnableCloudwatchLogsExports",
        "performanceInsightsEnabled": "EnablePerformanceInsights",
    }
    input_paths = {
        "dbSubnetGroupName": "DBSubnetGroup.DBSubnetGroupName",
        "enabledCloudwatchLogsExports": "EnabledCloudwatchLogsExports",
        "iamDatabaseAuthenticationEnabled": "IAMDatabaseAuthenticationEnabled",
        "parameterGroupName": "DBParameterGroups[0].DBParameterGroupName",
        "tags": "TagList",
        "vpcSecurityGroupIds": "VpcSecurityGroups[].VpcSecurityGroupId",
    }
    output_paths = {"arn": "DBInstanceArn", "resourceId": "DbiResourceId", "status": "DBInstanceStatus"}
    not_parameters = frozenset({"deleteAutomatedBackups", "finalSnapshotIdentifier", "password", "skipFinalSnapshot"})
    computed = frozenset({"address", "arn", "endpoint", "engineVersionActual", "port", "resourceId", "status"})
    autoname = "identifier"
    replace = frozenset({"engine", "identifier", "kmsKeyId", "storageEncrypted", "username"})
    optional = frozenset({"kmsKeyId"})
    deferred = frozenset({"allocatedStorage", "engineVersion", "instanceClass", "multiAz", "storageType"})

    def check(self, inputs: Properties) -> Properties:
        version: Any = inputs.get("engineVersion")
        # An import reads no version.
        if inputs.get("engine") != "postgres" or (version not in {None, UNKNOWN} and offers.latest(version) is None):
            raise InvalidInput(
                "engineVersion", f"the local account has only PostgreSQL {' and '.join(offers.VERSIONS.values())}"
            )
        return super().check(inputs)

    def parameters(self, operation: str, inputs: Properties) -> dict[str, Any]:
        parameters = super().parameters(operation, inputs)
        # The account's journal records every request, so the real password goes to the server only.
        return parameters | ({"MasterUserPassword": "kept-by-the-server"} if operation == self.calls[0] else {})

    def identify(self, resource_id: str) -> dict[str, Any]:
        # An import names the identifier. The id of the resource is AWS's own, which outlives a new identifier.
        if re.fullmatch(r"db-[A-Z0-9]{26}", resource_id):
            return {"Filters": [{"Name": "dbi-resource-id", "Values": [resource_id]}]}
        return super().identify(resource_id)

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        identifier = inputs["identifier"]
        call("rds", self.calls[0], **self.parameters(self.calls[0], inputs))
        self._serve(identifier, inputs)
        outputs = self.outputs(identifier)
        return outputs["resourceId"], outputs

    def outputs(self, resource_id: str) -> Properties:
        item: Any = self.describe(resource_id)
        port = DatabaseServer(item["DBInstanceIdentifier"]).port
        here = {
            "address": database_server.ADDRESS,
            "port": port,
            "endpoint": f"{database_server.ADDRESS}:{port}",
            "engineVersionActual": item["EngineVersion"],
            # What waits for the maintenance window is not there yet, so the next preview shows it again.
            "allocatedStorage": item["AllocatedStorage"],
            "engineVersion": item["EngineVersion"],
            "instanceClass": item["DBInstanceClass"],
            "multiAz": item["MultiAZ"],
            "storageType": item["StorageType"],
        }
        return super().outputs(resource_id) | here

    def read(self, resource_id: str, inputs: Properties, outputs: Properties) -> State | None:
        item = self.describe(resource_id)
        identifier = item["DBInstanceIdentifier"] if item else inputs.get("identifier", resource_id)
        if DatabaseServer(identifier).exists:
            state = super().read(resource_id, inputs, outputs)
            return state and State(
                state.outputs["resourceId"],
                state.inputs
                | {name: self.as_compared(name, inputs[name], state.outputs) for name in self.deferred & inputs.keys()},
                state.outputs,
            )
        # The creation was interrupted, or the supervisor has lost the server. The rest is deleted here, because after a
        # `None` the engine forgets the instance.
        unless_gone("rds", self.calls[2], DBInstanceIdentifier=identifier, DeletionProtection=False)
        self.delete(identifier, {"skipFinalSnapshot": True})
        return None

    def as_compared(self, name: str, written: Plain, outputs: Properties) -> Plain:
        actual = outputs.get(name, written)
        if name == "engineVersion" and str(actual).partition(".")[0] == written:
            return written
        # Storage that RDS has enlarged, or rounded up, is no difference.
        if name == "allocatedStorage" and isinstance(written, (int, float)) and actual > written:
            return written
        return actual

    def update(self, resource_id: str, old: Properties, inputs: Properties) -> Properties:
        identifier = inputs["identifier"]
        if "enabledCloudwatchLogsExports" in changed(old, inputs):
            before, after = (set(side.get("enabledCloudwatchLogsExports", [])) for side in (old, inputs))
            logs = {"EnableLogTypes": sorted(after - before), "DisableLogTypes": sorted(before - after)}
            call("rds", self.calls[2], DBInstanceIdentifier=identifier, CloudwatchLogsExportConfiguration=logs)
        # As the provider does, send what differs only. What was taken back while it waits is not sent, and comes all the same.
        differs = (
            changed(old, inputs) - self.not_parameters - {"tags", "enabledCloudwatchLogsExports"}
        ) & inputs.keys()
        if differs:
            wanted = {name: inputs[name] for name in differs | {"identifier"}}
            how = {name: inputs[name] for name in ("applyImmediately", "allowMajorVersionUpgrade") if name in inputs}
            # The provider sends what the smaller volume had along with a larger size, which RDS refuses from 400 GiB on.
            volume = {"iops": 3000} if "allocatedStorage" in differs and inputs.get("storageType") == "gp3" else {}
            call("rds", self.calls[2], **self.parameters(self.calls[2], volume | wanted | how))
        super().update(resource_id, inputs | {"tags": old.get("tags", {})}, inputs)
        self._serve(identifier, inputs)
        return self.outputs(resource_id)

    def delete(self, resource_id: str, properties: Properties) -> None:
        final = properties.get("finalSnapshotIdentifier")
        if not final and not properties.get("skipFinalSnapshot"):
            raise OperationError("finalSnapshotIdentifier is missing; set it, or set skipFinalSnapshot to true")
        snapshot = (
            {"SkipFinalSnapshot": True} if properties.get("skipFinalSnapshot") else {"FinalDBSnapshotIdentifier": final}
        )
        identifier = properties.get("identifier", resource_id)
        unless_gone("rds", self.calls[3], DBInstanceIdentifier=identifier, **snapshot)
        DatabaseServer(identifier).remove()

    def _serve(self, identifier: str, inputs: Properties) -> None:
        """Run the server as the account says, which is not always what was asked for."""
        postgres = DatabaseServer(identifier)
        item: Any = self.describe(identifier)
        postgres.start(parameters_of(inputs["parameterGroupName"]), item["EngineVersion"])
        postgres.set_master(inputs["username"], inputs["password"])


class Snapshot(ApiResource):
    """A snapshot that a person or the program has asked for. It is a record only: the data is not copied."""

    token = "aws:rds/snapshot:Snapshot"
    service = "rds"
    # Its tags can change, and nothing else.
    calls = ("create_db_snapshot", "describe_db_snapshots", "create_db_snapshot", "delete_db_snapshot")
    answer_path = "DBSnapshots[0]"
    key = "DBSnapshotIdentifier"
    output_paths = {"arn": "DBSnapshotArn"}
    input_paths = {"tags": "TagList"}
    replace = frozenset({"dbInstanceIdentifier", "dbSnapshotIdentifier"})


class EventSubscription(ApiResource):
    """A subscription of an SNS topic to events of RDS."""

    token = "aws:rds/eventSubscription:EventSubscription"
    service = "rds"
    calls = _calls("event_subscription")
    answer_path = "EventSubscriptionsList[0]"
    key = "SubscriptionName"
    parameter_names = {"name": key, "snsTopic": "SnsTopicArn"}
    input_paths = {"eventCategories": "EventCategoriesList", "name": "CustSubscriptionId", "sourceIds": "SourceIdsList"}
    output_paths = {"arn": "EventSubscriptionArn"}
    autoname = "name"
    replace = frozenset({"name", "sourceType"})

    def update(self, resource_id: str, old: Properties, inputs: Properties) -> Properties:
        # moto cannot change a subscription.
        self.delete(resource_id, old)
        return self.create(inputs)[1]
