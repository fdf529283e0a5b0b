"""Settings: defaults, refusals and warnings. `bad_settings.py` lists the refusals one by one."""

import configparser
import fnmatch
import re
import string
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import hypothesis
import pytest
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.alias_generators import to_snake

from components.mlflow_release import DatabaseArgs, MlflowReleaseArgs, SiteArgs
from components.mlflow_release.chart_values import mlflow_values
from settings.all_settings import Settings
from settings.max_connections import max_connections
from settings.mlflow import Mlflow
from settings.postgres import Postgres
from settings.reader import misspelt_prefixes, parse
from tests.unit.harness import ANY_CLUSTER, LDAP, MINIMAL, OIDC, changed, deploy, refused

# Use the same examples in every run, so that a failure does not depend on chance or on the machine's load.
EXAMPLES = hypothesis.settings(derandomize=True, database=None, deadline=None, max_examples=20)


SINGLE_SIGN_ON = changed(MINIMAL, {"mlflow.auth": {"mode": "oidc", "oidc": {**OIDC, "audience": "mlflow-api"}}})


def accepted(config: Mapping[str, Any], secrets: set[str] | None = None) -> Settings:
    settings, problems = parse(config, secrets or set())
    assert not problems
    assert settings is not None
    return settings


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from models_in(argument)


def holds_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(map(holds_secret, getattr(annotation, "__args__", ())))


def secret_settings(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[str]:
    """Return every setting that is a secret, so that a new one is tested without an edit here."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        if holds_secret(field.annotation):
            yield path
        for inner in models_in(field.annotation):
            yield from secret_settings(inner, f"{path}.")


def test_two_settings_suffice() -> None:
    deployment = deploy(MINIMAL)
    assert deployment.named("postgres-instance")["instanceClass"] == "db.t3.micro"
    assert deployment.outputs["url"] == "https://mlflow.example.com"


@pytest.mark.parametrize(
    ("left_out", "command"),
    [("cluster", "'mlflow-eks:cluster.name' my-cluster"), ("mlflow", "'mlflow-eks:mlflow.host' mlflow.example.com")],
)
def test_neither_of_the_two_may_be_left_out(left_out: str, command: str) -> None:
    assert refused(changed(MINIMAL, {left_out: None})).problems == [
        f"{left_out} is missing; set it with `pulumi config set --path {command}`"
    ]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("postgres.engine_version", "17"),
        ("postgres.instance_class", "db.t3.micro"),
        ("postgres.allocated_storage", 20),
        ("postgres.storage_type", "gp3"),
        ("postgres.backup_retention_days", 7),
        ("postgres.multi_az", False),
        ("postgres.master_username", "postgres"),
        ("database.name", "mlflow"),
        ("database.user", "mlflow_user"),
        ("ingress.install", True),
        ("ingress.class_name", "haproxy"),
        ("ingress.namespace", "haproxy"),
        ("mlflow.namespace", "mlflow"),
        ("mlflow.replicas", 1),
        ("mlflow.auth.mode", "basic"),
        ("mlflow.auth.default_permission", "NO_PERMISSIONS"),
    ],
)
def test_a_default_is_the_guides_value(path: str, value: Any) -> None:
    default: Any = accepted(MINIMAL)
    for attribute in path.split("."):
        default = getattr(default, attribute)
    assert default == value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("protect", True),
        ("database.schema_name", "mlflow"),
        ("postgres.allow_from", "cluster"),
        ("postgres.max_allocated_storage", 100),
        ("artifacts.bucket", None),
        ("artifacts.identity", "podIdentity"),
        ("ingress.scheme", "internal"),
        ("ingress.plain_http", False),
        ("mlflow.chart_version", "1.11.5"),
        ("mlflow.cors_allowed_origins", []),
        ("mlflow.auth.cache_seconds", 60),
    ],
)
def test_where_the_guides_value_is_unsafe_the_default_is_another(path: str, value: Any) -> None:
    default: Any = accepted(MINIMAL)
    for attribute in path.split("."):
        default = getattr(default, attribute)
    assert default == value


@pytest.mark.parametrize(
    ("path", "value", "nearest"),
    [
        ("postgress", {}, "postgres"),
        ("cluster.nmae", "x", "name"),
        ("postgres.multiAZ", True, "multiAz"),
        ("postgres.existing.adminPasword", "x", "adminPassword"),
        ("database.schemaName", "x", "schema"),
        ("ingress.tlsSecret", "x", "tlsSecretName"),
        ("mlflow.replica", 2, "replicas"),
        ("mlflow.resources.memoryLimits", "2Gi", "memoryLimit"),
        ("mlflow.autoscaling.maxReplica", 2, "maxReplicas"),
        ("mlflow.auth.adminUser", "x", "adminUsername"),
        ("images.pullSecretName", "x", "pullSecret"),
        # Names in the YAML are in camel case.
        ("postgres.instance_class", "db.t3.micro", "instanceClass"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(path: str, value: Any, nearest: str) -> None:
    _, problems = parse(changed(MINIMAL, {path: value}), {"postgres"})
    assert f"{path} is unknown; did you mean {nearest}?" in map(str, problems)


def test_an_unknown_key_that_resembles_none_is_answered_with_those_that_are_known() -> None:
    _, problems = parse(changed(MINIMAL, {"images.zzz": 1}), set())
    assert [str(problem) for problem in problems] == ["images.zzz is unknown; known here: pullSecret, registry"]


def test_an_unknown_key_in_a_list_of_sources_is_named_with_the_nearest_known_one() -> None:
    _, problems = parse(changed(MINIMAL, {"postgres.allowFrom": {"cidr": ["10.0.0.0/8"]}}), set())
    assert "postgres.allowFrom.cidr is unknown; did you mean cidrs?" in map(str, problems)


def test_a_number_that_pulumi_config_made_of_a_string_is_taken_as_the_string() -> None:
    # `pulumi config set --path` writes a value that looks like a number as a number.
    config = changed(MINIMAL, {"postgres.engineVersion": 16, "mlflow.resources.cpuRequest": 0.5})
    settings = accepted(config)
    assert settings.postgres.engine_version == "16"
    assert settings.mlflow.resources.cpu_request == "0.5"


def test_there_are_secret_settings_to_test() -> None:
    assert set(secret_settings()) == {
        "postgres.existing.adminPassword",
        "postgres.masterPassword",
        "database.password",
        "mlflow.auth.adminPassword",
        "mlflow.auth.oidc.clientSecret",
        "mlflow.keys.passphrase",
        "mlflow.keys.webhooks",
    }


@pytest.mark.parametrize("path", list(secret_settings()))
def test_a_password_in_plain_text_is_refused_and_not_repeated(path: str) -> None:
    refusal = refused(changed({**MINIMAL, "postgres": {"existing": {"host": "db"}}}, {path: "hunter2-hunter2"}))
    assert f"{path} is in plain text; it is a secret: `pulumi config set --secret --path 'mlflow-eks:{path}'`" in (
        refusal.problems
    )
    assert "hunter2" not in refusal.message
    assert "hunter2" not in repr(refusal.error)


@pytest.mark.parametrize("path", list(secret_settings()))
def test_a_secret_is_accepted_where_its_section_was_set_as_one(path: str) -> None:
    # A webhook's key has a form of its own: 43 characters and an equals sign.
    secret = "hunter2-" * 5 + ("abc=" if path == "mlflow.keys.webhooks" else "")
    stack = ANY_CLUSTER if "existing" in path else SINGLE_SIGN_ON if "oidc" in path else MINIMAL
    config = changed(stack, {path: secret})
    settings = accepted(config, {path.split(".", maxsplit=1)[0], "postgres"})
    # Printing the model does not show the password.
    assert "hunter2" not in repr(settings)


def test_every_problem_is_in_one_message() -> None:
    refusal = refused(
        {
            "cluster": {"nmae": "x"},
            "mlflow": {"host": "https://x", "replicas": 0},
            "postgres": {"instanceClass": "big", "backupRetentionDays": 0},
            "database": {"schema": "public", "password": "in-plain-text"},
            "ingress": {
                "plainHttp": True,
                "certificateArn": "arn:aws:acm:eu-west-1:123456789012:certificate/11111111-2222-3333-4444-555555555555",
            },
            "tags": [],
        }
    )
    for key in [
        "cluster.nmae",
        "mlflow.host",
        "mlflow.replicas",
        "postgres.instanceClass",
        "postgres.backupRetentionDays",
        "database.schema",
        "database.password",
        "`plainHttp`",
        "tags",
    ]:
        assert sum(key in problem for problem in refusal.problems) == 1, f"{key}: {refusal.message}"
    assert refusal.message.startswith(f"Pulumi.test.yaml has {len(refusal.problems)} wrong settings:")


def test_a_rule_between_sections_is_told_beside_a_value_that_is_wrong() -> None:
    _, problems = parse(changed(ANY_CLUSTER, {"mlflow.workers": "two", "mlflow.replicas": 2}), {"postgres"})
    assert [problem.key for problem in problems] == ["mlflow.workers", "mlflow.replicas"]


def test_what_only_follows_from_a_wrong_value_is_not_told() -> None:
    # With five connections, the default, the pods would need more than the instance class has.
    _, problems = parse(changed(MINIMAL, {"mlflow.autoscaling": {"maxReplicas": "one"}}), set())
    assert [problem.key for problem in problems] == ["mlflow.autoscaling.maxReplicas"]
    _, problems = parse(changed(MINIMAL, {"cluster": {"name": "my cluster"}}), set())
    assert [problem.key for problem in problems] == ["cluster.name"]


def test_an_empty_line_may_be_deleted_only_where_a_setting_has_a_default() -> None:
    _, problems = parse(changed(MINIMAL, {"mlflow.host": "", "mlflow.workers": ""}), set())
    told = {problem.key: str(problem) for problem in problems}
    assert "delete the line" in told["mlflow.workers"]
    assert "delete the line" not in told["mlflow.host"]


def test_every_wrong_item_of_a_list_is_told() -> None:
    _, problems = parse(
        changed(MINIMAL, {"mlflow.corsAllowedOrigins": ["a.b", "https://fine.example.com", "c.d"]}), set()
    )
    assert [problem.key for problem in problems] == ["mlflow.corsAllowedOrigins[0]", "mlflow.corsAllowedOrigins[2]"]


def test_a_wrong_class_hides_only_what_follows_from_it() -> None:
    config = changed(ANY_CLUSTER, {"ingress": {"scheme": "internal", "loadBalancerClass": [1]}})
    config = changed(config, {"mlflow.dnsZone": "example.com"})
    _, problems = parse(config, {"postgres"})
    assert [problem.key for problem in problems] == ["ingress.loadBalancerClass", "mlflow.dnsZone"]


def test_everything_that_is_missing_is_told_at_once() -> None:
    _, problems = parse({"mlflow": {"auth": {"mode": "ldap", "ldap": {}}}, "postgres": {"existing": {}}}, {"postgres"})
    assert {problem.key for problem in problems} == {
        *("cluster", "mlflow.host", "postgres.existing.host", "postgres.existing.adminPassword"),
        *(f"mlflow.auth.ldap.{key}" for key in ("uri", "lookupBind", "groupSearchBase", "adminGroupDn", "userGroupDn")),
    }


def examples(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        if field.examples:
            yield path, field.examples[0]
        for inner in models_in(field.annotation):
            yield from examples(inner, f"{path}.")


@pytest.mark.parametrize(("path", "example"), list(examples()))
def test_an_example_in_a_message_is_a_value_that_is_taken(path: str, example: Any) -> None:
    config: Mapping[str, Any] = MINIMAL
    if path.startswith("mlflow.auth.ldap"):
        config = changed(MINIMAL, {"mlflow.auth": {"mode": "ldap", "ldap": LDAP}})
    elif path.startswith("mlflow.auth.oidc"):
        config = SINGLE_SIGN_ON
    elif path.startswith(("postgres.existing", "cluster.kubeContext")):
        config = ANY_CLUSTER
    elif path == "ingress.address":
        config = changed(MINIMAL, {"ingress.install": False})
    elif path == "ingress.serviceMonitorLabels":
        config = changed(MINIMAL, {"ingress.serviceMonitor": True})
    elif path.startswith("monitoring"):
        config = changed(MINIMAL, {"monitoring.enabled": True})
    accepted(changed(config, {path: example}), {"mlflow", "postgres"})


@pytest.mark.parametrize("key", ["mlflow-ek:mlflow", "mlfow-eks:tags", "mlflow:protect", "MLflow-eks:ingress.scheme"])
def test_a_setting_under_another_prefix_is_warned_of(key: str) -> None:
    (warning,) = misspelt_prefixes(["aws:region", key, "mlflow-eks:cluster", "postgresql:database", "pulumi:tags"])
    assert warning == f"{key} is not read: settings of this program begin with mlflow-eks:"


def test_every_broken_rule_between_sections_is_in_one_message() -> None:
    _, problems = parse({"cluster": {"kubeContext": "kind"}, "mlflow": {"host": "a.example.com", "replicas": 2}}, set())
    assert [problem.key for problem in problems] == ["postgres.existing", "mlflow.replicas"]


def test_every_broken_rule_of_a_section_is_in_one_message() -> None:
    _, problems = parse(changed(MINIMAL, {"database": {"schema": "public", "user": "rdsadmin"}}), set())
    assert len(problems) == 2


def test_the_message_says_which_file_to_edit() -> None:
    assert "Pulumi.staging.yaml" in refused({}, stack="staging").message


@pytest.mark.parametrize(
    ("section", "advice"),
    [
        ("postgres", "postgres is a text; write a map of settings: "),
        ("tags", "tags is 'no'; write a map, for example "),
        ("protect", "protect is 'no'; write true or false (default true)"),
    ],
)
def test_a_section_that_was_set_as_a_plain_string_is_named(section: str, advice: str) -> None:
    (problem,) = refused(MINIMAL, as_written={section: "no"}).problems
    assert problem.startswith(advice)


def test_a_password_in_the_place_of_a_section_is_not_shown() -> None:
    refusal = refused(MINIMAL, as_written={"database": "correct-horse"}, secrets=["database"])
    assert "database is a text" in refusal.message
    assert "correct-horse" not in refusal.message


def test_a_required_section_that_was_set_as_a_plain_string_is_one_problem() -> None:
    assert len(refused({"mlflow": MINIMAL["mlflow"]}, as_written={"cluster": "my-cluster"}).problems) == 1


SAFE = changed(MINIMAL, {"ingress.clusterIssuer": "letsencrypt"})


def test_safe_choices_are_not_warned_of() -> None:
    assert accepted(SAFE).warnings() == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mlflow.chartVersion": "1.8.1"}, "mlflow.chartVersion 1.8.1"),
        ({"ingress": {"plainHttp": True}}, "ingress.plainHttp"),
        ({"ingress": {}}, "no certificate is set"),
        ({"ingress.scheme": "internet-facing"}, "ingress.scheme internet-facing"),
        ({"mlflow.auth.mode": "none"}, "mlflow.auth.mode none"),
        ({"mlflow.corsAllowedOrigins": ["*"]}, "mlflow.corsAllowedOrigins *"),
        ({"mlflow.gateway": True}, "mlflow.gateway"),
        ({"postgres.allowFrom": "vpc"}, "postgres.allowFrom vpc"),
        (
            {"cluster": {"kubeContext": "kind"}, "postgres": {"existing": {"host": "db", "adminPassword": "x"}}},
            "artifacts: without a bucket",
        ),
        (
            {"mlflow.auth": {"mode": "ldap", "ldap": {**LDAP, "uri": "ldap://ldap.example.com", "startTls": False}}},
            "mlflow.auth.ldap.startTls",
        ),
        ({"mlflow.auth": {"mode": "ldap", "ldap": {**LDAP, "tlsVerify": "none"}}}, "mlflow.auth.ldap.tlsVerify"),
    ],
)
def test_an_unsafe_choice_is_warned_of(changes: Mapping[str, Any], says: str) -> None:
    (warning,) = accepted(changed(SAFE, changes), {"postgres"}).warnings()
    assert says in warning


def test_each_chart_has_two_workers_unless_others_are_written() -> None:
    guides = changed(MINIMAL, {"mlflow.chartVersion": "1.8.1"})
    assert accepted(MINIMAL).mlflow.workers == accepted(guides).mlflow.workers == 2
    assert accepted(changed(guides, {"mlflow.workers": 1})).mlflow.workers == 1


def test_a_public_load_balancer_that_lets_only_some_in_is_not_warned_of() -> None:
    config = changed(SAFE, {"ingress.scheme": "internet-facing", "ingress.allowedCidrs": ["203.0.113.0/24"]})
    assert accepted(config).warnings() == []


def test_a_warning_reaches_the_log_of_the_run() -> None:
    assert any("artifacts: without a bucket" in line for line in deploy(ANY_CLUSTER, secrets=["postgres"]).warnings)


@pytest.mark.parametrize(
    ("instance_class", "connections"),
    [
        ("db.t3.micro", 85),
        ("db.t4g.small", 198),
        ("db.t3.medium", 423),
        ("db.m7g.large", 874),
        ("db.r6g.large", 1775),
        ("db.x2g.large", 3577),
        ("db.m7g.xlarge", 1775),
        ("db.m5.2xlarge", 3577),
        ("db.r6g.16xlarge", 5000),
        ("db.z1d.large", None),
    ],
)
def test_the_connections_of_a_class_are_known(instance_class: str, connections: int | None) -> None:
    assert max_connections(instance_class) == connections


def test_a_larger_class_has_room_for_what_a_small_one_has_not() -> None:
    config = changed(MINIMAL, {"mlflow.replicas": 4})
    _, problems = parse(config, set())
    assert len(problems) == 1
    accepted(changed(config, {"postgres.instanceClass": "db.m7g.large"}))


def test_without_a_login_a_worker_has_one_pool_instead_of_two() -> None:
    needs_120 = changed(MINIMAL, {"mlflow.replicas": 2})
    assert parse(needs_120, set())[1] != []
    # The pods can open 60 connections, and a db.t3.micro has 85.
    accepted(changed(needs_120, {"mlflow.auth": {"mode": "none"}}))
    _, (problem,) = parse(changed(needs_120, {"mlflow.auth": {"mode": "none"}, "mlflow.replicas": 4}), set())
    assert "x 10 (pool 10 + overflow 0) x 1 (tracking) = 100" in str(problem)


def test_pods_may_open_every_connection_of_the_class_and_not_one_more() -> None:
    config = changed(MINIMAL, {"mlflow.auth": {"mode": "none"}, "mlflow.pool": {"size": 4, "overflow": 1}})
    # (16 pods + 1) x 1 worker x 5 connections are the 85 of a db.t3.micro.
    full = changed(config, {"mlflow.workers": 1, "mlflow.replicas": 16})
    accepted(full)
    assert parse(changed(full, {"mlflow.replicas": 17}), set())[1] != []


@pytest.mark.parametrize(
    "changes",
    [
        {"mlflow.pool": {"size": 1, "overflow": 2}, "ingress.replicas": 1},
        {"database.name": "d" * 59},
        {"database.user": "u" * 61},
        {"mlflow.host": f"{'h' * 63}.example.com"},
        {"mlflow.host": f"{'h.' * 126}h"},
        {"postgres.allocatedStorage": 100, "postgres.maxAllocatedStorage": 110},
        {"mlflow.resources": {"memoryRequest": "1024Mi", "memoryLimit": "1Gi"}},
        {"mlflow.resources": {"memoryRequest": "512Mi", "memoryLimit": "612Mi"}},
        {"tags": {"K" * 128: "x" * 256}},
        {"tags": {f"K{number}": "x" for number in range(48)}},
        {"ingress.className": f"{'a.' * 109}a"},
        {"ingress.tlsSecretName": f"{'a.' * 126}a"},
        {"ingress.loadBalancerClass": f"a.b/{'C' * 63}"},
        {"postgres.allowFrom": {"cidrs": ["0.0.0.0/1", "128.0.0.0/2"]}},
    ],
)
def test_a_value_at_a_rules_limit_is_accepted(changes: Mapping[str, Any]) -> None:
    accepted(changed(MINIMAL, changes))


@pytest.mark.parametrize(
    ("path", "written", "meant"),
    [
        ("tags", {"CostCenter": 1234, "Shared": True}, {"CostCenter": "1234", "Shared": "true"}),
        ("cluster.name", 2024, "2024"),
        ("images.pullSecret", False, "false"),
        ("mlflow.allowedHosts", [5], ["5"]),
        ("mlflow.auth.adminUsername", 7, "7"),
    ],
)
def test_a_number_or_a_truth_value_is_taken_where_a_text_is_meant(path: str, written: Any, meant: Any) -> None:
    # `pulumi config set --path` writes them without quotes.
    value: Any = accepted(changed(MINIMAL, {path: written}))
    for key in path.split("."):
        value = getattr(value, to_snake(key))
    assert value == meant


@pytest.mark.parametrize(
    "changes",
    [
        {"ingress.tlsSecretName": "mlflow.example.com-tls"},
        {"ingress.clusterIssuer": "letsencrypt.prod"},
        {"ingress.className": "edge.haproxy"},
        {"images.pullSecret": "reg.cred"},
        {"images.registry": "123456789012.dkr.ecr.eu-west-1.amazonaws.com"},
        {"images.registry": "localhost:5000/a__b/c-d.e"},
        {"artifacts.bucket": "my.bucket-1"},
        {"tags": {"Team/Größe": "a b_.:/=+-@"}},
        {"postgres.kmsKeyArn": "arn:aws:kms:eu-west-1:123456789012:key/mrk-0123456789abcdef0123456789abcdef"},
    ],
)
def test_a_name_that_its_object_may_have_is_accepted(changes: Mapping[str, Any]) -> None:
    accepted(changed(MINIMAL, changes))


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"mlflow.allowedHosts": ["mlflow.internal", "*"]}, "mlflow.allowedHosts *"),
        *(
            ({"mlflow.allowedHosts": [host]}, "mlflow.allowedHosts *")
            for host in ("*:*", "*.*", "*.com", "mlflow.*", "*example.com", "10.0.*")
        ),
        ({"mlflow.auth": {"defaultPermission": "EDIT"}}, "mlflow.auth.defaultPermission EDIT"),
        ({"mlflow.auth": {"defaultPermission": "MANAGE"}}, "mlflow.auth.defaultPermission MANAGE"),
        ({"ingress.allowedCidrs": ["0.0.0.0/1"]}, "ingress.allowedCidrs"),
        # Together they are as large.
        ({"ingress.allowedCidrs": [f"{first}.0.0.0/8" for first in range(16)]}, "ingress.allowedCidrs"),
        ({"postgres.allowFrom": {"cidrs": ["128.0.0.0/7"]}}, "postgres.allowFrom.cidrs"),
    ],
)
def test_what_switches_a_protection_off_is_warned_of(changes: Mapping[str, Any], warning: str) -> None:
    before = accepted(SAFE).warnings()
    (new,) = [each for each in accepted(changed(SAFE, changes)).warnings() if each not in before]
    assert new.startswith(warning)


@pytest.mark.parametrize(
    "changes",
    [
        {"mlflow.allowedHosts": ["*.example.com", "mlflow:*"]},
        {"mlflow.auth": {"defaultPermission": "READ"}},
        {"ingress.allowedCidrs": ["10.0.0.0/8"]},
        {"postgres.allowFrom": {"cidrs": ["10.0.0.0/8"]}},
    ],
)
def test_what_leaves_a_protection_on_is_not_warned_of(changes: Mapping[str, Any]) -> None:
    assert accepted(changed(SAFE, changes)).warnings() == accepted(SAFE).warnings()


def test_every_arn_of_another_region_or_partition_is_refused_in_one_message() -> None:
    arns = {
        "postgres.kmsKeyArn": "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555",
        "postgres.alarmTopicArn": "arn:aws-cn:sns:cn-north-1:123456789012:alarms",
        "ingress.certificateArn": "arn:aws:acm:us-east-1:123456789012:certificate/11111111-2222-3333-4444-555555555555",
        "iam.permissionsBoundary": "arn:aws-us-gov:iam::123456789012:policy/boundary",
    }
    refusal = refused(changed(MINIMAL, arns))
    assert [problem.partition(",")[0] for problem in refusal.problems] == [
        "postgres.kmsKeyArn is in aws us-east-1",
        "postgres.alarmTopicArn is in aws-cn cn-north-1",
        "ingress.certificateArn is in aws us-east-1",
        "iam.permissionsBoundary is in aws-us-gov",
    ]
    assert "the cluster is in aws eu-west-1; write one of that region" in refusal.message
    assert refusal.deployment.resources == []


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("mlflow.auth.ldap", "uri, lookupBind, groupSearchBase, groupSearchFilter …, or delete the line"),
        ("postgres.existing", "host, port, adminUsername, adminPassword, or delete the line"),
        ("mlflow.pool", "size, overflow, or delete the line"),
    ],
)
def test_a_message_names_the_first_settings_of_a_section(path: str, expected: str) -> None:
    _, problems = parse(changed(MINIMAL, {path: ""}), {"postgres"})
    assert [str(problem) for problem in problems] == [f"{path} is empty; write a map of settings: {expected}"]


def test_a_message_shows_an_entry_of_a_map() -> None:
    _, (problem,) = parse(changed(MINIMAL, {"tags": ""}), set())
    assert "write a map, for example {Team: ml-platform}" in str(problem)


def test_a_long_value_is_cut_in_its_message() -> None:
    _, (problem,) = parse(changed(MINIMAL, {"mlflow.namespace": "N" * 60}), set())
    assert f"'{'N' * 60}'" in str(problem)
    _, (problem,) = parse(changed(MINIMAL, {"mlflow.namespace": "N" * 200}), set())
    assert f"'{'N' * 60}…'" in str(problem)


def test_a_smaller_pool_makes_room_for_more_pods() -> None:
    accepted(changed(MINIMAL, {"mlflow.replicas": 3, "mlflow.pool": {"size": 3, "overflow": 2}}))


# A value that the rules accept must reach MLflow unchanged through all the places on its way.

SAFE_CHARACTERS = string.ascii_letters + string.digits + "._-"
HALVES = st.text(SAFE_CHARACTERS, min_size=6, max_size=30)
# Each is put in the middle of a safe password. So the tests find a rule that accepts one character too many.
MIDDLES = ["", *string.punctuation, *" \t\n\r\0äß€☃"]


def password_is_accepted(password: str) -> bool:
    try:
        Postgres.model_validate({"masterPassword": SecretStr(password)})
    except ValidationError:
        return False
    return True


def sed_replace(text: str, placeholder: str, replacement: str) -> str:
    """Replace a placeholder as the chart's init container does with ``sed "s/PLACEHOLDER/REPLACEMENT/g"``."""
    assert "/" not in replacement, "ends the command"
    assert "\n" not in replacement, "ends the command"
    unescaped = re.sub(r"\\(.)|&", lambda match: match[1] or placeholder, replacement)
    return text.replace(placeholder, unescaped)


def uri_password(uri: str) -> str | None:
    """Return the password of a URI as SQLAlchemy reads it: up to the first ``@``, then URL-decoded."""
    match = re.match(
        r"[\w+]+://(?:[^:/]*)(?::(?P<password>[^@]*))?@(?P<host>[^/:?]+):(?P<port>\d+)/(?P<database>\w+)$", uri
    )
    assert match, "the password has changed another part of the URI"
    return unquote(match["password"])


def accepted_passwords(start: str, end: str) -> list[str]:
    passwords = [f"{start}{middle}{end}" for middle in MIDDLES]
    return [password for password in passwords if password_is_accepted(password)]


@EXAMPLES
@hypothesis.given(HALVES, HALVES)
def test_an_accepted_password_survives_the_charts_sed_ini_and_uri(start: str, end: str) -> None:
    uri = "postgresql+psycopg2://user:$(PASSWORD)@db:5432/mlflow"
    template = f"[mlflow]\nadmin_password = $(PASSWORD)\ndatabase_uri = {uri}\n"
    for password in accepted_passwords(start, end):
        ini = configparser.ConfigParser()
        ini.read_string(sed_replace(template, "$(PASSWORD)", password))
        assert ini["mlflow"]["admin_password"] == password
        assert uri_password(ini["mlflow"]["database_uri"]) == password


@EXAMPLES
@hypothesis.given(HALVES, HALVES)
def test_an_accepted_password_survives_libpq_without_quotes(start: str, end: str) -> None:
    for password in accepted_passwords(start, end):
        assert conninfo_to_dict(f"host=db password={password} user=u")["password"] == password
        assert conninfo_to_dict(f"postgresql://u:{password}@db/mlflow")["password"] == password


@EXAMPLES
@hypothesis.given(st.text(SAFE_CHARACTERS, min_size=12, max_size=128))
def test_the_documented_alphabet_is_accepted(password: str) -> None:
    assert password_is_accepted(password)


def allowed_hosts(host: str) -> list[str]:
    nothing = ""
    args = MlflowReleaseArgs(
        site=SiteArgs(host=host, url=f"https://{host}", ingress_class=nothing, ingress_namespace=nothing),
        database=DatabaseArgs(host=nothing, port=5432, name=nothing, user=nothing, password=nothing, networks={}),
    )
    return mlflow_values(args, None, nothing)["extraEnvVars"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")


def host_is_allowed(header: str, host: str) -> bool:
    """Return True if MLflow accepts the Host header. It compares with `fnmatch`."""
    return any(fnmatch.fnmatch(header, pattern) for pattern in allowed_hosts(host))


WORD = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=8)
LABEL = st.lists(WORD, min_size=1, max_size=2).map("-".join)
NAMES = st.lists(LABEL, min_size=1, max_size=4).map(".".join)
# Each is put between two names. Some of them are wildcards or separators in MLflow's list.
BETWEEN = [".", *"*?[]!,: /\\_A\n"]


def host_is_accepted(host: str) -> bool:
    try:
        Mlflow.model_validate({"host": host})
    except ValidationError:
        return False
    return True


def accepted_hosts(start: str, end: str) -> list[str]:
    return [host for host in (f"{start}{between}{end}" for between in BETWEEN) if host_is_accepted(host)]


@EXAMPLES
@hypothesis.given(NAMES, NAMES, st.integers(1, 65535))
def test_an_accepted_host_is_let_in_with_and_without_a_port(start: str, end: str, port: int) -> None:
    for host in accepted_hosts(start, end):
        assert host_is_allowed(host, host)
        assert host_is_allowed(f"{host}:{port}", host)


@EXAMPLES
@hypothesis.given(NAMES, NAMES, LABEL)
def test_a_host_that_only_resembles_an_accepted_one_is_not_let_in(start: str, end: str, label: str) -> None:
    for host in accepted_hosts(start, end):
        assert not host_is_allowed(f"{label}.{host}", host)
        assert not host_is_allowed(f"{host}.{label}.test", host)
        assert not host_is_allowed(f"{label}-{host}", host)


@EXAMPLES
@hypothesis.given(NAMES)
def test_every_dns_name_is_accepted(host: str) -> None:
    assert host_is_accepted(host)
