"""What the clients of a benchmark do."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from local.load import Request, Script, over_and_over, send
from local.stack import LocalStack

METRICS_PER_BATCH = 10
BATCHES_PER_RUN = 10
PAGE = 50
"""Runs that a search returns: what a client or the UI shows at once."""

Login = tuple[str, str] | None


@dataclass(frozen=True)
class Workload:
    """Clients of one kind."""

    name: str
    script: Callable[[str], Callable[[], Script]]
    """From the experiment's id to what each client does."""


def experiment(stack: LocalStack, login: Login, name: str) -> str:
    """The id of an experiment of that name, which is made where it is missing."""
    found = send(stack, "GET", f"/api/2.0/mlflow/experiments/get-by-name?experiment_name={name}", {}, login)
    if found.status == 200:
        return json.loads(found.body)["experiment"]["experiment_id"]
    made = send(stack, "POST", "/api/2.0/mlflow/experiments/create", {"name": name}, login)
    if made.status != 200:
        raise RuntimeError(f"experiment {name}: {made.status} {made.body[:200]}")
    return json.loads(made.body)["experiment_id"]


def _log_batch(experiment: str) -> Callable[[], Script]:
    def script() -> Script:
        created = None
        while created is None:
            created = yield Request.create_run(experiment)
        for step in count():
            yield _batch(_run_id(created), step)

    return script


def _mixed(experiment: str) -> Callable[[], Script]:
    """A training: a run, its parameters and metrics, its end, and now and then somebody who looks."""

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
    """The newest runs, as the runs table asks for them."""
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
