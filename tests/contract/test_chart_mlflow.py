"""The local stack's mlflow chart renders what Helm renders with the real chart."""

import configparser
import copy
from collections.abc import Mapping
from typing import Any

import pytest

from local.charts import ValuesError
from local.charts.mlflow import CONTAINER_PORT, READINESS_PATH, Container, Mount, Rendered, SecretKey, check, render
from tests.contract.cases import CASES, release
from tests.contract.record_charts import fingerprint
from tests.contract.recordings import recording

OF_MLFLOW = [case for case in CASES if case.startswith("mlflow-")]


def rendered(case: str) -> tuple[Mapping[str, Any], Rendered]:
    """Return the real chart's recorded output and the stand-in's output."""
    inputs, recorded = release(case), recording(case)
    return recorded["facts"], render(inputs["version"], inputs["name"], inputs["namespace"], recorded["values"])


def as_recorded(container: Container) -> dict[str, Any]:
    kinds = {"ConfigMap": "configMapRef", "Secret": "secretRef"}
    return {
        "name": container.name,
        "image": container.image,
        "command": list(container.command),
        "args": [fingerprint(argument) for argument in container.args],
        "env": {
            name: f"secret:{value.secret}/{value.key}" if isinstance(value, SecretKey) else value
            for name, value in container.env.items()
        },
        "envFrom": [f"{kinds[kind]}:{name}" for kind, name in container.env_from],
        "volumeMounts": [_mount(mount) for mount in container.mounts],
    }


def _mount(mount: Mount) -> dict[str, str]:
    sub_path = {"subPath": mount.sub_path} if mount.sub_path else {}
    return {"name": mount.volume, "mountPath": mount.path, **sub_path}


def compared(recorded: Mapping[str, Any], ours: Container) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the stand-in's container, and the real one without the fields that the stand-in does not have."""
    container = as_recorded(ours)
    return container, {name: recorded[name] for name in container}


@pytest.mark.parametrize("case", OF_MLFLOW)
def test_the_containers_are_those_of_the_chart(case: str) -> None:
    facts, ours = rendered(case)
    assert [container.name for container in ours.pod.init_containers] == facts["initOrder"]
    for container in ours.pod.init_containers:
        mine, theirs = compared(facts["initContainers"][container.name], container)
        assert mine == theirs
    mine, theirs = compared(facts["containers"]["mlflow"], ours.pod.container)
    assert mine == theirs
    further = {container.name: container for container in ours.pod.extra_containers}
    assert further.keys() | {"mlflow"} == facts["containers"].keys()
    for name, container in further.items():
        mine, theirs = compared(facts["containers"][name], container)
        assert mine == theirs


@pytest.mark.parametrize("case", OF_MLFLOW)
def test_the_objects_around_them_are_those_of_the_chart(case: str) -> None:
    facts, ours = rendered(case)
    assert set(ours.objects) == facts["objects"].keys()
    assert ours.config_maps[f"{ours.fullname}-env-configmap"] == facts["configMaps"]["mlflow-env-configmap"]
    assert ours.config_maps.keys() == facts["configMaps"].keys()
    assert {"mlflow": {"spec": ours.service}} == facts["services"]
    assert {"mlflow": ours.ingress} == facts["ingresses"]
    assert ours.replicas == facts.get("replicas")
    assert ({"mlflow": ours.hpa} if ours.hpa else {}) == facts["autoscalers"]
    assert {**ours.pod.annotations, "checksum/config": ""} == facts["podAnnotations"]
    assert ours.pod.security_context == facts["pod"]["securityContext"]
    assert list(ours.pod.volumes) == facts["pod"]["volumes"]
    assert [ours.pod.service_account] == list(facts["serviceAccounts"])


@pytest.mark.parametrize("case", OF_MLFLOW)
def test_the_auth_ini_says_what_the_charts_says(case: str) -> None:
    facts, ours = rendered(case)
    template = ours.config_maps.get("mlflow-auth-ini-template", {}).get("auth_template.ini", "")
    ini = configparser.ConfigParser(interpolation=None)
    ini.read_string(template)
    recorded = facts["configMaps"].get("mlflow-auth-ini-template", {}).get("auth_template.ini", {})
    assert {name: dict(ini[name]) for name in ini.sections()} == recorded


@pytest.mark.parametrize("case", OF_MLFLOW)
def test_the_pod_is_asked_for_its_health_where_the_chart_asks(case: str) -> None:
    container = recording(case)["facts"]["containers"]["mlflow"]
    assert [container[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")] == [
        READINESS_PATH
    ] * 2
    assert [port["containerPort"] for port in container["ports"]] == [CONTAINER_PORT]


@pytest.mark.parametrize("case", OF_MLFLOW)
def test_a_rollout_has_one_pod_more_and_none_less(case: str) -> None:
    assert recording(case)["facts"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }


@pytest.mark.parametrize("way", ["ldapAuth", "oauth2Proxy", "oidcAuth"])
def test_a_login_that_the_program_does_not_use_is_refused_by_name(way: str) -> None:
    with pytest.raises(ValuesError, match=f"{way} is not a value"):
        check("1.11.5", {way: {"enabled": True}})


def accepted(version: str) -> dict[str, Any]:
    return copy.deepcopy(dict(recording(f"mlflow-{version}/least")["values"]))


def test_a_second_line_of_the_authorization_function_is_a_line_of_the_ini() -> None:
    values = accepted("1.11.5")
    function = "mlflow.server.auth:authenticate_request_basic_auth"
    values["auth"]["authorizationFunction"] = f"{function}\n    auth_cache_ttl_seconds = 60"
    ini = configparser.ConfigParser(interpolation=None)
    ours = render("1.11.5", "mlflow", "mlflow", values)
    ini.read_string(ours.config_maps["mlflow-auth-ini-template"]["auth_template.ini"])
    assert ini["mlflow"]["authorization_function"] == function
    assert ini["mlflow"]["auth_cache_ttl_seconds"] == "60"


def test_an_extra_argument_is_one_flag_however_many_words_its_value_has() -> None:
    values = accepted("1.8.1") | {"extraArgs": {"workers": "1", "gunicornOpts": "--threads=10 --timeout=300"}}
    arguments = render("1.8.1", "mlflow", "mlflow", values).pod.container.args
    assert arguments[-2:] == ("--gunicorn-opts=--threads=10 --timeout=300", "--workers=1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"replicaCounts": 2}, "replicaCounts is not a value"),
        ({"auth": {"enabled": True, "adminPassword": "x"}}, r"auth\.adminPassword is not a value"),
        ({"replicaCount": "2"}, "replicaCount must be an integer"),
        ({"extraArgs": {"workers": 2}}, r"extraArgs\.workers must be a string"),
        ({"backendStore": {"postgres": {"enabled": False}}}, r"backendStore\.postgres\.enabled must be true"),
    ],
)
def test_an_error_names_the_value(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValuesError, match=message):
        render("1.11.5", "mlflow", "mlflow", accepted("1.11.5") | change)


def test_no_password_can_be_a_value() -> None:
    values = accepted("1.11.5")
    values["backendStore"]["postgres"]["password"] = "hunter2"
    with pytest.raises(ValuesError, match="belong in a Secret") as refused:
        render("1.11.5", "mlflow", "mlflow", values)
    assert "hunter2" not in str(refused.value)


def test_a_release_without_mlflow_in_its_name_gets_it() -> None:
    assert render("1.11.5", "tracking", "ml", accepted("1.11.5")).fullname == "tracking-mlflow"


def test_another_version_of_the_chart_is_refused() -> None:
    with pytest.raises(ValuesError, match=r"write 1\.8\.1 or 1\.11\.5"):
        check("1.9.0", {})
