"""The time of a search by the number of stored runs, with and without an index."""

import json
import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from local.bench.workloads import PAGE, experiment
from local.http_load import database_login, send
from local.stack import LocalStack

STORED = (1_000, 10_000, 100_000)
"""Numbers of stored runs at which the searches are measured."""
METRICS, PARAMS = 10, 5
"""Metrics and parameters of a run, as many as a small training logs."""
INDEX = "mlflow_eks_bench_runs_newest"
"""Name of the index."""
SEARCHES: Mapping[str, Mapping[str, object]] = {
    "newest": {},
    "metric above": {"filter": "metrics.m0 > 0.5"},
    "best metric": {"order_by": ["metrics.m0 DESC"]},
    "one parameter": {"filter": "params.p0 = '7'"},
}
"""Searches of the runs table in MLflow's UI: name to the fields of the API request."""


@dataclass(frozen=True)
class Growth:
    """The times of one search at one number of stored runs."""

    runs: int
    """Number of runs in the experiment."""
    search: str
    """Name of the search, a key of `SEARCHES`."""
    indexed: bool
    """True if the index existed."""
    milliseconds: Sequence[float]
    """Milliseconds of each search."""

    @property
    def median(self) -> float:
        """Median in milliseconds."""
        return statistics.median(self.milliseconds)


def measure(
    stack: LocalStack, repeats: int, say: Callable[[str], None], stored: Sequence[int] = STORED
) -> list[Growth]:
    """Measure each search, with and without an index on the experiment's newest runs.

    Args:
        stack: a stack that is deployed.
        repeats: number of measured searches in each case.
        say: function that prints the progress.
        stored: numbers of stored runs.

    Raises:
        RuntimeError: a search failed.
    """
    login = ("admin", stack.password())
    experiment_id = int(experiment(stack, login, "stored-runs"))
    results: list[Growth] = []
    with connected(stack) as database:
        existing = 0
        for count in stored:
            say(f"{count:,} stored runs")
            store_runs(database, experiment_id, existing, count)
            existing = count
            for indexed in (False, True):
                with _index(database, wanted=indexed):
                    for name, words in SEARCHES.items():
                        times = times_of_search(stack, login, experiment_id, words, repeats)
                        results.append(Growth(count, name, indexed, times))
    return results


def times_of_search(
    stack: LocalStack, login: tuple[str, str], experiment_id: int, words: Mapping[str, object], repeats: int
) -> list[float]:
    """Return the milliseconds of each of some searches of an experiment's runs.

    Raises:
        RuntimeError: a search failed.
    """
    fields = {"experiment_ids": [str(experiment_id)], "max_results": PAGE, **words}
    times: list[float] = []
    for number in range(repeats + 2):
        began = time.monotonic()
        answer = send(stack, "POST", "/api/2.0/mlflow/runs/search", fields, login)
        taken = (time.monotonic() - began) * 1000
        if answer.status != 200 or not json.loads(answer.body).get("runs"):
            raise RuntimeError(f"a search of experiment {experiment_id} failed: {answer.status} {answer.body[:300]}")
        # The first two searches fill the caches of MLflow and PostgreSQL and do not count.
        if number >= 2:
            times.append(taken)
    return times


@contextmanager
def connected(stack: LocalStack) -> Generator[psycopg.Connection[tuple[object, ...]]]:
    """Connect to MLflow's tables as their owner."""
    with stack.rdsadmin() as server:
        info = server.info
        in_mlflow = psycopg.connect(
            host=info.host, port=info.port, user=info.user, password=info.password, dbname="mlflow", autocommit=True
        )
        with in_mlflow as database:
            role, _ = database_login(stack)
            database.execute(SQL("SET ROLE {}").format(Identifier(role)))
            database.execute("SET search_path = mlflow")
            yield database


def store_runs(
    database: psycopg.Connection[tuple[object, ...]], experiment_id: int, existing: int, wanted: int
) -> None:
    """Write the rows that MLflow would write for further runs. This is a thousand times faster than through the API."""
    numbers = SQL("generate_series({}, {}) AS n").format(Literal(existing + 1), Literal(wanted))
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
    parts = {"run": run, "moment": moment, "place": Literal(experiment_id), "numbers": numbers}
    for statement in statements:
        database.execute(statement.format(**parts, params=Literal(PARAMS), metrics=Literal(METRICS)))
    # Autovacuum would do this within a minute. The measurement must not depend on that moment.
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
