# ruff: noqa: D102, RUF012, S105 - the docstrings of the methods, and the types of the tables, are in `Resource`; a token is a type's name
"""CloudWatch: alarms."""

from typing import Any

from local.plugins.aws.api import ApiResource


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
