"""Requests, latency, memory and connections of MLflow behind HAProxy, one row per configuration.

All rows are releases of one local stack, with the same database and Ingress. Each round measures all rows once, so that
other load on the machine affects all of them.
"""

import contextlib
import copy
import os
import statistics
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from local import aws_account
from local.bench.soak import connections, memory_of_pods
from local.bench.workloads import WORKLOADS, Workload, experiment
from local.charts.mlflow import BASIC_LOGIN
from local.cluster.releases import Cluster, Release
from local.http_load import Load, Sampler
from local.stack import LocalStack
from local.supervisor.client import Supervisor

CLIENTS = 8
"""Clients of a row, unless the row has another number."""
WARM_UP = 2.0
"""Seconds of load before each measurement."""

Values = dict[str, Any]


@dataclass(frozen=True)
class Configuration:
    """A row of the report: a change to the release of the program."""

    name: str
    """Name of the row."""
    change: Callable[[Values], None] = lambda _: None
    """Function that changes the values of the release in place, default none."""
    clients: int = CLIENTS
    """Number of clients, default 8."""


@dataclass
class Window:
    """The measurements of one workload on one row, over all rounds."""

    per_second: list[float] = field(default_factory=list[float])
    """Requests per second, one number per round."""
    latencies: list[float] = field(default_factory=list[float])
    """Seconds of each request."""
    failed: int = 0
    """Number of failed requests."""

    @property
    def median(self) -> float:
        """Median of the requests per second."""
        return statistics.median(self.per_second)

    def percentile(self, percent: int) -> float:
        """Return a percentile of the latencies in milliseconds."""
        return statistics.quantiles(self.latencies, n=100, method="inclusive")[percent - 1] * 1000


@dataclass
class Row:
    """The measurements of one configuration."""

    version: str
    """Version of MLflow."""
    name: str
    """Name of the configuration."""
    windows: dict[str, Window] = field(default_factory=dict[str, Window])
    """Measurements by the name of their workload."""
    memory: list[int] = field(default_factory=list[int])
    """Memory of all pods in bytes (PSS) after each round."""
    connections: int = 0
    """Largest number of database connections in a sample."""
    probes: list[float] = field(default_factory=list[float])
    """Seconds that the pods took to answer the readiness probe, during the load."""


def _workers(count: int) -> Callable[[Values], None]:
    def change(values: Values) -> None:
        values["extraArgs"]["workers"] = str(count)

    return change


def _replicas(count: int) -> Callable[[Values], None]:
    def change(values: Values) -> None:
        values["replicaCount"] = count

    return change


def _pool(size: int, overflow: int) -> Callable[[Values], None]:
    def change(values: Values) -> None:
        values["extraEnvVars"] |= {
            "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": str(size),
            "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": str(overflow),
        }
        values["ingress"]["annotations"][LIMIT] = str(size + overflow - 1)

    return change


def _no_limit(values: Values) -> None:
    del values["ingress"]["annotations"][LIMIT]


def _kept_connections(values: Values) -> None:
    annotations = values["ingress"]["annotations"]
    annotations[SNIPPET] = annotations[SNIPPET].replace("option http-server-close", "")


def _both(first: Callable[[Values], None], second: Callable[[Values], None]) -> Callable[[Values], None]:
    def change(values: Values) -> None:
        first(values)
        second(values)

    return change


def _no_login(values: Values) -> None:
    # The clients send a login all the same: HAProxy lets nobody in without one.
    del values["auth"]
    if options := values["extraArgs"].get("gunicornOpts"):
        # The rest of the options loads `login_tables.py`, which only the login needs.
        values["extraArgs"]["gunicornOpts"] = options.partition(" --config=")[0]


def _no_cache(values: Values) -> None:
    values["auth"]["authorizationFunction"] = BASIC_LOGIN


def _jobs(values: Values) -> None:
    del values["extraEnvVars"]["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"]


def _chart(values: Values) -> None:
    """Set the chart's own defaults, except for the database, the login and the addresses of the site."""
    _no_cache(values)
    _no_limit(values)
    del values["ingress"]["annotations"][SNIPPET]
    kept = ("MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", "PGSSLMODE")
    values["extraEnvVars"] = {name: value for name, value in values["extraEnvVars"].items() if name in kept}
    values["extraArgs"] = {}


DEFAULT = "the default here"
CHART = "the chart's own defaults, basic auth"
NO_LOGIN = "without login"
TWO_PODS = "2 replicas"
LIMIT = "haproxy.org/pod-maxconn"
"""Annotation with the requests that a pod gets at a time."""
SNIPPET = "haproxy.org/backend-config-snippet"
"""Annotation with further lines of HAProxy's backend."""
CROWD = 64
"""Clients of the rows with many clients."""
CONFIGURATIONS: Mapping[str, Sequence[Configuration]] = {
    "3.7.0": (
        Configuration(CHART, _chart),
        Configuration(DEFAULT),
        Configuration(NO_LOGIN, _no_login),
        Configuration(TWO_PODS, _replicas(2)),
    ),
    "3.15.1": (
        Configuration(CHART, _chart),
        Configuration(DEFAULT),
        Configuration(NO_LOGIN, _no_login),
        Configuration("login not cached", _no_cache),
        Configuration("job runner on", _jobs),
        Configuration("pool 3 + 2", _pool(3, 2)),
        Configuration("pool 5 + 5", _pool(5, 5)),
        Configuration("connections kept", _kept_connections),
        Configuration("one client", clients=1),
        Configuration("connections kept, one client", _kept_connections, clients=1),
        Configuration("1 worker", _workers(1)),
        Configuration("1 worker, pool 3 + 2", _both(_workers(1), _pool(3, 2))),
        Configuration("4 workers", _workers(4)),
        Configuration(TWO_PODS, _replicas(2)),
        Configuration(f"{CROWD} clients", clients=CROWD),
        Configuration(f"{CROWD} clients, no limit in the ingress", _no_limit, clients=CROWD),
    ),
}
"""MLflow version to its rows."""
DEFAULT_WORKERS = 2
"""Default of `mlflow.workers`, which Pulumi.local.yaml overrides. A test compares both."""


def measure(
    stack: LocalStack,
    version: str,
    configurations: Sequence[Configuration],
    rounds: int,
    seconds: float,
    say: Callable[[str], None],
    workloads: Sequence[Workload] = WORKLOADS,
) -> list[Row]:
    """Measure rows on a stack with this version of MLflow, and restore its release afterwards.

    Args:
        stack: a stack that is deployed.
        version: version of MLflow.
        configurations: rows to measure.
        rounds: measurements of each row.
        seconds: seconds of a measurement.
        say: function that prints the progress.
        workloads: workloads to measure, default all.

    Raises:
        ClusterError: a pod of a configuration is not ready in time.
        SupervisorError: a process of a configuration failed.
        RuntimeError: no request of a workload was answered.
    """
    release = StackRelease(stack)
    admin = ("admin", stack.password())
    experiment_id = experiment(stack, admin, "bench")
    rows = [Row(version, one.name, {workload.name: Window() for workload in workloads}) for one in configurations]
    try:
        for number in range(rounds):
            for configuration, row in zip(configurations, rows, strict=True):
                say(f"round {number + 1} of {rounds}, MLflow {version}: {configuration.name}")
                release.change(configuration.change)
                for workload in workloads:
                    _one_window(stack, row, workload, experiment_id, admin, configuration.clients, seconds)
                row.memory.append(memory_of_pods(stack))
    finally:
        release.change(lambda _: None)
    return rows


def _one_window(
    stack: LocalStack,
    row: Row,
    workload: Workload,
    experiment_id: str,
    login: tuple[str, str],
    clients: int,
    seconds: float,
) -> None:
    script = workload.script(experiment_id)
    Load(stack, login, script, clients=clients).run(WARM_UP)
    held, probes = Sampler(lambda: connections(stack), every=1.0), Sampler(lambda: _probe(stack), every=0.5)
    with held, probes:
        load = Load(stack, login, script, clients=clients).run(seconds)
    if not load.answers["200"]:
        raise RuntimeError(f"{row.name}, {workload.name}: {load.said()}")
    window = row.windows[workload.name]
    window.per_second.append(load.per_second)
    window.latencies += load.latencies
    window.failed += load.failed
    row.connections = max([row.connections, *held.seen])
    row.probes += probes.seen


def _probe(stack: LocalStack) -> float:
    """Return the seconds until all pods, one after the other, have answered the readiness probe.

    Each may take a minute.
    """
    began = time.monotonic()
    for address in stack.pod_addresses():
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://{address}/health", timeout=60).close()
    return time.monotonic() - began


class StackRelease:
    """The MLflow release of a stack. It is changed without Pulumi, because the program refuses some of these values."""

    def __init__(self, stack: LocalStack) -> None:
        endpoint = f"http://127.0.0.1:{Supervisor(stack.folder).free_port(aws_account.PROCESS)}"
        # The cluster starts pods and HAProxy with these variables. In a `pulumi up` the plugins have them.
        os.environ.update(aws_account.credentials(endpoint) | stack.environment())
        self._cluster = Cluster(stack.folder)
        record = self._cluster.release("mlflow", "mlflow")
        if record is None:
            raise RuntimeError("the stack has no MLflow release; deploy it first")
        self._version = record["version"]
        self.values: Values = record["values"]

    def change(self, change: Callable[[Values], None]) -> None:
        """Deploy the release with its values changed. The function changes them in place."""
        values = copy.deepcopy(self.values)
        change(values)
        self._cluster.upgrade(Release("mlflow", "mlflow", "mlflow", self._version, values, timeout=300))
        time.sleep(2)
