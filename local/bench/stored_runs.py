"""How a search grows with the runs that are stored, and whether an index helps."""

import json
import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from local.bench.workloads import PAGE, experiment
from local.load import database_login, send
from local.stack import LocalStack

STORED = (1_000, 10_000, 100_000)
METRICS, PARAMS = 10, 5
"""Per run, as a small training logs them."""
INDEX = "mlflow_eks_bench_runs_newest"
SEARCHES: Mapping[str, Mapping[str, object]] = {
    "newest": {},
    "metric above": {"filter": "metrics.m0 > 0.5"},
    "best metric": {"order_by": ["metrics.m0 DESC"]},
    "one parameter": {"filter": "params.p0 = '7'"},
}
"""What people do in the runs table, as the API's words."""


@dataclass(frozen=True)
class Growth:
    """One search with so many runs in its experiment."""

    runs: int
    search: str
    indexed: bool
    milliseconds: Sequence[float]

    @property
    def median(self) -> float:
        """Milliseconds."""
        return statistics.median(self.milliseconds)


def measure(stack: LocalStack, runs: int, say: Callable[[str], None], stored: Sequence[int] = STORED) -> list[Growth]:
    """Time each search so often (`runs`), with and without an index on the experiment's newest runs."""
    login = ("admin", stack.password())
    place = int(experiment(stack, login, "stored-runs"))
    found: list[Growth] = []
    with _database(stack) as database:
        there = 0
        for count in stored:
            say(f"{count:,} stored runs")
            _store(database, place, there, count)
            there = count
            for indexed in (False, True):
                with _index(database, wanted=indexed):
                    for name, words in SEARCHES.items():
                        found.append(Growth(count, name, indexed, _times(stack, login, place, words, runs)))
    return found


def _times(
    stack: LocalStack, login: tuple[str, str], place: int, words: Mapping[str, object], runs: int
) -> list[float]:
    fields = {"experiment_ids": [str(place)], "max_results": PAGE, **words}
    times: list[float] = []
    for number in range(runs + 2):
        began = time.monotonic()
        answer = send(stack, "POST", "/api/2.0/mlflow/runs/search", fields, login)
        taken = (time.monotonic() - began) * 1000
        if answer.status != 200 or not json.loads(answer.body).get("runs"):
            raise RuntimeError(f"a search of {place} failed: {answer.status} {answer.body[:300]}")
        # The first two fill the caches of both servers.
        if number >= 2:
            times.append(taken)
    return times


@contextmanager
def _database(stack: LocalStack) -> Generator[psycopg.Connection[tuple[object, ...]]]:
    with stack.rdsadmin() as server:
        info = server.info
        connected = psycopg.connect(
            host=info.host, port=info.port, user=info.user, password=info.password, dbname="mlflow", autocommit=True
        )
        with connected as database:
            role, _ = database_login(stack)
            database.execute(SQL("SET ROLE {}").format(Identifier(role)))
            database.execute("SET search_path = mlflow")
            yield database


def _store(database: psycopg.Connection[tuple[object, ...]], place: int, there: int, wanted: int) -> None:
    """Write runs as MLflow does, a thousand times faster than through its API."""
    numbers = SQL("generate_series({}, {}) AS n").format(Literal(there + 1), Literal(wanted))
    run = SQL("md5('stored-' || n)")
    moment = SQL("1700000000000 + n::bigint * 1000")
    statements = [
        SQL(
            "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time,"
            " source_version, lifecycle_stage, artifact_uri, experiment_id)"
            " SELECT {run}, 'stored-' || n, 'UNKNOWN', '', '', 'admin', 'FINISHED', {moment}, {moment} + 900, '', 'active',"
            " 'mlflow-artifacts:/' || {place} || '/' || {run} || '/artifacts', {place} FROM {numbers}"
        ),
        SQL("INSERT INTO tags (key, value, run_uuid) SELECT 'mlflow.runName', 'stored-' || n, {run} FROM {numbers}"),
        SQL(
            "INSERT INTO params (key, value, run_uuid)"
            " SELECT 'p' || k, ((n * 31 + k) % 100)::text, {run} FROM {numbers}, generate_series(0, {params} - 1) AS k"
        ),
        SQL(
            "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)"
            " SELECT 'm' || k, ((n * 7919 + k) % 1000) / 1000.0, {moment}, 9, false, {run}"
            " FROM {numbers}, generate_series(0, {metrics} - 1) AS k"
        ),
    ]
    parts = {"run": run, "moment": moment, "place": Literal(place), "numbers": numbers}
    for statement in statements:
        database.execute(statement.format(**parts, params=Literal(PARAMS), metrics=Literal(METRICS)))
    # What autovacuum does within a minute.
    for table in ("runs", "tags", "params", "latest_metrics"):
        database.execute(SQL("ANALYZE {}").format(Identifier(table)))


@contextmanager
def _index(database: psycopg.Connection[tuple[object, ...]], *, wanted: bool) -> Generator[None]:
    name = Identifier(INDEX)
    if wanted:
        database.execute(
            SQL("CREATE INDEX {} ON runs (experiment_id, start_time DESC NULLS LAST, run_uuid)").format(name)
        )
    try:
        yield
    finally:
        database.execute(SQL("DROP INDEX IF EXISTS {}").format(name))
