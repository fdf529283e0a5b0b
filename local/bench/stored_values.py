"""Costs that grow with the stored metric values: search, a run's chart, deletion, a purge, a dump, an upgrade's migration.

The rows are those that MLflow would write for 100,000 runs with ten metrics each, more steps for more values. One more run has 100,000 steps of one
metric, and there are 100,000 traces.
"""

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from local import aws_account, paths, tools
from local.bench.stored_runs import METRICS, SEARCHES, connected, store_runs, times_of_search
from local.bench.workloads import experiment
from local.http_load import libpq_login, send
from local.stack import LocalStack
from local.supervisor.client import Supervisor

RUNS = 100_000
"""Stored runs, and stored traces."""
STEPS = (1, 3, 10)
"""Steps of each metric of a run, at which everything is measured."""
LONG = 100_000
"""Steps of the long run's metric."""
LONG_RUN = "1" * 32
"""Id of the long run."""
REPEATS = 5
TABLES = ("metrics", "latest_metrics", "runs", "params", "tags", "trace_info", "spans")

Costs = Mapping[str, float]
"""Cost to its seconds, or to its bytes where the name says so."""


def measure(stack: LocalStack, say: Callable[[str], None], runs: int = RUNS) -> dict[int, Costs]:
    """Measure all costs at each number of values, and return them by that number.

    Args:
        stack: a stack of the local machine. It gets the older MLflow first, for the migration.
        say: gets the progress.
        runs: number of runs and traces.

    Raises:
        CommandError: a command of the stack failed.
        RuntimeError: MLflow refused a request.
    """
    stack.up(mlflow__chartVersion="1.8.1")
    place = int(experiment(stack, ("admin", stack.password()), "stored-values"))
    found: dict[int, Costs] = {}
    with connected(stack) as database:
        store_runs(database, place, 0, runs)
        for step in range(max(STEPS)):
            say(f"{(step + 1) * runs * METRICS:,} values, MLflow 3.7.0")
            _store_step(database, runs, step)
    began = time.monotonic()
    say("upgrade to MLflow 3.15.1")
    stack.set(mlflow__chartVersion="1.11.5")
    stack.pulumi("up", "--yes", "--skip-preview")
    full = time.monotonic() - began
    with connected(stack) as database:
        database.execute("TRUNCATE metrics")
        _store_traces(database, place, runs)
        stored = 0
        for steps in STEPS:
            for step in range(stored, steps):
                _store_step(database, runs, step)
            stored = steps
            _store_long_run(database, place)
            values = runs * METRICS * steps + LONG
            say(f"{values:,} values, MLflow 3.15.1")
            found[values] = _costs(stack, database, place) | ({"upgrade": full} if steps == max(STEPS) else {})
    return found


def _costs(stack: LocalStack, database: psycopg.Connection[tuple[object, ...]], place: int) -> dict[str, float]:
    login = ("admin", stack.password())
    # Autovacuum would do this within minutes. The measurement must not depend on that moment.
    began = time.monotonic()
    database.execute("VACUUM ANALYZE metrics")
    costs = {"vacuum": time.monotonic() - began}
    for name, words in SEARCHES.items():
        costs[f"search: {name}"] = statistics.median(times_of_search(stack, login, place, words, REPEATS)) / 1000
    chart = f"/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval?run_ids={LONG_RUN}&metric_key=loss&max_results=320"
    costs["chart of the long run"] = _median(stack, login, "GET", chart, {})
    traces = {
        "locations": [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": str(place)}}],
        "max_results": 50,
    }
    costs["search of traces"] = _median(stack, login, "POST", "/api/3.0/mlflow/traces/search", traces)
    began = time.monotonic()
    answer = send(stack, "POST", "/api/2.0/mlflow/runs/delete", {"run_id": LONG_RUN}, login)
    if answer.status != 200:
        raise RuntimeError(f"MLflow did not delete the long run: {answer.status} {answer.body[:200]}")
    costs["deletion of the long run"] = time.monotonic() - began
    costs["its purge"] = _purge(stack)
    costs |= _dump(stack)
    for table in TABLES:
        row = database.execute(SQL("SELECT pg_total_relation_size({})").format(Literal(table))).fetchone()
        costs[f"bytes: {table}"] = float(str(row[0])) if row else 0
    return costs


def _median(stack: LocalStack, login: tuple[str, str], method: str, path: str, fields: Mapping[str, object]) -> float:
    times: list[float] = []
    for _ in range(REPEATS):
        began = time.monotonic()
        answer = send(stack, method, path, fields, login)
        times.append(time.monotonic() - began)
        if answer.status != 200:
            raise RuntimeError(f"{path} failed: {answer.status} {answer.body[:300]}")
    return statistics.median(times)


def _purge(stack: LocalStack) -> float:
    """Return the seconds of a pass of the clean-up over the deleted long run."""
    code = (paths.CHECKOUT / "components" / "mlflow_release" / "pod_code" / "clean_up.py").read_text(encoding="utf-8")
    bucket = stack.resources()["artifacts-bucket"]["outputs"]["bucket"]
    endpoint = f"http://{aws_account.ADDRESS}:{Supervisor(stack.folder).free_port(aws_account.PROCESS)}"
    environment = {
        "PATH": os.defpath,
        "HOME": str(stack.folder),
        **aws_account.credentials(endpoint),
        "CLEAN_UP_FILES": f"s3://{bucket}/mlflow",
        # Whatever is deleted already.
        "CLEAN_UP_DELETED_DAYS": "1",
    }
    with connected(stack) as database:
        database.execute("UPDATE runs SET deleted_time = deleted_time - 172800000 WHERE deleted_time IS NOT NULL")
    began = time.monotonic()
    subprocess.run(
        [tools.mlflow_python("3.15.1"), "-c", code],
        env=environment | libpq_login(stack),
        check=True,
        capture_output=True,
    )
    return time.monotonic() - began


def _dump(stack: LocalStack) -> dict[str, float]:
    file = stack.folder / "growth.dump"
    program = tools.ensure(tools.POSTGRES_CLIENT).with_name("pg_dump")
    began = time.monotonic()
    subprocess.run(
        [program, "--format=custom", "--schema=mlflow", f"--file={file}"], env=libpq_login(stack), check=True
    )
    taken, size = time.monotonic() - began, file.stat().st_size
    file.unlink()
    return {"dump": taken, "bytes: dump": size}


def _store_step(database: psycopg.Connection[tuple[object, ...]], runs: int, step: int) -> None:
    """Write one more value of each metric of each run."""
    statement = SQL(
        "INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid)"
        " SELECT 'm' || k, random(), 1700000000000 + n::bigint * 1000 + {step}, {step}, false, md5('stored-' || n)"
        " FROM generate_series(1, {runs}) AS n, generate_series(0, {metrics} - 1) AS k"
    )
    database.execute(statement.format(step=Literal(step), runs=Literal(runs), metrics=Literal(METRICS)))


def _store_long_run(database: psycopg.Connection[tuple[object, ...]], place: int) -> None:
    address = f"mlflow-artifacts:/{place}/{LONG_RUN}/artifacts"
    database.execute(
        SQL(
            "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time,"
            " source_version, lifecycle_stage, artifact_uri, experiment_id)"
            " VALUES ({run}, 'long', 'UNKNOWN', '', '', 'admin', 'FINISHED', 1800000000000, 1800000000900, '', 'active', {address}, {place})"
        ).format(run=Literal(LONG_RUN), address=Literal(address), place=Literal(place))
    )
    values = SQL(
        "INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid)"
        " SELECT 'loss', random(), 1800000000000 + n, n, false, {run} FROM generate_series(1, {steps}) AS n"
    )
    database.execute(values.format(run=Literal(LONG_RUN), steps=Literal(LONG)))


def _store_traces(database: psycopg.Connection[tuple[object, ...]], place: int, traces: int) -> None:
    numbers, trace = SQL("generate_series(1, {}) AS n").format(Literal(traces)), SQL("'tr-' || md5('trace-' || n)")
    parts = {
        "trace": trace,
        "place": Literal(place),
        "numbers": numbers,
        "content": Literal(json.dumps({"inputs": "x" * 900})),
    }
    for statement in (
        "INSERT INTO trace_info (request_id, experiment_id, timestamp_ms, execution_time_ms, status)"
        " SELECT {trace}, {place}, 1700000000000 + n::bigint * 1000, 12, 'OK' FROM {numbers}",
        "INSERT INTO spans (trace_id, experiment_id, span_id, name, type, status, start_time_unix_nano, end_time_unix_nano, content)"
        " SELECT {trace}, {place}, lpad(n::text, 16, '0'), 'span', 'LLM', 'OK', 1700000000000000000, 1700000000012000000, {content} FROM {numbers}",
    ):
        database.execute(SQL(statement).format(**parts))
    for table in ("trace_info", "spans"):
        database.execute(SQL("VACUUM ANALYZE {}").format(Identifier(table)))


def lines(found: Mapping[int, Costs]) -> Sequence[str]:
    """Return the costs as a table in Markdown."""
    names = list(dict.fromkeys(name for costs in found.values() for name in costs))

    def cell(name: str, costs: Costs) -> str:
        if name not in costs:
            return ""
        return f"{costs[name] / 2**20:,.0f} MiB" if name.startswith("bytes") else f"{costs[name]:,.2f} s"

    rows = [[name.removeprefix("bytes: "), *(cell(name, costs) for costs in found.values())] for name in names]
    head = ["", *(f"{values:,} values" for values in found)]
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
