# ruff: noqa: D102, S105 - `Resource` describes the methods; a token is a type's name
"""The stand-in for Pulumi's `postgresql` provider. It runs the real provider's statements in the same order.

Like the real provider on RDS, it connects as a master that is not a superuser (`superuser=False`). To act on the
objects of another role, it makes the master a member of that role until the end of the transaction.
"""

import threading
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, LiteralString

import psycopg
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from local.plugins.provider_base import (
    UNKNOWN,
    InvalidInput,
    OperationError,
    Properties,
    Provider,
    Resource,
    State,
    changed,
    in_order_of,
)

_PRIVILEGES = {
    "database": {"CONNECT": SQL("CONNECT"), "CREATE": SQL("CREATE"), "TEMPORARY": SQL("TEMPORARY")},
    "schema": {"CREATE": SQL("CREATE"), "USAGE": SQL("USAGE")},
}

Connection = psycopg.Connection[tuple[Any, ...]]


class Server:
    """The server in the provider's configuration."""

    def __init__(self) -> None:
        self._parameters: dict[str, Any] = {}
        # Two GRANTs on one object at once fail with "tuple concurrently updated". The real provider takes a lock, too.
        self._one_at_a_time = threading.Lock()

    def configure(self, config: Properties) -> None:
        """Store the provider's configuration. Its numbers arrive as text.

        Raises:
            OperationError: `superuser` is not false.
        """
        if config.get("superuser", "true") != "false":
            raise OperationError(
                "postgresql: set superuser=False, because the master of an RDS instance is not a superuser"
            )
        self._parameters = {
            "host": config["host"],
            "port": int(config.get("port", 5432)),
            "user": config["username"],
            "password": config.get("password"),
            "sslmode": config.get("sslmode", "require"),
            "sslrootcert": config.get("sslrootcert"),
            "connect_timeout": int(config.get("connectTimeout", 180)),
            "dbname": config.get("database", "postgres"),
        }

    @property
    def master(self) -> str:
        """Name of the user that the provider connects as."""
        return self._parameters["user"]

    @contextmanager
    def transaction(self, database: str | None = None, *, autocommit: bool = False) -> Generator[Connection]:
        """Provide a connection that is committed at the end of the block, or rolled back after an error.

        Args:
            database: name of the database. None: the one in the configuration.
            autocommit: True to commit each statement, for those that cannot run in a transaction.

        Raises:
            OperationError: the server refuses the connection.
        """
        parameters: dict[str, Any] = {**self._parameters, **({"dbname": database} if database else {})}
        with self._one_at_a_time:
            try:
                connection = psycopg.connect(**parameters, autocommit=autocommit)
            except psycopg.OperationalError as error:
                where = f"{parameters['host']}:{parameters['port']}/{parameters['dbname']}"
                reason = str(error).strip().splitlines()[0]
                raise OperationError(f"cannot connect to PostgreSQL at {where} as {self.master}: {reason}") from None
            with connection:
                yield connection


def _statement(template: LiteralString, *parts: str | Composable) -> Composed:
    """Return SQL with each {} filled. A string is quoted as an identifier, and SQL is inserted as it is."""
    return SQL(template).format(*(part if isinstance(part, Composable) else Identifier(part) for part in parts))


def _one(connection: Connection, query: LiteralString, *arguments: Any) -> tuple[Any, ...] | None:
    return connection.execute(query, arguments).fetchone()


def _exists(connection: Connection, catalog: str, column: str, name: str) -> bool:
    query = _statement("SELECT 1 FROM {} WHERE {} = %s", catalog, column)
    return connection.execute(query, (name,)).fetchone() is not None


@contextmanager
def _member_of(connection: Connection, master: str, roles: Iterable[str]) -> Generator[None]:
    """Make the master a member of roles for the block, which needs the rights of these roles.

    Since PostgreSQL 16, a role that creates another is not its member in this sense (SET option).
    """
    temporary: list[str] = []
    for role in sorted(set(roles) - {master}):
        held = _one(
            connection,
            "SELECT 1 FROM pg_auth_members WHERE pg_get_userbyid(roleid) = %s AND pg_get_userbyid(member) = %s AND set_option",
            role,
            master,
        )
        if held is None:
            connection.execute(_statement("GRANT {} TO {}", role, master))
            temporary.append(role)
    yield
    for role in temporary:
        connection.execute(_statement("REVOKE {} FROM {}", role, master))


class Role(Resource):
    """A role. Without superuser rights, its password can be set and not read."""

    token = "postgresql:index/role:Role"
    supported = frozenset({"assumeRole", "login", "name", "password", "roles", "searchPaths"})

    def __init__(self, server: Server) -> None:
        self._server = server

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        name = inputs["name"]
        options: list[Composable] = [SQL("NOCREATEDB NOCREATEROLE"), SQL("LOGIN" if inputs.get("login") else "NOLOGIN")]
        if password := inputs.get("password"):
            options.append(_statement("ENCRYPTED PASSWORD {}", Literal(password)))
        with self._server.transaction() as connection:
            connection.execute(_statement("CREATE ROLE {} WITH {}", name, SQL(" ").join(options)))
            self._grant_and_set(connection, inputs)
        return name, {}

    def update(self, resource_id: str, old: Properties, inputs: Properties) -> Properties:
        differs = changed(old, inputs)
        if "name" in differs:
            raise OperationError("name: the local stack's stand-in cannot rename a role; keep the old name")
        with self._server.transaction() as connection:
            if "password" in differs:
                connection.execute(
                    _statement("ALTER ROLE {} PASSWORD {}", resource_id, Literal(inputs.get("password")))
                )
            if "login" in differs:
                connection.execute(
                    _statement("ALTER ROLE {} WITH {}", resource_id, SQL("LOGIN" if inputs.get("login") else "NOLOGIN"))
                )
            for role in self._memberships(connection, resource_id):
                connection.execute(_statement("REVOKE {} FROM {}", role, resource_id))
            self._grant_and_set(connection, inputs)
        return {}

    def read(self, resource_id: str, inputs: Properties, outputs: Properties) -> State | None:
        with self._server.transaction() as connection:
            row = _one(
                connection,
                "SELECT rolcanlogin, coalesce(rolconfig, '{}') FROM pg_roles WHERE rolname = %s",
                resource_id,
            )
            if row is None:
                return None
            login, config = row
            settings = dict(item.split("=", 1) for item in config)
            memberships = self._memberships(connection, resource_id)
        path = [part.strip().strip('"') for part in settings.get("search_path", "").split(",") if part.strip()]
        actual = {
            "name": resource_id,
            "login": login,
            "roles": in_order_of(inputs.get("roles"), memberships),
            "searchPaths": path,
            "assumeRole": settings.get("role"),
            "password": inputs.get("password"),
        }
        return State(resource_id, {name: value for name, value in actual.items() if value or name in inputs})

    def delete(self, resource_id: str, properties: Properties) -> None:
        master = self._server.master
        with self._server.transaction() as connection:
            if not _exists(connection, "pg_roles", "rolname", resource_id):
                return
            with _member_of(connection, master, [resource_id]):
                connection.execute(_statement("REASSIGN OWNED BY {} TO {}", resource_id, master))
                connection.execute(_statement("DROP OWNED BY {}", resource_id))
            connection.execute(_statement("DROP ROLE {}", resource_id))

    @staticmethod
    def _memberships(connection: Connection, role: str) -> list[str]:
        query = "SELECT DISTINCT pg_get_userbyid(roleid) FROM pg_auth_members WHERE pg_get_userbyid(member) = %s"
        return [row[0] for row in connection.execute(query, (role,))]

    @staticmethod
    def _grant_and_set(connection: Connection, inputs: Properties) -> None:
        name = inputs["name"]
        for role in inputs.get("roles", []):
            connection.execute(_statement("GRANT {} TO {}", role, name))
        path = (
            SQL(", ").join(map(Identifier, inputs.get("searchPaths", [])))
            if inputs.get("searchPaths")
            else SQL("DEFAULT")
        )
        connection.execute(_statement("ALTER ROLE {} SET search_path TO {}", name, path))
        if assumed := inputs.get("assumeRole"):
            connection.execute(_statement("ALTER ROLE {} SET ROLE TO {}", name, assumed))
        else:
            connection.execute(_statement("ALTER ROLE {} RESET ROLE", name))


class Database(Resource):
    """A database, owned by the master."""

    token = "postgresql:index/database:Database"
    supported = frozenset({"name"})
    replace = frozenset({"name"})
    computed = frozenset({"encoding", "lcCollate", "lcCtype", "owner", "template"})

    def __init__(self, server: Server) -> None:
        self._server = server

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        name = inputs["name"]
        with self._server.transaction(autocommit=True) as connection:
            connection.execute(
                _statement("CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING 'UTF8'", name, self._server.master)
            )
        return name, self._outputs(name) or {}

    def read(self, resource_id: str, inputs: Properties, outputs: Properties) -> State | None:
        actual = self._outputs(resource_id)
        return None if actual is None else State(resource_id, {"name": resource_id}, actual)

    def delete(self, resource_id: str, properties: Properties) -> None:
        with self._server.transaction(autocommit=True) as connection:
            connection.execute(_statement("DROP DATABASE IF EXISTS {} WITH (FORCE)", resource_id))

    def _outputs(self, name: str) -> Properties | None:
        with self._server.transaction() as connection:
            query = (
                "SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datctype"
                " FROM pg_database WHERE datname = %s"
            )
            row = _one(connection, query, name)
        return (
            None
            if row is None
            else dict(zip(("owner", "encoding", "lcCollate", "lcCtype"), row, strict=True)) | {"template": "template0"}
        )


class Schema(Resource):
    """A schema, owned by the master."""

    token = "postgresql:index/schema:Schema"
    supported = frozenset({"database", "dropCascade", "name"})
    replace = frozenset({"database", "name"})
    computed = frozenset({"owner"})

    def __init__(self, server: Server) -> None:
        self._server = server

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        database, name = inputs["database"], inputs["name"]
        with self._server.transaction(database) as connection:
            connection.execute(_statement("CREATE SCHEMA IF NOT EXISTS {}", name))
        return f"{database}.{name}", {"owner": self._server.master}

    def update(self, resource_id: str, old: Properties, inputs: Properties) -> Properties:
        # Only `dropCascade` can differ here, and it matters only for the deletion.
        return {"owner": self._server.master}

    def read(self, resource_id: str, inputs: Properties, outputs: Properties) -> State | None:
        database, _, name = resource_id.partition(".")
        with self._server.transaction() as connection:
            if not _exists(connection, "pg_database", "datname", database):
                return None
        with self._server.transaction(database) as connection:
            row = _one(connection, "SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = %s", name)
        return (
            None
            if row is None
            else State(resource_id, inputs | {"database": database, "name": name}, {"owner": row[0]})
        )

    def delete(self, resource_id: str, properties: Properties) -> None:
        if self.read(resource_id, properties, {}) is None:
            return
        mode = SQL("CASCADE" if properties.get("dropCascade") else "RESTRICT")
        with self._server.transaction(properties["database"]) as connection:
            connection.execute(_statement("DROP SCHEMA {} {}", properties["name"], mode))


class Grant(Resource):
    """All privileges of a role on a database or schema. Privileges that are not listed are revoked."""

    token = "postgresql:index/grant:Grant"
    supported = frozenset({"database", "objectType", "privileges", "role", "schema"})
    replace = frozenset({"database", "objectType", "role", "schema"})

    def __init__(self, server: Server) -> None:
        self._server = server

    def check(self, inputs: Properties) -> Properties:
        allowed = _PRIVILEGES.get(inputs["objectType"])
        if allowed is None:
            raise InvalidInput(
                "objectType",
                f"the local stack's stand-in does not know {inputs['objectType']}; write {' or '.join(sorted(_PRIVILEGES))}",
            )
        if unknown := sorted({name for name in inputs["privileges"] if name is not UNKNOWN} - allowed.keys()):
            raise InvalidInput("privileges", f"{unknown[0]} is not one of {', '.join(sorted(allowed))}")
        return inputs

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        self._apply(inputs, inputs["privileges"])
        kind = [inputs["schema"]] if inputs["objectType"] == "schema" else []
        return "_".join([inputs["role"], inputs["database"], *kind, inputs["objectType"]]), {}

    def update(self, resource_id: str, old: Properties, inputs: Properties) -> Properties:
        self._apply(inputs, inputs["privileges"])
        return {}

    def read(self, resource_id: str, inputs: Properties, outputs: Properties) -> State | None:
        if not inputs:
            raise OperationError(
                "a grant cannot be imported, because its id does not contain its inputs; create it instead"
            )
        role, database = inputs["role"], inputs["database"]
        with self._server.transaction() as connection:
            has_role = role == "public" or _exists(connection, "pg_roles", "rolname", role)
            if not has_role or not _exists(connection, "pg_database", "datname", database):
                return None
        catalog, acl, column, name = self._object(inputs)
        with self._server.transaction(database) as connection:
            if not _exists(connection, catalog, column, name):
                return None
            query = _statement(
                "SELECT privilege_type FROM {}, aclexplode({})"
                " WHERE {} = %s AND grantee = CASE WHEN %s = 'public' THEN 0 ELSE (SELECT oid FROM pg_roles WHERE rolname = %s) END",
                *(catalog, acl, column),
            )
            privileges = [row[0] for row in connection.execute(query, (name, role, role))]
        return State(resource_id, inputs | {"privileges": in_order_of(inputs["privileges"], privileges)})

    def delete(self, resource_id: str, properties: Properties) -> None:
        if self.read(resource_id, properties, {}) is not None:
            self._apply(properties, [])

    @staticmethod
    def _object(inputs: Mapping[str, Any]) -> tuple[str, str, str, str]:
        """Return the catalog of the object, its columns for privileges and names, and the object's name."""
        if inputs["objectType"] == "database":
            return "pg_database", "datacl", "datname", inputs["database"]
        return "pg_namespace", "nspacl", "nspname", inputs["schema"]

    def _apply(self, inputs: Properties, privileges: list[str]) -> None:
        kind = inputs["objectType"]
        target = _statement("DATABASE {}" if kind == "database" else "SCHEMA {}", self._object(inputs)[3])
        role = SQL("PUBLIC") if inputs["role"] == "public" else Identifier(inputs["role"])
        with self._server.transaction(inputs["database"]) as connection:
            owners: list[str] = []
            if kind == "schema":
                query = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = %s"
                owners = [row[0] for row in connection.execute(query, (inputs["schema"],))]
            with _member_of(connection, self._server.master, owners):
                connection.execute(_statement("REVOKE ALL PRIVILEGES ON {} FROM {}", target, role))
                if privileges:
                    granted = SQL(", ").join(_PRIVILEGES[kind][privilege] for privilege in privileges)
                    connection.execute(_statement("GRANT {} ON {} TO {}", granted, target, role))


class PostgreSql(Provider):
    """The package `postgresql`."""

    package = "postgresql"
    version = version("pulumi-postgresql")
    errors = (psycopg.Error,)

    def __init__(self) -> None:
        self._server = Server()
        super().__init__([resource(self._server) for resource in (Role, Database, Schema, Grant)])

    def configure(self, config: Properties) -> None:
        self._server.configure(config)

    def error_text(self, error: Exception) -> str:
        # The full text of a server's error quotes the statement, and a statement can contain a password.
        return (isinstance(error, psycopg.Error) and error.diag.message_primary) or type(error).__name__
