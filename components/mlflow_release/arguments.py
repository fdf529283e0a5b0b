"""Arguments of `MlflowRelease`, a class for each part of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal
from urllib.parse import urlsplit

import pulumi

from ..network_rules import ClusterAddresses
from .chart_versions import CHART_VERSIONS, ChartVersion


@dataclass(frozen=True)
class SiteArgs:
    """The address of the site, the Ingress and TLS."""

    host: str
    """DNS name of the site."""
    url: str
    """Address that people type, with scheme and port. Pages of this origin may call the API."""
    ingress_class: pulumi.Input[str]
    """Ingress class. An output of the controller makes the release wait for it."""
    ingress_namespace: str
    """Namespace of the ingress controller, whose pods may open connections to the pods."""
    tls_secret_name: str | None = None
    """Name of the Secret with the certificate that HAProxy serves."""
    cluster_issuer: str | None = None
    """Name of the cert-manager ClusterIssuer that creates such a Secret."""
    client_addresses: bool = False
    """True if the ingress controller sees the addresses of clients, so that it can count by address. Default false: it sees those of a
    load balancer."""
    request_buffer: int = 16384
    """Bytes that the ingress controller holds of a request before it passes the request on, default 16,384, which is HAProxy's."""
    controllers: int = 2
    """Pods of the ingress controller, which share the places in the pods of MLflow, default 2."""
    redirect_to_https: bool = True
    """True if HAProxy redirects HTTP to HTTPS. False for plain HTTP, and where the load balancer terminates TLS."""
    cors_allowed_origins: Sequence[str] = ()
    """Origins, in addition to the site's own, whose pages may call the API."""
    allowed_hosts: Sequence[str] = ()
    """Host headers to accept, in addition to the site's own and the name inside the cluster."""
    client_namespaces: Sequence[str] = ()
    """Further namespaces whose pods may open connections to the pods, past the ingress controller and its limits."""


@dataclass(frozen=True)
class DatabaseArgs:
    """MLflow's database, as the pods see it."""

    host: pulumi.Input[str]
    """Address of the server."""
    port: pulumi.Input[int]
    """TCP port of the server."""
    name: pulumi.Input[str]
    """Name of the database."""
    user: pulumi.Input[str]
    """Login role."""
    password: pulumi.Input[str]
    """Password of the login role, a secret. It goes into a Kubernetes Secret and nowhere else."""
    networks: Mapping[str, pulumi.Input[str]]
    """Networks that the server's address is in, by any label, for the NetworkPolicy. Empty: any address. Write none for a server in the
    cluster: Cilium applies networks to addresses outside only."""
    ca_certificates: str | None = None
    """Certificates of the authority that signed the server's, PEM. None: the server proves by channel binding that it knows the password."""
    pool_size: int = 10
    """Connections that a worker keeps open in each of its pools once they were needed, default 10."""
    pool_overflow: int = 0
    """Further connections of a worker under load in each of its pools, default 0."""


@dataclass(frozen=True)
class BucketArgs:
    """The bucket for artifacts."""

    name: pulumi.Input[str]
    """Name of the bucket, once the pods may use it."""
    region: pulumi.Input[str]
    """AWS region of the bucket."""
    role_arn: pulumi.Input[str] | None = None
    """Role for the service account's IRSA annotation. None with EKS Pod Identity."""
    identity: pulumi.Input[str] | None = None
    """Any text that changes when the pods' AWS identity changes: a pod gets credentials when it is created. None: `role_arn`."""
    direct: bool = False
    """True if clients may transfer files straight from and to the bucket, by addresses that the pods sign. Default false."""
    path: str = "mlflow"
    """Folder of the bucket, default ``mlflow``. Two releases with one bucket need two folders."""


class LoginMode(StrEnum):
    """Kinds of login."""

    BASIC = "basic"
    """MLflow's own users."""
    LDAP = "ldap"
    """A directory checks passwords."""
    OIDC = "oidc"
    """An identity provider logs people in."""
    NONE = "none"
    """No login: every visitor may do everything."""


@dataclass(frozen=True)
class LdapArgs:
    """The directory that checks passwords."""

    uri: str
    """URI, for example ``ldaps://ldap.example.com:636``. Default port: 636 with ``ldaps``, 389 with ``ldap``."""
    lookup_bind: str
    """DN of a user with ``%s`` for the name, or what Active Directory binds, such as ``%s@example.com``."""
    group_search_base: str
    """Base DN of the search for groups."""
    admin_group_dn: str
    """DN of the group whose members are MLflow administrators."""
    user_group_dn: str
    """DN of the group whose members may log in."""
    group_search_filter: str = "(|(member=%s)(uniqueMember=%s))"
    """Filter of that search, with ``%s`` for the user as ``lookup_bind`` writes it."""
    group_attribute: str = "dn"
    """Attribute of a found entry that holds the group's DN, default ``dn``: the entry's own."""
    tls_verify: Literal["required", "none"] = "required"
    """Check of the directory's certificate, default ``required``."""
    start_tls: bool = True
    """True to encrypt ``ldap://`` by StartTLS, the default."""
    ca_certificate: str | None = None
    """CA certificate of the directory, PEM. None: the public ones."""


@dataclass(frozen=True)
class OidcArgs:
    """The identity provider that logs people in by OpenID Connect, and the tokens that programs log in with."""

    issuer: str
    """Issuer, as the provider's discovery document writes it."""
    client_id: str
    """Id of the client. Its redirect URI is the site's address with ``/oidc/callback``."""
    client_secret: pulumi.Input[str]
    """Secret of the client, a secret. It goes into a Kubernetes Secret and nowhere else."""
    user_groups: Sequence[str]
    """Groups whose members may log in. Empty: everybody of ``allowed_domains``, or whom the provider knows."""
    admin_groups: Sequence[str] = ()
    """Groups whose members are MLflow administrators."""
    allowed_domains: Sequence[str] = ()
    """Domains of verified e-mail addresses. Empty: any."""
    teams: Mapping[str, str] = field(default_factory=dict[str, str])
    """Group to the role of MLflow that its members have."""
    scopes: Sequence[str] = ("openid", "profile", "email")
    """Scopes to ask for."""
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])
    """Further parameters of the authorization request."""
    name_claim: str = "preferred_username"
    """Claim with the name of a person's account, default ``preferred_username``."""
    groups_claim: str = "groups"
    """Claim with a person's groups, or a path with dots to it, default ``groups``."""
    audience: str | None = None
    """Audience of the tokens of programs. None: no token is accepted."""
    audience_claim: str = "aud"
    """Claim of the issuer's access tokens that names the audience, default ``aud``."""
    machines: Mapping[str, str] = field(default_factory=dict[str, str])
    """Account to the issuer, a space and the subject of the machine that it is for."""
    session_hours: int = 8
    """Hours after which a person logs in again, default 8."""
    ca_certificate: str | None = None
    """CA certificate of the issuer's server, PEM. None: the public ones."""

    @property
    def ports(self) -> list[int]:
        """TCP ports of the issuers, in ascending order."""
        issuers = [self.issuer, *(workload.partition(" ")[0] for workload in self.machines.values())]
        return sorted({urlsplit(issuer).port or 443 for issuer in issuers})


@dataclass(frozen=True)
class LoginArgs:
    """The login.

    Raises:
        ValueError: a mode without the block of its name, or the other way round.
    """

    mode: LoginMode = LoginMode.BASIC
    """Kind of login, default ``basic``."""
    admin_username: str = "admin"
    """Name of the first administrator, default ``admin``."""
    admin_password: pulumi.Input[str] | None = None
    """Password of the first administrator, a secret. Generated when absent."""
    default_permission: str = "NO_PERMISSIONS"
    """Permission of users on experiments and models of others: NO_PERMISSIONS (default), READ, EDIT or MANAGE."""
    cache_seconds: int = 60
    """Seconds for which a checked password is remembered, default 60; 0 checks every request."""
    ldap: LdapArgs | None = None
    """The directory, with mode ``ldap``."""
    oidc: OidcArgs | None = None
    """The identity provider, with mode ``oidc``."""

    def __post_init__(self) -> None:
        """Reject a block without its mode, and a mode without its block: either would check logins otherwise than intended."""
        for mode, block in ((LoginMode.LDAP, self.ldap), (LoginMode.OIDC, self.oidc)):
            if (self.mode == mode) != (block is not None):
                raise ValueError(
                    f"login: mode is {self.mode} and {mode} is {'given' if block else 'missing'}; give both or neither"
                )


@dataclass(frozen=True)
class KeysArgs:
    """Keys with which MLflow encrypts what it keeps in its database. Each is generated when absent."""

    passphrase: pulumi.Input[str] | None = None
    """Passphrase for the gateway's API keys, a secret."""
    version: int = 1
    """Number of the passphrase, default 1. Raise it with each new passphrase, which replaces the pods."""
    webhooks: pulumi.Input[str] | None = None
    """Key for the secrets of webhooks, a secret: 32 bytes in URL-safe base64. A new one does not replace the pods."""


@dataclass(frozen=True)
class AutoscalerArgs:
    """A HorizontalPodAutoscaler at 80 % of the requested CPU."""

    min_replicas: int
    """Smallest number of pods."""
    max_replicas: int
    """Largest number of pods."""


@dataclass(frozen=True)
class PodArgs:
    """Number and size of the pods."""

    replicas: int = 1
    """Number of pods without an autoscaler, default 1."""
    autoscaler: AutoscalerArgs | None = None
    """An autoscaler, instead of ``replicas``."""
    workers: int = 2
    """Server processes in each pod, default 2. Each takes about 200 MiB."""
    cpu_request: str = "500m"
    """CPU that the scheduler reserves for a pod, a Kubernetes quantity, default half a core. There is no limit."""
    memory_request: str = "1Gi"
    """Memory that the scheduler reserves for a pod, a Kubernetes quantity, default 1 GiB."""
    memory_limit: str = "2Gi"
    """Memory at which a pod is killed, a Kubernetes quantity, default 2 GiB."""
    storage_limit: str = "10Gi"
    """Disk at which a pod is evicted, a Kubernetes quantity, default 10 GiB: ``/tmp``, the log, and without a bucket the artifacts."""

    @property
    def min_pods(self) -> int:
        """Smallest number of pods that serve."""
        return self.autoscaler.min_replicas if self.autoscaler else self.replicas

    @property
    def max_pods(self) -> int:
        """Largest number of pods that serve."""
        return self.autoscaler.max_replicas if self.autoscaler else self.replicas


@dataclass(frozen=True)
class RetentionArgs:
    """Times after which things go for ever, and when that happens. Files go with them from the bucket."""

    deleted_days: int | None = None
    """Days after which a deleted run, logged model or experiment goes. None: never."""
    delete_traces_days: int | None = None
    """Days after which a trace goes. None: never."""
    archive_traces_days: int | None = None
    """Days after which a trace's spans move from the database into the bucket, where MLflow finds them. None: never. It needs chart 1.11.5."""
    schedule: str = "17 3 * * *"
    """Time of a pass, as cron writes it, in UTC. Default ``17 3 * * *``: every night."""
    dry_run: bool = False
    """True to count only. Default false."""


@dataclass(frozen=True)
class ImageArgs:
    """The registry that images are pulled from."""

    registry: str | None = None
    """Private registry for every image. None: the public ones."""
    pull_secret: str | None = None
    """Name of the Secret for that registry, in the release's namespace."""
    mlflow_tag: str | None = None
    """Tag of MLflow's image, with ``@`` and a digest if wanted. None: the chart's."""


@dataclass(frozen=True)
class MetricsArgs:
    """Prometheus, which reads metrics of MLflow's workers."""

    namespace: str
    """Namespace of Prometheus, whose pods may read the metrics."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Labels of the ServiceMonitor, by which a Prometheus selects it. Default: its own only."""


@dataclass(frozen=True)
class MlflowReleaseArgs:
    """Arguments of `MlflowRelease`."""

    site: SiteArgs
    """The address of the site, the Ingress and TLS."""
    database: DatabaseArgs
    """MLflow's database."""
    bucket: BucketArgs | None = None
    """The bucket for artifacts. None: artifacts are in a volume that is lost with the pod."""
    login: LoginArgs = LoginArgs()
    """The login."""
    keys: KeysArgs = KeysArgs()
    """Keys with which MLflow encrypts what it keeps in its database."""
    gateway: bool = False
    """True for MLflow's gateway to providers of models, which needs a login and chart 1.11.5. Default false."""
    internal_networks: Sequence[pulumi.Input[str]] | None = None
    """Networks that webhooks and the gateway must not reach, such as the cluster's VPC. None: private ones only."""
    pods: PodArgs = PodArgs()
    """Number and size of the pods."""
    retention: RetentionArgs | None = None
    """Times after which things go for ever, which need a bucket. None: nothing goes."""
    images: ImageArgs = ImageArgs()
    """The registry that images are pulled from."""
    metrics: MetricsArgs | None = None
    """Prometheus, which needs the Prometheus operator. None: no metrics."""
    namespace: str = "mlflow"
    """Namespace of the release, which the component creates. Two releases need two namespaces. Default ``mlflow``."""
    chart_version: str = "1.11.5"
    """Version of community-charts/mlflow, one of `CHART_VERSIONS`. Default 1.11.5."""
    timeout_seconds: int = 600
    """Seconds that a rollout may take before it is rolled back, default 600."""
    protect: bool = True
    """True (default) to refuse the deletion of the generated keys."""
    cluster: ClusterAddresses | None = None
    """Addresses of the cluster, for the NetworkPolicy. None: its DNS is allowed by the pods' labels."""
    snapshot: pulumi.Resource | None = None
    """Snapshot of the database that must be there before the release changes. None: nothing is waited for."""

    @property
    def chart(self) -> ChartVersion:
        """Facts about the chart's version."""
        return CHART_VERSIONS[self.chart_version]
