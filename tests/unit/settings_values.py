"""Every setting, with a stack in which it has an effect and another value for it.

`test_every_setting_arrives.py` uses this.
"""

import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from settings.all_settings import Settings
from tests.unit.harness import ANY_CLUSTER, LDAP, MINIMAL, OIDC, PRIVATE_A, PRIVATE_C, changed

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"

EKS = changed(
    MINIMAL,
    # This class has connections to spare, so that replicas, workers and the pool can grow.
    {"postgres": {"alarmTopicArn": "arn:aws:sns:eu-west-1:123456789012:alarms", "instanceClass": "db.r6g.large"}},
)
WITH_LDAP = changed(MINIMAL, {"mlflow.auth": {"mode": "ldap", "ldap": LDAP}})
WITH_OIDC = changed(MINIMAL, {"mlflow.auth": {"mode": "oidc", "oidc": {**OIDC, "audience": "mlflow-api"}}})
SCALED = changed(EKS, {"mlflow.autoscaling": {}})
NEWER = changed(EKS, {"mlflow.image": {"tag": "3.17.2"}})
FOREIGN_INGRESS = changed(
    MINIMAL,
    {
        "ingress": {"install": False, "namespace": "edge", "tlsSecretName": "site-tls", "address": "lb.example.org"},
        "mlflow.dnsZone": "example.com",
    },
)
LISTED = changed(EKS, {"postgres.allowFrom": {"cidrs": ["10.9.0.0/16"], "securityGroups": ["sg-0aa"]}})

STACKS: Mapping[str, Mapping[str, Any]] = {
    "": EKS,
    "cluster.kubeContext": ANY_CLUSTER,
    "ingress.address": FOREIGN_INGRESS,
    "ingress.serviceMonitorLabels": changed(MINIMAL, {"ingress": {"serviceMonitor": True}}),
    "mlflow.auth.ldap.": WITH_LDAP,
    "mlflow.auth.oidc.": WITH_OIDC,
    "mlflow.autoscaling.": SCALED,
    "mlflow.image.": NEWER,
    "monitoring.": changed(EKS, {"monitoring.enabled": True}),
    "monitoring.enabled": EKS,
    "mlflow.privateZone": changed(EKS, {"mlflow.dnsZone": "example.com"}),
    "postgres.allowFrom.": LISTED,
    "retention.": changed(EKS, {"retention": {"deletedDays": 30}}),
    "postgres.existing.": ANY_CLUSTER,
}
"""Beginning of a setting's path to a stack in which the setting has an effect.

The longest matching beginning counts.
"""

VALUES: Mapping[str, Any] = {
    "artifacts.bucket": "another-bucket",
    "artifacts.kmsKeyArn": "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555",
    "cluster.kubeContext": "another",
    "cluster.name": "another",
    "database.adminAddress": "localhost:15432",
    "database.caFile": "tests/unit/authority.pem",
    "database.name": "another",
    "database.password": "another-password",
    "database.schema": "another",
    "database.user": "another",
    "iam.path": "/another/",
    "iam.permissionsBoundary": "arn:aws:iam::123456789012:policy/another",
    "images.pullSecret": "another",
    "images.registry": "registry.example.com/mirror",
    "ingress.address": "another.example.org",
    "ingress.allowedCidrs": ["203.0.113.0/24"],
    "ingress.certificateArn": "arn:aws:acm:eu-west-1:123456789012:certificate/11111111-2222-3333-4444-555555555555",
    "ingress.chartVersion": "1.52.2",
    "ingress.className": "another",
    "ingress.clusterIssuer": "another",
    "ingress.loadBalancerClass": "eks.amazonaws.com/nlb",
    "ingress.namespace": "another",
    "ingress.proxyProtocol": False,
    "ingress.namespaces": ["another"],
    "ingress.serviceMonitorLabels": {"release": "another"},
    "ingress.tlsSecretName": "another",
    "mlflow.allowedHosts": ["another.example.com"],
    "mlflow.allowedNamespaces": ["another"],
    "mlflow.auth.adminPassword": "another-password",
    "mlflow.auth.adminUsername": "another",
    "mlflow.auth.ldap.adminGroupDn": "cn=others,dc=example,dc=com",
    "mlflow.auth.ldap.caCertificate": PEM,
    "mlflow.auth.ldap.groupAttribute": "memberOf",
    "mlflow.auth.ldap.groupSearchBase": "dc=example,dc=com",
    "mlflow.auth.ldap.groupSearchFilter": "(uid=%s)",
    "mlflow.auth.ldap.lookupBind": "%s@example.com",
    "mlflow.auth.ldap.uri": "ldaps://another.example.com:1636",
    "mlflow.auth.ldap.userGroupDn": "cn=others,dc=example,dc=com",
    "mlflow.auth.oidc.adminGroups": ["/another"],
    "mlflow.auth.oidc.allowedDomains": ["another.example.com"],
    "mlflow.auth.oidc.audience": "another",
    "mlflow.auth.oidc.audienceClaim": "client_id",
    "mlflow.auth.oidc.caCertificate": PEM,
    "mlflow.auth.oidc.clientId": "another",
    "mlflow.auth.oidc.clientSecret": "another-secret",
    "mlflow.auth.oidc.groupsClaim": "realm_access.roles",
    "mlflow.auth.oidc.issuer": "https://another.example.com:8443",
    "mlflow.auth.oidc.machines": {"ci": "https://token.actions.githubusercontent.com repo:acme/x:ref:refs/heads/main"},
    "mlflow.auth.oidc.nameClaim": "email",
    "mlflow.auth.oidc.parameters": {"access_type": "offline"},
    "mlflow.auth.oidc.scopes": ["openid", "offline_access"],
    "mlflow.auth.oidc.teams": {"/another": "another"},
    "mlflow.auth.oidc.userGroups": ["/another"],
    "mlflow.corsAllowedOrigins": ["https://another.example.com"],
    "mlflow.dnsZone": "example.com",
    "mlflow.host": "another.example.com",
    "mlflow.image.digest": f"sha256:{'b' * 64}",
    "mlflow.image.tag": "3.18.0",
    "mlflow.keys.passphrase": "another/passphrase+of-32-characters=",
    "mlflow.keys.webhooks": f"{'b' * 43}=",
    "mlflow.namespace": "another",
    "monitoring.labels": {"release": "another"},
    "monitoring.namespace": "another",
    "monitoring.runbookUrl": "https://another.example.com/alerts",
    "mlflow.resources.cpuRequest": "250m",
    "mlflow.resources.memoryLimit": "3Gi",
    "mlflow.resources.memoryRequest": "768Mi",
    "mlflow.resources.storageLimit": "20Gi",
    "mlflow.url": "https://mlflow.example.com:8443",
    "postgres.alarmTopicArn": "arn:aws:sns:eu-west-1:123456789012:others",
    "postgres.allowFrom": "vpc",
    "postgres.allowFrom.cidrs": ["10.8.0.0/16"],
    "postgres.allowFrom.securityGroups": ["sg-0bb"],
    "postgres.backupWindow": "01:00-01:30",
    "postgres.engineVersion": "16",
    "postgres.existing.adminPassword": "another secret",
    "postgres.existing.adminUsername": "another",
    "postgres.existing.host": "another.example.com",
    "postgres.instanceClass": "db.t3.small",
    "postgres.kmsKeyArn": "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555",
    "postgres.maintenanceWindow": "sun:03:00-sun:04:00",
    "postgres.masterPassword": "another-password",
    "postgres.masterUsername": "another",
    "postgres.subnetIds": [PRIVATE_A, PRIVATE_C],
    "retention.archiveTracesDays": 90,
    "retention.deleteTracesDays": 365,
    "retention.deletedDays": 60,
    "retention.schedule": "0 4 * * 0",
    "tags": {"Team": "another"},
}
"""Another valid value for each setting whose type does not give one."""

TOGETHER: Mapping[str, Mapping[str, Any]] = {
    "mlflow.auth.mode": {"mlflow.auth.mode": "ldap", "mlflow.auth.ldap": LDAP},
}
"""Settings that are valid only together with others."""


@dataclass(frozen=True)
class Leaf:
    """A setting that is not a section."""

    path: str
    """Path of the setting, for example `mlflow.auth.mode`."""
    field: FieldInfo
    is_secret: bool

    @property
    def stack(self) -> Mapping[str, Any]:
        """Settings of a stack in which this setting has an effect."""
        return STACKS[max((prefix for prefix in STACKS if self.path.startswith(prefix)), key=len)]

    @property
    def changes(self) -> Mapping[str, Any]:
        """Changes to that stack that give this setting another value."""
        return TOGETHER.get(self.path) or {self.path: self._another()}

    def _another(self) -> Any:
        if self.path in VALUES:
            return VALUES[self.path]
        kinds = [kind for kind in _kinds(self.field.annotation) if kind is not type(None)]
        if kinds == [bool]:
            return not self.field.default
        if kinds == [int]:
            return self.field.default + 1
        if typing.get_origin(kinds[0]) is typing.Literal:
            return next(value for value in typing.get_args(kinds[0]) if value != self.field.default)
        raise LookupError(f"tests/unit/settings_values.py has no other value for {self.path}; add one to VALUES")


def _kinds(annotation: Any) -> list[Any]:
    inner = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal or not inner:
        return [annotation]
    return [kind for argument in inner for kind in _kinds(argument)]


def leaves(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[Leaf]:
    """Return every setting, including those in sections. A setting that can be a word or a section counts as both."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        kinds = [kind for kind in _kinds(field.annotation) if kind is not type(None)]
        sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if len(sections) < len(kinds):
            yield Leaf(path, field, SecretStr in kinds)
        for section in sections:
            yield from leaves(section, f"{path}.")
