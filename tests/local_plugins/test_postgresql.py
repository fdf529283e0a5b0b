"""The stand-in for `postgresql` on a real PostgreSQL with RDS's roles: each role's rights, and a complete deletion."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from local import tools
from local.plugins.aws.database_server import DatabaseServer
from local.plugins.postgresql import Database, Grant, Role, Schema, Server
from local.plugins.provider_base import InvalidInput, OperationError, Properties, Resource
from local.supervisor.client import Supervisor

pytestmark = pytest.mark.skipif(not tools.POSTGRES.complete, reason="`make up` has not installed PostgreSQL yet")

MASTER = 'master\'s \\ "pass"word'
LOGINS = {"mlflow_user": "first-password", "mlflow_user_2": "second-password"}


@pytest.fixture(scope="module")
def instance() -> Iterator[DatabaseServer]:
    # PostgreSQL's user cannot enter pytest's folder.
    stack = Path(tempfile.mkdtemp(prefix="mlflow-eks-test-", dir="/var/tmp"))
    stack.chmod(0o711)
    supervisor = Supervisor(stack)
    before = os.environ.get("MLFLOW_EKS_STACK_DIR")
    os.environ["MLFLOW_EKS_STACK_DIR"] = str(stack)
    try:
        supervisor.start()
        server = DatabaseServer("test")
        server.start({"rds.force_ssl": "1", "log_statement": "none"}, "17.6")
        server.set_master("master", MASTER)
        yield server
        server.remove()
    finally:
        supervisor.stop()
        shutil.rmtree(stack)
        os.environ.pop("MLFLOW_EKS_STACK_DIR")
        if before is not None:
            os.environ["MLFLOW_EKS_STACK_DIR"] = before


def configuration(instance: DatabaseServer, **other: str) -> Properties:
    address = {"host": "127.0.0.1", "port": str(instance.port), "username": "master", "password": MASTER}
    return {**address, "sslmode": "require", "superuser": "false", "connectTimeout": "5", **other}


@pytest.fixture
def server(instance: DatabaseServer) -> Server:
    server = Server()
    server.configure(configuration(instance))
    return server


def resources(server: Server) -> dict[str, tuple[Resource, Properties]]:
    """Return the resources that the program declares, in the order of their dependencies."""

    def login(name: str) -> Properties:
        limits = {"searchPaths": ["mlflow"], "roles": ["mlflow_app"], "assumeRole": "mlflow_app"}
        return {"name": name, "login": True, "password": LOGINS[name], **limits}

    def grant(role: str, kind: str, *privileges: str, **more: str) -> tuple[Resource, Properties]:
        return Grant(server), {
            "role": role,
            "objectType": kind,
            "database": "mlflow",
            "privileges": [*privileges],
            **more,
        }

    return {
        "owner": (Role(server), {"name": "mlflow_app", "login": False}),
        "user": (Role(server), login("mlflow_user")),
        "user-2": (Role(server), login("mlflow_user_2")),
        "database": (Database(server), {"name": "mlflow"}),
        "schema": (Schema(server), {"name": "mlflow", "database": "mlflow", "dropCascade": True}),
        "nothing-for-public": grant("public", "database"),
        "connect": grant("mlflow_app", "database", "CONNECT"),
        "use": grant("mlflow_app", "schema", "CREATE", "USAGE", schema="mlflow"),
    }


@pytest.fixture
def deployed(server: Server) -> Iterator[dict[str, tuple[Resource, str, Properties]]]:
    created: dict[str, tuple[Resource, str, Properties]] = {}
    for name, (resource, inputs) in resources(server).items():
        resource_id, outputs = resource.create(inputs)
        assert outputs.keys() == resource.computed
        created[name] = resource, resource_id, inputs
    yield created
    # Delete twice, because an interrupted deletion is repeated.
    for resource, resource_id, inputs in [*reversed(created.values())] * 2:
        resource.delete(resource_id, inputs)
    assert [resource.read(resource_id, inputs, {}) for resource, resource_id, inputs in created.values()] == [
        None
    ] * len(created)
    with server.transaction() as connection:
        query = "SELECT count(*) FROM pg_auth_members WHERE member = 'master'::regrole"
        assert connection.execute(query).fetchone() == (1,), "the master is a member of rds_superuser only"


class Client:
    def __init__(self, instance: DatabaseServer) -> None:
        self.port = instance.port

    def run(
        self, user: str, statement: str, *, password: str | None = None, database: str = "mlflow", **options: Any
    ) -> list[Any]:
        where = {"host": "127.0.0.1", "port": self.port, "dbname": database, "sslmode": "require", **options}
        with psycopg.connect(user=user, password=password or LOGINS[user], **where) as connection:
            cursor = connection.execute(statement)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def client(instance: DatabaseServer) -> Client:
    return Client(instance)


Deployed = dict[str, tuple[Resource, str, Properties]]


def test_what_is_written_is_what_is_read(deployed: Deployed):
    for resource, resource_id, inputs in deployed.values():
        state = resource.read(resource_id, inputs, {})
        assert state is not None
        assert state.inputs == inputs
        assert state.outputs.keys() == resource.computed


def test_tables_of_either_login_belong_to_the_owner_and_serve_both(deployed: Deployed, client: Client):
    client.run("mlflow_user", "CREATE TABLE runs (id int)")
    client.run(
        "mlflow_user_2", "INSERT INTO runs VALUES (1); ALTER TABLE runs ADD name text; CREATE TABLE metrics (id int)"
    )
    assert client.run("mlflow_user", "SELECT id FROM runs") == [(1,)]
    client.run("mlflow_user", "DROP TABLE metrics")
    query = "SELECT schemaname, tableowner FROM pg_tables WHERE tablename = 'runs'"
    assert client.run("mlflow_user", query) == [("mlflow", "mlflow_app")]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE public.x (i int)",
        "RESET ROLE; CREATE TABLE public.x (i int)",
        "CREATE TEMPORARY TABLE x (i int)",
        "CREATE SCHEMA other",
        "DROP SCHEMA mlflow CASCADE",
        "CREATE ROLE other",
    ],
)
def test_a_login_may_do_nothing_else(deployed: Deployed, client: Client, statement: str):
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        client.run("mlflow_user", statement)


def test_nobody_else_gets_in(deployed: Deployed, client: Client, server: Server):
    other_role = Role(server)
    other_role.create({"name": "stranger", "login": True, "password": "stranger-password"})
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        client.run("stranger", "SELECT 1", password="stranger-password")
    other_role.delete("stranger", {})
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        client.run("mlflow_app", "SELECT 1", password="any")


def test_without_tls_nobody_gets_in(deployed: Deployed, client: Client):
    with pytest.raises(psycopg.OperationalError, match="no encryption"):
        client.run("mlflow_user", "SELECT 1", sslmode="disable")


def test_a_database_is_dropped_with_the_sessions_that_are_open(deployed: Deployed, client: Client):
    # A pod that has not ended yet, and a person with psql.
    where = {"host": "127.0.0.1", "port": client.port, "dbname": "mlflow", "sslmode": "require"}
    with psycopg.connect(user="mlflow_user", password=LOGINS["mlflow_user"], **where) as session:
        session.execute("CREATE TABLE kept (a int)")
        session.commit()
        session.execute("INSERT INTO kept VALUES (1)")
        # The program deletes what is in the database with the database.
        for name in ("database", "user-2", "user", "owner"):
            resource, resource_id, inputs = deployed[name]
            resource.delete(resource_id, inputs)
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")


def test_a_new_password_is_that_of_one_role(deployed: Deployed, client: Client):
    resource, resource_id, inputs = deployed["user-2"]
    with psycopg.connect(
        host="127.0.0.1", port=client.port, dbname="mlflow", user="mlflow_user_2", password=LOGINS["mlflow_user_2"]
    ) as old_session:
        resource.update(resource_id, inputs, inputs | {"password": "third-password"})
        assert old_session.execute("SELECT current_user").fetchone() == ("mlflow_app",), "open sessions continue"
    assert client.run("mlflow_user_2", "SELECT current_user", password="third-password") == [("mlflow_app",)]
    assert client.run("mlflow_user", "SELECT current_user") == [("mlflow_app",)]
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        client.run("mlflow_user_2", "SELECT 1")


def test_a_grant_that_somebody_changed_is_seen_and_put_right(deployed: Deployed, client: Client, server: Server):
    client.run("mlflow_user", "CREATE TABLE runs (id int)")
    with server.transaction("mlflow") as connection:
        connection.execute("REVOKE CREATE ON SCHEMA mlflow FROM mlflow_app")
        connection.execute("GRANT CONNECT ON DATABASE mlflow TO PUBLIC")
    for name, now in {"use": ["USAGE"], "nothing-for-public": ["CONNECT"]}.items():
        resource, resource_id, inputs = deployed[name]
        state = resource.read(resource_id, inputs, {})
        assert state is not None
        assert state.inputs["privileges"] == now
        resource.update(resource_id, state.inputs, inputs)
        state = resource.read(resource_id, inputs, {})
        assert state is not None
        assert state.inputs == inputs


def test_a_role_that_somebody_changed_is_seen(deployed: Deployed, server: Server):
    with server.transaction() as connection:
        connection.execute("ALTER ROLE mlflow_user NOLOGIN")
        connection.execute("ALTER ROLE mlflow_user RESET ROLE")
        connection.execute("REVOKE mlflow_app FROM mlflow_user")
    resource, resource_id, inputs = deployed["user"]
    state = resource.read(resource_id, inputs, {})
    assert state is not None
    assert (state.inputs["login"], state.inputs["assumeRole"], state.inputs["roles"]) == (False, None, [])
    resource.update(resource_id, state.inputs, inputs)
    state = resource.read(resource_id, inputs, {})
    assert state is not None
    assert state.inputs == inputs


def test_an_unreachable_server_is_one_line_without_the_password(instance: DatabaseServer):
    server = Server()
    server.configure(configuration(instance, password="wrong-password"))
    with pytest.raises(OperationError) as error:
        Database(server).create({"name": "x"})
    text = str(error.value)
    assert text.startswith(f"cannot connect to PostgreSQL at 127.0.0.1:{instance.port}/postgres as master: ")
    assert "\n" not in text
    assert "wrong-password" not in text


def test_a_master_that_claims_to_be_a_superuser_is_refused(instance: DatabaseServer):
    with pytest.raises(OperationError, match="superuser=False"):
        Server().configure(configuration(instance, superuser="true"))


def test_a_privilege_that_does_not_exist_is_refused(server: Server):
    _, inputs = resources(server)["connect"]
    with pytest.raises(InvalidInput):
        Grant(server).check(inputs | {"privileges": ["USAGE"]})


def test_the_server_is_the_same_after_a_restart_with_other_parameters(
    instance: DatabaseServer, deployed: Deployed, client: Client
):
    client.run("mlflow_user", "CREATE TABLE runs (id int)")
    instance.start({"rds.force_ssl": "0", "log_min_duration_statement": "500"}, "17.6")
    assert client.run("mlflow_user", "SHOW log_min_duration_statement", sslmode="disable") == [("500ms",)]
    assert client.run("mlflow_user", "SELECT count(*) FROM runs") == [(0,)]
    instance.start({"rds.force_ssl": "1", "log_statement": "none"}, "17.6")


def test_an_upgrade_to_another_major_version_keeps_roles_passwords_and_data(
    instance: DatabaseServer, deployed: Deployed, client: Client
):
    client.run("mlflow_user", "CREATE TABLE kept AS SELECT 7 AS id")
    instance.start({"rds.force_ssl": "1"}, "18.4")
    instance.set_master("master", MASTER)
    assert client.run("mlflow_user", "SHOW server_version")[0][0].startswith("18.")
    assert client.run("mlflow_user", "SELECT id FROM kept") == [(7,)]
    assert client.run("mlflow_user", "SHOW search_path")[0][0] == "mlflow"
    # A second start has nothing to upgrade.
    instance.start({"rds.force_ssl": "1"}, "18.4")
    assert client.run("mlflow_user", "SELECT id FROM kept") == [(7,)]
