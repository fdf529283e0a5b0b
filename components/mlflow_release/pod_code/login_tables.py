"""Create the login tables of MLflow 3.7.0 before its workers start.

Each worker would create the tables itself, and the second one fails. Gunicorn reads this file as its configuration, in
the process from which it forks the workers. That process must not import MLflow, so the file runs itself as a program.
"""
# The virtualenv of this checkout has none of these packages.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

import subprocess
import sys

LOCK = 0x6D6C666C6F77
"""Key of the PostgreSQL advisory lock that all pods take. The value is arbitrary."""


def on_starting(server: object) -> None:
    """Create the tables. Gunicorn calls this before it starts a worker."""
    subprocess.run([sys.executable, __file__], check=True)


def make() -> None:
    """Create or upgrade the tables, in one pod at a time."""
    # These imports load all of MLflow, so only the separate program has them.
    from mlflow.server.auth.config import read_auth_config  # noqa: PLC0415
    from mlflow.server.auth.db.utils import migrate_if_needed  # noqa: PLC0415
    from mlflow.store.db.utils import create_sqlalchemy_engine_with_retry  # noqa: PLC0415
    from sqlalchemy import text  # noqa: PLC0415

    engine = create_sqlalchemy_engine_with_retry(read_auth_config().database_uri)
    with engine.connect() as locked:
        locked.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
        # PostgreSQL releases the lock when the connection is closed.
        migrate_if_needed(engine, "head")


if __name__ == "__main__":
    make()
