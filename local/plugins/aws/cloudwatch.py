# ruff: noqa: D102, RUF012, S105 - the docstrings of the methods, and the types of the tables, are in `Resource`; a token is a type's name
# boto3 and jmespath have no types of their own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""CloudWatch: alarms and log groups."""

from collections.abc import Mapping
from typing import Any

from local.plugins.aws.api import ApiResource, as_written, call, unless_gone
from local.plugins.provider_base import Properties, Resource, State, changed


class MetricAlarm(ApiResource):
    """A CloudWatch alarm."""

    token = "aws:cloudwatch/metricAlarm:MetricAlarm"
    service = "cloudwatch"
    calls = ("put_metric_alarm", "describe_alarms", "put_metric_alarm", "delete_alarms")
    answer_path = "MetricAlarms[0]"
    key = "AlarmName"
    parameter_names = {"name": key}
    output_paths = {"arn": "AlarmArn"}
    autoname = "name"
    replace = frozenset({"name"})

    def identify(self, resource_id: str) -> dict[str, Any]:
        return {"AlarmNames": [resource_id]}


class LogGroup(Resource):
    """A log group of CloudWatch. RDS makes the one that it needs and does not find, and that one has no retention."""

    token = "aws:cloudwatch/logGroup:LogGroup"
    supported = frozenset({"name", "retentionInDays", "tags"})
    computed = frozenset({"arn"})
    autoname = "name"
    replace = frozenset({"name"})

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        call("logs", "create_log_group", logGroupName=inputs["name"], tags=inputs.get("tags", {}))
        return inputs["name"], self._keep(inputs["name"], inputs)

    def read(self, resource_id: str, inputs: Properties, outputs: Properties) -> State | None:
        found = self._describe(resource_id)
        if found is None:
            return None
        actual = {
            "name": resource_id,
            "retentionInDays": found.get("retentionInDays"),
            "tags": call("logs", "list_tags_for_resource", resourceArn=_plain_arn(found))["tags"],
        }
        wanted = inputs or {"name": resource_id}
        return State(
            resource_id,
            {name: as_written(value, actual[name]) for name, value in wanted.items()},
            {"arn": found["arn"]},
        )

    def update(self, resource_id: str, old: Properties, inputs: Properties) -> Properties:
        if "tags" in changed(old, inputs):
            gone = sorted(old.get("tags", {}).keys() - inputs.get("tags", {}).keys())
            arn = _plain_arn(self._describe(resource_id) or {})
            call("logs", "tag_resource", resourceArn=arn, tags=inputs.get("tags", {}))
            if gone:
                call("logs", "untag_resource", resourceArn=arn, tagKeys=gone)
        return self._keep(resource_id, inputs)

    def delete(self, resource_id: str, properties: Properties) -> None:
        unless_gone("logs", "delete_log_group", logGroupName=resource_id)

    def _keep(self, name: str, inputs: Properties) -> Properties:
        call("logs", "put_retention_policy", logGroupName=name, retentionInDays=int(inputs["retentionInDays"]))
        return {"arn": (self._describe(name) or {})["arn"]}

    @staticmethod
    def _describe(name: str) -> Any | None:
        answer = call("logs", "describe_log_groups", logGroupNamePrefix=name)
        return next((group for group in answer["logGroups"] if group["logGroupName"] == name), None)


def _plain_arn(group: Mapping[str, Any]) -> str:
    # The description ends in `:*`, which stands for the group's streams.
    return str(group["arn"]).removesuffix(":*")
