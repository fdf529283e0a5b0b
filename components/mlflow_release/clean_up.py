"""The CronJob that purges what was deleted in MLflow long ago, and archives or purges old traces."""

from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes

from . import database_access
from .arguments import MlflowReleaseArgs
from .chart_values import server_image
from .login_code import CODE
from .names import CLEAN_UP, CLEAN_UP_LABELS, SERVICE_ACCOUNT
from .network_policy import clean_up_policy
from .pod_security import CONTAINER_SECURITY, POD_SECURITY

_FOLDER = "/etc/mlflow-clean-up"
_CODE_FILE = "clean_up.py"


def clean_up(
    name: str, args: MlflowReleaseArgs, namespace: pulumi.Input[str], release: pulumi.Resource, parent: pulumi.Resource
) -> None:
    """Create the CronJob, its code and its NetworkPolicy, if the release's arguments ask for it.

    Args:
        name: logical name of the release's component.
        args: arguments of the release.
        namespace: namespace of the release.
        release: the release, which makes the tables and the service account.
        parent: parent of the resources.
    """
    if args.retention is None:
        return
    child = pulumi.ResourceOptions(parent=parent)
    policy = kubernetes.networking.v1.NetworkPolicy(
        f"{name}-clean-up-policy",
        metadata={"name": CLEAN_UP, "namespace": namespace},
        spec=clean_up_policy(args),
        opts=child,
    )
    code = kubernetes.core.v1.ConfigMap(
        f"{name}-clean-up-code",
        metadata={"name": CLEAN_UP, "namespace": namespace},
        data={_CODE_FILE: (CODE / _CODE_FILE).read_text(encoding="utf-8")},
        opts=child,
    )
    kubernetes.batch.v1.CronJob(
        f"{name}-clean-up",
        metadata={"name": CLEAN_UP, "namespace": namespace},
        spec={
            "schedule": args.retention.schedule,
            "time_zone": "Etc/UTC",
            "concurrency_policy": "Forbid",
            # A pass that its node could not start is made up for within the day.
            "starting_deadline_seconds": 12 * 3600,
            "successful_jobs_history_limit": 1,
            "failed_jobs_history_limit": 1,
            "job_template": {
                "spec": {
                    # What failed is tried again by the next pass.
                    "backoff_limit": 0,
                    "active_deadline_seconds": 12 * 3600,
                    "template": {"metadata": {"labels": CLEAN_UP_LABELS}, "spec": _pod(args)},
                }
            },
        },
        # Before the release there are no tables. An older MLflow that meets newer tables does nothing.
        opts=pulumi.ResourceOptions.merge(child, pulumi.ResourceOptions(depends_on=[release, policy, code])),
    )


def _pod(args: MlflowReleaseArgs) -> Any:
    volumes = [
        {"name": "code", "configMap": {"name": CLEAN_UP}},
        # MLflow's archival and boto3 write here.
        {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
        *database_access.ca_volumes(args),
    ]
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "serviceAccountName": SERVICE_ACCOUNT,
        "automountServiceAccountToken": False,
        "securityContext": POD_SECURITY,
        "volumes": volumes,
        "containers": [
            {
                "name": "clean-up",
                "image": server_image(args),
                "command": ["python", f"{_FOLDER}/{_CODE_FILE}"],
                "env": [*_environment(args), *database_access.login(args)],
                # Measured: 215 MiB at the end of a pass, docs/retention.md.
                "resources": {
                    "requests": {"cpu": "100m", "memory": "256Mi", "ephemeral-storage": "100Mi"},
                    "limits": {"memory": "512Mi", "ephemeral-storage": "2Gi"},
                },
                "securityContext": CONTAINER_SECURITY,
                "volumeMounts": [
                    {"name": "code", "mountPath": _FOLDER, "readOnly": True},
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 -- in the container
                    *database_access.ca_mounts(args),
                ],
            }
        ],
    }
    if args.images.pull_secret:
        pod["imagePullSecrets"] = [{"name": args.images.pull_secret}]
    return pod


def _environment(args: MlflowReleaseArgs) -> list[dict[str, Any]]:
    bucket, retention = args.bucket, args.retention
    if bucket is None or retention is None:
        raise ValueError("retention: there is no bucket; give one, or no retention")
    days = {
        "CLEAN_UP_DELETED_DAYS": retention.deleted_days,
        "CLEAN_UP_DELETE_TRACES_DAYS": retention.delete_traces_days,
        "CLEAN_UP_ARCHIVE_TRACES_DAYS": retention.archive_traces_days,
    }
    environment: dict[str, pulumi.Input[str]] = {
        "PGHOST": args.database.host,
        "PGPORT": pulumi.Output.from_input(args.database.port).apply(str),
        "PGDATABASE": args.database.name,
        "AWS_DEFAULT_REGION": bucket.region,
        "CLEAN_UP_FILES": pulumi.Output.concat("s3://", bucket.name, "/", bucket.path),
        **{name: str(number) for name, number in days.items() if number is not None},
        "CLEAN_UP_DRY_RUN": "true" if retention.dry_run else "false",
        # The pass reads and writes over one, asks over a second, and holds its lock on a third.
        "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "3",
        "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "0",
    }
    return [{"name": name, "value": value} for name, value in environment.items()]
