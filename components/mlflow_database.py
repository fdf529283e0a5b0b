"""MlflowDatabase: roles, database, schema and search path for MLflow on a PostgreSQL server.

Two facts of RDS decide the shape. The master is not a superuser, so it owns database and schema itself: grants on a database that
another role owns would succeed and do nothing. And ``GRANT … ON SCHEMA public`` does not give CREATE there, so the tables live in a
schema of their own that the roles' search path points at.

Two login roles take turns, so that a password can change while pods run: the one whose turn it is gets the new password, running
pods go on with the other. Both act as one role that holds the grants and owns the tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_postgresql as postgresql
import pulumi_random as random


@dataclass(frozen=True)
class MlflowDatabaseArgs:
    """The server and the names on it."""

    admin_host: pulumi.Input[str]
    """Where this machine reaches the server: its address, or the near end of a tunnel."""
    admin_port: pulumi.Input[int]
    """Its port there."""
    admin_username: pulumi.Input[str]
    """A role with CREATEDB and CREATEROLE."""
    admin_password: pulumi.Input[str]
    """Its password."""
    name: str = "mlflow"
    """The database."""
    user: str = "mlflow_user"
    """The first login role; the second is ``<user>_2``."""
    schema: str = "mlflow"
    """The schema."""
    password: pulumi.Input[str] | None = None
    """Password of the role whose turn it is. Generated when absent."""
    rotation: int = 0
    """How often the password was changed: even, it is the first role's turn; odd, the second's."""
    protect: bool = True
    """Refuse to delete database and schema."""


class MlflowDatabase(pulumi.ComponentResource):
    """Everything that the manual guide does in psql."""

    name: pulumi.Output[str]
    """The database, once everything in it is ready for MLflow."""
    user: pulumi.Output[str]
    """The login role whose turn it is."""
    password: pulumi.Output[str]
    """Its password, a secret."""

    def __init__(self, name: str, args: MlflowDatabaseArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mlflow-eks:index:MlflowDatabase", name, {}, opts)
        server = postgresql.Provider(
            f"{name}-server",
            host=args.admin_host,
            port=args.admin_port,
            username=args.admin_username,
            password=pulumi.Output.secret(args.admin_password),
            # With the default (true) the provider fails on RDS after it has created the role.
            superuser=False,
            sslmode="require",
            connect_timeout=15,
            opts=pulumi.ResourceOptions(parent=self),
        )
        child = pulumi.ResourceOptions(parent=self, provider=server)
        kept = pulumi.ResourceOptions(parent=self, provider=server, protect=args.protect)

        owner = postgresql.Role(f"{name}-owner", name=f"{args.name}_app", login=False, opts=child)
        logins = [
            self._login(f"{name}-user", args.user, owner, args, child),
            self._login(f"{name}-user-2", f"{args.user}_2", owner, args, child),
        ]
        database = postgresql.Database(
            f"{name}-database",
            name=args.name,
            # A role cannot go while it owns tables, so on the way down the database goes first.
            opts=pulumi.ResourceOptions.merge(kept, pulumi.ResourceOptions(depends_on=[owner])),
        )
        schema = postgresql.Schema(
            f"{name}-schema", name=args.schema, database=database.name, drop_cascade=True, opts=kept
        )

        def grant(
            what: str, role: pulumi.Input[str], privileges: Sequence[str], schema: pulumi.Input[str] | None = None
        ) -> pulumi.Resource:
            return postgresql.Grant(
                f"{name}-{what}",
                database=database.name,
                object_type="database" if schema is None else "schema",
                schema=schema,
                role=role,
                privileges=list(privileges),
                opts=child,
            )

        grants = [
            # PUBLIC may connect to a new database and make temporary tables in it; nobody but MLflow has business here.
            grant("nothing-for-public", "public", []),
            grant("connect", owner.name, ["CONNECT"]),
            grant("schema-use", owner.name, ["CREATE", "USAGE"], schema.name),
        ]
        turn, password = logins[args.rotation % 2]
        ready = pulumi.Output.all(
            database.name, turn.name, *[grant.urn for grant in grants], *[login.urn for login, _ in logins]
        )
        self.name = ready.apply(lambda known: str(known[0]))
        self.user = ready.apply(lambda known: str(known[1]))
        self.password = pulumi.Output.secret(password)
        self.register_outputs({"name": self.name, "user": self.user})

    def _login(
        self, name: str, user: str, owner: postgresql.Role, args: MlflowDatabaseArgs, child: pulumi.ResourceOptions
    ) -> tuple[postgresql.Role, pulumi.Output[str]]:
        its_turn = (args.rotation % 2 == 0) == (user == args.user)
        generated = random.RandomPassword(
            f"{name}-password",
            length=32,
            special=False,
            # The rotation in which this role's turn last began: a new password exactly when it comes round again.
            keepers={"rotation": str(args.rotation if its_turn else args.rotation - 1)},
            opts=pulumi.ResourceOptions(parent=self),
        )
        password = args.password if its_turn and args.password is not None else generated.result
        role = postgresql.Role(
            name,
            name=user,
            login=True,
            password=pulumi.Output.secret(password),
            roles=[owner.name],
            assume_role=owner.name,
            search_paths=[args.schema],
            # While it rests, a role keeps the password that the pods of the last turn still use.
            opts=pulumi.ResourceOptions.merge(
                child, None if its_turn else pulumi.ResourceOptions(ignore_changes=["password"])
            ),
        )
        return role, pulumi.Output.secret(password)
