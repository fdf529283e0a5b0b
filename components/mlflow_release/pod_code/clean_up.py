"""Purge what was deleted in MLflow long ago, and archive or purge old traces: ``python clean_up.py`` in a pod of its own.

MLflow's `gc` does the first of these, but not so that it can run unwatched: docs/decisions/0029-a-clean-up-of-our-own.md says why. This
goes in the same order, files first and rows last, so an interrupted pass leaves what the next one takes. Each item is locked and
looked at again before it goes, because somebody may have restored it meanwhile.
"""
# The virtualenv of this checkout has none of these packages.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false
# ruff: noqa: S608 -- statements are made of texts of this file

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlLoggedModel, SqlMetric, SqlRun
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import orm

DAY = 24 * 3600 * 1000
"""Milliseconds of a day."""
BATCH = 500
"""Traces that are taken at once."""
LOCK = 0x6D6C6763
"""Key of the PostgreSQL advisory lock that a pass holds. The value is arbitrary."""

# A version of a registered model that was deleted stays as a row of this stage.
_REGISTERED = "FROM model_versions WHERE current_stage IS DISTINCT FROM 'Deleted_Internal'"
_OLD_RUN = (
    "lifecycle_stage = 'deleted' AND deleted_time <= :before "
    f"AND run_uuid NOT IN (SELECT run_id {_REGISTERED} AND run_id IS NOT NULL)"
)
_REGISTERED_MODELS = f"SELECT substr(source, 9) {_REGISTERED} AND source LIKE 'models:/m-%'"
_OLD_MODEL = (
    f"lifecycle_stage = 'deleted' AND last_updated_timestamp_ms <= :before AND model_id NOT IN ({_REGISTERED_MODELS})"
)
# An experiment goes when nothing in it stays.
_OLD_EXPERIMENT = (
    "lifecycle_stage = 'deleted' AND last_update_time <= :before "
    f"AND experiment_id NOT IN (SELECT experiment_id FROM runs WHERE NOT ({_OLD_RUN})) "
    f"AND experiment_id NOT IN (SELECT experiment_id FROM logged_models WHERE model_id IN ({_REGISTERED_MODELS}))"
)
_NOT_ARCHIVED = "AND request_id NOT IN (SELECT request_id FROM trace_tags WHERE key = 'mlflow.trace.spansLocation' AND value <> 'TRACKING_STORE')"


class ElsewhereError(Exception):
    """The files are not in the server's folder of the bucket, or are where others may have theirs."""


class CleanUp:
    """A pass over the database and the bucket.

    Args:
        files: the folder of the bucket in which the server keeps artifacts, ``s3://bucket/folder``.
        dry_run: True to count only.
    """

    def __init__(self, files: str, *, dry_run: bool = False) -> None:
        self.files = files.rstrip("/")
        self.dry_run = dry_run
        self.now = int(time.time() * 1000)
        self.counts: Counter[str] = Counter()
        # Libpq reads the address and the login from the environment.
        self.store = SqlAlchemyStore("postgresql+psycopg2://", self.files)
        self.engine = self.store.engine

    def purge_deleted(self, days: int) -> None:
        """Purge the runs, logged models and experiments that were deleted more than this number of days ago."""
        before = self.now - days * DAY
        for run in self._values(f"SELECT run_uuid FROM runs WHERE {_OLD_RUN}", before=before):
            self._each("runs", run, lambda run=run: self._purge_run(run, before))
        for model in self._values(f"SELECT model_id FROM logged_models WHERE {_OLD_MODEL}", before=before):
            self._each("logged models", model, lambda model=model: self._purge_model(model, before))
        for experiment in self._values(f"SELECT experiment_id FROM experiments WHERE {_OLD_EXPERIMENT}", before=before):
            self._each("experiments", experiment, lambda item=experiment: self._purge_experiment(item, before))
        stay = f"lifecycle_stage = 'deleted' AND deleted_time <= :before AND NOT ({_OLD_RUN})"
        self.counts["runs kept for a registered model"] = self._values(
            f"SELECT count(*) FROM runs WHERE {stay}", before=before
        )[0]

    def purge_traces(self, days: int) -> None:
        """Purge the traces of all experiments that are older than this number of days."""
        for experiment in self._values("SELECT experiment_id FROM experiments"):
            self._each(None, experiment, lambda item=experiment: self._purge_traces_of(item, self.now - days * DAY))

    def archive_traces(self, days: int) -> None:
        """Move the spans of traces that are older than this number of days into the bucket, by MLflow's own archival."""
        if self.dry_run:
            old = f"SELECT count(*) FROM trace_info WHERE timestamp_ms <= :before {_NOT_ARCHIVED}"
            self.counts["traces archived"] = self._values(old, before=self.now - days * DAY)[0]
            return
        troubles = _Troubles()
        logging.getLogger("mlflow.store.tracking.sqlalchemy_store").addHandler(troubles)
        while archived := self.store.archive_traces(
            resolved_trace_archival_location=self.files, broader_retention=f"{days}d", max_traces_per_pass=BATCH
        ):
            self.counts["traces archived"] += archived
        self.counts["failed"] += troubles.count

    def _purge_run(self, run_id: str, before: int) -> bool:
        with orm.Session(self.engine) as session, session.begin():
            run = _locked(session, SqlRun, SqlRun.run_uuid == run_id, SqlRun.deleted_time <= before)
            if run is None:
                return False
            self._delete_files(run.artifact_uri, run_id)
            # Else SQLAlchemy would load each measured value before it deletes it.
            session.execute(sqlalchemy.delete(SqlMetric).where(SqlMetric.run_uuid == run_id))
            session.delete(run)
        return True

    def _purge_model(self, model_id: str, before: int) -> bool:
        with orm.Session(self.engine) as session, session.begin():
            is_old = SqlLoggedModel.last_updated_timestamp_ms <= before
            model = _locked(session, SqlLoggedModel, SqlLoggedModel.model_id == model_id, is_old)
            if model is None:
                return False
            self._delete_files(model.artifact_location, model_id)
            session.delete(model)
        return True

    def _purge_experiment(self, experiment_id: int, before: int) -> bool:
        is_old = SqlExperiment.last_update_time <= before
        with orm.Session(self.engine) as session, session.begin():
            experiment = _locked(session, SqlExperiment, SqlExperiment.experiment_id == experiment_id, is_old)
            if experiment is None or session.query(SqlRun).filter_by(experiment_id=experiment_id).first():
                return False
            self._purge_traces_of(experiment_id, self.now + DAY)
            # MLflow does not mark them as deleted with their experiment.
            for model in session.query(SqlLoggedModel).filter_by(experiment_id=experiment_id):
                self._delete_files(model.artifact_location, model.model_id)
                session.delete(model)
            # MLflow 3.7.0 would delete the experiment before the tags of its models, which name it.
            session.flush()
            session.expire(experiment)
            session.delete(experiment)
        return True

    def _purge_traces_of(self, experiment_id: int, before: int) -> bool:
        old = "FROM trace_info WHERE experiment_id = :experiment AND timestamp_ms <= :before"
        values = {"experiment": experiment_id, "before": before}
        if self.dry_run:
            self.counts["traces"] += self._values(f"SELECT count(*) {old}", **values)[0]
            return True
        folder = f"{self.files}/{experiment_id}/traces"
        have_files: set[str] | None = None
        while traces := self._values(f"SELECT request_id {old} ORDER BY timestamp_ms LIMIT {BATCH}", **values):
            if have_files is None:
                found = get_artifact_repository(folder).list_artifacts()
                have_files = {file.path.rpartition("/")[2] for file in found}
            for trace in have_files.intersection(traces):
                # Made of the id, because users can write the tag that names the place. The end keeps one id from being the beginning of others.
                get_artifact_repository(f"{folder}/{trace}/artifacts").delete_artifacts()
            deleted = self.store.delete_traces(experiment_id=str(experiment_id), trace_ids=traces)
            self.counts["traces"] += deleted
            if not deleted:
                raise RuntimeError(f"MLflow deletes none of {len(traces)} traces")
        return True

    def _delete_files(self, address: str, own: str) -> None:
        """Delete the files of a run or a model.

        Args:
            address: the place that MLflow has written down. The experiment's part of it was a user's to choose.
            own: id of the run or the model, which must be a folder of the place.

        Raises:
            ElsewhereError: the place is not in the server's folder, or is not the item's own.
        """
        place = urlsplit(address)
        if place.scheme == "mlflow-artifacts":
            address = f"{self.files}/{place.path.lstrip('/')}"
        if not address.startswith(f"{self.files}/") or own not in address.split("/"):
            raise ElsewhereError(address)
        get_artifact_repository(address).delete_artifacts()

    def _values(self, statement: str, **values: Any) -> list[Any]:
        with self.engine.connect() as connection:
            return [*connection.execute(sqlalchemy.text(statement), values).scalars()]

    def _each(self, what: str | None, item: Any, purge: Callable[[], bool]) -> None:
        """Purge an item and count it, unless `purge` counts itself. One that fails does not keep the next one."""
        if what and self.dry_run:
            self.counts[what] += 1
            return
        try:
            purged = purge()
        except ElsewhereError as error:
            self.counts["kept with files elsewhere"] += 1
            print(f"kept: {what} {item}: its files are at {error}")
        except Exception as error:
            self.counts["failed"] += 1
            print(f"failed: {what or 'traces of experiment'} {item}: {type(error).__name__}: {str(error)[:300]}")
        else:
            if what and purged:
                self.counts[what] += 1


class _Troubles(logging.Handler):
    """Counts warnings. MLflow's archival logs one for each trace that it cannot archive, and goes on."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self.count += 1


def _locked(session: orm.Session, kind: Any, *conditions: Any) -> Any:
    """Return an item that is still deleted, locked against a restore; None if it is not, or if somebody else has the lock."""
    found = session.query(kind).filter(kind.lifecycle_stage == "deleted", *conditions)
    return found.with_for_update(of=kind, skip_locked=True).one_or_none()


def _days(what: str) -> int:
    return int(os.environ.get(f"CLEAN_UP_{what}_DAYS", "0"))


def main() -> int:
    """Make a pass as the environment says.

    Returns:
        Exit status: 1 if something failed, which the next pass tries again.
    """
    one = CleanUp(os.environ["CLEAN_UP_FILES"], dry_run=os.environ.get("CLEAN_UP_DRY_RUN") == "true")
    with one.engine.connect() as connection:
        if not connection.execute(sqlalchemy.text(f"SELECT pg_try_advisory_lock({LOCK})")).scalar():
            print("clean-up: another one runs; nothing to do")
            return 0
        for what, act in (
            ("DELETED", one.purge_deleted),
            ("DELETE_TRACES", one.purge_traces),
            ("ARCHIVE_TRACES", one.archive_traces),
        ):
            if days := _days(what):
                act(days)
    done = ", ".join(f"{count} {what}" for what, count in sorted(one.counts.items()) if count) or "nothing"
    print(f"clean-up: {'dry run, would take: ' if one.dry_run else ''}{done}")
    return 1 if one.counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
