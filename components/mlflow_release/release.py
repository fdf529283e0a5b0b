"""MlflowRelease: the MLflow server, from the community chart.

Every password is in a Secret. The release's values hold the Secrets' names only, so that neither Pulumi's diffs nor Helm's release
records show a password.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence

import pulumi
import pulumi_kubernetes as kubernetes
import pulumi_random as random

from . import database_access, metrics
from .arguments import LoginMode, MlflowReleaseArgs
from .chart_values import mlflow_values
from .clean_up import clean_up
from .ingress import part_spec, parts
from .keys import encryption_keys
from .login_code import CONFIG_MAP, login_code
from .names import (
    ADMIN_SECRET,
    CHART_REPOSITORY,
    CONTAINER_PORT,
    DATABASE_CA,
    DATABASE_SECRET,
    KEYS_SECRET,
    OIDC_SECRET,
    POD_LABELS,
    RELEASE,
)
from .network_policy import network_policy

NO_WAIT = {"pulumi.com/skipAwait": "true"}
"""Annotation of Services and Ingresses: `up` would wait for the pods of the release, and for an address that some controllers never report."""


class MlflowRelease(pulumi.ComponentResource):
    """Namespace, Secrets, the release, and what the chart lacks: a disruption budget, a NetworkPolicy, separate Ingresses and a clean-up."""

    admin_password: pulumi.Output[str] | None
    """Password of the first administrator, a secret; None without a login."""
    namespace: pulumi.Output[str]
    """Namespace of the release, once it is there."""

    def __init__(self, name: str, args: MlflowReleaseArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mlflow-eks:index:MlflowRelease", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        namespace = kubernetes.core.v1.Namespace(
            f"{name}-namespace",
            metadata={
                "name": args.namespace,
                "labels": {"pod-security.kubernetes.io/enforce": args.chart.pod_security},
            },
            opts=child,
        )
        namespaced = self.namespace = namespace.metadata["name"]

        secrets = {DATABASE_SECRET: {"username": args.database.user, "password": args.database.password}}
        self.admin_password = None
        if args.login.mode != LoginMode.NONE:
            password = (
                args.login.admin_password
                or random.RandomPassword(f"{name}-admin", length=32, special=False, opts=child).result
            )
            self.admin_password = pulumi.Output.secret(password)
            secrets[ADMIN_SECRET] = {"admin-user": args.login.admin_username, "admin-password": password}
        if args.login.oidc:
            # The key hides the provider's tokens in the table of sessions. Another one ends the sessions.
            key = random.RandomPassword(f"{name}-sessions", length=32, special=False, opts=child).result
            secrets[OIDC_SECRET] = {"OIDC_CLIENT_SECRET": args.login.oidc.client_secret, "OIDC_SESSION_KEY": key}
        # The keys are no part of the pods' checksum: other keys are of use only after a rotation in the database.
        keys = {KEYS_SECRET: encryption_keys(name, args, self)}
        dependencies: list[pulumi.Resource] = [
            kubernetes.core.v1.Secret(
                f"{name}-{secret}",
                metadata={"name": secret, "namespace": namespaced},
                string_data={key: pulumi.Output.secret(value) for key, value in data.items()},
                opts=child,
            )
            for secret, data in (secrets | keys).items()
        ]

        code = login_code(args)
        files = {"login": (CONFIG_MAP, code.files)} if code else {}
        if args.database.ca_certificates is not None:
            files["database-ca"] = (DATABASE_CA, {database_access.CA_FILE: args.database.ca_certificates})
        dependencies += [
            kubernetes.core.v1.ConfigMap(
                f"{name}-{what}", metadata={"name": config_map, "namespace": namespaced}, data=data, opts=child
            )
            for what, (config_map, data) in files.items()
        ]

        kubernetes.networking.v1.NetworkPolicy(
            f"{name}-network-policy",
            metadata={"name": RELEASE, "namespace": namespaced},
            spec=network_policy(args),
            opts=child,
        )
        if args.pods.min_pods > 1:
            kubernetes.policy.v1.PodDisruptionBudget(
                f"{name}-disruption-budget",
                metadata={"name": RELEASE, "namespace": namespaced},
                spec={"min_available": 1, "selector": {"match_labels": POD_LABELS}},
                opts=child,
            )

        if args.metrics is not None:
            kubernetes.core.v1.Service(
                f"{name}-metrics-service",
                metadata={
                    "name": metrics.SERVICE,
                    "namespace": namespaced,
                    "labels": {**metrics.LABELS},
                    "annotations": NO_WAIT,
                },
                spec=metrics.service_spec(),
                opts=child,
            )
            kubernetes.apiextensions.CustomResource(
                f"{name}-service-monitor",
                api_version="monitoring.coreos.com/v1",
                kind="ServiceMonitor",
                metadata={"name": RELEASE, "namespace": namespaced, "labels": metrics.monitor_labels(args.metrics)},
                spec=metrics.monitor_spec(),
                opts=child,
            )

        for part in parts(args):
            kubernetes.core.v1.Service(
                f"{name}-{part.name}-service",
                metadata={"name": part.service, "namespace": namespaced, "annotations": NO_WAIT},
                spec={"selector": POD_LABELS, "ports": [{"name": "http", "port": 80, "target_port": CONTAINER_PORT}]},
                opts=child,
            )
            kubernetes.networking.v1.Ingress(
                f"{name}-{part.name}-ingress",
                metadata={
                    "name": part.service,
                    "namespace": namespaced,
                    "annotations": {**part.annotations, **NO_WAIT},
                },
                spec=part_spec(args, part),
                opts=child,
            )

        # The pods of a new version migrate the tables when they start.
        dependencies += [args.snapshot] if args.snapshot else []
        release = kubernetes.helm.v3.Release(
            f"{name}-release",
            name=RELEASE,
            namespace=namespaced,
            chart="mlflow",
            version=args.chart_version,
            repository_opts={"repo": CHART_REPOSITORY},
            values=mlflow_values(args, code, self._checksum(f"{name}-checksum", secrets)),
            # A half-installed release would block the next `pulumi up`.
            atomic=True,
            cleanup_on_fail=True,
            timeout=args.timeout_seconds,
            opts=pulumi.ResourceOptions.merge(child, pulumi.ResourceOptions(depends_on=dependencies)),
        )
        # A destroy that was killed can leave a release of which Pulumi and Helm think that it is there. So each command asks for the
        # Deployment, and a missing one is an error. A first preview does not know the status, so it does not ask.
        kubernetes.apps.v1.Deployment.get(
            f"{name}-deployment",
            release.status.apply(lambda status: f"{status.namespace}/{RELEASE}"),
            opts=child,
        )
        clean_up(name, args, namespaced, release, self)
        self.register_outputs({})

    def _checksum(self, name: str, secrets: Mapping[str, Mapping[str, pulumi.Input[str]]]) -> pulumi.Output[str]:
        """Return a fingerprint of the passwords that changes with them, to replace the pods. It is keyed: a bare hash could be guessed at."""
        key = random.RandomPassword(name, length=32, special=False, opts=pulumi.ResourceOptions(parent=self)).result
        values = [value for _, data in sorted(secrets.items()) for _, value in sorted(data.items())]

        def digest(known: Sequence[str]) -> str:
            return hmac.new(known[0].encode(), "\0".join(known[1:]).encode(), hashlib.sha256).hexdigest()[:16]

        return pulumi.Output.unsecret(pulumi.Output.all(key, *values).apply(digest))
