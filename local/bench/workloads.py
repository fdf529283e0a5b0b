"""The workloads of the benchmark's clients."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from local.http_load import Request, Script, over_and_over, send
from local.stack import LocalStack

METRICS_PER_BATCH = 10
"""Metrics in one request of `log-batch`."""
BATCHES_PER_RUN = 10
"""Requests of `log-batch` in one run of the mixed workload."""
PAGE = 50
"""Runs that a search returns, as many as a page of the UI."""

Login = tuple[str, str]
"""User and password."""


@dataclass(frozen=True)
class Workload:
    """A kind of load."""

    name: str
    """Name in the report."""
    script: Callable[[str], Callable[[], Script]]
    """Function from an experiment's id to the function that returns one client's requests."""


def experiment(stack: LocalStack, login: Login, name: str) -> str:
    """Return the id of an experiment, which is created if it does not exist.

    Raises:
        RuntimeError: MLflow refused the experiment.
    """
    existing = send(stack, "GET", f"/api/2.0/mlflow/experiments/get-by-name?experiment_name={name}", {}, login)
    if existing.status == 200:
        return json.loads(existing.body)["experiment"]["experiment_id"]
    created = send(stack, "POST", "/api/2.0/mlflow/experiments/create", {"name": name}, login)
    if created.status != 200:
        raise RuntimeError(f"MLflow refused experiment {name}: {created.status} {created.body[:200]}")
    return json.loads(created.body)["experiment_id"]


def _log_batch(experiment: str) -> Callable[[], Script]:
    def script() -> Script:
        created = None
        while created is None:
            created = yield Request.create_run(experiment)
        for step in count():
            yield _batch(_run_id(created), step)

    return script


def _mixed(experiment: str) -> Callable[[], Script]:
    """Return the script of a training: it logs a run with parameters and metrics, ends it, reads it and searches."""

    def script() -> Script:
        while True:
            created = yield Request.create_run(experiment)
            if created is None:
                continue
            run = _run_id(created)
            yield _post("runs/log-batch", run_id=run, params=[{"key": f"p{n}", "value": str(n)} for n in range(5)])
            for step in range(BATCHES_PER_RUN):
                yield _batch(run, step)
            yield _post("runs/update", run_id=run, status="FINISHED", end_time=int(time.time() * 1000))
            yield Request("GET", f"/api/2.0/mlflow/runs/get?run_id={run}")
            yield search(experiment)

    return script


def search(experiment: str, max_results: int = PAGE) -> Request:
    """Return the request of MLflow's runs table for the newest runs."""
    return _post("runs/search", experiment_ids=[experiment], max_results=max_results)


def _batch(run: str, step: int) -> Request:
    now = int(time.time() * 1000)
    metrics = [{"key": f"m{n}", "value": step / 10, "timestamp": now, "step": step} for n in range(METRICS_PER_BATCH)]
    return _post("runs/log-batch", run_id=run, metrics=metrics)


def _post(call: str, **fields: object) -> Request:
    return Request("POST", f"/api/2.0/mlflow/{call}", fields)


def _run_id(created: str) -> str:
    return json.loads(created)["run"]["info"]["run_id"]


CREATE_RUN = Workload("create-run", lambda experiment: over_and_over(Request.create_run(experiment)))
LOG_BATCH = Workload("log-batch", _log_batch)
SEARCH_RUNS = Workload("search-runs", lambda experiment: over_and_over(search(experiment)))
MIXED = Workload("mixed", _mixed)
WORKLOADS = (CREATE_RUN, LOG_BATCH, SEARCH_RUNS, MIXED)
"""Workloads of the benchmark, in the order of the report's columns."""
