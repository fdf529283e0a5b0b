"""MLflow 3.7.0's login tables, made before its workers start: each of them would make them, and who comes second fails.

Gunicorn reads this file as its configuration, in the process that it then forks, and so runs it as a program of its own.
"""
# The virtualenv of this checkout has none of these packages.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

import subprocess
import sys

LOCK = 0x6D6C666C6F77
"""Of PostgreSQL's advisory locks, which all pods ask for; any number will do."""


def on_starting(server: object) -> None:
    """Gunicorn calls this before it starts a worker."""
    subprocess.run([sys.executable, __file__], check=True)


def make() -> None:
    """Make or upgrade the tables, one pod after the other."""
    # All of MLflow, which gunicorn's own process does without.
    from mlflow.server.auth.config import read_auth_config  # noqa: PLC0415
    from mlflow.server.auth.db.utils import migrate_if_needed  # noqa: PLC0415
    from mlflow.store.db.utils import create_sqlalchemy_engine_with_retry  # noqa: PLC0415
    from sqlalchemy import text  # noqa: PLC0415

    engine = create_sqlalchemy_engine_with_retry(read_auth_config().database_uri)
    with engine.connect() as locked:
        locked.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
        # The lock ends with the connection.
        migrate_if_needed(engine, "head")


if __name__ == "__main__":
    make()
