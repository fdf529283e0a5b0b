"""MlflowRelease: the MLflow server, from the community chart.

Every password lives in a Secret; the release's values hold the Secrets' names only, so that neither Pulumi's diffs nor Helm's own
release records show one.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pulumi
import pulumi_kubernetes as kubernetes
import pulumi_random as random

CHART_REPOSITORY = "https://community-charts.github.io/helm-charts"
RELEASE = "mlflow"
SERVICE_ACCOUNT = "mlflow"
DATABASE_SECRET = "postgres-database-secret"  # noqa: S105  (the name of a Secret)
ADMIN_SECRET = "mlflow-auth"  # noqa: S105
CONTAINER_PORT = 5000
ARTIFACT_VOLUME = "/mlartifacts"
BASIC_LOGIN = "mlflow.server.auth:authenticate_request_basic_auth"
LOGIN_SOURCES = Path(__file__).parent.parent / "pod"
LOGIN_TABLES = "login_tables.py"
LOGIN_FOLDER = "/etc/mlflow-login"
POD_LABELS = {"app.kubernetes.io/name": "mlflow", "app.kubernetes.io/instance": RELEASE}


@dataclass(frozen=True)
class LdapArgs:
    """The directory that checks passwords."""

    uri: str
    lookup_bind: str
    group_search_base: str
    admin_group_dn: str
    user_group_dn: str
    group_search_filter: str = "(|(member=%s)(uniqueMember=%s))"
    group_attribute: str = "dn"
    tls_verify: str = "required"
    start_tls: bool = True
    ca_certificate: str | None = None


@dataclass(frozen=True)
class MlflowReleaseArgs:
    """The server, its database, its artifacts and its front door."""

    host: str
    """DNS name of the site."""
    url: str
    """What people type, scheme and port included; its origin may call the API."""
    database_host: pulumi.Input[str]
    """Address of the server as the pods see it."""
    database_port: pulumi.Input[int]
    """Its port."""
    database_name: pulumi.Input[str]
    """The database."""
    database_user: pulumi.Input[str]
    """Login role."""
    database_password: pulumi.Input[str]
    """Its password; goes into a Secret and nowhere else."""
    database_cidrs: Mapping[str, pulumi.Input[str]]
    """Networks that the database's address is in, for the NetworkPolicy."""
    ingress_class: pulumi.Input[str]
    """Ingress class, once a controller serves it."""
    ingress_namespace: str
    """Namespace of that controller: the only one that may open connections to the pods."""
    namespace: str = "mlflow"
    """Namespace of the release."""
    chart_version: str = "1.11.5"
    """Version of community-charts/mlflow: 1.11.5 or 1.8.1."""
    bucket: pulumi.Input[str] | None = None
    """Bucket for artifacts. Without one they are in a volume that goes with the pod."""
    region: pulumi.Input[str] | None = None
    """Region of the bucket."""
    role_arn: pulumi.Input[str] | None = None
    """Role for the service account's IRSA annotation; absent with Pod Identity."""
    auth_mode: Literal["basic", "ldap", "none"] = "basic"
    """Who checks passwords."""
    admin_username: str = "admin"
    """First administrator."""
    admin_password: pulumi.Input[str] | None = None
    """Its password. Generated when absent."""
    default_permission: str = "NO_PERMISSIONS"
    """What users may do with what belongs to others."""
    auth_cache_seconds: int = 60
    """Seconds for which a checked password is remembered; 0: not at all."""
    ldap: LdapArgs | None = None
    """The directory, with ``auth_mode`` ldap."""
    replicas: int = 1
    """Pods, where nothing scales them."""
    min_replicas: int | None = None
    """Fewest pods of the autoscaler; None: no autoscaler."""
    max_replicas: int | None = None
    """Most pods of the autoscaler."""
    workers: int = 2
    """Server processes per pod."""
    pool_size: int = 5
    """Connections that a worker keeps per engine."""
    pool_overflow: int = 5
    """Connections beyond that under load."""
    cpu_request: str = "500m"
    memory_request: str = "1Gi"
    memory_limit: str = "2Gi"
    tls_secret_name: str | None = None
    """Secret with the certificate that HAProxy serves."""
    cluster_issuer: str | None = None
    """cert-manager ClusterIssuer that makes that Secret."""
    tls_in_haproxy: bool = True
    """Whether HAProxy ends TLS, and so redirects plain HTTP; false where the load balancer does or nobody."""
    cors_allowed_origins: Sequence[str] = ()
    """Origins beside the site's own."""
    allowed_hosts: Sequence[str] = ()
    """Host headers beside the site's own and the in-cluster name."""
    registry: str | None = None
    """Private registry for every image."""
    pull_secret: str | None = None
    """Secret for that registry, in the namespace."""
    timeout_seconds: int = 600
    """How long a rollout may take before it is rolled back."""


class MlflowRelease(pulumi.ComponentResource):
    """Namespace, Secrets, the release, and what the chart lacks: a disruption budget and a NetworkPolicy."""

    admin_password: pulumi.Output[str] | None
    """Password of the first administrator, a secret; None where nobody logs in."""

    def __init__(self, name: str, args: MlflowReleaseArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mlflow-eks:index:MlflowRelease", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        namespace = kubernetes.core.v1.Namespace(
            f"{name}-namespace",
            metadata={"name": args.namespace, "labels": {"pod-security.kubernetes.io/enforce": "baseline"}},
            opts=child,
        )
        namespaced = namespace.metadata["name"]

        secrets = {DATABASE_SECRET: {"username": args.database_user, "password": args.database_password}}
        self.admin_password = None
        if args.auth_mode != "none":
            password = (
                args.admin_password
                or random.RandomPassword(f"{name}-admin", length=32, special=False, opts=child).result
            )
            self.admin_password = pulumi.Output.secret(password)
            secrets[ADMIN_SECRET] = {"admin-user": args.admin_username, "admin-password": password}
        made: list[pulumi.Resource] = [
            kubernetes.core.v1.Secret(
                f"{name}-{secret}",
                metadata={"name": secret, "namespace": namespaced},
                string_data={key: pulumi.Output.secret(value) for key, value in data.items()},
                opts=child,
            )
            for secret, data in secrets.items()
        ]

        if login := login_function(args):
            made.append(
                kubernetes.core.v1.ConfigMap(
                    f"{name}-{login.name}",
                    metadata={"name": login.config_map, "namespace": namespaced},
                    data=login.files,
                    opts=child,
                )
            )

        kubernetes.networking.v1.NetworkPolicy(
            f"{name}-network-policy",
            metadata={"name": RELEASE, "namespace": namespaced},
            spec=network_policy(args),
            opts=child,
        )
        if max(args.replicas, args.min_replicas or 0) > 1:
            kubernetes.policy.v1.PodDisruptionBudget(
                f"{name}-disruption-budget",
                metadata={"name": RELEASE, "namespace": namespaced},
                spec={"min_available": 1, "selector": {"match_labels": POD_LABELS}},
                opts=child,
            )

        kubernetes.helm.v3.Release(
            f"{name}-release",
            name=RELEASE,
            namespace=namespaced,
            chart="mlflow",
            version=args.chart_version,
            repository_opts={"repo": CHART_REPOSITORY},
            values=mlflow_values(args, self._checksum(f"{name}-checksum", secrets)),
            # A half-installed release would block the next `pulumi up`.
            atomic=True,
            cleanup_on_fail=True,
            timeout=args.timeout_seconds,
            opts=pulumi.ResourceOptions.merge(child, pulumi.ResourceOptions(depends_on=made)),
        )
        self.register_outputs({})

    def _checksum(self, name: str, secrets: Mapping[str, Mapping[str, pulumi.Input[str]]]) -> pulumi.Output[str]:
        """Make a fingerprint of the passwords that changes with them, so that pods roll, and gives nothing away: it is keyed."""
        key = random.RandomPassword(name, length=32, special=False, opts=pulumi.ResourceOptions(parent=self)).result
        values = [value for _, data in sorted(secrets.items()) for _, value in sorted(data.items())]

        def digest(known: Sequence[str]) -> str:
            return hmac.new(known[0].encode(), "\0".join(known[1:]).encode(), hashlib.sha256).hexdigest()[:16]

        return pulumi.Output.unsecret(pulumi.Output.all(key, *values).apply(digest))


@dataclass(frozen=True)
class LoginFunction:
    """Code of our own that MLflow calls for each login, in a ConfigMap that its pods mount."""

    name: str
    """Of what is made for it in the cluster."""
    more_files: Mapping[str, str] = field(default_factory=dict[str, str])
    """What it reads beside its code."""
    more_code: Sequence[str] = ()
    """What else of `pod/` the pods run, as files of the same ConfigMap."""

    @property
    def module(self) -> Path:
        """Its code."""
        return LOGIN_SOURCES / f"{self.name.replace('-', '_')}.py"

    @property
    def function(self) -> str:
        """What MLflow's configuration calls it."""
        return f"{self.module.stem}:authenticate"

    @property
    def config_map(self) -> str:
        """The ConfigMap's name."""
        return f"mlflow-{self.name}"

    @property
    def files(self) -> dict[str, str]:
        """What is in the ConfigMap."""
        code = {
            name: (LOGIN_SOURCES / name).read_text(encoding="utf-8") for name in (self.module.name, *self.more_code)
        }
        return {**code, **self.more_files}


def login_function(args: MlflowReleaseArgs) -> LoginFunction | None:
    """What logs people in instead of a function of MLflow's own, where none of them will do."""
    older = args.chart_version == "1.8.1"
    tables = (LOGIN_TABLES,) if older else ()
    if args.ldap is not None:
        # The image's locks everybody out over TLS and hangs with the directory: docs/ldap.md.
        authority = {"ca.crt": args.ldap.ca_certificate} if args.ldap.ca_certificate else {}
        return LoginFunction("ldap-login", authority, tables)
    if args.auth_mode == "basic" and older:
        return LoginFunction("login-cache", more_code=tables)
    return None


def mlflow_values(args: MlflowReleaseArgs, checksum: pulumi.Input[str]) -> dict[str, Any]:
    """Values for the chart; every trap that they avoid is silent.

    Args:
        args: the release.
        checksum: fingerprint of the Secrets, which the chart does not watch.
    """
    pod_identity = {"runAsNonRoot": True, "runAsUser": 1001, "runAsGroup": 1001}
    values: dict[str, Any] = {
        "replicaCount": args.replicas,
        "backendStore": {
            "databaseMigration": True,
            "postgres": {
                "enabled": True,
                "host": args.database_host,
                "port": args.database_port,
                "database": args.database_name,
                "user": "",
                "password": "",
                # Without it SQLAlchemy 2.1 looks for psycopg 3, which the image lacks.
                "driver": "psycopg2",
            },
            "existingDatabaseSecret": {"name": DATABASE_SECRET, "usernameKey": "username", "passwordKey": "password"},
        },
        "serviceAccount": {"create": True, "name": SERVICE_ACCOUNT, "automount": False},
        "ingress": _ingress(args),
        # On 1.8.1 it would be a second --gunicorn-opts.
        "log": {"enabled": False},
        "extraArgs": _server_arguments(args),
        "extraEnvVars": _environment(args),
        "podAnnotations": {"checksum/secrets": checksum},
        "podSecurityContext": {
            **pod_identity,
            "fsGroup": 1001,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "resources": {
            "requests": {"cpu": args.cpu_request, "memory": args.memory_request},
            "limits": {"memory": args.memory_limit},
        },
        **_artifacts(args),
    }
    if args.role_arn is not None:
        values["serviceAccount"]["annotations"] = {"eks.amazonaws.com/role-arn": args.role_arn}
        # Credentials are injected when a pod is made, and the chart does not watch the annotation.
        values["podAnnotations"]["checksum/identity"] = args.role_arn
    if args.auth_mode != "none":
        values["auth"] = _auth(args)
        # The chart does not watch the file that these end up in either.
        rules = f"{args.default_permission} {args.auth_mode} {args.auth_cache_seconds}"
        values["podAnnotations"]["checksum/login"] = hashlib.sha256(rules.encode()).hexdigest()[:16]
    if args.min_replicas is not None and args.max_replicas is not None:
        values["autoscaling"] = {"enabled": True, "minReplicas": args.min_replicas, "maxReplicas": args.max_replicas}
    if max(args.replicas, args.max_replicas or 0) > 1:
        values["affinity"] = _apart()
    if login := login_function(args):
        mount = {"name": login.name, "mountPath": LOGIN_FOLDER, "readOnly": True}
        values.setdefault("extraVolumes", []).append({"name": login.name, "configMap": {"name": login.config_map}})
        values.setdefault("extraVolumeMounts", []).append(mount)
        # The chart does not watch this ConfigMap either.
        files = json.dumps(login.files, sort_keys=True)
        values["podAnnotations"][f"checksum/{login.name}"] = hashlib.sha256(files.encode()).hexdigest()[:16]
    if args.registry:
        server = {"repository": f"{args.registry}/burakince/mlflow"}
        shell = {"repository": f"{args.registry}/library/busybox"}
        values["image"] = server
        values["initImages"] = {"dbchecker": shell, "mlflowDbMigration": server, "iniFileInitializer": shell}
    if args.pull_secret:
        values["imagePullSecrets"] = [{"name": args.pull_secret}]
    return values


def _server_arguments(args: MlflowReleaseArgs) -> dict[str, str]:
    arguments = {"workers": str(args.workers)}
    if args.chart_version == "1.8.1":
        # Under uvicorn MLflow 3.7.0 answers POST /v1/traces and the jobs API before anybody has logged in; under gunicorn neither
        # exists. Gunicorn's own defaults would let one upload at a time keep /health waiting, and end it after 30 s.
        arguments["gunicornOpts"] = "--threads=10 --timeout=300"
        if login_function(args):
            arguments["gunicornOpts"] += f" --config={LOGIN_FOLDER}/{LOGIN_TABLES}"
    return arguments


def _artifacts(args: MlflowReleaseArgs) -> dict[str, Any]:
    if args.bucket is not None:
        return {
            # Through the server: clients need no AWS credentials, and the login covers artifacts.
            "artifactRoot": {
                "proxiedArtifactStorage": True,
                "s3": {"enabled": True, "bucket": args.bucket, "path": "mlflow"},
            }
        }
    return {
        "artifactRoot": {"proxiedArtifactStorage": True, "defaultArtifactsDestination": ARTIFACT_VOLUME},
        "extraVolumes": [{"name": "artifacts", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "artifacts", "mountPath": ARTIFACT_VOLUME}],
    }


def _auth(args: MlflowReleaseArgs) -> dict[str, Any]:
    login = login_function(args)
    function = login.function if login else BASIC_LOGIN
    if args.auth_cache_seconds:
        # The chart has no value for the cache, but this one is the last line of its ini file: a second line rides along.
        function += f"\n    auth_cache_ttl_seconds = {args.auth_cache_seconds}"
    return {
        "enabled": True,
        "defaultPermission": args.default_permission,
        "authorizationFunction": function,
        "existingAdminSecret": {"name": ADMIN_SECRET, "usernameKey": "admin-user", "passwordKey": "admin-password"},
        # Without it users live in a SQLite file that dies with the pod, or that a read-only root never lets start.
        "postgres": {
            "enabled": True,
            "host": args.database_host,
            "port": args.database_port,
            "database": args.database_name,
            "driver": "psycopg2",
            "existingSecret": {"name": DATABASE_SECRET, "usernameKey": "username", "passwordKey": "password"},
        },
    }


def _environment(args: MlflowReleaseArgs) -> dict[str, Any]:
    site = urlsplit(args.url)
    service = f"{RELEASE}.{args.namespace}.svc"
    # Not `svc*`: that would let in a name like mlflow.mlflow.svc.evil.example.
    names = [args.host, service, f"{service}.cluster.local"]
    environment: dict[str, Any] = {
        # MLflow compares the whole Host header, port included.
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join([*names, *[f"{name}:*" for name in names], *args.allowed_hosts]),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join([f"{site.scheme}://{site.netloc}", *args.cors_allowed_origins]),
        # The job runner of newer versions takes more than a GiB and does nothing for tracking.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": str(args.pool_size),
        "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": str(args.pool_overflow),
        "PGSSLMODE": "require",
    }
    if args.region is not None:
        environment["AWS_DEFAULT_REGION"] = args.region
    if args.ldap is not None:
        environment |= {
            "LDAP_URI": args.ldap.uri,
            "LDAP_TLS_VERIFY": args.ldap.tls_verify,
            "LDAP_LOOKUP_BIND": args.ldap.lookup_bind,
            "LDAP_GROUP_ATTRIBUTE": args.ldap.group_attribute,
            "LDAP_GROUP_SEARCH_BASE_DN": args.ldap.group_search_base,
            "LDAP_GROUP_SEARCH_FILTER": args.ldap.group_search_filter,
            "LDAP_GROUP_ADMIN_DN": args.ldap.admin_group_dn,
            "LDAP_GROUP_USER_DN": args.ldap.user_group_dn,
            "LDAP_START_TLS": "true" if args.ldap.start_tls else "false",
        }
        if args.ldap.ca_certificate:
            environment["LDAP_CA"] = f"{LOGIN_FOLDER}/ca.crt"
    if login_function(args):
        environment |= {"PYTHONPATH": LOGIN_FOLDER, "LOGIN_CACHE_SECONDS": str(args.auth_cache_seconds)}
    return environment


def _ingress(args: MlflowReleaseArgs) -> dict[str, Any]:
    ingress: dict[str, Any] = {
        "enabled": True,
        "className": args.ingress_class,
        "annotations": {
            "haproxy.org/ssl-redirect": "true" if args.tls_in_haproxy else "false",
            # Large artifacts take longer than the 50 s of the default.
            "haproxy.org/timeout-server": "300s",
            # A request can hold one database connection while it waits for a second one: as many requests as connections wait for each
            # other. One fewer, and one of them always goes on; the others queue in HAProxy, whose pods share this number.
            "haproxy.org/pod-maxconn": str(args.pool_size + args.pool_overflow - 1),
            # A connection of its own for each request: with two workers or more uvicorn answers 40 ms late on one that is kept (its issue
            # 3149), and after 5 s it closes a kept one, now and then just when HAProxy sends the next request there.
            # And another try where a pod ends before it has answered, or before it has even taken up the connection: the chart has
            # no place for a pause before a pod is told to end. MLflow's own client tries again, too, whatever the request was. HAProxy
            # can do so only with what it has received in whole (16 KiB at most), so it waits for a request's body.
            "haproxy.org/backend-config-snippet": "option http-server-close\noption http-buffer-request\n"
            "retry-on conn-failure empty-response",
        },
        "hosts": [{"host": args.host, "paths": [{"path": "/", "pathType": "Prefix"}]}],
    }
    if args.url.startswith("https:"):
        ingress["annotations"]["haproxy.org/response-set-header"] = 'Strict-Transport-Security "max-age=31536000"'
    if args.cluster_issuer:
        ingress["annotations"]["cert-manager.io/cluster-issuer"] = args.cluster_issuer
    secret = args.tls_secret_name or ("mlflow-tls" if args.cluster_issuer else None)
    if secret:
        ingress["tls"] = [{"secretName": secret, "hosts": [args.host]}]
    return ingress


def _apart() -> dict[str, Any]:
    """Spread pods over zones, then nodes. The chart does not know topologySpreadConstraints."""

    def away(weight: int, key: str) -> dict[str, Any]:
        return {"weight": weight, "podAffinityTerm": {"topologyKey": key, "labelSelector": {"matchLabels": POD_LABELS}}}

    terms = [away(100, "topology.kubernetes.io/zone"), away(50, "kubernetes.io/hostname")]
    return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}}


def network_policy(args: MlflowReleaseArgs) -> kubernetes.networking.v1.NetworkPolicySpecArgsDict:
    """In from the ingress controller; out to the database, DNS, S3 and its credentials, and the directory."""

    def tcp(port: pulumi.Input[int]) -> kubernetes.networking.v1.NetworkPolicyPortArgsDict:
        return {"protocol": "TCP", "port": port}

    def networks(*cidrs: pulumi.Input[str]) -> list[kubernetes.networking.v1.NetworkPolicyPeerArgsDict]:
        return [{"ip_block": {"cidr": cidr}} for cidr in cidrs]

    egress: list[kubernetes.networking.v1.NetworkPolicyEgressRuleArgsDict] = [
        {"ports": [{"protocol": "UDP", "port": 53}, tcp(53)]},
        {"to": networks(*args.database_cidrs.values()), "ports": [tcp(args.database_port)]},
    ]
    if args.bucket is not None:
        egress.append({"to": networks("0.0.0.0/0"), "ports": [tcp(443)]})
        # The Pod Identity agent, which listens on the node.
        egress.append({"to": networks("169.254.170.23/32"), "ports": [tcp(80)]})
    if args.ldap is not None:
        directory = urlsplit(args.ldap.uri)
        port = directory.port or (636 if directory.scheme == "ldaps" else 389)
        egress.append({"to": networks("0.0.0.0/0"), "ports": [tcp(port)]})
    controller = {"kubernetes.io/metadata.name": args.ingress_namespace}
    return {
        "pod_selector": {"match_labels": POD_LABELS},
        "policy_types": ["Ingress", "Egress"],
        "ingress": [{"from_": [{"namespace_selector": {"match_labels": controller}}], "ports": [tcp(CONTAINER_PORT)]}],
        "egress": egress,
    }
