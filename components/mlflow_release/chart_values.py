"""Values of the mlflow chart. A comment says why where a wrong value would do nothing: the chart would ignore it without an error."""

import hashlib
from typing import Any
from urllib.parse import urlsplit

import pulumi

from . import database_access, metrics
from .arguments import MlflowReleaseArgs
from .ingress import ingress_values, threads
from .login_code import CONFIG_MAP, FOLDER, VOLUME, LoginCode
from .names import ADMIN_SECRET, DATABASE_SECRET, KEYS_SECRET, OIDC_SECRET, POD_LABELS, RELEASE, SERVICE_ACCOUNT
from .pod_security import POD_SECURITY

GATEWAY_PROVIDERS = "openai,azure,anthropic,gemini,mistral,groq,deepseek,xai,openrouter"
"""Providers of models whose requests go through aiohttp, which `pod_code/outgoing.py` guards. Others bring a client of their own."""
ARTIFACT_VOLUME = "/mlartifacts"


def mlflow_values(args: MlflowReleaseArgs, code: LoginCode | None, checksum: pulumi.Input[str]) -> dict[str, Any]:
    """Return the values of the chart.

    Args:
        args: the release.
        code: the login code to mount; None without a login.
        checksum: fingerprint of the Secrets. The chart does not watch them, so an annotation with it replaces the pods.
    """
    resources = {
        # Without a request for storage the limit would be the request, and pods would not fit on a small node's disk.
        "requests": {"cpu": args.pods.cpu_request, "memory": args.pods.memory_request, "ephemeral-storage": "100Mi"},
        # The chart mounts /tmp without a size, and uploads pass through it.
        "limits": {"memory": args.pods.memory_limit, "ephemeral-storage": args.pods.storage_limit},
    }
    values: dict[str, Any] = {
        "replicaCount": args.pods.replicas,
        # The chart would start a new pod for every old one at once, and so open twice the connections to the database.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "backendStore": {
            # The chart's container does not check who the server is: `initContainers` below has one that does.
            "databaseMigration": False,
            "postgres": {
                **_database(args),
                "user": "",
                "password": "",
            },
            "existingDatabaseSecret": _DATABASE_LOGIN,
        },
        "initContainers": [database_access.migration(args, server_image(args), resources)],
        "extraVolumes": database_access.volumes(args),
        "extraVolumeMounts": database_access.ca_mounts(args),
        "serviceAccount": {"create": True, "name": SERVICE_ACCOUNT, "automount": False},
        "ingress": ingress_values(args),
        # On chart 1.8.1 it would be a second --gunicorn-opts.
        "log": {"enabled": False},
        "extraArgs": _server_arguments(args, code),
        "extraEnvVars": _environment(args, code),
        "extraSecretNamesForEnvFrom": [KEYS_SECRET, *([OIDC_SECRET] if args.login.oidc else [])],
        "podAnnotations": {"checksum/secrets": checksum},
        "podSecurityContext": POD_SECURITY,
        "resources": resources,
        **_images(args),
    }
    _artifacts(args, values)
    if args.metrics is not None:
        values["extraArgs"]["exposePrometheus"] = metrics.FOLDER
        values["extraVolumes"].append({"name": metrics.VOLUME, "emptyDir": {}})
        values["extraVolumeMounts"].append({"name": metrics.VOLUME, "mountPath": metrics.FOLDER})
        values["extraContainers"] = [metrics.container(server_image(args))]
    if args.database.ca_certificates is not None:
        # Libpq reads the file for each connection, but the chart does not watch the ConfigMap.
        values["podAnnotations"]["checksum/database-ca"] = _checksum(args.database.ca_certificates)
    if args.bucket is not None and args.bucket.role_arn is not None:
        values["serviceAccount"]["annotations"] = {"eks.amazonaws.com/role-arn": args.bucket.role_arn}
    identity = args.bucket and (args.bucket.identity or args.bucket.role_arn)
    if identity is not None:
        # A pod gets credentials when it is created, and the chart watches neither annotation nor association.
        values["podAnnotations"]["checksum/identity"] = identity
    if code:
        values["auth"] = _auth(args, code)
        # The chart does not watch the file that this ends up in.
        rules = f"{args.login.default_permission} {code.function}"
        values["podAnnotations"]["checksum/login"] = _checksum(rules)
        values["extraVolumes"].append({"name": VOLUME, "configMap": {"name": CONFIG_MAP}})
        values["extraVolumeMounts"].append({"name": VOLUME, "mountPath": FOLDER, "readOnly": True})
        values["podAnnotations"]["checksum/login-code"] = code.checksum
    if args.pods.autoscaler:
        values["autoscaling"] = {
            "enabled": True,
            "minReplicas": args.pods.autoscaler.min_replicas,
            "maxReplicas": args.pods.autoscaler.max_replicas,
            # By default memory counts too. A worker never gives memory back, so an autoscaler that has scaled up would stay there.
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
                }
            ],
        }
    if args.pods.max_pods > 1:
        values["affinity"] = _anti_affinity()
    return values


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_DATABASE_LOGIN = {"name": DATABASE_SECRET, "usernameKey": "username", "passwordKey": "password"}


def _database(args: MlflowReleaseArgs) -> dict[str, Any]:
    return {
        "enabled": True,
        "host": args.database.host,
        "port": args.database.port,
        "database": args.database.name,
        # Without it SQLAlchemy 2.1 looks for psycopg 3, which the image lacks.
        "driver": "psycopg2",
    }


def _server_arguments(args: MlflowReleaseArgs, code: LoginCode | None) -> dict[str, str]:
    arguments = {"workers": str(args.pods.workers)}
    if args.chart.gunicorn:
        # With gunicorn's defaults a single upload keeps /health waiting, and ends after 30 s. Requests wait in a worker that has no free
        # thread even if another worker has one, so each has a thread for every request that the pod can get.
        # The chart of a metric asks for 100 runs in one request line. gunicorn's default of 4,094 characters ends at 98.
        arguments["gunicornOpts"] = f"--threads={threads(args)} --timeout=300 --limit-request-line=8190"
        if code and code.gunicorn_configuration:
            arguments["gunicornOpts"] += f" --config={code.gunicorn_configuration}"
    else:
        # uvicorn kills a worker, with its requests, that does not answer within 5 s, as on a node without CPU to spare.
        arguments["uvicornOpts"] = "--timeout-worker-healthcheck=60"
    return arguments


def _artifacts(args: MlflowReleaseArgs, values: dict[str, Any]) -> None:
    # Clients need no AWS credentials, and the login covers artifacts: they pass through the pods, or by addresses that these sign.
    root: dict[str, Any] = {"proxiedArtifactStorage": True}
    values["artifactRoot"] = root
    if args.bucket is not None:
        root["s3"] = {"enabled": True, "bucket": args.bucket.name, "path": args.bucket.path}
        return
    root["defaultArtifactsDestination"] = ARTIFACT_VOLUME
    values["extraVolumes"].append({"name": "artifacts", "emptyDir": {}})
    values["extraVolumeMounts"].append({"name": "artifacts", "mountPath": ARTIFACT_VOLUME})


def _auth(args: MlflowReleaseArgs, code: LoginCode) -> dict[str, Any]:
    return {
        "enabled": True,
        "defaultPermission": args.login.default_permission,
        "authorizationFunction": code.function,
        "existingAdminSecret": {"name": ADMIN_SECRET, "usernameKey": "admin-user", "passwordKey": "admin-password"},
        # Without it users are in a SQLite file that is lost with the pod, and that a read-only root file system refuses.
        "postgres": {**_database(args), "existingSecret": _DATABASE_LOGIN},
    }


def _environment(args: MlflowReleaseArgs, code: LoginCode | None) -> dict[str, Any]:
    site = urlsplit(args.site.url)
    service = f"{RELEASE}.{args.namespace}.svc"
    # Not `svc*`, which would accept a name like mlflow.mlflow.svc.evil.example.
    names = [args.site.host, service, f"{service}.cluster.local"]
    environment: dict[str, Any] = {
        # MLflow compares the whole Host header, port included.
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join([*names, *[f"{name}:*" for name in names], *args.site.allowed_hosts]),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(
            [f"{site.scheme}://{site.netloc}", *args.site.cors_allowed_origins]
        ),
        # The job runner of newer versions takes more than 1 GiB and does nothing for tracking.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_CRYPTO_KEK_VERSION": str(args.keys.version),
        "MLFLOW_ENABLE_AI_GATEWAY": "true" if args.gateway else "false",
        # MLflow 3.15 does not know the switch above, and asks this list before it calls a provider. There is none that is called none.
        "MLFLOW_GATEWAY_ALLOWED_PROVIDERS": GATEWAY_PROVIDERS if args.gateway else "none",
        "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": str(args.database.pool_size),
        "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": str(args.database.pool_overflow),
        **database_access.proof(args),
    }
    if args.bucket is not None:
        environment["AWS_DEFAULT_REGION"] = args.bucket.region
        if args.bucket.direct:
            # With its default, `auto`, boto3 signs for bucket.s3.amazonaws.com. That host redirects the requests for a new bucket of another
            # region, whose signature is for the first host, and is behind no interface endpoint.
            environment["MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE"] = "virtual"
    if ldap := args.login.ldap:
        environment |= {
            "LDAP_URI": ldap.uri,
            "LDAP_TLS_VERIFY": ldap.tls_verify,
            "LDAP_LOOKUP_BIND": ldap.lookup_bind,
            "LDAP_GROUP_ATTRIBUTE": ldap.group_attribute,
            "LDAP_GROUP_SEARCH_BASE_DN": ldap.group_search_base,
            "LDAP_GROUP_SEARCH_FILTER": ldap.group_search_filter,
            "LDAP_GROUP_ADMIN_DN": ldap.admin_group_dn,
            "LDAP_GROUP_USER_DN": ldap.user_group_dn,
            "LDAP_START_TLS": "true" if ldap.start_tls else "false",
        }
        if ldap.ca_certificate:
            environment["LDAP_CA"] = f"{FOLDER}/ca.crt"
    if code:
        environment |= {
            "PYTHONPATH": FOLDER,
            "LOGIN_CACHE_SECONDS": str(args.login.cache_seconds),
            # Ten for the whole site, because each worker counts for itself.
            "LOGIN_TRIES": str(max(1, 10 // (args.pods.max_pods * args.pods.workers))),
            "LOGIN_CLIENTS": "address" if args.site.client_addresses else "name",
        }
        if args.bucket is not None:
            environment["ARTIFACT_TRANSFERS"] = "direct" if args.bucket.direct else "proxied"
        if args.internal_networks:
            environment["INTERNAL_NETWORKS"] = pulumi.Output.all(*args.internal_networks).apply(",".join)
    else:
        # MLflow answers 400, which clients do not repeat, when it may not write. On a connection that it does not get it answers 503.
        environment["PGTARGETSESSIONATTRS"] = "read-write"
    return environment


def server_image(args: MlflowReleaseArgs) -> str:
    """Return the image of the server, for the migration and the clean-up: it must be that of the server's version."""
    registry = f"{args.images.registry}/" if args.images.registry else ""
    return f"{registry}burakince/mlflow:{args.images.mlflow_tag or args.chart.mlflow}"


def _images(args: MlflowReleaseArgs) -> dict[str, Any]:
    values: dict[str, Any] = {}
    server, shell = dict[str, str](), dict[str, str]()
    if args.images.registry:
        server["repository"] = f"{args.images.registry}/burakince/mlflow"
        shell["repository"] = f"{args.images.registry}/library/busybox"
    if args.images.mlflow_tag:
        server["tag"] = args.images.mlflow_tag
    if server:
        values["image"] = server
    if shell:
        values["initImages"] = {"dbchecker": shell, "iniFileInitializer": shell}
    if args.images.pull_secret:
        values["imagePullSecrets"] = [{"name": args.images.pull_secret}]
    return values


def _anti_affinity() -> dict[str, Any]:
    """Spread pods over zones, then over nodes. The chart does not know topologySpreadConstraints."""

    def away(weight: int, key: str) -> dict[str, Any]:
        return {"weight": weight, "podAffinityTerm": {"topologyKey": key, "labelSelector": {"matchLabels": POD_LABELS}}}

    terms = [away(100, "topology.kubernetes.io/zone"), away(50, "kubernetes.io/hostname")]
    return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}}
