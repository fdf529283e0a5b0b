"""Access of the pods to the database: who the server must prove to be, and the container that makes the tables.

The password is given to no server that has not proved itself. PostgreSQL has two proofs. A certificate that a known
authority has signed for the server's name needs the authority's certificates, and those of RDS are in no trust store.
Channel binding needs nothing: the server shows that it knows the password, for this TLS connection only.
"""

from collections.abc import Mapping
from typing import Any

from .arguments import MlflowReleaseArgs
from .names import DATABASE_CA, DATABASE_SECRET, RELEASE
from .pod_security import CONTAINER_SECURITY

CA_FILE = "ca.pem"
_FOLDER = "/etc/mlflow-database"
# The chart's own container is not told any of the variables below.
_MIGRATE = (
    "from mlflow.store.db import utils\n"
    'utils._initialize_tables(utils.create_sqlalchemy_engine_with_retry("postgresql+psycopg2://"))\n'
)


def proof(args: MlflowReleaseArgs) -> dict[str, str]:
    """Return libpq's variables for the proof that the server has to give."""
    if args.database.ca_certificates is None:
        return {"PGSSLMODE": "require", "PGCHANNELBINDING": "require"}
    return {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": f"{_FOLDER}/{CA_FILE}"}


def volumes(args: MlflowReleaseArgs) -> list[dict[str, Any]]:
    """Return the volumes that the server's pod mounts."""
    return [{"name": "migration", "emptyDir": {}}, *ca_volumes(args)]


def ca_volumes(args: MlflowReleaseArgs) -> list[dict[str, Any]]:
    """Return the volume with the authority's certificates, if there are any."""
    if args.database.ca_certificates is None:
        return []
    return [{"name": DATABASE_CA, "configMap": {"name": DATABASE_CA}}]


def ca_mounts(args: MlflowReleaseArgs) -> list[dict[str, Any]]:
    """Return the mount of the authority's certificates, if there are any."""
    if args.database.ca_certificates is None:
        return []
    return [{"name": DATABASE_CA, "mountPath": _FOLDER, "readOnly": True}]


def login(args: MlflowReleaseArgs) -> list[dict[str, Any]]:
    """Return libpq's variables for the login, and for the proof that the server has to give."""

    def from_secret(name: str, key: str) -> dict[str, Any]:
        return {"name": name, "valueFrom": {"secretKeyRef": {"name": DATABASE_SECRET, "key": key}}}

    return [
        *({"name": name, "value": value} for name, value in proof(args).items()),
        from_secret("PGUSER", "username"),
        from_secret("PGPASSWORD", "password"),
    ]


def migration(args: MlflowReleaseArgs, image: str, resources: Mapping[str, Any]) -> dict[str, Any]:
    """Return the container that makes and upgrades MLflow's tables before the server starts."""
    return {
        "name": "migration",
        "image": image,
        "command": ["python"],
        "args": ["-c", _MIGRATE],
        # Host, port and database, as the server has them.
        "envFrom": [{"configMapRef": {"name": f"{RELEASE}-env-configmap"}}],
        "env": login(args),
        "resources": resources,
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [{"name": "migration", "mountPath": "/tmp"}, *ca_mounts(args)],  # noqa: S108 -- in the container
    }
