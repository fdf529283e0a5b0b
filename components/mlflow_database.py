"""MlflowDatabase: roles, database, schema and search path for MLflow on a PostgreSQL server.

Two facts of RDS decide the shape. First, the master is not a superuser: if another role owned the database, the master's grants would
succeed and do nothing. So the master owns database and schema. Second, ``GRANT … ON SCHEMA public`` does not give CREATE there, so the
tables are in a schema of their own, on the roles' search path.

Two login roles let a password change while pods run: one is active, the other on standby. A rotation gives the standby role a new
password and makes it active; running pods keep the old role's password. Both act as a third role, which holds the grants and owns the tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_postgresql as postgresql
import pulumi_random as random


@dataclass(frozen=True)
class MlflowDatabaseArgs:
    """The server, and the names on it."""

    admin_host: pulumi.Input[str]
    """Host at which Pulumi connects to the server: the server's address, or the local end of a tunnel."""
    admin_port: pulumi.Input[int]
    """TCP port at that host."""
    admin_username: pulumi.Input[str]
    """Role with CREATEDB and CREATEROLE."""
    admin_password: pulumi.Input[str]
    """Password of that role, a secret."""
    ca_file: str | None = None
    """File with the certificates of the authority that signed the server's, PEM. None: Pulumi's own connection trusts any server."""
    through_tunnel: bool = False
    """True if `admin_host` is the local end of a tunnel, whose name is not in the server's certificate. Default false."""
    name: str = "mlflow"
    """Name of the database, default ``mlflow``. The role that owns the tables is ``<name>_app``."""
    user: str = "mlflow_user"
    """Name of the first login role, default ``mlflow_user``. The second is ``<user>_2``."""
    schema: str = "mlflow"
    """Name of the schema, default ``mlflow``."""
    password: pulumi.Input[str] | None = None
    """Password of the active login role, a secret. Generated when absent."""
    rotation: int = 0
    """Number of rotations so far, default 0. Even: the first login role is active. Odd: the second."""
    protect: bool = True
    """True (default) to refuse the deletion of database and schema."""


class MlflowDatabase(pulumi.ComponentResource):
    """Roles, database, schema and grants for MLflow."""

    name: pulumi.Output[str]
    """Name of the database, once everything in it is ready for MLflow."""
    user: pulumi.Output[str]
    """Name of the active login role."""
    password: pulumi.Output[str]
    """Password of the active login role, a secret."""

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
            sslmode="require" if args.ca_file is None else "verify-ca" if args.through_tunnel else "verify-full",
            sslrootcert=args.ca_file,
            connect_timeout=15,
            opts=pulumi.ResourceOptions(parent=self),
        )
        child = pulumi.ResourceOptions(parent=self, provider=server)
        protected = pulumi.ResourceOptions(parent=self, provider=server, protect=args.protect)

        owner = postgresql.Role(f"{name}-owner", name=f"{args.name}_app", login=False, opts=child)
        logins = [
            self._login(f"{name}-user", args.user, owner, args, child),
            self._login(f"{name}-user-2", f"{args.user}_2", owner, args, child),
        ]
        database = postgresql.Database(
            f"{name}-database",
            name=args.name,
            # PostgreSQL does not drop a role that owns tables, so `destroy` deletes the database first.
            opts=pulumi.ResourceOptions.merge(protected, pulumi.ResourceOptions(depends_on=[owner])),
        )
        # A database is dropped with its open sessions. A schema is not: its deletion would wait for the transaction of a pod or a person.
        in_database = pulumi.ResourceOptions(deleted_with=database)
        schema = postgresql.Schema(
            f"{name}-schema",
            name=args.schema,
            database=database.name,
            drop_cascade=True,
            opts=pulumi.ResourceOptions.merge(protected, in_database),
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
                opts=pulumi.ResourceOptions.merge(child, in_database),
            )

        grants = [
            # PUBLIC may connect to a new database and create temporary tables in it; only MLflow needs that here.
            grant("nothing-for-public", "public", []),
            grant("connect", owner.name, ["CONNECT"]),
            grant("schema-use", owner.name, ["CREATE", "USAGE"], schema.name),
        ]
        active, password = logins[args.rotation % 2]
        ready = pulumi.Output.all(
            database.name, active.name, *[grant.urn for grant in grants], *[login.urn for login, _ in logins]
        )
        self.name = ready.apply(lambda known: str(known[0]))
        self.user = ready.apply(lambda known: str(known[1]))
        self.password = pulumi.Output.secret(password)
        self.register_outputs({"name": self.name, "user": self.user})

    def _login(
        self, name: str, user: str, owner: postgresql.Role, args: MlflowDatabaseArgs, child: pulumi.ResourceOptions
    ) -> tuple[postgresql.Role, pulumi.Output[str]]:
        is_active = (args.rotation % 2 == 0) == (user == args.user)
        generated = random.RandomPassword(
            f"{name}-password",
            length=32,
            special=False,
            # The roles take turns, so the standby role became active one rotation ago. A role gets a new password only when it becomes active.
            keepers={"rotation": str(args.rotation if is_active else args.rotation - 1)},
            opts=pulumi.ResourceOptions(parent=self),
        )
        password = args.password if is_active and args.password is not None else generated.result
        role = postgresql.Role(
            name,
            name=user,
            login=True,
            password=pulumi.Output.secret(password),
            roles=[owner.name],
            assume_role=owner.name,
            search_paths=[args.schema],
            # A standby role keeps its password, which pods from before the rotation still use.
            opts=pulumi.ResourceOptions.merge(
                child, None if is_active else pulumi.ResourceOptions(ignore_changes=["password"])
            ),
        )
        return role, pulumi.Output.secret(password)
