"""MlflowRelease: the Secrets, the objects that the chart lacks, and the values, which it does not check."""

import configparser
import dataclasses
import fnmatch
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import wiring
from components.mlflow_release import BucketArgs, MlflowRelease
from components.mlflow_release.chart_values import mlflow_values
from components.mlflow_release.chart_versions import CHART_VERSIONS
from components.mlflow_release.login_code import CODE, login_code
from components.mlflow_release.names import POD_LABELS
from components.mlflow_release.network_policy import network_policy
from settings.mlflow import MLFLOW_OF_A_CHART
from settings.reader import parse
from tests.unit.harness import ANY_CLUSTER, LDAP, MINIMAL, OIDC, Account, Deployment, changed, deploy, plain


def anywhere(changes: Mapping[str, Any], *secrets: str) -> Deployment:
    return deploy(changed(ANY_CLUSTER, changes), secrets=["postgres", *secrets])


class Computed:
    """Values and policy of the release for some settings. They are computed without the whole program, to save time."""

    def __init__(self, changes: Mapping[str, Any], base: Mapping[str, Any] = ANY_CLUSTER) -> None:
        settings, problems = parse(changed(base, changes), {"postgres"})
        assert settings is not None, problems
        assert problems == []
        server: Any = SimpleNamespace(
            host="db.example.com", port=5432, networks={"everywhere": "0.0.0.0/0"}, snapshot=None
        )
        database: Any = SimpleNamespace(name="mlflow", user="mlflow_user", password="not in values")
        self.args = wiring.mlflow(settings, None, server, database, None, None)
        self.values = mlflow_values(self.args, login_code(self.args), "checksum")
        self.environment: dict[str, str] = self.values["extraEnvVars"]
        self.policy: Any = network_policy(self.args)


Told = Deployment | Computed


MACHINES = {"ci": "https://oidc.example.org:8443/id repo:acme/x:ref:refs/heads/main"}
AUTHORITY = "-----BEGIN CERTIFICATE-----\n...\n-----END CERTIFICATE-----\n"


@pytest.fixture(scope="module")
def ldap() -> Deployment:
    return anywhere({"mlflow.auth": {"mode": "ldap", "ldap": {**LDAP, "caCertificate": AUTHORITY}}})


@pytest.fixture(scope="module")
def oidc() -> Deployment:
    provider = {**OIDC, "audience": "mlflow-api", "machines": MACHINES, "caCertificate": AUTHORITY}
    return anywhere({"mlflow.auth": {"mode": "oidc", "oidc": provider}}, "mlflow")


@pytest.fixture(scope="module")
def open_to_all() -> Deployment:
    return anywhere({"mlflow.auth.mode": "none"})


def test_the_release_is_pinned_and_leaves_nothing_half_installed(prod: Deployment) -> None:
    release = prod.named("mlflow-release")
    assert (release["chart"], release["version"]) == ("mlflow", "1.11.5")
    # A chart from a directory could differ from machine to machine.
    assert release["repositoryOpts"]["repo"].startswith("https://")
    assert (release["atomic"], release["cleanupOnFail"], release["timeout"]) == (True, True, 600)
    assert (release["name"], release["namespace"]) == ("mlflow", "mlflow")


def test_the_guides_chart_and_another_timeout_can_be_chosen() -> None:
    release = anywhere({"mlflow.chartVersion": "1.8.1", "mlflow.timeoutSeconds": 300}).named("mlflow-release")
    assert (release["version"], release["timeout"]) == ("1.8.1", 300)


def test_the_guides_chart_runs_under_gunicorn_and_the_default_one_does_not(any_cluster: Deployment) -> None:
    # Under uvicorn, the MLflow of this chart answers some routes without a login.
    options = Computed({"mlflow.chartVersion": "1.8.1"}).values["extraArgs"]["gunicornOpts"].split()
    # With one thread, gunicorn's default, an upload would delay the answer to the kubelet's probe. Each request that HAProxy lets through
    # has one: 9 of the API, 9 transfers and 16 for the page.
    assert set(options) == {
        *("--threads=40", "--timeout=300", "--limit-request-line=8190"),
        "--config=/etc/mlflow-login/login_tables.py",
    }
    assert "gunicornOpts" not in any_cluster.values["extraArgs"]


def test_a_worker_that_has_too_little_cpu_is_not_killed_with_its_requests(any_cluster: Deployment) -> None:
    # uvicorn gives a worker 5 s to answer. On a busy machine workers were killed and started, over and over.
    assert any_cluster.values["extraArgs"]["uvicornOpts"] == "--timeout-worker-healthcheck=60"
    assert "uvicornOpts" not in Computed({"mlflow.chartVersion": "1.8.1"}).values["extraArgs"]


# Secrets


def secret(deployment: Deployment, name: str) -> Mapping[str, str]:
    (only,) = [
        resource
        for resource in deployment.of_type("kubernetes:core/v1:Secret")
        if resource["metadata"] == {"name": name, "namespace": "mlflow"}
    ]
    return only["stringData"]


def test_values_name_the_secrets_and_their_keys_and_nothing_else(any_cluster: Deployment) -> None:
    values = any_cluster.values
    references = [
        values["backendStore"]["existingDatabaseSecret"],
        values["auth"]["existingAdminSecret"],
        values["auth"]["postgres"]["existingSecret"],
    ]
    for reference in references:
        data = secret(any_cluster, reference["name"])
        # A pod never starts if a key is missing.
        assert {reference["usernameKey"], reference["passwordKey"]} <= set(data)
    # The chart's schema requires both.
    assert values["backendStore"]["postgres"]["user"] == ""
    assert values["backendStore"]["postgres"]["password"] == ""
    assert not {"user", "password"} & set(values["auth"]["postgres"])


def test_the_secrets_hold_what_mlflow_logs_in_with(any_cluster: Deployment) -> None:
    assert secret(any_cluster, "postgres-database-secret") == {
        "username": "mlflow_user",
        "password": "generated-database-user-password-0",
    }
    assert secret(any_cluster, "mlflow-auth") == {"admin-user": "admin", "admin-password": "generated-mlflow-admin"}


def test_the_pods_start_when_the_secrets_are_there(any_cluster: Deployment) -> None:
    secrets = {"mlflow-postgres-database-secret", "mlflow-mlflow-auth"}
    assert secrets <= set(any_cluster.named("mlflow-release").depends_on)


def test_the_administrators_password_is_generated_in_an_alphabet_that_survives(any_cluster: Deployment) -> None:
    generated = any_cluster.named("mlflow-admin")
    # MLflow does not start with fewer than 12 characters.
    assert generated["length"] >= 24
    assert generated["special"] is False


def test_an_administrator_that_is_given_is_used_and_no_password_is_generated() -> None:
    deployment = anywhere({"mlflow.auth": {"adminUsername": "root", "adminPassword": "correct-horse"}}, "mlflow")
    assert secret(deployment, "mlflow-auth") == {"admin-user": "root", "admin-password": "correct-horse"}
    assert "mlflow-admin" not in {resource.name for resource in deployment.resources}
    assert deployment.outputs["adminUser"] == "root"
    assert plain(deployment.outputs["adminPassword"]) == "correct-horse"


# Keys


def test_mlflow_encrypts_with_generated_keys_that_every_pod_has(any_cluster: Deployment) -> None:
    assert any_cluster.values["extraSecretNamesForEnvFrom"] == ["mlflow-keys"]
    assert secret(any_cluster, "mlflow-keys") == {
        "MLFLOW_CRYPTO_KEK_PASSPHRASE": "generated_mlflow-passphrase-",
        # Fernet, with which MLflow encrypts, takes the alphabet for URLs only.
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": "generated_mlflow-webhook-key-",
    }
    assert [any_cluster.named(f"mlflow-{key}")["length"] for key in ("passphrase", "webhook-key")] == [32, 32]


def test_the_keys_are_there_before_the_pods(any_cluster: Deployment) -> None:
    assert "mlflow-mlflow-keys" in any_cluster.named("mlflow-release").depends_on


def test_generated_keys_cannot_be_deleted_by_accident() -> None:
    for protect in (True, False):
        deployment = anywhere({"protect": protect})
        assert [deployment.named(f"mlflow-{key}").protect for key in ("passphrase", "webhook-key")] == [protect] * 2


def test_keys_that_are_given_are_used_and_the_generated_ones_are_kept() -> None:
    given = {"passphrase": "a/passphrase+of-at-least-32-characters", "webhooks": f"{'k' * 43}=", "version": 2}
    deployment = anywhere({"mlflow.keys": given}, "mlflow")
    assert secret(deployment, "mlflow-keys") == {
        "MLFLOW_CRYPTO_KEK_PASSPHRASE": given["passphrase"],
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": given["webhooks"],
    }
    assert deployment.named("mlflow-passphrase").protect
    assert deployment.named("mlflow-webhook-key").protect


def test_another_number_of_the_passphrase_replaces_the_pods(any_cluster: Deployment) -> None:
    # The variable is part of the pod, and the keys are not.
    assert any_cluster.environment["MLFLOW_CRYPTO_KEK_VERSION"] == "1"
    assert Computed({"mlflow.keys.version": 2}).environment["MLFLOW_CRYPTO_KEK_VERSION"] == "2"


def test_a_password_that_changes_leaves_the_keys_and_a_key_leaves_the_pods(any_cluster: Deployment) -> None:
    rotated = anywhere({"database.rotation": 1})
    assert secret(rotated, "mlflow-keys") == secret(any_cluster, "mlflow-keys")
    other = anywhere({"mlflow.keys.webhooks": f"{'k' * 43}="}, "mlflow")
    assert other.values == any_cluster.values


def checksum(deployment: Deployment) -> str:
    annotations = deployment.values["podAnnotations"]
    return annotations["checksum/secrets"]


@pytest.mark.parametrize(
    "changes",
    [
        {"mlflow.auth.adminPassword": "correct-horse"},
        {"database.password": "correct-horse"},
        {"mlflow.auth.adminUsername": "root"},
    ],
)
def test_pods_roll_when_a_secret_changes(any_cluster: Deployment, changes: Mapping[str, Any]) -> None:
    # The chart does not watch Secrets that it did not create.
    assert checksum(anywhere(changes, "mlflow", "database")) != checksum(any_cluster)


def test_the_checksum_changes_with_the_secrets_only(any_cluster: Deployment) -> None:
    deployment = anywhere(
        {
            "mlflow.host": "other.example.com",
            "mlflow.resources.memoryLimit": "3Gi",
            "mlflow.workers": 2,
            "ingress.className": "edge",
            "postgres.existing.adminPassword": "another master, whom the pods do not know",
        }
    )
    assert checksum(deployment) == checksum(any_cluster)


def test_the_checksum_tells_apart_what_only_looks_the_same_in_a_row() -> None:
    # Sorted by key, the password comes right before the name, so the two stacks differ only in where the one ends.
    one = anywhere({"mlflow.auth": {"adminUsername": "ab", "adminPassword": "correct-horse"}}, "mlflow")
    other = anywhere({"mlflow.auth": {"adminUsername": "b", "adminPassword": "correct-horsea"}}, "mlflow")
    assert checksum(one) != checksum(other)


def test_pods_roll_when_the_rules_of_the_login_change() -> None:
    other = Computed({"mlflow.auth.defaultPermission": "READ"})
    assert other.values["podAnnotations"] != Computed({}).values["podAnnotations"]


# The database


def migration(deployment: Told) -> dict[str, Any]:
    (container,) = deployment.values["initContainers"]
    return container


def plain_variables(deployment: Told) -> dict[str, str]:
    """Return the variables of the migration that are in the values themselves."""
    return {each["name"]: each["value"] for each in migration(deployment)["env"] if "value" in each}


def test_the_database_proves_itself_to_the_server_and_to_the_migration(any_cluster: Deployment) -> None:
    assert plain_variables(any_cluster) == {"PGSSLMODE": "require", "PGCHANNELBINDING": "require"}
    assert plain_variables(any_cluster).items() <= any_cluster.environment.items()
    # The chart's own container is not told so.
    assert any_cluster.values["backendStore"]["databaseMigration"] is False
    assert not any_cluster.of_type("kubernetes:core/v1:ConfigMap")[1:]


def test_a_read_only_database_is_no_mistake_of_the_caller_without_a_login_either(
    open_to_all: Deployment, any_cluster: Deployment
) -> None:
    assert open_to_all.environment["PGTARGETSESSIONATTRS"] == "read-write"
    # The code of the login tells clients to try again, and lets them read meanwhile.
    assert "PGTARGETSESSIONATTRS" not in any_cluster.environment


def test_with_an_authority_the_certificate_is_checked_instead() -> None:
    deployment = anywhere({"database.caFile": "tests/unit/authority.pem"})
    file = deployment.environment["PGSSLROOTCERT"]
    assert plain_variables(deployment) == {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": file}
    assert deployment.environment["PGSSLMODE"] == "verify-full"
    # A server behind a pooler cannot do channel binding.
    assert "PGCHANNELBINDING" not in deployment.environment
    folder, _, name = file.rpartition("/")
    mount = {"name": "mlflow-database-ca", "mountPath": folder, "readOnly": True}
    assert mount in deployment.values["extraVolumeMounts"]
    assert mount in migration(deployment)["volumeMounts"]
    config_map = deployment.named("mlflow-database-ca")
    assert config_map["data"] == {name: Path("tests/unit/authority.pem").read_text()}
    assert {"name": mount["name"], "configMap": {"name": config_map["metadata"]["name"]}} in deployment.values[
        "extraVolumes"
    ]
    assert "mlflow-database-ca" in deployment.named("mlflow-release").depends_on
    assert deployment.values["podAnnotations"]["checksum/database-ca"]


def test_the_migration_logs_in_as_the_server_does_and_runs_like_it(any_cluster: Deployment) -> None:
    container = migration(any_cluster)
    secrets = {each["name"]: each["valueFrom"]["secretKeyRef"] for each in container["env"] if "valueFrom" in each}
    assert {variable: reference["key"] for variable, reference in secrets.items()} == {
        "PGUSER": "username",
        "PGPASSWORD": "password",
    }
    assert {reference["name"] for reference in secrets.values()} == {"postgres-database-secret"}
    assert container["resources"] == any_cluster.values["resources"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False


# What users make the server send


def test_the_gateway_is_off_and_calls_no_provider(any_cluster: Deployment, open_to_all: Deployment) -> None:
    for deployment in (any_cluster, open_to_all):
        assert deployment.environment["MLFLOW_ENABLE_AI_GATEWAY"] == "false"
        # A list without a name would allow every provider.
        assert deployment.environment["MLFLOW_GATEWAY_ALLOWED_PROVIDERS"] == "none"


def test_with_the_gateway_only_providers_are_called_that_the_guard_knows() -> None:
    environment = Computed({"mlflow.gateway": True}).environment
    assert environment["MLFLOW_ENABLE_AI_GATEWAY"] == "true"
    providers = set(environment["MLFLOW_GATEWAY_ALLOWED_PROVIDERS"].split(","))
    assert {"openai", "anthropic"} <= providers
    # These have clients of their own, and Bedrock can take the pods' own credentials.
    assert not {"bedrock", "vertex_ai", "databricks", "litellm"} & providers


def test_the_networks_of_the_vpc_are_internal_whatever_their_addresses() -> None:
    deployment = deploy(MINIMAL, account=Account(cidrs=["10.0.0.0/16", "11.1.0.0/16"]))
    assert deployment.environment["INTERNAL_NETWORKS"] == "10.0.0.0/16,11.1.0.0/16"


# Hosts and origins


def hosts(deployment: Told) -> list[str]:
    return deployment.environment["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")


def origins(deployment: Told) -> list[str]:
    return deployment.environment["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"].split(",")


def lets_in(deployment: Told, header: str) -> bool:
    return any(fnmatch.fnmatch(header, pattern) for pattern in hosts(deployment))


@pytest.mark.parametrize(
    "header",
    [
        "mlflow.example.com",
        "mlflow.example.com:8443",
        "mlflow.mlflow.svc",
        "mlflow.mlflow.svc:80",
        "mlflow.mlflow.svc.cluster.local",
        "mlflow.mlflow.svc.cluster.local:80",
    ],
)
def test_the_sites_host_and_the_name_in_the_cluster_are_let_in(any_cluster: Deployment, header: str) -> None:
    assert lets_in(any_cluster, header)


@pytest.mark.parametrize(
    "header",
    [
        "evil.example",
        "example.com",
        "mlflow.example.com.evil.example",
        "10.0.0.1",
        "mlflow.mlflow.svc.evil.example",
    ],
)
def test_a_host_that_somebody_else_owns_is_not_let_in(any_cluster: Deployment, header: str) -> None:
    # Otherwise a page of that host could read MLflow through the browser of a logged-in user (DNS rebinding).
    assert not lets_in(any_cluster, header)


def test_hosts_from_the_settings_come_on_top() -> None:
    deployment = Computed({"mlflow.allowedHosts": ["mlflow.internal:*"], "mlflow.namespace": "tracking"})
    assert lets_in(deployment, "mlflow.internal:80")
    assert lets_in(deployment, "mlflow.example.com")
    assert lets_in(deployment, "mlflow.tracking.svc")
    assert not lets_in(deployment, "mlflow.mlflow.svc")


def test_only_the_sites_own_pages_may_call_the_api(prod: Deployment, any_cluster: Deployment) -> None:
    for deployment in (prod, any_cluster):
        # The chart would derive http:// here, and MLflow would answer every write of the UI with 403.
        assert origins(deployment) == ["https://mlflow.example.com"]


def test_the_origin_has_the_port_that_people_type(local: Deployment) -> None:
    assert origins(local) == ["https://localhost:8443"]
    assert local.outputs["url"] == "https://localhost:8443"


def test_without_tls_the_origin_is_http() -> None:
    deployment = Computed({"ingress.plainHttp": True})
    assert origins(deployment) == ["http://mlflow.example.com"]


def test_other_origins_are_those_of_the_settings() -> None:
    deployment = Computed({"mlflow.corsAllowedOrigins": ["https://notebooks.example.com"]})
    assert origins(deployment) == ["https://mlflow.example.com", "https://notebooks.example.com"]


# The login


def auth_ini(deployment: Told) -> Mapping[str, str]:
    """Return the login's ini, up to the function, as MLflow reads it from the YAML that the chart's template writes."""
    function = deployment.values["auth"]["authorizationFunction"]
    manifest = f"data:\n  basic_auth.ini: |\n    [mlflow]\n    authorization_function = {function}\n"
    ini = configparser.ConfigParser()
    ini.read_string(yaml.safe_load(manifest)["data"]["basic_auth.ini"])
    return ini["mlflow"]


def test_a_checked_password_is_remembered_for_a_minute(any_cluster: Deployment) -> None:
    # Without the cache, the check of a password costs 213 ms of CPU on every request.
    assert any_cluster.environment["LOGIN_CACHE_SECONDS"] == "60"


def test_the_settings_and_the_release_name_the_same_mlflow_for_each_chart() -> None:
    # Settings and components do not import each other, so each has a table.
    assert {chart: version.mlflow for chart, version in CHART_VERSIONS.items()} == MLFLOW_OF_A_CHART


@pytest.mark.parametrize("version", CHART_VERSIONS)
def test_our_own_function_decides_on_every_request_of_a_login(version: str) -> None:
    deployment = anywhere({"mlflow.chartVersion": version})
    assert dict(auth_ini(deployment)) == {"authorization_function": "password_login:authenticate"}
    files = deployment.named("mlflow-login")
    # All of it, whatever the login and the chart: a release that is rolled back finds the code of its pods.
    # The clean-up has a pod of its own.
    others = {"__init__.py", "clean_up.py"}
    assert set(files["data"]) == {file.name for file in CODE.iterdir() if file.name.endswith(".py")} - others
    (mount,) = [mount for mount in deployment.values["extraVolumeMounts"] if mount["name"] == "login"]
    assert {"name": "login", "configMap": {"name": files["metadata"]["name"]}} in deployment.values["extraVolumes"]
    assert deployment.environment["PYTHONPATH"] == mount["mountPath"]
    assert "mlflow-login" in deployment.named("mlflow-release").depends_on


@pytest.mark.parametrize("stack", ["any_cluster", "ldap", "prod"])
def test_users_are_kept_in_postgres(request: pytest.FixtureRequest, stack: str) -> None:
    deployment: Deployment = request.getfixturevalue(stack)
    users, runs = deployment.values["auth"]["postgres"], deployment.values["backendStore"]["postgres"]
    # The chart's default is a SQLite file, which is deleted with the pod.
    assert users["enabled"] is True
    assert [users[key] for key in ("host", "port", "database")] == [runs[key] for key in ("host", "port", "database")]
    # Without a driver, SQLAlchemy looks for psycopg 3, which the image lacks.
    assert users["driver"] == runs["driver"] == "psycopg2"


def test_users_may_nothing_with_what_belongs_to_others_unless_the_settings_say_so(any_cluster: Deployment) -> None:
    assert any_cluster.values["auth"]["defaultPermission"] == "NO_PERMISSIONS"
    assert Computed({"mlflow.auth.defaultPermission": "READ"}).values["auth"]["defaultPermission"] == "READ"


def test_a_directory_checks_passwords_where_the_settings_say_so(ldap: Deployment) -> None:
    assert auth_ini(ldap)["authorization_function"] == "ldap_login:authenticate"
    # The chart's own mode for directories keeps users in a SQLite file.
    assert "ldapAuth" not in ldap.values


def test_the_directory_is_described_in_variables(ldap: Deployment, any_cluster: Deployment) -> None:
    variables = {key: value for key, value in ldap.environment.items() if key.startswith("LDAP_")}
    assert variables == {
        "LDAP_URI": "ldaps://ldap.example.com/dc=example,dc=com",
        "LDAP_TLS_VERIFY": "required",
        "LDAP_CA": "/etc/mlflow-login/ca.crt",
        "LDAP_LOOKUP_BIND": "uid=%s,ou=people,dc=example,dc=com",
        "LDAP_GROUP_ATTRIBUTE": "dn",
        "LDAP_GROUP_SEARCH_BASE_DN": "ou=groups,dc=example,dc=com",
        "LDAP_GROUP_SEARCH_FILTER": "(|(member=%s)(uniqueMember=%s))",
        "LDAP_GROUP_ADMIN_DN": "cn=mlflow-admins,ou=groups,dc=example,dc=com",
        "LDAP_GROUP_USER_DN": "cn=mlflow,ou=groups,dc=example,dc=com",
        "LDAP_START_TLS": "true",
    }
    assert ldap.environment["LOGIN_CACHE_SECONDS"] == "60"
    assert not [key for key in any_cluster.environment if key.startswith("LDAP_")]


def test_the_login_function_and_the_directorys_authority_are_mounted_where_the_variables_point(
    ldap: Deployment, any_cluster: Deployment
) -> None:
    files = ldap.named("mlflow-login")
    (mount,) = [mount for mount in ldap.values["extraVolumeMounts"] if mount["name"] == "login"]
    assert ldap.environment["PYTHONPATH"] == mount["mountPath"]
    assert ldap.environment["LDAP_CA"] == f"{mount['mountPath']}/ca.crt"
    assert files["data"].keys() - any_cluster.named("mlflow-login")["data"].keys() == {"ca.crt"}


def test_an_identity_provider_logs_people_in_where_the_settings_say_so(oidc: Deployment) -> None:
    assert auth_ini(oidc)["authorization_function"] == "oidc_login:authenticate"
    # The chart's own mode keeps accounts and permissions of its own, and lets everybody change everything.
    assert "oidcAuth" not in oidc.values
    assert "oauth2Proxy" not in oidc.values
    files = oidc.named("mlflow-login")["data"]
    assert files["ca.crt"] == AUTHORITY
    rules = json.loads(files["oidc.json"])
    assert rules["site"] == "https://mlflow.example.com"
    assert rules["user_groups"] == ["/mlflow-users"]
    assert rules["machines"] == MACHINES


def test_the_clients_secret_is_in_one_secret_only(oidc: Deployment) -> None:
    secret = oidc.named("mlflow-mlflow-oidc")
    assert secret["stringData"]["OIDC_CLIENT_SECRET"] == "the-client-secret"
    assert secret["stringData"]["OIDC_SESSION_KEY"]
    assert "mlflow-oidc" in oidc.values["extraSecretNamesForEnvFrom"]
    elsewhere = [
        each.name for each in oidc.resources if "the-client-secret" in json.dumps(plain(each.inputs), default=str)
    ]
    assert elsewhere == ["mlflow-mlflow-oidc"]


def test_haproxy_takes_sessions_and_tokens_for_logins_with_an_identity_provider_only(
    oidc: Deployment, ldap: Deployment
) -> None:
    rules, others = (
        told.values["ingress"]["annotations"]["haproxy.org/backend-config-snippet"] for told in (oidc, ldap)
    )
    assert "acl has_login req.cook(__Host-mlflow) -m found" in rules
    assert '-m beg -i "basic " "bearer "' in rules
    assert "WWW-Authenticate 'Bearer" in rules
    assert "req.cook" not in others
    assert "bearer" not in others


def test_the_pods_reach_the_identity_providers(oidc: Deployment) -> None:
    ports = [{"protocol": "TCP", "port": port} for port in (443, 8443)]
    assert {"ports": ports} in oidc.named("mlflow-network-policy")["spec"]["egress"]


def test_pods_roll_when_other_groups_may_enter(oidc: Deployment) -> None:
    other = anywhere({"mlflow.auth": {"mode": "oidc", "oidc": {**OIDC, "userGroups": ["/others"]}}}, "mlflow")
    annotations = {told.values["podAnnotations"]["checksum/login-code"] for told in (oidc, other)}
    assert len(annotations) == 2


@pytest.mark.parametrize(
    "changes", [{}, {"mlflow.auth.cacheSeconds": 0}, {"mlflow.auth": {"mode": "ldap", "ldap": LDAP}}]
)
def test_the_login_tables_of_the_older_mlflow_are_made_before_its_workers_start(changes: Mapping[str, Any]) -> None:
    older = anywhere({"mlflow.chartVersion": "1.8.1", **changes})
    (files,) = older.of_type("kubernetes:core/v1:ConfigMap")
    (mount,) = [mount for mount in older.values["extraVolumeMounts"] if mount["mountPath"] == "/etc/mlflow-login"]
    assert f"--config={mount['mountPath']}/login_tables.py" in older.values["extraArgs"]["gunicornOpts"].split()
    assert "login_tables.py" in files["data"]


def test_a_cache_of_no_seconds_remembers_nothing() -> None:
    older = anywhere({"mlflow.chartVersion": "1.8.1", "mlflow.auth.cacheSeconds": 0})
    assert older.environment["LOGIN_CACHE_SECONDS"] == "0"


def test_without_a_login_the_older_mlflow_runs_as_it_is() -> None:
    older = anywhere({"mlflow.chartVersion": "1.8.1", "mlflow.auth.mode": "none"})
    assert "PYTHONPATH" not in older.environment
    assert "--config" not in older.values["extraArgs"]["gunicornOpts"]
    assert not older.of_type("kubernetes:core/v1:ConfigMap")


def test_pods_roll_when_the_login_function_changes(ldap: Deployment) -> None:
    other = Computed({"mlflow.auth": {"mode": "ldap", "ldap": {**LDAP, "caCertificate": f"{AUTHORITY}\n"}}})
    annotations = {told.values["podAnnotations"]["checksum/login-code"] for told in (ldap, other)}
    assert len(annotations) == 2


def test_where_nobody_logs_in_there_is_no_login_to_leak(open_to_all: Deployment) -> None:
    assert "auth" not in open_to_all.values
    assert {resource["metadata"]["name"] for resource in open_to_all.of_type("kubernetes:core/v1:Secret")} == {
        "postgres-database-secret",
        "mlflow-keys",
    }
    assert "mlflow-admin" not in {resource.name for resource in open_to_all.resources}
    assert not {"adminUser", "adminPassword", "adminPasswordCommand", "client"} & set(open_to_all.outputs)


# The server


def test_the_server_is_told_what_the_chart_would_get_wrong(any_cluster: Deployment) -> None:
    values = any_cluster.values
    # The job runner takes more than a GiB of memory, and tracking does not need it.
    assert any_cluster.environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    # On chart 1.8.1 the log level would be a second --gunicorn-opts.
    assert values["log"] == {"enabled": False}
    # The chart's check waits for ever, without a message, if it cannot connect.
    assert not values["backendStore"].get("databaseConnectionCheck")
    # With a prefix, the chart's probes fail.
    assert "staticPrefix" not in values["extraArgs"]


def test_sizes_follow_the_settings_and_are_the_strings_that_the_chart_wants() -> None:
    deployment = Computed(
        {
            "mlflow.workers": 2,
            "mlflow.pool": {"size": 3, "overflow": 2},
            "mlflow.resources": {
                "cpuRequest": "1",
                "memoryRequest": "1Gi",
                "memoryLimit": "3Gi",
                "storageLimit": "20Gi",
            },
        }
    )
    assert deployment.values["extraArgs"]["workers"] == "2"
    assert deployment.environment["MLFLOW_SQLALCHEMYSTORE_POOL_SIZE"] == "3"
    assert deployment.environment["MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW"] == "2"
    assert deployment.values["resources"] == {
        # Without a request for storage Kubernetes would take the limit for one.
        "requests": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "100Mi"},
        # A CPU limit would only make requests slower.
        "limits": {"memory": "3Gi", "ephemeral-storage": "20Gi"},
    }


def test_every_variable_is_a_string(prod: Deployment, ldap: Deployment) -> None:
    for deployment in (prod, ldap):
        assert {type(value) for value in deployment.environment.values()} == {str}


def test_the_pod_runs_as_nobody_in_particular_and_without_a_token(any_cluster: Deployment) -> None:
    context = any_cluster.values["podSecurityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert any_cluster.values["serviceAccount"] == {"create": True, "name": "mlflow", "automount": False}


def enforced(deployment: Deployment, namespace: str) -> str:
    return deployment.named(namespace)["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]


def test_both_namespaces_admit_restricted_pods_only(dev: Deployment) -> None:
    assert {enforced(dev, namespace) for namespace in ("mlflow-namespace", "ingress-namespace")} == {"restricted"}


def test_a_chart_whose_pods_are_not_restricted_gets_a_namespace_that_admits_them() -> None:
    older = anywhere({"mlflow.chartVersion": "1.8.1"})
    assert (enforced(older, "mlflow-namespace"), enforced(older, "ingress-namespace")) == ("baseline", "restricted")


def test_the_server_and_its_policy_agree_on_the_pods(any_cluster: Deployment) -> None:
    selector = any_cluster.named("mlflow-network-policy")["spec"]["podSelector"]["matchLabels"]
    assert selector == {"app.kubernetes.io/name": "mlflow", "app.kubernetes.io/instance": "mlflow"}
    assert any_cluster.named("mlflow-release")["name"] == selector["app.kubernetes.io/instance"]


def test_artifacts_go_through_the_server_to_the_bucket(dev: Deployment) -> None:
    root = dev.values["artifactRoot"]
    # Without the proxy, every client needs AWS credentials, and the login does not protect artifacts.
    assert root["proxiedArtifactStorage"] is True
    assert root["s3"] == {"enabled": True, "bucket": "artifacts-bucket-1234567", "path": "mlflow"}
    assert not [key for key in dev.environment if key.startswith("AWS_") and key != "AWS_DEFAULT_REGION"]


def test_two_releases_with_one_bucket_keep_to_their_folders() -> None:
    # Both number their experiments from 1, so in one folder an administrator of the one would list what the other has.
    red, blue = (
        dataclasses.replace(Computed({}).args, bucket=BucketArgs(name="common", region="eu-west-1", path=team))
        for team in ("red", "blue")
    )
    folders = [mlflow_values(args, None, "checksum")["artifactRoot"]["s3"]["path"] for args in (red, blue)]
    assert folders == ["red", "blue"]


def test_without_a_bucket_artifacts_are_in_a_volume_and_still_go_through_the_server(any_cluster: Deployment) -> None:
    root = any_cluster.values["artifactRoot"]
    assert root["proxiedArtifactStorage"] is True
    (mount,) = [mount for mount in any_cluster.values["extraVolumeMounts"] if mount["name"] == "artifacts"]
    # The root file system is read-only, so artifacts need a volume.
    assert root["defaultArtifactsDestination"] == mount["mountPath"]
    assert {"name": mount["name"], "emptyDir": {}} in any_cluster.values["extraVolumes"]


# Another MLflow than the chart's


@pytest.mark.parametrize("version", CHART_VERSIONS)
def test_server_and_migration_have_the_same_image(version: str) -> None:
    digest = f"sha256:{'a' * 64}"
    deployment = anywhere(
        {
            "mlflow.chartVersion": version,
            "mlflow.image": {"tag": "3.17.2", "digest": digest},
            "images": {"registry": "registry.example.com"},
        }
    )
    image = {"repository": "registry.example.com/burakince/mlflow", "tag": f"3.17.2@{digest}"}
    assert deployment.values["image"] == image
    assert migration(deployment)["image"] == f"{image['repository']}:{image['tag']}"
    assert "tag" not in deployment.values["initImages"]["dbchecker"]


def test_a_newer_mlflow_comes_from_the_public_registry_without_another(any_cluster: Deployment) -> None:
    values = Computed({"mlflow.image": {"tag": "3.17.2"}}).values
    assert values["image"] == {"tag": "3.17.2"}
    assert values["initContainers"][0]["image"] == "burakince/mlflow:3.17.2"
    assert not {"image", "initImages"} & any_cluster.values.keys()
    assert migration(any_cluster)["image"] == "burakince/mlflow:3.15.1"


# Several pods


def budget(deployment: Deployment) -> bool:
    budgets = deployment.of_type("kubernetes:policy/v1:PodDisruptionBudget")
    for resource in budgets:
        assert resource["spec"]["minAvailable"] == 1
        assert resource["spec"]["selector"]["matchLabels"]["app.kubernetes.io/instance"] == "mlflow"
    return bool(budgets)


def spread(deployment: Deployment) -> list[str]:
    terms = deployment.values.get("affinity", {}).get("podAntiAffinity", {})
    # Preferred and not required: all pods must be able to run on the only node of a small cluster.
    assert set(terms) <= {"preferredDuringSchedulingIgnoredDuringExecution"}
    return [term["podAffinityTerm"]["topologyKey"] for terms in terms.values() for term in terms]


def test_several_pods_are_spread_and_one_of_them_stays(prod: Deployment) -> None:
    assert prod.values["replicaCount"] == 2
    assert budget(prod)
    assert spread(prod) == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]


def test_a_single_pod_may_be_moved_and_has_nothing_to_keep_away_from(dev: Deployment) -> None:
    assert dev.values["replicaCount"] == 1
    assert not budget(dev), "the node of the only pod could never be drained"
    assert spread(dev) == []


def autoscaled(fewest: int, most: int) -> Deployment:
    changes = {
        "mlflow.autoscaling": {"minReplicas": fewest, "maxReplicas": most},
        "mlflow.pool": {"size": 2, "overflow": 1},
        "ingress.replicas": 1,
    }
    args = Computed(changes, MINIMAL).args
    return deploy(MINIMAL, program=lambda: MlflowRelease("mlflow", args))


def test_an_autoscaler_has_its_limits_and_keeps_two(prod: Deployment) -> None:
    deployment = autoscaled(2, 4)
    autoscaling = deployment.values["autoscaling"]
    assert (autoscaling["enabled"], autoscaling["minReplicas"], autoscaling["maxReplicas"]) == (True, 2, 4)
    # MLflow's workers keep the memory of their busiest moment.
    assert [metric["resource"]["name"] for metric in autoscaling["metrics"]] == ["cpu"]
    assert budget(deployment)
    assert spread(deployment)
    assert "autoscaling" not in prod.values


def test_an_autoscaler_that_may_go_down_to_one_pod_has_no_budget() -> None:
    deployment = autoscaled(1, 4)
    assert not budget(deployment)
    assert spread(deployment), "it can also run four pods"


# The network


def policy(deployment: Deployment) -> dict[str, Any]:
    return deployment.named("mlflow-network-policy")["spec"]


EVERYWHERE = [{"ipBlock": {"cidr": "everywhere"}}]
"""Peers of a rule that names none."""


def reachable(deployment: Deployment) -> set[tuple[str, int]]:
    """Return the networks and TCP ports that the pods may open connections to, in addition to DNS."""
    _, *rules = policy(deployment)["egress"]
    return {
        (peer["ipBlock"]["cidr"], port["port"])
        for rule in rules
        for peer in rule.get("to", EVERYWHERE)
        for port in rule["ports"]
    }


def visitors(deployment: Deployment) -> list[str]:
    """Return the namespaces whose pods may open connections to MLflow's."""
    (rule,) = policy(deployment)["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 5000}]
    assert {key for peer in rule["from"] for key in peer} == {"namespaceSelector"}
    return [peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in rule["from"]]


def test_only_the_ingress_controller_reaches_the_pods(dev: Deployment) -> None:
    assert policy(dev)["policyTypes"] == ["Ingress", "Egress"]
    assert visitors(dev) == ["haproxy"]


def test_pods_of_the_namespaces_that_the_settings_name_reach_them_too() -> None:
    deployment = anywhere({"mlflow.allowedNamespaces": ["training", "notebooks"]})
    assert visitors(deployment) == ["haproxy", "training", "notebooks"]


def test_the_pods_ask_the_clusters_dns_and_no_other(dev: Deployment, any_cluster: Deployment) -> None:
    in_kube_system = {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}
    everywhere = [
        *(
            {"namespaceSelector": in_kube_system, "podSelector": {"matchLabels": {"k8s-app": app}}}
            for app in ("kube-dns", "node-local-dns")
        ),
        {"ipBlock": {"cidr": "169.254.20.10/32"}},
    ]
    for deployment, peers in (
        (any_cluster, everywhere),
        # EKS gives the tenth address of the Services' network to DNS. In Auto Mode there are no pods behind it.
        (dev, [*everywhere, {"ipBlock": {"cidr": "172.20.0.10/32"}}]),
    ):
        for name in ("mlflow-network-policy", "ingress-network-policy"):
            dns = deployment.named(name)["spec"]["egress"][0]
            assert dns["to"] == peers
            assert {(port["protocol"], port["port"]) for port in dns["ports"]} == {("UDP", 53), ("TCP", 53)}


def test_the_pods_reach_the_database_s3_and_their_credentials(dev: Deployment) -> None:
    assert reachable(dev) == {("10.0.0.0/16", 5432), ("0.0.0.0/0", 443), ("169.254.170.23/32", 80)}


def test_the_way_to_s3_is_none_to_the_node_and_its_metadata(dev: Deployment) -> None:
    blocks = [peer["ipBlock"] for rule in policy(dev)["egress"] for peer in rule["to"] if "ipBlock" in peer]
    (world,) = (block for block in blocks if block["cidr"] == "0.0.0.0/0")
    assert world["except"] == ["169.254.0.0/16"]


def test_the_pods_reach_the_database_in_any_network_of_the_vpc() -> None:
    deployment = deploy(MINIMAL, account=Account(cidrs=["10.0.0.0/16", "10.1.0.0/16"]))
    assert {("10.0.0.0/16", 5432), ("10.1.0.0/16", 5432)} <= reachable(deployment)


def test_without_a_bucket_the_pods_reach_the_database_only() -> None:
    # The server can be a pod of the cluster. Cilium applies a network, even 0.0.0.0/0, to addresses outside only.
    assert reachable(anywhere({"postgres.existing.port": 6432})) == {("everywhere", 6432)}


def test_the_gateway_reaches_its_providers_without_a_bucket_too() -> None:
    assert ("0.0.0.0/0", 443) in reachable(anywhere({"mlflow.gateway": True}))


@pytest.mark.parametrize(
    ("uri", "port"),
    [("ldaps://ldap.example.com", 636), ("ldap://ldap.example.com", 389), ("ldaps://ldap.example.com:1636/dc=x", 1636)],
)
def test_the_pods_reach_the_directory(uri: str, port: int) -> None:
    egress = Computed({"mlflow.auth": {"mode": "ldap", "ldap": {**LDAP, "uri": uri}}}).policy["egress"]
    assert {"ports": [{"protocol": "TCP", "port": port}]} in egress


# Images


def test_a_private_registry_moves_every_image() -> None:
    deployment = anywhere({"images": {"registry": "registry.example.com/mirror", "pullSecret": "regcred"}})
    server, shell = (f"registry.example.com/mirror/{image}" for image in ("burakince/mlflow", "library/busybox"))
    assert deployment.values["image"] == {"repository": server}
    assert deployment.values["initImages"] == {
        "dbchecker": {"repository": shell},
        "iniFileInitializer": {"repository": shell},
    }
    assert migration(deployment)["image"].startswith(f"{server}:")
    assert deployment.values["imagePullSecrets"] == [{"name": "regcred"}]
    assert deployment.controller["image"]["repository"].startswith("registry.example.com/mirror/")
    assert deployment.controller["existingImagePullSecret"] == "regcred"


def test_without_one_images_are_the_charts(any_cluster: Deployment) -> None:
    assert not {"image", "initImages", "imagePullSecrets"} & set(any_cluster.values)


# The Ingress


def ingress(deployment: Told) -> dict[str, Any]:
    return deployment.values["ingress"]


def annotation(deployment: Told, key: str) -> str | None:
    return ingress(deployment)["annotations"].get(key)


def backend_lines(deployment: Told) -> list[str]:
    """Return the lines of HAProxy's backend that the program adds to the controller's."""
    return (annotation(deployment, "haproxy.org/backend-config-snippet") or "").splitlines()


def test_the_site_is_the_host_and_all_of_it(any_cluster: Deployment) -> None:
    assert ingress(any_cluster)["enabled"] is True
    assert ingress(any_cluster)["hosts"] == [
        {"host": "mlflow.example.com", "paths": [{"path": "/", "pathType": "Prefix"}]}
    ]
    assert annotation(any_cluster, "haproxy.org/timeout-server") == "300s"


def test_a_pod_gets_one_request_fewer_at_once_than_it_has_connections(any_cluster: Deployment) -> None:
    assert annotation(any_cluster, "haproxy.org/pod-maxconn") == "9"
    assert annotation(Computed({"mlflow.pool": {"size": 3, "overflow": 4}}), "haproxy.org/pod-maxconn") == "6"


def test_without_a_login_haproxy_answers_the_question_for_signed_addresses(open_to_all: Deployment) -> None:
    rule = "if is_server_info"
    assert not any(rule in line for line in backend_lines(open_to_all)), "this stack has no bucket"
    proxied = changed(MINIMAL, {"mlflow.auth.mode": "none"})
    assert any("status 404" in line and rule in line for line in backend_lines(deploy(proxied)))
    direct = changed(proxied, {"artifacts.transfers": "direct"})
    assert not any(rule in line for line in backend_lines(deploy(direct)))


def test_with_a_login_the_pods_answer_the_question_for_signed_addresses_themselves(dev: Deployment) -> None:
    assert not any("is_server_info" in line for line in backend_lines(dev))


def rules(deployment: Deployment, part: str) -> list[str]:
    """Return the lines of HAProxy's backend of a part of the site."""
    ingress = deployment.named(f"mlflow-{part}-ingress")
    return ingress["metadata"]["annotations"]["haproxy.org/backend-config-snippet"].splitlines()


def test_transfers_and_the_page_have_places_of_their_own(any_cluster: Deployment) -> None:
    for part, places, path in (("files", "9", "/get-artifact"), ("page", "6", "/"), ("static", "16", "/static-files")):
        service, ingress = any_cluster.named(f"mlflow-{part}-service"), any_cluster.named(f"mlflow-{part}-ingress")
        # HAProxy's controller makes a backend for each Service.
        assert service["metadata"]["name"] == f"mlflow-{part}"
        assert service["spec"]["selector"].items() <= POD_LABELS.items()
        assert service["spec"]["ports"][0]["targetPort"] == 5000
        (rule,) = ingress["spec"]["rules"]
        paths = {each["path"]: each["backend"]["service"]["name"] for each in rule["http"]["paths"]}
        assert paths[path] == f"mlflow-{part}"
        # As the beginning of a path, that of the page would be the whole site.
        assert {each["pathType"] for each in rule["http"]["paths"]} == {"Exact" if path == "/" else "Prefix"}
        assert rule["host"] == "mlflow.example.com"
        annotations = ingress["metadata"]["annotations"]
        assert annotations["haproxy.org/pod-maxconn"] == places
        for key in ("ssl-redirect", "timeout-server"):
            assert annotations[f"haproxy.org/{key}"] == annotation(any_cluster, f"haproxy.org/{key}")
        # Pulumi would wait for pods that the release brings only later.
        assert (
            annotations["pulumi.com/skipAwait"] == service["metadata"]["annotations"]["pulumi.com/skipAwait"] == "true"
        )


def test_every_pod_of_the_controller_has_a_place_for_each_part() -> None:
    many = deploy(
        changed(
            MINIMAL,
            {"ingress.replicas": 20, "mlflow.pool": {"overflow": 36}, "postgres.instanceClass": "db.m7g.4xlarge"},
        )
    )
    for part in ("files", "page", "static"):
        annotations = many.named(f"mlflow-{part}-ingress")["metadata"]["annotations"]
        # The controller divides the number, and HAProxy takes the result 0 for no limit.
        assert int(annotations["haproxy.org/pod-maxconn"]) >= 20


def test_haproxy_asks_for_a_login_unless_the_site_has_none(any_cluster: Deployment, open_to_all: Deployment) -> None:
    for deployment, asked in ((any_cluster, True), (open_to_all, False)):
        for lines in (backend_lines(deployment), rules(deployment, "files"), rules(deployment, "page")):
            assert any("return status 401" in line for line in lines) == asked
    # MLflow shows its scripts and styles without one.
    assert not any("401" in line for line in rules(any_cluster, "static"))


def test_clients_are_limited_one_by_one_only_where_their_addresses_are_known(prod: Deployment) -> None:
    behind = deploy(changed(MINIMAL, {"ingress.proxyProtocol": False}))
    for deployment, known in ((prod, True), (behind, False)):
        for lines in (backend_lines(deployment), rules(deployment, "files"), rules(deployment, "static")):
            assert any("track-sc0" in line for line in lines) == known
        assert deployment.environment["LOGIN_CLIENTS"] == ("address" if known else "name")


def test_a_request_is_large_if_the_controller_cannot_hold_it(any_cluster: Deployment) -> None:
    # A quarter is for what HAProxy keeps free and for its own notes.
    assert any("gt 49152" in line for line in backend_lines(any_cluster))
    existing = anywhere({"ingress": {"install": False}})
    assert any("gt 12288" in line for line in backend_lines(existing))


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        # Each of two controllers passes 4 of 9 requests to a pod, or 2 of 4, or 9 of 9 if there is one.
        ({}, 3),
        ({"mlflow.pool": {"size": 2, "overflow": 3}}, 1),
        ({"ingress.replicas": 1}, 6),
    ],
)
def test_large_requests_leave_a_third_of_the_places_to_others(changes: Mapping[str, Any], limit: int) -> None:
    assert any(f"{{ sc2_conn_cur gt {limit} }}" in line for line in backend_lines(Computed(changes)))


@pytest.mark.parametrize(("pods", "workers", "tries"), [(1, 2, "5"), (1, 4, "2"), (6, 4, "1")])
def test_all_workers_together_look_at_ten_wrong_passwords_in_half_a_minute(pods: int, workers: int, tries: str) -> None:
    args = Computed({}).args
    several = dataclasses.replace(args, pods=dataclasses.replace(args.pods, replicas=pods, workers=workers))
    assert mlflow_values(several, login_code(several), "")["extraEnvVars"]["LOGIN_TRIES"] == tries


def test_no_request_is_sent_on_a_connection_that_the_server_may_just_be_closing(any_cluster: Deployment) -> None:
    assert "option http-server-close" in backend_lines(any_cluster)


def test_a_request_that_a_pod_leaves_unanswered_is_sent_to_another(any_cluster: Deployment) -> None:
    assert {"retry-on conn-failure empty-response", "option http-buffer-request"} <= set(backend_lines(any_cluster))
    # Not to the pod that has just died, which has the most free places.
    assert "option redispatch 1" in backend_lines(any_cluster)
    assert "default-server observe layer4 error-limit 1 on-error mark-down" in backend_lines(any_cluster)


def test_haproxy_serves_a_certificate_that_exists() -> None:
    deployment = Computed({"ingress.tlsSecretName": "site-tls"})
    assert ingress(deployment)["tls"] == [{"secretName": "site-tls", "hosts": ["mlflow.example.com"]}]
    assert annotation(deployment, "cert-manager.io/cluster-issuer") is None
    assert annotation(deployment, "haproxy.org/ssl-redirect") == "true"


def test_haproxy_serves_a_certificate_that_cert_manager_makes(dev: Deployment) -> None:
    assert annotation(dev, "cert-manager.io/cluster-issuer") == "letsencrypt"
    (tls,) = ingress(dev)["tls"]
    assert tls["hosts"] == ["mlflow.dev.example.com"]
    assert tls["secretName"]


@pytest.mark.parametrize(("stack", "redirect"), [("prod", "false"), ("any_cluster", "true")])
def test_a_redirect_is_there_where_haproxy_ends_tls(request: pytest.FixtureRequest, stack: str, redirect: str) -> None:
    deployment: Deployment = request.getfixturevalue(stack)
    assert annotation(deployment, "haproxy.org/ssl-redirect") == redirect
    assert "tls" not in ingress(deployment)


def test_browsers_are_told_to_stay_with_tls_where_there_is_tls(prod: Deployment) -> None:
    snippet, rule = "haproxy.org/backend-config-snippet", "http-after-response set-header Strict-Transport-Security"
    # `http-response`, which the controller's annotation writes, is not asked about an answer of HAProxy itself.
    assert rule in (annotation(prod, snippet) or "")
    plain_http = Computed({"ingress.plainHttp": True})
    assert rule not in (annotation(plain_http, snippet) or "")
    assert annotation(plain_http, "haproxy.org/ssl-redirect") == "false"


def test_a_request_waits_for_a_new_pod_longer_than_its_first_answers_take(prod: Deployment) -> None:
    # On a node a rollout lost a request that had waited for the controller's 5 s.
    assert "timeout queue 15s" in backend_lines(prod)


def test_a_person_is_told_how_to_log_in_without_being_shown_the_password(prod: Deployment) -> None:
    client = prod.outputs["client"]
    assert "MLFLOW_TRACKING_URI=https://mlflow.example.com\n" in client
    assert "MLFLOW_TRACKING_USERNAME=admin\n" in client
    assert prod.outputs["adminPasswordCommand"] in client
    assert plain(prod.outputs["adminPassword"]) not in client
    # Clients can trust this certificate, so they must check it.
    assert "INSECURE_TLS" not in client


def test_a_client_of_a_self_signed_site_is_told_not_to_check_the_certificate() -> None:
    client = deploy(MINIMAL).outputs["client"]
    assert client.endswith("\nexport MLFLOW_TRACKING_INSECURE_TLS=true")
