"""Look at a database through MLflow: what it has of what was there at a moment.

`operations/restore/comparison.py` sends this file into a pod of MLflow, whose environment has the login. It prints one line of JSON.
"""
# It runs with MLflow's packages, which the virtualenv of this checkout has not.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

import json
import sys

import sqlalchemy
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

COUNTS = {
    "experiments": "SELECT count(*) FROM experiments WHERE coalesce(creation_time, 0) <= :moment",
    "runs": "SELECT count(*) FROM runs WHERE start_time <= :moment",
    "traces": "SELECT count(*) FROM trace_info WHERE timestamp_ms <= :moment",
    "registered models": "SELECT count(*) FROM registered_models WHERE coalesce(creation_time, 0) <= :moment",
    "model versions": "SELECT count(*) FROM model_versions WHERE coalesce(creation_time, 0) <= :moment",
}
# The newest one that had ended. A running one still gets values.
NEWEST = "SELECT run_uuid FROM runs WHERE end_time <= :moment ORDER BY end_time DESC, run_uuid LIMIT 1"
VALUES = "SELECT count(*), coalesce(sum(value), 0) FROM metrics WHERE run_uuid = :run AND NOT is_nan"


def look(moment: int) -> dict[str, object]:
    """Return the counts of a database at a moment, in milliseconds since 1970, and the newest run of then with its values."""
    # MLflow's store refuses tables of another version.
    engine = SqlAlchemyStore("postgresql+psycopg2://", "mlflow-artifacts:/").engine
    with engine.connect() as database:
        found: dict[str, object] = {
            what: database.execute(sqlalchemy.text(statement), {"moment": moment}).scalar()
            for what, statement in COUNTS.items()
        }
        users = database.execute(sqlalchemy.text("SELECT to_regclass('users')")).scalar()
        found["users"] = database.execute(sqlalchemy.text("SELECT count(*) FROM users")).scalar() if users else 0
        run = database.execute(sqlalchemy.text(NEWEST), {"moment": moment}).scalar()
        number, total = database.execute(sqlalchemy.text(VALUES), {"run": run}).one()
    return found | {"newest run": run, "its values": number, "their sum": float(total)}


if __name__ == "__main__":
    print(json.dumps(look(int(sys.argv[1]))))
