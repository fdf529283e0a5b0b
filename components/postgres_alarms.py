"""PostgresAlarms: CloudWatch alarms on an RDS instance."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pulumi
import pulumi_aws as aws

GIB = 2**30


@dataclass(frozen=True)
class PostgresAlarmsArgs:
    """The instance to watch and the SNS topic to notify."""

    instance_identifier: pulumi.Input[str]
    """Identifier of the RDS instance."""
    topic_arn: pulumi.Input[str]
    """SNS topic for alarms and for their end."""
    allocated_storage: int
    """Storage of the instance in GiB, as grown. The storage alarm fires when a twentieth of it is left."""
    max_connections: int | None
    """Connections that the instance class allows. None where that is unknown: then there is no alarm on connections."""
    kept_connections: int
    """Connections that MLflow's pods may keep open. Where they are four fifths of all, the alarm is above them."""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    """Tags of every alarm."""


class PostgresAlarms(pulumi.ComponentResource):
    """Alarms on CPU, memory, storage and connections, each after 15 minutes."""

    def __init__(self, name: str, args: PostgresAlarmsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mlflow-eks:index:PostgresAlarms", name, {}, opts)

        def alarm(
            what: str, metric: str, comparison: str, threshold: float, description: str, silence: str = "missing"
        ) -> None:
            aws.cloudwatch.MetricAlarm(
                f"{name}-{what}",
                alarm_description=description,
                namespace="AWS/RDS",
                metric_name=metric,
                dimensions={"DBInstanceIdentifier": args.instance_identifier},
                statistic="Average",
                period=300,
                evaluation_periods=3,
                comparison_operator=comparison,
                threshold=threshold,
                treat_missing_data=silence,
                alarm_actions=[args.topic_arn],
                ok_actions=[args.topic_arn],
                tags={**args.tags},
                opts=pulumi.ResourceOptions(parent=self),
            )

        above, below = "GreaterThanThreshold", "LessThanThreshold"
        alarm(
            "cpu",
            "CPUUtilization",
            above,
            80,
            "MLflow's database: CPU above 80 % for 15 minutes, or no report",
            # An instance that is down reports nothing. One alarm says so, not all four.
            "breaching",
        )
        alarm(
            "memory",
            "FreeableMemory",
            below,
            0.1 * GIB,
            "MLflow's database: less than 100 MiB of memory left for 15 minutes",
        )
        alarm(
            "storage",
            "FreeStorageSpace",
            below,
            # RDS enlarges the storage when a tenth is left, which nobody need know. It tells by an event when it cannot.
            args.allocated_storage * GIB / 20,
            "MLflow's database: a twentieth of the storage left",
        )
        if args.max_connections:
            limit = args.max_connections * 8 // 10
            if args.kept_connections >= limit:
                limit = (args.kept_connections + args.max_connections) // 2
            alarm(
                "connections",
                "DatabaseConnections",
                above,
                limit,
                f"MLflow's database: more than {limit} connections ({round(100 * limit / args.max_connections)} %)",
            )
        self.register_outputs({})
