"""The local stack's idea of the mlflow chart against what Helm made of the real one."""

import configparser
import json
from pathlib import Path
from typing import Any

import pytest

from local.charts import ValuesError
from local.charts.mlflow import Container, Rendered, SecretKey, check, render

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "charts"
# The program uses none of these: OIDC, a proxy sidecar, and the chart's own LDAP mode (ours is `auth.authorizationFunction`).
UNUSED = {"ldap", "oauth2proxy", "oidc"}

pytestmark = pytest.mark.skipif(not RECORDINGS.is_dir(), reason=f"no recordings of the charts in {RECORDINGS}")


def recordings(*, used: bool) -> list[Any]:
    paths = sorted(RECORDINGS.glob("mlflow-*/*.rendered.json"))
    return [
        pytest.param(path, id=f"{path.parent.name}/{path.name.split('.')[0]}")
        for path in paths
        if (path.name.split(".")[0] in UNUSED) != used
    ]


def load(path: Path) -> tuple[dict[str, Any], str]:
    recorded = json.loads(path.read_text())
    if path.name == "private-registry.rendered.json":
        # Rendered with two values files, of which it records the second.
        first = json.loads((path.parent / "auth-postgres.rendered.json").read_text())
        recorded["values"] = merged(first["values"], recorded["values"])
    return recorded, recorded["chart"].split()[1]


def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: merged(first[key], second[key])
        for key in first.keys() & second.keys()
        if isinstance(first[key], dict) and isinstance(second[key], dict)
    }
    return first | second | both


def rendered(path: Path) -> tuple[dict[str, Any], Rendered]:
    recorded, version = load(path)
    return recorded, render(version, recorded["release"], recorded["namespace"], recorded["values"])


def as_recorded(container: Container) -> dict[str, Any]:
    kinds = {"ConfigMap": "configMapRef", "Secret": "secretRef"}
    return {
        "name": container.name,
        "image": container.image,
        "command": list(container.command),
        "args": list(container.args),
        "env": {
            name: f"secret:{value.secret}/{value.key}" if isinstance(value, SecretKey) else value
            for name, value in container.env.items()
        },
        "envFrom": [f"{kinds[kind]}:{name}" for kind, name in container.env_from],
        "volumeMounts": [(mount.volume, mount.path, mount.sub_path) for mount in container.mounts],
    }


def comparable(recorded: dict[str, Any]) -> dict[str, Any]:
    mounts = [(mount["name"], mount["mountPath"], mount.get("subPath")) for mount in recorded["volumeMounts"]]
    names = ("name", "image", "command")
    return (
        {name: recorded[name] for name in names}
        | {name: recorded.get(name) or [] for name in ("args", "envFrom")}
        | {"env": recorded["env"], "volumeMounts": mounts}
    )


@pytest.mark.parametrize("path", recordings(used=True))
def test_the_containers_are_those_of_the_chart(path: Path) -> None:
    recorded, ours = rendered(path)
    assert [as_recorded(container) for container in ours.pod.init_containers] == [
        comparable(container) for container in recorded["initContainers"]
    ]
    assert [as_recorded(ours.pod.container)] == [comparable(container) for container in recorded["containers"]]


@pytest.mark.parametrize("path", recordings(used=True))
def test_the_objects_around_them_are_those_of_the_chart(path: Path) -> None:
    recorded, ours = rendered(path)
    assert list(ours.objects) == recorded["objects"]
    assert ours.config_maps[f"{ours.fullname}-env-configmap"] == recorded["envConfigMap"]
    assert ours.service == recorded["service"]
    assert ours.ingress == recorded.get("ingress")
    assert ours.replicas == recorded["replicas"]
    assert ours.hpa == recorded.get("hpa")
    assert ours.pod.annotations == recorded["podAnnotations"]
    assert ours.pod.security_context == recorded["podSecurityContext"]
    assert list(ours.pod.volumes) == recorded["volumes"]


@pytest.mark.parametrize("path", recordings(used=True))
def test_the_auth_ini_says_what_the_charts_says(path: Path) -> None:
    recorded, ours = rendered(path)
    ini = configparser.ConfigParser(interpolation=None)
    ini.read_string(ours.config_maps["mlflow-auth-ini-template"]["auth_template.ini"])
    assert dict(ini["mlflow"]) == recorded["authIni"]


@pytest.mark.parametrize("path", recordings(used=False))
def test_values_that_the_program_does_not_use_are_refused_by_name(path: Path) -> None:
    recorded, version = load(path)
    with pytest.raises(ValuesError, match=r"(ldapAuth|oauth2Proxy|oidcAuth) is not a value"):
        render(version, recorded["release"], recorded["namespace"], recorded["values"])


def recommended(version: str) -> dict[str, Any]:
    return load(RECORDINGS / f"mlflow-{version}" / "recommended-common.rendered.json")[0]["values"]


def test_a_second_line_of_the_authorization_function_is_a_line_of_the_ini() -> None:
    values = recommended("1.11.5")
    function = "mlflow.server.auth:authenticate_request_basic_auth"
    values["auth"]["authorizationFunction"] = f"{function}\n    auth_cache_ttl_seconds = 60"
    ini = configparser.ConfigParser(interpolation=None)
    ours = render("1.11.5", "mlflow", "mlflow", values)
    ini.read_string(ours.config_maps["mlflow-auth-ini-template"]["auth_template.ini"])
    assert ini["mlflow"]["authorization_function"] == function
    assert ini["mlflow"]["auth_cache_ttl_seconds"] == "60"


def test_an_extra_argument_is_one_flag_however_many_words_its_value_has() -> None:
    values = recommended("1.8.1") | {"extraArgs": {"workers": "1", "gunicornOpts": "--threads=10 --timeout=300"}}
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
        render("1.11.5", "mlflow", "mlflow", recommended("1.11.5") | change)


def test_no_password_can_be_a_value() -> None:
    values = recommended("1.11.5")
    values["backendStore"]["postgres"]["password"] = "hunter2"
    with pytest.raises(ValuesError, match="belong in a Secret") as refused:
        render("1.11.5", "mlflow", "mlflow", values)
    assert "hunter2" not in str(refused.value)


def test_a_release_without_mlflow_in_its_name_gets_it() -> None:
    assert render("1.11.5", "tracking", "ml", recommended("1.11.5")).fullname == "tracking-mlflow"


def test_another_version_of_the_chart_is_refused() -> None:
    with pytest.raises(ValuesError, match=r"knows 1\.8\.1 and 1\.11\.5"):
        check("1.9.0", {})
