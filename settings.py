"""Every setting: its default, its reason and its rule.

Settings are structured values under ``mlflow-eks:`` in ``Pulumi.<stack>.yaml``, camelCase there and snake_case here. Two are
required: ``cluster`` (``name`` or ``kubeContext``) and ``mlflow.host``. Everything else has a default, which is the value of the
manual guide that this program replaces unless that value is unsafe.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic.alias_generators import to_camel

from setting_types import (
    EVERYBODY,
    Cpu,
    DnsLabel,
    ForeignPassword,
    Host,
    HostAndPort,
    Identifier,
    LdapUri,
    MajorVersion,
    Memory,
    Network,
    Origin,
    Password,
    Site,
    arn,
    matching,
    mebibytes,
    split_url,
)

PROJECT = "mlflow-eks"

_RESERVED_BY_RDS = {
    "rdsadmin",
    "rds_superuser",
    "rds_iam",
    "rds_replication",
    "rds_password",
    "admin",
    "public",
    "none",
}
_NAMESPACES_OF_KUBERNETES = {"default", "kube-system", "kube-public", "kube-node-lease"}


class _Section(BaseModel):
    """A structured setting: camelCase in YAML, unknown keys refused, values never repeated in messages that hold secrets."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        strict=True,
        hide_input_in_errors=True,
    )

    def problems(self) -> list[str]:
        """Say what is wrong with the values together, a sentence each."""
        return []

    @model_validator(mode="after")
    def _all_problems_at_once(self) -> Self:
        found = self.problems()
        if found:
            raise ValueError("\n".join(found))
        return self


class Cluster(_Section):
    """The cluster that exists already."""

    name: Annotated[str, matching(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", "write the EKS cluster's name")] | None = None
    """Name of the EKS cluster. Its VPC, subnets, security group, API endpoint and OIDC issuer are looked up from it."""
    kube_context: str | None = Field(default=None, min_length=1)
    """Context of the kubeconfig instead: any cluster. With ``postgres.existing`` nothing touches AWS then."""

    def problems(self) -> list[str]:
        """Refuse none and both."""
        if (self.name is None) == (self.kube_context is None):
            return ["needs either `name` (an EKS cluster) or `kubeContext` (any cluster), not both"]
        return []


class ExistingPostgres(_Section):
    """A PostgreSQL server that is there already; the program makes role, database and schema on it and nothing else."""

    host: Host
    """Address at which the pods reach the server."""
    port: int = Field(default=5432, ge=1, le=65535)
    """TCP port."""
    admin_username: str = Field(default="postgres", min_length=1)
    """A role with CREATEDB and CREATEROLE; a superuser is not needed."""
    admin_password: ForeignPassword
    """Its password, a secret. Any characters."""


class AllowFrom(_Section):
    """Who may open a connection to the database, beside or instead of the cluster."""

    cidrs: list[Network] = []
    """Networks."""
    security_groups: list[Annotated[str, matching(r"sg-[0-9a-f]+", "write a security group's id, sg-…")]] = []
    """Security groups."""

    def problems(self) -> list[str]:
        """Refuse nobody and everybody."""
        if not self.cidrs and not self.security_groups:
            return ["lets nobody in; list `cidrs` or `securityGroups`, or write cluster (the default) or vpc"]
        return [
            f"cidrs[{index}] is {cidr}, which is everybody; write a network such as 203.0.113.0/24"
            for index, cidr in enumerate(self.cidrs)
            if cidr in EVERYBODY
        ]


class Postgres(_Section):
    """The private RDS instance."""

    existing: ExistingPostgres | None = None
    """Use this server and create none."""
    subnet_ids: list[Annotated[str, matching(r"subnet-[0-9a-f]+", "write a subnet's id, subnet-…")]] = []
    """Subnets of the instance: private, in two zones at least. Default: the cluster's private subnets."""
    allow_from: Annotated[
        Annotated[Literal["cluster", "vpc"], Tag("name")] | Annotated[AllowFrom, Tag("list")],
        Discriminator(lambda value: "name" if isinstance(value, str) else "list"),
    ] = "cluster"
    """Who may connect: ``cluster`` (its security group), ``vpc`` (everything in the VPC: the guide's rule), or a list."""
    engine_version: MajorVersion = "17"
    """Major version. Minor upgrades are automatic, so a minor version here would turn into an impossible downgrade."""
    instance_class: Annotated[str, matching(r"db\.[a-z0-9]+\.[a-z0-9]+", "write a class such as db.t3.micro")] = (
        "db.t3.micro"
    )
    """Instance class. ``docs/sizing.md`` says which class carries which team."""
    allocated_storage: int = Field(default=20, ge=20, le=65536)
    """GiB at the start."""
    max_allocated_storage: int = Field(default=100, ge=0, le=65536)
    """GiB up to which storage grows by itself; 0 turns that off."""
    storage_type: Literal["gp2", "gp3"] = "gp3"
    """EBS volume type."""
    multi_az: bool = False
    """A standby in a second zone: about twice the price, a failover of a minute or two instead of an outage."""
    backup_retention_days: int = Field(default=7, ge=1, le=35)
    """Days of point-in-time recovery. 0 would turn backups off and is refused."""
    monitoring_interval: Literal[0, 1, 5, 10, 15, 30, 60] = 60
    """Seconds between two points of enhanced monitoring; 0 turns it off."""
    master_username: Identifier = "postgres"
    """Name of the master role (not a superuser on RDS)."""
    master_password: Password | None = None
    """Its password, a secret. Generated when absent."""
    alarm_topic_arn: Annotated[str, arn("sns", "arn:aws:sns:eu-west-1:123456789012:alarms")] | None = None
    """SNS topic for alarms (CPU, memory, storage, connections) and RDS events. None are made without it."""
    kms_key_arn: Annotated[str, arn("kms", "arn:aws:kms:eu-west-1:123456789012:key/…")] | None = None
    """KMS key for storage and Performance Insights. Default: the account's ``aws/rds`` key."""

    def problems(self) -> list[str]:
        """Refuse what RDS refuses, and what would be ignored."""
        found: list[str] = []
        if self.max_allocated_storage and self.max_allocated_storage * 10 < self.allocated_storage * 11:
            found.append(
                f"`maxAllocatedStorage` is {self.max_allocated_storage}; RDS wants at least 10 % more than allocatedStorage "
                f"({self.allocated_storage}): write {-(-self.allocated_storage * 11 // 10)} or more, or 0 to turn growth off"
            )
        if self.subnet_ids and len(set(self.subnet_ids)) < 2:
            found.append("`subnetIds` names one subnet; RDS needs two at least, in different zones")
        if self.master_username in _RESERVED_BY_RDS or self.master_username.startswith("pg_"):
            found.append(f"`masterUsername` {self.master_username!r} is reserved; write another, for example postgres")
        if self.existing:
            found += [
                f"`{_alias(type(self), name)}` is for an instance that this program makes; drop it or `existing`"
                for name in sorted(self.model_fields_set - {"existing"})
            ]
        return found


class Database(_Section):
    """The database of MLflow on that server."""

    name: Identifier = "mlflow"
    """Name of the database."""
    user: Identifier = "mlflow_user"
    """Login role of MLflow; a second one, ``<user>_2``, takes turns with it (see ``rotation``)."""
    schema_name: Identifier = Field(default="mlflow", alias="schema")
    """Schema for all of MLflow's tables, on the roles' search path. Never ``public``."""
    password: Password | None = None
    """Password of the role whose turn it is, a secret. Generated when absent."""
    rotation: int = Field(default=0, ge=0)
    """Raise it by one for a new password: the other role gets it and takes over while running pods keep theirs. Never by two in one
    ``up``: that comes back to the same role, and so changes the password that running pods have."""
    admin_address: HostAndPort | None = None
    """``host:port`` at which this machine reaches the server (an SSM tunnel, a bastion). Default: the server itself."""

    def problems(self) -> list[str]:
        """Refuse names that are there already or that PostgreSQL would cut."""
        found: list[str] = []
        if self.schema_name in {"public", "information_schema"} or self.schema_name.startswith("pg_"):
            found.append(
                f"`schema` {self.schema_name!r} belongs to PostgreSQL; write a name of its own, for example mlflow"
            )
        if self.user in {*_RESERVED_BY_RDS, "postgres"} or self.user.startswith("pg_") or len(self.user) > 61:
            found.append(
                f"`user` {self.user!r} is reserved or longer than 61 characters; write another, for example mlflow_user"
            )
        owner = f"{self.name}_app"
        if owner in {self.user, f"{self.user}_2"}:
            found.append(
                f"`user` {self.user!r} meets {owner}, the role that owns the tables of {self.name}; write another"
            )
        if self.name in {"postgres", "template0", "template1", "rdsadmin"}:
            found.append(f"`name` {self.name!r} is there already on every server; write another, for example mlflow")
        if len(owner) > 63:
            found.append(
                f"`name` {self.name!r} is longer than 59 characters, which leaves no room for {owner!r}; write a shorter one"
            )
        return found


class Artifacts(_Section):
    """Where artifacts are kept. MLflow proxies them, so that clients need no AWS credentials."""

    bucket: (
        Annotated[
            str,
            matching(
                r"(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "write a bucket's name, for example my-mlflow-artifacts"
            ),
        ]
        | None
    ) = None
    """A bucket that exists. One is made when absent."""
    identity: Literal["podIdentity", "irsa"] = "podIdentity"
    """How the pods get the role: EKS Pod Identity (its agent add-on must run) or IRSA (the cluster's OIDC provider must exist)."""


class Ingress(_Section):
    """The HAProxy ingress controller, its load balancer and TLS."""

    install: bool = True
    """Install the controller; false uses the one that serves ``className`` already."""
    class_name: DnsLabel = "haproxy"
    """Ingress class."""
    namespace: DnsLabel = "haproxy"
    """Namespace of the controller."""
    chart_version: Annotated[str, matching(r"\d+\.\d+\.\d+", "write a chart version such as 1.52.1")] = "1.52.1"
    """Version of haproxytech/kubernetes-ingress."""
    replicas: int = Field(default=2, ge=1, le=20)
    """Controller pods."""
    scheme: Literal["internal", "internet-facing"] = "internal"
    """Whether the load balancer has public addresses. The guide's is public; the safe default is not."""
    load_balancer_class: str | None = None
    """Class of the load balancer. Default on EKS: ``service.k8s.aws/nlb`` (AWS Load Balancer Controller); EKS Auto Mode: ``eks.amazonaws.com/nlb``."""
    allowed_cidrs: list[Network] = []
    """Client networks that the load balancer lets in. Default: all that can reach it."""
    address: Host | None = None
    """Address of the load balancer when the controller is not ours (``install: false``), for the DNS record."""
    certificate_arn: Annotated[str, arn("acm", "arn:aws:acm:eu-west-1:123456789012:certificate/…")] | None = None
    """TLS on the load balancer with this ACM certificate."""
    tls_secret_name: DnsLabel | None = None
    """TLS in HAProxy with this Secret (in MLflow's namespace). Until it is there HAProxy serves its self-signed certificate."""
    cluster_issuer: DnsLabel | None = None
    """TLS in HAProxy with a certificate from this cert-manager ClusterIssuer."""
    plain_http: bool = False
    """No TLS at all: passwords and data cross the network in clear. The guide's way; for a closed network only."""
    service_monitor: bool = False
    """A ServiceMonitor for HAProxy's metrics; the Prometheus operator must be installed."""

    @property
    def needs_cname(self) -> bool:
        """Whether the load balancer is not ours and no network load balancer of AWS, to which an alias could lead."""
        network = r".+\.elb\.[a-z0-9-]+\.amazonaws\.com(\.cn)?"
        return self.address is not None and re.fullmatch(network, self.address) is None

    @property
    def self_signed(self) -> bool:
        """Whether HAProxy serves a certificate of its own making, which no client trusts."""
        return self.install and not (
            self.certificate_arn or self.tls_secret_name or self.cluster_issuer or self.plain_http
        )

    def problems(self) -> list[str]:
        """Refuse two ways of TLS, and what would be ignored."""
        ways = {
            "certificateArn": self.certificate_arn,
            "tlsSecretName": self.tls_secret_name,
            "clusterIssuer": self.cluster_issuer,
            "plainHttp": self.plain_http,
        }
        chosen = [name for name, value in ways.items() if value]
        found: list[str] = []
        if len(chosen) > 1:
            found.append(f"has {' and '.join(f'`{name}`' for name in chosen)}; choose one way of TLS")
        found += [
            f"allowedCidrs[{index}] is {cidr}, which is everybody; leave it out"
            for index, cidr in enumerate(self.allowed_cidrs)
            if cidr in EVERYBODY
        ]
        if not self.install:
            theirs = {
                "install",
                "class_name",
                "namespace",
                "address",
                "tls_secret_name",
                "cluster_issuer",
                "plain_http",
            }
            found += [
                f"`{_alias(type(self), name)}` belongs to a controller that this program installs; drop it or `install: false`"
                for name in sorted(self.model_fields_set - theirs)
            ]
        elif self.address:
            found.append("`address` is for a controller that is not ours; drop it, the load balancer's address is read")
        if self.namespace in _NAMESPACES_OF_KUBERNETES and self.install:
            found.append(f"`namespace` {self.namespace} is Kubernetes's; write one of its own, for example haproxy")
        return found


class Ldap(_Section):
    """The directory that checks passwords: ``docs/ldap.md``."""

    uri: LdapUri
    """``ldaps://host:port``. With ``ldap://`` the connection is encrypted by StartTLS."""
    lookup_bind: Annotated[
        str,
        # A bare %s would let people choose among several names for themselves, each an account of its own.
        matching(
            r"(?=.*[=@\\])[^%\n]*%s[^%\n]*",
            "write the user's DN with %s for the name, or what Active Directory binds, such as %s@example.com",
        ),
    ]
    """DN of a user with ``%s`` for the name, for example ``uid=%s,ou=people,dc=example,dc=com``; for Active Directory
    ``%s@example.com``."""
    group_search_base: str = Field(min_length=1)
    """Base DN of the search for groups; with ``groupAttribute`` memberOf, for the user."""
    group_search_filter: Annotated[
        str, matching(r"\((?:[^%\n]|%s)*%s(?:[^%\n]|%s)*\)", "write an LDAP filter with %s for the user")
    ] = "(|(member=%s)(uniqueMember=%s))"
    """Filter of that search with ``%s`` for what ``lookupBind`` makes of the name."""
    admin_group_dn: str = Field(min_length=1)
    """DN of the group whose members are MLflow admins."""
    user_group_dn: str = Field(min_length=1)
    """DN of the group whose members may log in."""
    group_attribute: str = "dn"
    """What of a found entry is compared with the DNs above: its own DN, or an attribute such as memberOf."""
    tls_verify: Literal["required", "none"] = "required"
    """Whether the directory's certificate is checked."""
    start_tls: bool = True
    """Encrypts ``ldap://``. Without it passwords cross the network in clear text."""
    ca_certificate: (
        Annotated[
            str,
            matching(r"(?s).*-----BEGIN CERTIFICATE-----.*", "write a PEM certificate: -----BEGIN CERTIFICATE-----…"),
        ]
        | None
    ) = None
    """PEM of the directory's CA, where it is not a public one."""


class Auth(_Section):
    """The login."""

    mode: Literal["basic", "ldap", "none"] = "basic"
    """``basic``: MLflow's own users. ``ldap``: a directory checks passwords. ``none``: everybody may do everything."""
    admin_username: Annotated[
        str, matching(r"[A-Za-z0-9._-]{1,64}", "write 1 to 64 characters out of A-Z a-z 0-9 . _ -")
    ] = "admin"
    """First administrator. With ``mode: ldap`` the one account that the directory does not check."""
    admin_password: Password | None = None
    """Its password, a secret. Generated when absent. MLflow reads it at its first start only: see ``docs/rotation.md``."""
    default_permission: Literal["NO_PERMISSIONS", "READ", "EDIT", "MANAGE"] = "NO_PERMISSIONS"
    """What a user may do with the experiments and models of others."""
    cache_seconds: int = Field(default=60, ge=0, le=3600)
    """Seconds for which a checked password is remembered (a check costs 213 ms of CPU). A removed user can enter for up to that
    long, except with ``mode: basic`` on chart 1.8.1, where our own memory compares with the database. 0 checks every request."""
    ldap: Ldap | None = None
    """The directory, with ``mode: ldap``."""

    def problems(self) -> list[str]:
        """Refuse two logins, and half of one."""
        if self.mode == "ldap" and self.ldap is None:
            return [
                "`mode` is ldap but `ldap` is missing; give its uri, lookupBind, groupSearchBase, adminGroupDn and userGroupDn"
            ]
        if self.mode != "ldap" and self.ldap is not None:
            return [
                f"`ldap` is given but `mode` is {self.mode}; basic and LDAP exclude each other: write mode: ldap or drop ldap"
            ]
        if self.mode == "none" and self.admin_password is not None:
            return ["`adminPassword` is given but `mode` is none: nobody logs in; drop it or write mode: basic"]
        return []


class Resources(_Section):
    """CPU and memory of one MLflow pod. Measured need of 3.15.1 under load: 630 MiB with two workers, 426 MiB with one."""

    cpu_request: Cpu = "500m"
    """CPU that the scheduler keeps free. There is no CPU limit: throttling would only make requests slow."""
    memory_request: Memory = "1Gi"
    """Memory that the scheduler keeps free."""
    memory_limit: Memory = "2Gi"
    """Memory at which the pod is killed."""

    def problems(self) -> list[str]:
        """Refuse what the API server refuses."""
        if mebibytes(self.memory_request) > mebibytes(self.memory_limit):
            return [
                f"`memoryRequest` {self.memory_request} is more than `memoryLimit` {self.memory_limit}; raise the limit"
            ]
        return []


class Autoscaling(_Section):
    """A HorizontalPodAutoscaler on CPU and memory at 80 %."""

    min_replicas: int = Field(default=2, ge=1, le=100)
    """Fewest pods."""
    max_replicas: int = Field(default=5, ge=1, le=100)
    """Most pods; the connection budget is reckoned with it."""

    def problems(self) -> list[str]:
        """Refuse an empty range."""
        if self.max_replicas < self.min_replicas:
            return [f"`maxReplicas` ({self.max_replicas}) is below `minReplicas` ({self.min_replicas}); raise it"]
        return []


class ConnectionPool(_Section):
    """SQLAlchemy's pool, per worker and engine. HAProxy passes one request fewer to a pod than a worker has connections, and queues the rest."""

    size: int = Field(default=5, ge=1, le=100)
    """Connections kept open."""
    overflow: int = Field(default=5, ge=0, le=100)
    """Connections beyond that under load."""

    @property
    def connections(self) -> int:
        """The most that a worker has to one engine."""
        return self.size + self.overflow

    def problems(self) -> list[str]:
        """Refuse a pool in which a single request can wait for ever."""
        if self.connections < 2:
            return ["a request can need two connections at once; write overflow 1 or more"]
        return []


class Mlflow(_Section):
    """The tracking server."""

    host: Host
    """DNS name under which people reach MLflow."""
    url: Site | None = None
    """What people type, when it is not ``https://<host>``: another port behind a port-forward, for example."""
    namespace: DnsLabel = "mlflow"
    """Namespace."""
    chart_version: Literal["1.11.5", "1.8.1"] = "1.11.5"
    """Version of community-charts/mlflow: 1.11.5 is MLflow 3.15.1, 1.8.1 (the guide's) is MLflow 3.7.0 with known holes, and
    without the OpenTelemetry endpoint, which that version leaves open."""
    replicas: int = Field(default=1, ge=1, le=100)
    """Pods."""
    autoscaling: Autoscaling | None = None
    """Let the number of pods follow the load instead of ``replicas``."""
    workers: int = Field(default=2, ge=1, le=32)
    """Server processes per pod, each with its own pool and about 200 MiB. More replicas also outlive the death of one."""
    resources: Resources = Resources()
    """CPU and memory of a pod."""
    pool: ConnectionPool = ConnectionPool()
    """Database connections of a worker."""
    auth: Auth = Auth()
    """The login."""
    cors_allowed_origins: list[Origin] = []
    """Origins beside the site's own whose pages may call the API. ``*`` lets every web site act with a visitor's login."""
    allowed_hosts: list[Annotated[str, matching(r"[A-Za-z0-9*.:-]+", "write a Host header, * matches any part")]] = []
    """Host headers to accept beside the host's own and the in-cluster name."""
    dns_zone: Host | None = None
    """Route 53 zone for the host's record. Without it the record to create is an output."""
    timeout_seconds: int = Field(default=600, ge=60, le=3600)
    """How long an install or upgrade may take before it is rolled back."""

    def problems(self) -> list[str]:
        """Refuse names that do not belong together."""
        found: list[str] = []
        if self.dns_zone and self.host != self.dns_zone and not self.host.endswith(f".{self.dns_zone}"):
            found.append(
                f"`host` {self.host} is not in `dnsZone` {self.dns_zone}; write a host that ends in .{self.dns_zone}"
            )
        site = split_url(self.url) if self.url else None
        if site and site.hostname != self.host:
            found.append(
                f"`url` {self.url} is for another host than `host` {self.host}; only scheme and port may differ"
            )
        if self.autoscaling and "replicas" in self.model_fields_set:
            found.append("`replicas` and `autoscaling` are both given, and only one can decide; drop one of them")
        if self.namespace in _NAMESPACES_OF_KUBERNETES:
            found.append(f"`namespace` {self.namespace} is Kubernetes's; write one of its own, for example mlflow")
        return found


class Images(_Section):
    """Where images come from."""

    registry: (
        Annotated[str, matching(r"[a-z0-9.-]+(:\d+)?(/[a-z0-9._/-]+)?", "write registry/path without https://")] | None
    ) = None
    """Registry (and path) that mirrors ``burakince/mlflow``, ``library/busybox`` and ``haproxytech/kubernetes-ingress``."""
    pull_secret: DnsLabel | None = None
    """Secret of type dockerconfigjson, in both namespaces, which the first ``up`` makes: see ``docs/private-registry.md``."""


class Settings(_Section):
    """All settings of a stack."""

    cluster: Cluster
    """The cluster that exists already."""
    mlflow: Mlflow
    """The tracking server."""
    postgres: Postgres = Postgres()
    """The private RDS instance, or a server that exists."""
    database: Database = Database()
    """The database on it."""
    artifacts: Artifacts = Artifacts()
    """Where artifacts are kept."""
    ingress: Ingress = Ingress()
    """The ingress controller."""
    images: Images = Images()
    """Where images come from."""
    protect: bool = True
    """Refuse to destroy database and bucket (Pulumi's protect, RDS's deletion protection, a final snapshot). False makes a stack
    that goes away whole with ``pulumi destroy``, and applies changes to the instance at once instead of in the maintenance window."""
    tags: dict[str, str] = {}
    """Tags for every AWS resource, beside ``Project`` and ``Stack``."""

    @property
    def on_eks(self) -> bool:
        """Whether the cluster is an EKS cluster, that is, whether AWS is in play at all."""
        return self.cluster.name is not None

    @property
    def url(self) -> str:
        """Where people find MLflow."""
        return self.mlflow.url or f"{'http' if self.ingress.plain_http else 'https'}://{self.mlflow.host}"

    @property
    def most_replicas(self) -> int:
        """The largest number of pods that serve at the same time, without those of a rollout."""
        return self.mlflow.autoscaling.max_replicas if self.mlflow.autoscaling else self.mlflow.replicas

    def problems(self) -> list[str]:
        """Refuse what the sections cannot see alone."""
        found = [*self._without_aws(), *self._shared_storage(), *self._connection_budget()]
        if self.mlflow.dns_zone and not self.ingress.install and not self.ingress.address:
            found.append(
                "ingress.address is missing: with install: false the record of mlflow.dnsZone needs the load balancer's name"
            )
        if self.mlflow.dns_zone == self.mlflow.host and self.ingress.needs_cname:
            found.append(
                f"mlflow.host is the name of mlflow.dnsZone itself, where no CNAME to ingress.address {self.ingress.address} may be; write "
                f"a host such as mlflow.{self.mlflow.dns_zone}, or drop mlflow.dnsZone and make the record yourself"
            )
        if self.url.startswith("http:") and not self.ingress.plain_http:
            found.append(
                f"mlflow.url is {self.url} but TLS is on; write https, or ingress.plainHttp: true with what that costs"
            )
        if self.ingress.install and self.mlflow.namespace == self.ingress.namespace:
            found.append(
                f"mlflow.namespace and ingress.namespace are both {self.mlflow.namespace}; write another for one of them"
            )
        admin = self.postgres.existing.admin_username if self.postgres.existing else self.postgres.master_username
        made = {self.database.user, f"{self.database.user}_2", f"{self.database.name}_app"}
        if admin in made:
            key = "name" if admin == f"{self.database.name}_app" else "user"
            found.append(
                f"database.{key} would make a role {admin}, which is the server's admin; write another, for example mlflow_user"
            )
        found += [
            f"tags.{key} begins with aws:, which AWS keeps for itself; write another key"
            for key in self.tags
            if key.lower().startswith("aws:")
        ]
        return found

    def _without_aws(self) -> list[str]:
        if self.on_eks:
            return []
        needs_aws = {
            "postgres.existing is missing: with cluster.kubeContext there is no VPC to put a database in": self.postgres.existing
            is None,
            "artifacts.bucket needs cluster.name: the pods' identity for a bucket comes from EKS": self.artifacts.bucket,
            "ingress.certificateArn needs cluster.name: only an AWS load balancer takes an ACM certificate": self.ingress.certificate_arn,
            "artifacts.identity needs cluster.name: there are no AWS credentials to give to the pods; drop it": "identity"
            in self.artifacts.model_fields_set,
            "ingress.scheme needs an AWS load balancer; write ingress.loadBalancerClass too, for example service.k8s.aws/nlb, or drop it": "scheme"
            in self.ingress.model_fields_set
            and not self.ingress.load_balancer_class,
            "mlflow.dnsZone needs cluster.name: the zone is in Route 53": self.mlflow.dns_zone,
        }
        return [message for message, wrong in needs_aws.items() if wrong]

    def _shared_storage(self) -> list[str]:
        if self.on_eks or self.most_replicas == 1:
            return []
        key = "autoscaling" if self.mlflow.autoscaling else "replicas"
        return [
            f"mlflow.{key} needs a bucket, which only cluster.name has: several pods cannot share one pod's artifacts; write replicas: 1"
        ]

    def _connection_budget(self) -> list[str]:
        limit = max_connections(self.postgres.instance_class)
        if not self.on_eks or self.postgres.existing or limit is None:
            return []
        key = "mlflow.autoscaling.maxReplicas" if self.mlflow.autoscaling else "mlflow.replicas/workers"
        pods = self.most_replicas + 1
        pool = self.mlflow.pool.connections
        engines = 1 if self.mlflow.auth.mode == "none" else 2
        needed = pods * self.mlflow.workers * pool * engines
        if needed <= limit:
            return []
        return [
            f"{key} need too many connections: ({self.most_replicas} pods + 1 in a rollout) x {self.mlflow.workers} workers "
            f"x {pool} (pool {self.mlflow.pool.size} + overflow {self.mlflow.pool.overflow}) x {engines} "
            f"{'(tracking and login)' if engines == 2 else '(tracking)'} = {needed}, and {self.postgres.instance_class} has about {limit}; "
            "write fewer of them, a smaller mlflow.pool, or a larger postgres.instanceClass"
        ]

    def warnings(self) -> list[str]:
        """What is allowed but has a price, a sentence each, for the log of every preview."""
        ingress, mlflow = self.ingress, self.mlflow
        public = self.on_eks and ingress.install and ingress.scheme == "internet-facing" and not ingress.allowed_cidrs
        rules = {
            "mlflow.chartVersion 1.8.1 runs MLflow 3.7.0: pages of other sites can write through /ajax-api, and a user without "
            "permission can read, overwrite and delete artifacts there and list them on /api. 1.11.5 (the default) closes both.": mlflow.chart_version
            == "1.8.1",
            "ingress.plainHttp: passwords and data cross the network in clear.": ingress.plain_http,
            "ingress: no certificate is set, so HAProxy serves its self-signed one: encrypted, but browsers warn and clients need "
            "MLFLOW_TRACKING_INSECURE_TLS=true. Set certificateArn, tlsSecretName or clusterIssuer.": ingress.self_signed,
            "ingress.scheme internet-facing without allowedCidrs: the login is all that stands between the internet and MLflow.": public,
            "mlflow.auth.ldap.startTls false: passwords travel to the directory in clear.": bool(
                mlflow.auth.ldap and mlflow.auth.ldap.uri.startswith("ldap:") and not mlflow.auth.ldap.start_tls
            ),
            "mlflow.auth.ldap.tlsVerify none: whoever answers in the directory's place gets everybody's password.": bool(
                mlflow.auth.ldap and mlflow.auth.ldap.tls_verify == "none"
            ),
            "mlflow.auth.mode none: everybody who reaches the host may read, change and delete everything.": mlflow.auth.mode
            == "none",
            "mlflow.corsAllowedOrigins *: every web site that a logged-in person visits can act with that login.": "*"
            in mlflow.cors_allowed_origins,
            "postgres.allowFrom vpc: every machine in the VPC can try to log in to the database, not just the cluster.": self.on_eks
            and self.postgres.allow_from == "vpc",
            "artifacts: without a bucket they live in the pod and go with it.": not self.on_eks,
        }
        return [sentence for sentence, applies in rules.items() if applies]


_GIB_OF_LARGE = {"t": 8, "m": 8, "r": 16, "x": 32}
_SIZES = {"micro": 1 / 8, "small": 1 / 4, "medium": 1 / 2, "large": 1.0, "xlarge": 2.0}


def max_connections(instance_class: str) -> int | None:
    """Connections that RDS allows on an instance class, or None for a class that is not known.

    RDS's default is LEAST(memory in bytes / 9531392, 5000) of what the system leaves, about 0.24 GiB less than the class has: about
    85 on 1 GiB and 198 on 2 GiB.
    """
    match = re.fullmatch(r"db\.([a-z])[a-z0-9]*\.(\d*)(micro|small|medium|large|xlarge)", instance_class)
    if not match or match[1] not in _GIB_OF_LARGE:
        return None
    gib = _GIB_OF_LARGE[match[1]] * _SIZES[match[3]] * int(match[2] or 1)
    return min(int((gib - 0.24) * 2**30 / 9531392), 5000)


def _alias(section: type[BaseModel], name: str) -> str:
    return section.model_fields[name].alias or name
