"""Bring one experiment from a copy of the database into the one in use, with all rows that belong to it.

`operations/restore/experiment.py` sends this file into a pod of MLflow, whose environment has the login. The last line that it prints is
JSON. The tables are those of the foreign keys that are there, so a newer MLflow with more tables needs no change here.
"""
# It runs with MLflow's packages, which the virtualenv of this checkout has not.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false
# ruff: noqa: S608 -- statements are made of names that the database has told, and of a number

import json
import sys
import tempfile
from typing import Any

import sqlalchemy
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

FIND = "SELECT * FROM experiments WHERE name = :given OR CAST(experiment_id AS text) = :given ORDER BY name = :given DESC LIMIT 1"
IN_THE_WAY = "SELECT experiment_id, name, lifecycle_stage FROM experiments WHERE experiment_id = :id OR name = :name"


def conditions(metadata: sqlalchemy.MetaData, experiment: int) -> dict[str, str]:
    """Return the condition for the rows of an experiment, by table, parents first.

    A table is one of these if all of its foreign keys lead to others of these. What links runs with datasets, models or traces has none,
    and MLflow leaves it in place when the experiment goes.
    """
    found = {"experiments": f"experiment_id = {experiment}"}
    for table in metadata.sorted_tables:
        keys = [*table.foreign_key_constraints]
        # A row that only loses its link when the other one is deleted was not deleted with it.
        owners = [key for key in keys if key.ondelete != "SET NULL"]
        if owners and all(key.referred_table.name in found for key in keys):
            found[table.name] = " AND ".join(
                f"({', '.join(key.column_keys)}) IN (SELECT {', '.join(one.column.name for one in key.elements)} "
                f"FROM {key.referred_table.name} WHERE {found[key.referred_table.name]})"
                for key in owners
            )
    return found


def refusal(copy: sqlalchemy.Connection, here: sqlalchemy.Connection, given: str, found: Any) -> str:
    """Return the reason why an experiment cannot be brought back, or an empty text."""
    versions = [
        one.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")).scalar() for one in (copy, here)
    ]
    if versions[0] != versions[1]:
        return "the copy has the tables of another MLflow; take a moment after the upgrade"
    if found is None:
        return f"the copy has no experiment {given}; take a moment at which it was there, and its name or id of then"
    values = {"id": found["experiment_id"], "name": found["name"]}
    for there in here.execute(sqlalchemy.text(IN_THE_WAY), values).mappings():
        if there["experiment_id"] == found["experiment_id"]:
            how = (
                ""
                if there["lifecycle_stage"] == "active"
                else f": mlflow experiments restore --experiment-id {values['id']}"
            )
            return f"experiment {values['id']} is there, {there['lifecycle_stage']}, so nothing of it was purged{how}"
        return f"experiment {there['experiment_id']} has the name {there['name']} now; rename it first"
    return ""


def bring(copy: sqlalchemy.Connection, here: sqlalchemy.Connection, experiment: int) -> dict[str, int]:
    """Bring the rows over, and return their numbers by table."""
    metadata = sqlalchemy.MetaData()
    metadata.reflect(copy)
    quote = copy.dialect.identifier_preparer.quote
    counts: dict[str, int] = {}
    for name, condition in conditions(metadata, experiment).items():
        columns = ", ".join(quote(one.name) for one in metadata.tables[name].columns if one.computed is None)
        with tempfile.TemporaryFile() as file, copy.connection.cursor() as source, here.connection.cursor() as target:
            source.copy_expert(f"COPY (SELECT {columns} FROM {name} WHERE {condition}) TO STDOUT", file)
            file.seek(0)
            target.copy_expert(f"COPY {name} ({columns}) FROM STDIN", file)
            counts[name] = target.rowcount
    return {name: count for name, count in counts.items() if count}


def main(host: str, port: str, given: str, act: str) -> dict[str, Any]:
    """Look for an experiment in a copy at an address, and with `act` "bring" bring it into the database in use."""
    # MLflow's store refuses tables of another version.
    store = SqlAlchemyStore("postgresql+psycopg2://", "mlflow-artifacts:/")
    of_copy = sqlalchemy.create_engine("postgresql+psycopg2://", connect_args={"host": host, "port": port})
    with of_copy.connect() as copy, store.engine.begin() as here:
        found = copy.execute(sqlalchemy.text(FIND), {"given": given}).mappings().first()
        if refused := refusal(copy, here, given, found):
            return {"refused": refused}
        rows = bring(copy, here, found["experiment_id"]) if act == "bring" else {}
    if rows and found["lifecycle_stage"] == "deleted":
        # Else the next clean-up would take it again.
        store.restore_experiment(str(found["experiment_id"]))
    return {"id": found["experiment_id"], "name": found["name"], "files": found["artifact_location"], "rows": rows}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
