"""MlflowDatabase: owners and grants, and a change of the password while pods run."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.unit.harness import ANY_CLUSTER, Deployment, Resource, changed, deploy

ROLE = "postgresql:index/role:Role"


def grants(deployment: Deployment) -> dict[tuple[str, str], list[str]]:
    return {
        (grant["objectType"], grant["role"]): grant["privileges"]
        for grant in deployment.of_type("postgresql:index/grant:Grant")
    }


def login(deployment: Deployment, name: str) -> Resource:
    return deployment.named(name)


def test_the_provider_does_not_expect_a_superuser_and_insists_on_tls(dev: Deployment) -> None:
    server = dev.named("database-server")
    # With the default the provider fails on RDS, after it has created the role. A provider's inputs arrive as JSON.
    assert server["superuser"] in {False, "false"}
    assert server["sslmode"] == "require"
    assert int(server["connectTimeout"]) <= 30


@pytest.mark.parametrize(
    ("tunnel", "mode"),
    [
        (None, "verify-full"),
        # The near end of a tunnel has another name than the server.
        ("localhost:15432", "verify-ca"),
    ],
)
def test_with_an_authority_pulumi_checks_the_certificate_too(tunnel: str | None, mode: str) -> None:
    changes = {"database": {"caFile": "tests/unit/authority.pem", **({"adminAddress": tunnel} if tunnel else {})}}
    server = deploy(changed(ANY_CLUSTER, changes), secrets=["postgres"]).named("database-server")
    assert (server["sslmode"], server["sslrootcert"]) == (mode, "tests/unit/authority.pem")


def test_the_provider_connects_to_the_address_and_not_to_the_endpoint(dev: Deployment) -> None:
    server = dev.named("database-server")
    assert server["host"] == "db.local"
    assert int(server["port"]) == 5432


def test_a_tunnel_is_for_this_machine_only() -> None:
    deployment = deploy(changed(ANY_CLUSTER, {"database.adminAddress": "localhost:15432"}), secrets=["postgres"])
    server = deployment.named("database-server")
    assert (server["host"], int(server["port"])) == ("localhost", 15432)
    database = deployment.values["backendStore"]["postgres"]
    assert (database["host"], database["port"]) == ("db.example.com", 5432)


def test_everything_goes_through_the_one_connection(dev: Deployment) -> None:
    resources = [resource for resource in dev.resources if resource.type.startswith("postgresql:")]
    assert resources
    assert {resource.provider for resource in resources} == {"database-server"}


def test_the_master_owns_database_and_schema(dev: Deployment) -> None:
    # On RDS, a grant on an object of another role succeeds without an effect.
    assert "owner" not in dev.named("database-database").inputs
    assert "owner" not in dev.named("database-schema").inputs


def test_the_public_may_nothing_and_mlflow_what_it_needs(dev: Deployment) -> None:
    assert grants(dev) == {
        ("database", "public"): [],
        ("database", "mlflow_app"): ["CONNECT"],
        ("schema", "mlflow_app"): ["CREATE", "USAGE"],
    }


def test_the_schema_public_is_left_alone(dev: Deployment) -> None:
    schemas = {resource.inputs.get("schema") for resource in dev.resources if resource.type.startswith("postgresql:")}
    assert schemas <= {None, "mlflow"}
    assert dev.named("database-schema")["name"] == "mlflow"


def test_both_login_roles_act_as_the_one_that_holds_the_grants(dev: Deployment) -> None:
    owner = dev.named("database-owner")
    assert (owner["name"], owner["login"]) == ("mlflow_app", False)
    assert "password" not in owner.inputs
    for name, user in {"database-user": "mlflow_user", "database-user-2": "mlflow_user_2"}.items():
        role = dev.named(name)
        assert (role["name"], role["login"]) == (user, True)
        # Otherwise one login role could not use the tables that the other has created.
        assert role["roles"] == ["mlflow_app"]
        assert role["assumeRole"] == "mlflow_app"


def test_the_search_path_leads_to_the_schema_and_nowhere_else(dev: Deployment) -> None:
    for name in ("database-user", "database-user-2"):
        assert dev.named(name)["searchPaths"] == ["mlflow"]


def test_no_role_has_more_power_than_it_needs(dev: Deployment) -> None:
    for role in dev.of_type(ROLE):
        assert not {"superuser", "createDatabase", "createRole", "bypassRowLevelSecurity"} & set(role.inputs)


def test_names_follow_the_settings() -> None:
    config = changed(ANY_CLUSTER, {"database": {"name": "tracking", "user": "tracker", "schema": "runs"}})
    deployment = deploy(config, secrets=["postgres"])
    assert deployment.named("database-database")["name"] == "tracking"
    assert {role["name"] for role in deployment.of_type(ROLE)} == {"tracking_app", "tracker", "tracker_2"}
    assert deployment.named("database-schema")["name"] == "runs"
    assert deployment.named("database-user")["searchPaths"] == ["runs"]
    assert deployment.values["backendStore"]["postgres"]["database"] == "tracking"
    assert deployment.values["auth"]["postgres"]["database"] == "tracking"


def test_a_protected_stack_keeps_its_data(prod: Deployment) -> None:
    assert prod.named("database-database").protect
    assert prod.named("database-schema").protect


def test_a_stack_that_is_not_protected_drops_tables_too(dev: Deployment) -> None:
    assert not dev.named("database-database").protect
    # Without CASCADE, PostgreSQL refuses to drop a schema that has tables.
    assert dev.named("database-schema")["dropCascade"] is True


def test_on_the_way_down_nothing_waits_for_an_open_transaction(dev: Deployment) -> None:
    # The database is dropped with its sessions, and everything in it with the database.
    inside = [*dev.of_type("postgresql:index/schema:Schema"), *dev.of_type("postgresql:index/grant:Grant")]
    assert len(inside) == 4
    assert {dev.named(each.name).deleted_with for each in inside} == {"database-database"}


def test_on_the_way_down_the_database_goes_before_the_role_that_owns_its_tables(dev: Deployment) -> None:
    assert "database-owner" in dev.named("database-database").depends_on


def test_mlflow_starts_when_everything_in_the_database_is_ready(dev: Deployment) -> None:
    needed = {
        "database-database",
        "database-user",
        "database-user-2",
        "database-nothing-for-public",
        "database-connect",
        "database-schema-use",
    }
    assert needed <= set(dev.named("mlflow-release").depends_on)


# Rotation: one login role is active, the other is standby. Deployments with two values of `rotation` are compared.


def turn(rotation: int, **database: Any) -> Deployment:
    config = changed(ANY_CLUSTER, {"database": {"rotation": rotation, **database}})
    return deploy(config, secrets=["postgres", "database"])


@pytest.fixture(scope="module")
def turns() -> Mapping[int, Deployment]:
    return {rotation: turn(rotation) for rotation in range(4)}


def credentials(deployment: Deployment) -> tuple[str, str]:
    """Return the user and the password that MLflow logs in with."""
    secret = deployment.named("mlflow-postgres-database-secret")["stringData"]
    return secret["username"], secret["password"]


@pytest.mark.parametrize("rotation", [1, 2, 3])
def test_a_rotation_gives_the_other_role_a_new_password(turns: Mapping[int, Deployment], rotation: int) -> None:
    (user, password), (next_user, next_password) = credentials(turns[rotation - 1]), credentials(turns[rotation])
    assert {user, next_user} == {"mlflow_user", "mlflow_user_2"}
    old = {role.inputs["password"]["value"] for role in turns[rotation - 1].of_type(ROLE) if role["login"]}
    assert next_password not in old, "a person who knows the old passwords can still log in"
    assert password in old


@pytest.mark.parametrize("rotation", [1, 2, 3])
def test_a_rotation_leaves_the_running_roles_password_as_it_is(turns: Mapping[int, Deployment], rotation: int) -> None:
    before, after = turns[rotation - 1], turns[rotation]
    running, _ = credentials(before)
    (old,) = [role for role in before.of_type(ROLE) if role["name"] == running]
    (standby,) = [role for role in after.of_type(ROLE) if role["name"] == running]
    assert old.name == standby.name
    # Both are needed: a generated password stays the same, and a change of a password in the settings is ignored.
    assert standby["password"] == old["password"]
    assert standby.ignore_changes == ["password"]


def test_the_role_whose_turn_it_is_takes_a_new_password(turns: Mapping[int, Deployment]) -> None:
    for rotation, deployment in turns.items():
        user, password = credentials(deployment)
        (role,) = [role for role in deployment.of_type(ROLE) if role["name"] == user]
        assert role["password"] == password, f"rotation {rotation}: MLflow could not log in"
        assert role.ignore_changes == []


def test_each_turn_has_a_password_of_its_own(turns: Mapping[int, Deployment]) -> None:
    assert len({credentials(deployment) for deployment in turns.values()}) == len(turns)


def test_a_rotation_rolls_the_pods(turns: Mapping[int, Deployment]) -> None:
    checksums = {turns[rotation].values["podAnnotations"]["checksum/secrets"] for rotation in turns}
    assert len(checksums) == len(turns)


def test_a_password_that_is_given_is_the_password_of_the_role_whose_turn_it_is() -> None:
    for rotation, user in {0: "mlflow_user", 1: "mlflow_user_2"}.items():
        deployment = turn(rotation, password="correct-horse")
        assert credentials(deployment) == (user, "correct-horse")
        (role,) = [role for role in deployment.of_type(ROLE) if role["name"] == user]
        assert role["password"] == "correct-horse"
        (other,) = [role for role in deployment.of_type(ROLE) if role["login"] and role["name"] != user]
        assert other["password"] != "correct-horse"


def test_generated_passwords_are_in_an_alphabet_that_the_chart_leaves_alone(dev: Deployment) -> None:
    for name in ("database-user-password", "database-user-2-password"):
        assert dev.named(name)["special"] is False
        assert dev.named(name)["length"] >= 24
