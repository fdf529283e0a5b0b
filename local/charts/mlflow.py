"""The chart `community-charts/mlflow`, for the two versions and the values that this project uses.

`render` is pure, and tests/contract/test_chart_mlflow.py compares it with recordings of the real chart. One script is
the stand-in's own, with the same effect: that in the ConfigMap `mlflow-dbchecker`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from local.charts import Values, ValuesError, with_defaults


@dataclass(frozen=True)
class _Version:
    """A version of the chart."""

    mlflow: str
    """Version of MLflow in the chart's image."""
    busybox: str
    """Tag of busybox, the image of two init containers."""
    server: str
    """Server whose options the chart passes the log level to."""
    derives_hosts: bool
    """True if the chart derives allowed hosts and origins from the Ingress."""
    mounts_tmp: bool
    """True if the pod has a volume at /tmp, because its root file system is read-only."""
    upper_case_variables: bool
    """True if the chart writes the names of environment variables in upper case."""


_VERSIONS = {
    "1.8.1": _Version("3.7.0", "1.32", "gunicorn", derives_hosts=False, mounts_tmp=False, upper_case_variables=True),
    "1.11.5": _Version("3.15.1", "1.38.0", "uvicorn", derives_hosts=True, mounts_tmp=True, upper_case_variables=False),
}
APP_VERSIONS = {chart: version.mlflow for chart, version in _VERSIONS.items()}
"""Chart version to MLflow version."""

CONTAINER_PORT = 5000
"""TCP port of MLflow's container."""
BASIC_LOGIN = "mlflow.server.auth:authenticate_request_basic_auth"
"""MLflow's function that checks logins, unless the values name another."""
READINESS_PATH = "/health"
"""Path of the readiness probe."""

_DEFAULTS: Values = {
    "affinity": {},
    "artifactRoot": {
        "defaultArtifactsDestination": "./mlartifacts",
        "proxiedArtifactStorage": False,
        "s3": {"enabled": False, "bucket": "", "path": ""},
    },
    "auth": {
        "enabled": False,
        "defaultPermission": "READ",
        "authorizationFunction": BASIC_LOGIN,
        "existingAdminSecret": {"name": "", "usernameKey": "username", "passwordKey": "password"},
        "postgres": {
            "enabled": False,
            "host": "",
            "port": 5432,
            "database": "",
            "user": "",
            "password": "",
            "driver": "",
            "existingSecret": {"name": "", "usernameKey": "username", "passwordKey": "password"},
        },
    },
    "autoscaling": {
        "enabled": False,
        "minReplicas": 1,
        "maxReplicas": 5,
        "metrics": [
            {
                "type": "Resource",
                "resource": {"name": name, "target": {"type": "Utilization", "averageUtilization": 80}},
            }
            for name in ("memory", "cpu")
        ],
    },
    "backendStore": {
        "databaseConnectionCheck": False,
        "databaseMigration": False,
        "existingDatabaseSecret": {"name": "", "usernameKey": "username", "passwordKey": "password"},
        "postgres": {
            "enabled": False,
            "host": "",
            "port": 5432,
            "database": "",
            "user": "",
            "password": "",
            "driver": "",
        },
    },
    "extraArgs": {},
    "extraContainers": [],
    "extraEnvVars": {},
    "extraSecretNamesForEnvFrom": [],
    "extraVolumeMounts": [],
    "extraVolumes": [],
    "image": {"repository": "burakince/mlflow", "tag": ""},
    "imagePullSecrets": [],
    "initContainers": [],
    "ingress": {"enabled": False, "className": "", "annotations": {}, "hosts": [], "tls": []},
    "initImages": {
        "dbchecker": {"repository": "busybox", "tag": ""},
        "iniFileInitializer": {"repository": "busybox", "tag": ""},
    },
    "log": {"enabled": True, "level": "info"},
    "nodeSelector": {},
    "podAnnotations": {},
    "podSecurityContext": {"fsGroup": 1001, "fsGroupChangePolicy": "OnRootMismatch"},
    "replicaCount": 1,
    "resources": {},
    "serviceAccount": {"create": True, "name": "", "automount": True, "annotations": {}},
    "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "100%", "maxUnavailable": 0}},
    "tolerations": [],
}
_FREE = {
    "affinity",
    "extraArgs",
    "extraEnvVars",
    "ingress.annotations",
    "nodeSelector",
    "podAnnotations",
    "podSecurityContext",
    "resources",
    "serviceAccount.annotations",
    "strategy",
}
"""Paths of the maps that take any key."""

_DBCHECKER = """\
#!/bin/sh
until python -c 'import os, socket; socket.create_connection((os.environ["PGHOST"], os.environ["PGPORT"]), 2)'; do
  sleep 1
done
"""
_INI_MOUNT = "/etc/mlflow/auth/basic_auth.ini"


@dataclass(frozen=True)
class SecretKey:
    """A key of a Secret, as the value of an environment variable."""

    secret: str
    """Name of the Secret."""
    key: str
    """Key in the Secret."""


@dataclass(frozen=True)
class Mount:
    """A volume, or one file of it, in the file system of a container."""

    volume: str
    """Name of the volume."""
    path: str
    """Path in the container."""
    sub_path: str | None = None
    """File of the volume. None: the whole volume."""


@dataclass(frozen=True)
class Container:
    """A container of the pod."""

    name: str
    """Name of the container."""
    image: str
    """Image and tag."""
    command: tuple[str, ...]
    """Program to run."""
    args: tuple[str, ...]
    """Arguments of the program."""
    env: Mapping[str, str | SecretKey]
    """Environment variables."""
    env_from: tuple[tuple[str, str], ...]
    """Kind (`ConfigMap` or `Secret`) and name of objects whose keys are environment variables. `env` overrides them."""
    mounts: tuple[Mount, ...]
    """Mounted volumes."""
    port: int | None = None
    """TCP port of a further container. None: it has none."""


@dataclass(frozen=True)
class Pod:
    """The pod template. Pods are replaced if and only if the template changes."""

    annotations: Mapping[str, str]
    """Annotations of the pod."""
    security_context: Mapping[str, Any]
    """Security context of the pod."""
    service_account: str
    """Name of the ServiceAccount."""
    resources: Mapping[str, Any]
    """Requests and limits of the server's container."""
    init_containers: tuple[Container, ...]
    """Init containers, in the order in which they run."""
    container: Container
    """Container of MLflow's server."""
    extra_containers: tuple[Container, ...]
    """Further containers, which run as long as the pod."""
    volumes: tuple[Mapping[str, Any], ...]
    """Volumes of the pod."""
    config_maps_checksum: Mapping[str, Mapping[str, str]]
    """ConfigMaps whose checksum the chart writes into the template, so that a change of their data replaces pods."""


@dataclass(frozen=True)
class Rendered:
    """The rendered chart."""

    app_version: str
    """Version of MLflow."""
    fullname: str
    """Name of the Deployment, and the beginning of the other objects' names."""
    pod: Pod
    """Pod template of the Deployment."""
    config_maps: Mapping[str, Mapping[str, str]]
    """Data of the ConfigMaps, by name."""
    flask_secret: str
    """Name of the Secret with a random key. The chart creates it at the first install and keeps it."""
    environment_secret: str
    """Name of the Secret for secret environment variables. It is empty here."""
    service: Mapping[str, Any]
    """Spec of the Service."""
    replicas: int | None
    """Replicas of the Deployment.

    None if the values enable autoscaling, even where the chart then creates no autoscaler.
    """
    hpa: Mapping[str, Any] | None
    """Spec of the HorizontalPodAutoscaler, None if there is none."""
    ingress: Mapping[str, Any] | None
    """Annotations and spec of the Ingress, None if there is none."""
    objects: tuple[str, ...]
    """Kind and name of every object, as `Kind/name`, sorted."""


def check(version: str, values: Values) -> None:
    """Refuse a chart version or values that `render` does not know. The values can be incomplete.

    Raises:
        ValuesError: the version or a value is unknown, or a value has another type than its default.
    """
    if version not in APP_VERSIONS:
        raise ValuesError(
            f"version {version} of the chart mlflow is unknown to the local stack; write {' or '.join(APP_VERSIONS)}"
        )
    with_defaults(values, _DEFAULTS, _FREE)


def render(version: str, release: str, namespace: str, values: Values) -> Rendered:
    """Render a version of the chart.

    Raises:
        ValuesError: the version or a value is unknown, or the local stack cannot run these values.
    """
    check(version, values)
    merged = with_defaults(values, _DEFAULTS, _FREE)
    _refuse_unsupported(merged)
    fullname = release if "mlflow" in release else f"{release}-mlflow"
    ingress = merged["ingress"]
    config_maps = _config_maps(version, fullname, merged)
    service_account = merged["serviceAccount"]["name"] or (
        fullname if merged["serviceAccount"]["create"] else "default"
    )
    hpa = _hpa(fullname, merged)
    objects = [f"ConfigMap/{name}" for name in config_maps]
    objects += [f"{kind}/{fullname}" for kind in ("Deployment", "Service")]
    objects += [f"Secret/{fullname}-env-secret", f"Secret/{fullname}-flask-server-secret-key"]
    if merged["serviceAccount"]["create"]:
        objects.append(f"ServiceAccount/{service_account}")
    if hpa:
        objects.append(f"HorizontalPodAutoscaler/{fullname}")
    if ingress["enabled"]:
        objects.append(f"Ingress/{fullname}")
    return Rendered(
        app_version=APP_VERSIONS[version],
        fullname=fullname,
        pod=Pod(
            annotations=merged["podAnnotations"],
            security_context=merged["podSecurityContext"],
            service_account=service_account,
            resources=merged["resources"],
            init_containers=_init_containers(version, fullname, merged),
            container=_server(version, fullname, merged),
            extra_containers=tuple(map(_container, merged["extraContainers"])),
            volumes=_volumes(version, fullname, merged),
            config_maps_checksum={
                name: data for name, data in config_maps.items() if not name.endswith("-auth-ini-template")
            },
        ),
        config_maps=config_maps,
        flask_secret=f"{fullname}-flask-server-secret-key",
        environment_secret=f"{fullname}-env-secret",
        service={
            "type": "ClusterIP",
            "ports": [{"port": 80, "targetPort": "mlflow", "protocol": "TCP", "name": "http"}],
            "selector": {
                "app": "mlflow",
                "app.kubernetes.io/name": "mlflow",
                "app.kubernetes.io/instance": release,
            },
        },
        replicas=None if merged["autoscaling"]["enabled"] else merged["replicaCount"],
        hpa=hpa,
        ingress=_ingress(fullname, ingress) if ingress["enabled"] else None,
        objects=tuple(sorted(objects)),
    )


def _refuse_unsupported(merged: Values) -> None:
    backend, auth = merged["backendStore"], merged["auth"]
    problems: list[str] = []
    if not backend["postgres"]["enabled"]:
        problems.append("backendStore.postgres.enabled must be true: the local stack has no other database")
    if not backend["existingDatabaseSecret"]["name"]:
        problems.append("backendStore.existingDatabaseSecret.name is missing")
    if backend["databaseMigration"]:
        problems.append("backendStore.databaseMigration must be false: write the migration into initContainers")
    if auth["enabled"] and not auth["existingAdminSecret"]["name"]:
        problems.append("auth.existingAdminSecret.name is missing")
    if auth["postgres"]["enabled"] and not auth["postgres"]["existingSecret"]["name"]:
        problems.append("auth.postgres.existingSecret.name is missing")
    for path, section in (("backendStore", backend), ("auth", auth)):
        database = section["postgres"]
        if database["enabled"] and not (database["host"] and database["database"]):
            problems.append(f"{path}.postgres needs host and database")
        if database["user"] or database["password"]:
            problems.append(f"{path}.postgres: user and password belong in a Secret, not in the values")
    for name in ("extraArgs", "extraEnvVars", "podAnnotations"):
        problems += [
            f"{name}.{key} must be a string" for key, value in merged[name].items() if not isinstance(value, str)
        ]
    if problems:
        raise ValuesError("; ".join(problems))


def _scheme(driver: str) -> str:
    return f"postgresql+{driver}://" if driver else "postgresql://"


def _config_maps(version: str, fullname: str, merged: Values) -> dict[str, dict[str, str]]:
    backend, log = merged["backendStore"], merged["log"]
    environment = {
        "PGHOST": backend["postgres"]["host"],
        "PGPORT": str(backend["postgres"]["port"]),
        "PGDATABASE": backend["postgres"]["database"],
        "MLFLOW_CONFIGURE_LOGGING": str(log["enabled"]).lower(),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    if log["enabled"]:
        environment["MLFLOW_LOGGING_LEVEL"] = log["level"].upper()
    ingress = merged["ingress"]
    if _VERSIONS[version].derives_hosts and ingress["enabled"]:
        hosts = [host["host"] for host in ingress["hosts"]]
        scheme = "https" if ingress["tls"] else "http"
        environment["MLFLOW_SERVER_ALLOWED_HOSTS"] = ",".join(hosts)
        environment["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] = ",".join(f"{scheme}://{host}" for host in hosts)
    result = {f"{fullname}-env-configmap": environment}
    if backend["databaseConnectionCheck"]:
        result[f"{fullname}-dbchecker"] = {"dbchecker.sh": _DBCHECKER}
    if merged["auth"]["enabled"]:
        result[f"{fullname}-auth-ini-template"] = {"auth_template.ini": _auth_ini(merged["auth"])}
    return result


def _auth_ini(auth: Values) -> str:
    database_uri = "sqlite:///basic_auth.db"
    if auth["postgres"]["enabled"]:
        database = auth["postgres"]
        login = "$(POSTGRES_USERNAME_PLACEHOLDER):$(POSTGRES_PASSWORD_PLACEHOLDER)"
        server = f"{database['host']}:{database['port']}/{database['database']}"
        database_uri = f"{_scheme(database['driver'])}{login}@{server}"
    # The chart writes this value into a YAML block that is indented by four spaces. YAML removes them from each line,
    # so the second and later lines lose four spaces of their own.
    first, *more = auth["authorizationFunction"].split("\n")
    if any(not line.startswith("    ") for line in more):
        raise ValuesError("auth.authorizationFunction: further lines must begin with four spaces")
    return "\n".join(
        [
            "[mlflow]",
            f"default_permission = {auth['defaultPermission']}",
            f"database_uri = {database_uri}",
            "admin_username = $(ADMIN_USERNAME_PLACEHOLDER)",
            "admin_password = $(ADMIN_PASSWORD_PLACEHOLDER)",
            f"authorization_function = {first}",
            *(line[4:] for line in more),
            "",
        ]
    )


def _database_env(backend: Values) -> dict[str, str | SecretKey]:
    secret = backend["existingDatabaseSecret"]
    return {
        "PGUSER": SecretKey(secret["name"], secret["usernameKey"]),
        "PGPASSWORD": SecretKey(secret["name"], secret["passwordKey"]),
    }


def _env_from(fullname: str) -> tuple[tuple[str, str], ...]:
    return (
        ("ConfigMap", f"{fullname}-env-configmap"),
        ("Secret", f"{fullname}-env-secret"),
        ("Secret", f"{fullname}-flask-server-secret-key"),
    )


def _tmp_mounts(version: str) -> tuple[Mount, ...]:
    return (Mount("tmp", "/tmp"),) if _VERSIONS[version].mounts_tmp else ()  # noqa: S108 -- a path in the container


def _init_containers(version: str, fullname: str, merged: Values) -> tuple[Container, ...]:
    backend, auth, images = merged["backendStore"], merged["auth"], merged["initImages"]

    def image(name: str, default_tag: str) -> str:
        return f"{images[name]['repository']}:{images[name]['tag'] or default_tag}"

    containers: list[Container] = []
    if backend["databaseConnectionCheck"]:
        containers.append(
            Container(
                name="dbchecker",
                image=image("dbchecker", _VERSIONS[version].busybox),
                command=("/script/dbchecker.sh",),
                args=(),
                env=_database_env(backend),
                env_from=_env_from(fullname)[:1],
                mounts=(*_tmp_mounts(version), Mount("dbchecker", "/script/dbchecker.sh", "dbchecker.sh")),
            )
        )
    if auth["enabled"]:
        admin, database = auth["existingAdminSecret"], auth["postgres"]["existingSecret"]
        env: dict[str, str | SecretKey] = {
            "ADMIN_USERNAME": SecretKey(admin["name"], admin["usernameKey"]),
            "ADMIN_PASSWORD": SecretKey(admin["name"], admin["passwordKey"]),
        }
        variables = {"ADMIN_USERNAME": "ADMIN_USERNAME", "ADMIN_PASSWORD": "ADMIN_PASSWORD"}
        if auth["postgres"]["enabled"]:
            env["DB_USERNAME"] = SecretKey(database["name"], database["usernameKey"])
            env["DB_PASSWORD"] = SecretKey(database["name"], database["passwordKey"])
            variables |= {"POSTGRES_USERNAME": "DB_USERNAME", "POSTGRES_PASSWORD": "DB_PASSWORD"}
        expressions = " \\\n    ".join(
            f'-e "s/\\$({placeholder}_PLACEHOLDER)/${{{variable}}}/g"' for placeholder, variable in variables.items()
        )
        containers.append(
            Container(
                name="ini-file-initializer",
                image=image("iniFileInitializer", _VERSIONS[version].busybox),
                command=("sh", "-c"),
                args=(f"sed {expressions} \\\n    /template/auth_template.ini > /config/auth_result.ini\n",),
                env=env,
                env_from=(),
                mounts=(Mount("auth-ini-template-file", "/template"), Mount("ini-file", "/config")),
            )
        )
    return (*containers, *map(_container, merged["initContainers"]))


def _container(spec: Values) -> Container:
    """Return a container of the values, which is written as in Kubernetes."""
    env: dict[str, str | SecretKey] = {}
    for variable in spec["env"]:
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        env[variable["name"]] = SecretKey(reference["name"], reference["key"]) if reference else variable["value"]
    return Container(
        name=spec["name"],
        image=spec["image"],
        command=tuple(spec["command"]),
        args=tuple(spec["args"]),
        env=env,
        env_from=tuple(("ConfigMap", source["configMapRef"]["name"]) for source in spec.get("envFrom", [])),
        mounts=tuple(Mount(mount["name"], mount["mountPath"]) for mount in spec["volumeMounts"]),
        port=next((port["containerPort"] for port in spec.get("ports", [])), None),
    )


def _server(version: str, fullname: str, merged: Values) -> Container:
    backend, auth, artifacts = merged["backendStore"], merged["auth"], merged["artifactRoot"]
    args = [
        "server",
        "--host=0.0.0.0",
        f"--port={CONTAINER_PORT}",
        f"--backend-store-uri={_scheme(backend['postgres']['driver'])}",
    ]
    s3 = artifacts["s3"]
    bucket = f"s3://{s3['bucket']}/{s3['path']}" if s3["enabled"] else None
    if artifacts["proxiedArtifactStorage"]:
        args += [f"--artifacts-destination={bucket or artifacts['defaultArtifactsDestination']}", "--serve-artifacts"]
    else:
        args.append(f"--default-artifact-root={bucket or './mlruns'}")
    if auth["enabled"]:
        args.append("--app-name=basic-auth")
    if merged["log"]["enabled"]:
        args.append(f"--{_VERSIONS[version].server}-opts='--log-level={merged['log']['level']}'")
    args += [f"--{_kebab(key)}={value}" for key, value in sorted(merged["extraArgs"].items())]
    tag = merged["image"]["tag"] or APP_VERSIONS[version]
    env: dict[str, str | SecretKey] = {"MLFLOW_VERSION": tag, **_database_env(backend)}
    mounts = [*_tmp_mounts(version)]
    if auth["enabled"]:
        env["MLFLOW_AUTH_CONFIG_PATH"] = _INI_MOUNT
        mounts.append(Mount("ini-file", _INI_MOUNT, "auth_result.ini"))
    upper = _VERSIONS[version].upper_case_variables
    env |= {key.upper() if upper else key: value for key, value in merged["extraEnvVars"].items()}
    mounts += [Mount(mount["name"], mount["mountPath"], mount.get("subPath")) for mount in merged["extraVolumeMounts"]]
    return Container(
        name="mlflow",
        image=f"{merged['image']['repository']}:{tag}",
        command=("mlflow",),
        args=tuple(args),
        env=env,
        env_from=(*_env_from(fullname), *(("Secret", name) for name in merged["extraSecretNamesForEnvFrom"])),
        mounts=tuple(mounts),
    )


def _kebab(camel: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", camel).lower()


def _volumes(version: str, fullname: str, merged: Values) -> tuple[Mapping[str, Any], ...]:
    backend = merged["backendStore"]
    volumes: list[Mapping[str, Any]] = []
    if _VERSIONS[version].mounts_tmp:
        volumes.append({"name": "tmp", "emptyDir": {}})
    if backend["databaseConnectionCheck"]:
        volumes.append({"name": "dbchecker", "configMap": {"name": f"{fullname}-dbchecker", "defaultMode": 0o777}})
    if merged["auth"]["enabled"]:
        template = {"name": f"{fullname}-auth-ini-template"}
        volumes += [{"name": "ini-file", "emptyDir": {}}, {"name": "auth-ini-template-file", "configMap": template}]
    return (*volumes, *merged["extraVolumes"])


def _hpa(fullname: str, merged: Values) -> Mapping[str, Any] | None:
    auth, autoscaling = merged["auth"], merged["autoscaling"]
    shared = merged["artifactRoot"]["s3"]["enabled"] and (not auth["enabled"] or auth["postgres"]["enabled"])
    if not (autoscaling["enabled"] and shared):
        return None
    return {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": fullname},
        "minReplicas": autoscaling["minReplicas"],
        "maxReplicas": autoscaling["maxReplicas"],
        "metrics": autoscaling["metrics"],
    }


def _ingress(fullname: str, ingress: Values) -> Mapping[str, Any]:
    backend = {"service": {"name": fullname, "port": {"number": 80}}}
    spec: dict[str, Any] = {
        "ingressClassName": ingress["className"],
        "rules": [
            {
                "host": host["host"],
                "http": {"paths": [{**path, "backend": backend} for path in host["paths"]]},
            }
            for host in ingress["hosts"]
        ],
    }
    if ingress["tls"]:
        spec["tls"] = ingress["tls"]
    return {"annotations": ingress["annotations"] or None, "spec": spec}
