"""The checks of a stack, in the order of the output."""

from collections.abc import Callable
from functools import partial

from operations.checks import Check
from operations.doctor import artifacts, cluster, database, machine, names, network, pods, single_sign_on
from operations.doctor.subject import Subject

CHECKS: dict[str, Callable[[Subject], str]] = {
    "settings": machine.settings,
    "pulumi": machine.pulumi,
    "aws command": machine.aws_command,
    "region": machine.region,
    "credentials": machine.credentials,
    "cluster": cluster.cluster,
    "api of the cluster": cluster.endpoint,
    "login to kubernetes": cluster.login,
    "add-ons": cluster.add_ons,
    "network policies": cluster.network_policies,
    "prometheus operator": cluster.prometheus_operator,
    "pods' identity": pods.identity,
    "pod identity association": pods.association,
    "fargate": pods.fargate,
    "nodes to the database": network.nodes,
    "session manager plugin": machine.session_manager,
    "load balancer controller": network.controller,
    "load balancer subnets": network.subnets,
    "load balancer targets": network.targets,
    "certificate": names.certificate,
    "cluster issuer": names.issuer,
    "dns zone": names.zone,
    "dns record": names.record,
    "identity provider": single_sign_on.provider,
    "token": single_sign_on.token,
    "kms key": database.key,
    "alarm topic": database.topic,
    "rds quotas": database.quotas,
    "account's plan": database.plan,
    "bucket": artifacts.bucket,
    "transfers": artifacts.transfers,
    "s3 gateway endpoint": network.gateway_endpoint,
    "ingress charts": machine.ingress_charts,
    "mlflow charts": machine.mlflow_charts,
}
"""Title of a check to its function."""


def checks(subject: Subject) -> list[Check]:
    """Return the checks of a stack."""
    return [Check(title, partial(look, subject)) for title, look in CHECKS.items()]
