"""Every password is a secret at every place that has it, and few places have it."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.unit.harness import ANY_CLUSTER, MINIMAL, OIDC, Deployment, changed, deploy, is_secret, plain, unwrapped
from tests.unit.test_settings import secret_settings

# One stack sets every password. The other has an existing server, so it has no instance with a master.
SEEDED: Mapping[str, Mapping[str, str]] = {
    "own": {
        "postgres.masterPassword": "seed-of-the-master",
        "database.password": "seed-of-the-role",
        "mlflow.auth.adminPassword": "seed-of-the-admin",
        "mlflow.auth.oidc.clientSecret": "seed-of-the-client",
        "mlflow.keys.passphrase": "seed/of+the-passphrase-of-the-keys",
        "mlflow.keys.webhooks": f"seed-of-the-webhooks{'x' * 23}=",
    },
    "existing": {"postgres.existing.adminPassword": "seed of the existing & foreign"},
}
GENERATED = "generated-"


@pytest.fixture(scope="module")
def own() -> Deployment:
    config = changed(
        MINIMAL,
        {
            "mlflow.auth": {"mode": "oidc", "oidc": OIDC},
            **SEEDED["own"],
            "postgres.alarmTopicArn": "arn:aws:sns:eu-west-1:123456789012:a",
            "mlflow.dnsZone": "example.com",
        },
    )
    return deploy(config, secrets=["postgres", "database", "mlflow"])


@pytest.fixture(scope="module")
def existing() -> Deployment:
    return deploy(changed(ANY_CLUSTER, SEEDED["existing"]), secrets=["postgres"])


@pytest.fixture(params=SEEDED)
def seeded(request: pytest.FixtureRequest) -> tuple[Deployment, Mapping[str, str]]:
    return request.getfixturevalue(request.param), SEEDED[request.param]


def everything(deployment: Deployment) -> dict[str, Any]:
    """Return everything that the engine gets: inputs of resources, outputs of components, exports of the stack."""
    return {
        **{f"{resource.name}.inputs": resource.inputs for resource in deployment.resources},
        **{f"{name}.outputs": outputs for name, outputs in deployment.component_outputs.items()},
        "exports": deployment.outputs,
    }


def texts(value: Any) -> list[str]:
    return [text for _, text in unwrapped(plain(value))]


def test_every_secret_setting_is_seeded() -> None:
    assert {path for paths in SEEDED.values() for path in paths} == set(secret_settings())


def test_a_password_from_the_settings_is_a_secret_wherever_it_goes(
    seeded: tuple[Deployment, Mapping[str, str]],
) -> None:
    deployment, seeds = seeded
    for path, seed in seeds.items():
        shown = [where for where, text in unwrapped(everything(deployment)) if seed in text]
        assert shown == [], f"{path} would be unencrypted in state and diffs"


def test_a_password_from_the_settings_goes_to_where_it_is_needed(seeded: tuple[Deployment, Mapping[str, str]]) -> None:
    # Without this test, the test above would also pass if no password were anywhere.
    deployment, seeds = seeded
    goes_to = {
        path: {where for where, value in everything(deployment).items() if seed in texts(value)}
        for path, seed in seeds.items()
    }
    expected = {
        "postgres.masterPassword": {"postgres-instance.inputs", "database-server.inputs"},
        "database.password": {"database-user.inputs", "mlflow-postgres-database-secret.inputs"},
        "mlflow.auth.adminPassword": {"mlflow-mlflow-auth.inputs", "exports"},
        "mlflow.auth.oidc.clientSecret": {"mlflow-mlflow-oidc.inputs"},
        "mlflow.keys.passphrase": {"mlflow-mlflow-keys.inputs"},
        "mlflow.keys.webhooks": {"mlflow-mlflow-keys.inputs"},
        "postgres.existing.adminPassword": {"database-server.inputs"},
    }
    assert goes_to == {path: expected[path] for path in seeds}


def test_a_generated_password_is_a_secret_wherever_it_goes(prod: Deployment, any_cluster: Deployment) -> None:
    # The real provider marks its result as secret. The mock does not, so this shows that the program does.
    for deployment in (prod, any_cluster):
        shown = [where for where, text in unwrapped(everything(deployment)) if GENERATED in text]
        assert shown == []
        assert any(GENERATED in text for text in texts(everything(deployment)))


def test_no_password_is_in_the_values_of_a_release(seeded: tuple[Deployment, Mapping[str, str]]) -> None:
    deployment, seeds = seeded
    # Not even a secret value is allowed: Helm stores the values in its own Secret, and `helm get values` prints them.
    for name in ("mlflow-release", "ingress-release"):
        for text in texts(deployment.named(name).inputs):
            assert not [path for path, seed in seeds.items() if seed in text]
            assert GENERATED not in text


def test_the_values_of_a_release_can_be_reviewed(seeded: tuple[Deployment, Mapping[str, str]]) -> None:
    deployment, _ = seeded
    for name in ("mlflow-release", "ingress-release"):
        release = deployment.named(name).inputs
        # A secret in the values would hide the whole diff, or the part around it.
        assert list(unwrapped(release)) == list(unwrapped(plain(release)))


def test_no_password_is_in_the_log(seeded: tuple[Deployment, Mapping[str, str]]) -> None:
    deployment, seeds = seeded
    for line in deployment.log:
        assert not [path for path, seed in seeds.items() if seed in line]


def test_the_checksum_of_the_secrets_gives_nothing_away(own: Deployment) -> None:
    checksum = own.values["podAnnotations"]["checksum/secrets"]
    assert not is_secret(own.named("mlflow-release").inputs["values"])
    assert len(checksum) == 16
    # The checksum has a key that no annotation contains, so it cannot be used to try passwords.
    assert own.named("mlflow-checksum").type == "random:index/randomPassword:RandomPassword"
    assert own.named("mlflow-checksum")["length"] >= 32


def test_the_password_is_exported_as_a_secret_and_nothing_else_is(own: Deployment, prod: Deployment) -> None:
    for deployment, password in ((own, "seed-of-the-admin"), (prod, "generated-mlflow-admin")):
        assert {name for name, value in deployment.outputs.items() if is_secret(value)} == {"adminPassword"}
        assert plain(deployment.outputs["adminPassword"]) == password
