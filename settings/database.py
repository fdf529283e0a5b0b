"""The section `database`."""

from pathlib import Path

from pydantic import Field

from settings.postgres import RESERVED_BY_RDS
from settings.problem import Problem
from settings.section import Section
from settings.value_types import HostAndPort, Identifier, Password


class Database(Section):
    """MLflow's database on the server."""

    name: Identifier = "mlflow"
    """Name of the database."""
    user: Identifier = "mlflow_user"
    """Name of MLflow's first login role. The second one is ``<user>_2``; ``rotation`` says which of them is active."""
    schema_name: Identifier = Field(default="mlflow", alias="schema")
    """Schema of MLflow's tables, on the search path of both login roles. Never ``public``."""
    password: Password | None = None
    """Password of the active login role, a secret. Generated when absent."""
    rotation: int = Field(default=0, ge=0)
    """Number of password changes so far. Raise the number by one to change the password. The standby role gets a new password and becomes
    active; running pods keep the old one until they are replaced. Raise it by one in each ``up``: a raise by two changes the password that running pods use."""
    admin_address: HostAndPort | None = Field(default=None, examples=["localhost:15432"])
    """``host:port`` at which Pulumi connects to the server, for example the local end of an SSM tunnel. Default: the server's address."""

    ca_file: str | None = None
    """File with the certificates of the authority that signed the server's, PEM, seen from the project's folder. With it, pods and Pulumi
    check the server's certificate and name. For RDS, the bundle of the region: ``docs/reaching-the-database.md``."""

    def problems(self) -> list[Problem]:
        """Reject names that are taken or that PostgreSQL would cut."""
        found: list[Problem] = []
        if self.schema_name in {"public", "information_schema"} or self.schema_name.startswith("pg_"):
            found.append(
                Problem(
                    "schema",
                    f"is {self.schema_name!r}, which belongs to PostgreSQL; write another name, for example mlflow",
                )
            )
        if self.user in {*RESERVED_BY_RDS, "postgres"} or self.user.startswith("pg_") or len(self.user) > 61:
            found.append(
                Problem(
                    "user",
                    f"is {self.user!r}, a reserved name or longer than 61 characters; write another, for example mlflow_user",
                )
            )
        owner = f"{self.name}_app"
        if owner in {self.user, f"{self.user}_2"}:
            found.append(
                Problem(
                    "user",
                    f"is {self.user!r}, but {owner} is the name of the role that owns the tables; write another name",
                    based_on=["name"],
                )
            )
        if self.name in {"postgres", "template0", "template1", "rdsadmin"}:
            found.append(
                Problem(
                    "name", f"is {self.name!r}, which every server has already; write another name, for example mlflow"
                )
            )
        if len(owner) > 63:
            found.append(
                Problem(
                    "name",
                    f"is {self.name!r}, which is longer than 59 characters and leaves no room for {owner!r}; write a shorter name",
                )
            )
        if self.ca_file and not _holds_certificates(self.ca_file):
            found.append(
                Problem(
                    "caFile",
                    f"is {self.ca_file!r}, and there is no file of this name with a PEM certificate; write its path from the project's folder",
                )
            )
        return found


def _holds_certificates(path: str) -> bool:
    try:
        return "-----BEGIN CERTIFICATE-----" in Path(path).read_text(encoding="ascii")
    except (OSError, ValueError):
        return False
