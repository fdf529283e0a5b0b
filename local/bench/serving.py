"""MLflow's server through HAProxy on PostgreSQL: requests, latency, memory and connections, one row per configuration.

All rows are releases of one local stack, so that they share the database, the ingress and the supervisor. The rows take turns in rounds:
what changes on the machine meanwhile changes all of them.
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
from local.cluster.helm import Cluster, Release
from local.load import Load, Sampler
from local.stack import LocalStack
from local.supervisor.client import Supervisor

CLIENTS = 8
WARM_UP = 2.0
"""Seconds of load before each window that counts."""

Values = dict[str, Any]


@dataclass(frozen=True)
class Configuration:
    """A row: what is changed about the release that the program makes."""

    name: str
    change: Callable[[Values], None] = lambda _: None
    login: bool = True
    clients: int = CLIENTS


@dataclass
class Window:
    """One workload on one row, over all rounds."""

    per_second: list[float] = field(default_factory=list[float])
    latencies: list[float] = field(default_factory=list[float])
    """Seconds."""
    failed: int = 0

    @property
    def median(self) -> float:
        """Requests per second."""
        return statistics.median(self.per_second)

    def percentile(self, percent: int) -> float:
        """Milliseconds within which so many of the requests were answered."""
        return statistics.quantiles(self.latencies, n=100, method="inclusive")[percent - 1] * 1000


@dataclass
class Row:
    """What was measured of one configuration."""

    version: str
    """Of MLflow."""
    name: str
    windows: dict[str, Window] = field(default_factory=dict[str, Window])
    memory: list[int] = field(default_factory=list[int])
    """Bytes (PSS) of all pods after each round's load."""
    connections: int = 0
    """Most that were seen at once."""
    probes: list[float] = field(default_factory=list[float])
    """Seconds that the pods took to say that they are well, during the load."""


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
    del values["auth"]
    if options := values["extraArgs"].get("gunicornOpts"):
        # The login's tables.
        values["extraArgs"]["gunicornOpts"] = options.partition(" --config=")[0]


def _no_cache(values: Values) -> None:
    values["auth"]["authorizationFunction"] = BASIC_LOGIN


def _jobs(values: Values) -> None:
    del values["extraEnvVars"]["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"]


def _chart(values: Values) -> None:
    """What the chart does when it is told where the database is and that there is a login, and nothing else."""
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
SNIPPET = "haproxy.org/backend-config-snippet"
CROWD = 64
CONFIGURATIONS: Mapping[str, Sequence[Configuration]] = {
    "3.7.0": (
        Configuration(CHART, _chart),
        Configuration(DEFAULT),
        Configuration(NO_LOGIN, _no_login, login=False),
        Configuration(TWO_PODS, _replicas(2)),
    ),
    "3.15.1": (
        Configuration(CHART, _chart),
        Configuration(DEFAULT),
        Configuration(NO_LOGIN, _no_login, login=False),
        Configuration("login not cached", _no_cache),
        Configuration("job runner on", _jobs),
        Configuration("pool 3 + 2", _pool(3, 2)),
        Configuration("pool 5 + 10", _pool(5, 10)),
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
    """Measure these rows on a stack that is up with that MLflow, and leave the release as it was."""
    release = _Release(stack)
    admin = ("admin", stack.password())
    place = experiment(stack, admin, "bench")
    rows = [Row(version, one.name, {workload.name: Window() for workload in workloads}) for one in configurations]
    try:
        for number in range(rounds):
            for configuration, row in zip(configurations, rows, strict=True):
                say(f"round {number + 1} of {rounds}, MLflow {version}: {configuration.name}")
                release.change(configuration.change)
                login = admin if configuration.login else None
                for workload in workloads:
                    _one_window(stack, row, workload, place, login, configuration.clients, seconds)
                row.memory.append(memory_of_pods(stack))
    finally:
        release.change(lambda _: None)
    return rows


def _one_window(
    stack: LocalStack,
    row: Row,
    workload: Workload,
    place: str,
    login: tuple[str, str] | None,
    clients: int,
    seconds: float,
) -> None:
    script = workload.script(place)
    Load(stack, login, script, clients=clients).run(WARM_UP)
    held, probes = Sampler(lambda: connections(stack), every=1.0), Sampler(lambda: _probe(stack), every=0.5)
    with held, probes:
        load = Load(stack, login, script, clients=clients).run(seconds)
    window = row.windows[workload.name]
    window.per_second.append(load.per_second)
    window.latencies += load.latencies
    window.failed += load.failed
    row.connections = max([row.connections, *held.seen])
    row.probes += probes.seen


def _probe(stack: LocalStack) -> float:
    """Seconds until all pods, one after the other, have answered what the chart's probes ask; a minute at most for each."""
    began = time.monotonic()
    for address in stack.pod_addresses():
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://{address}/health", timeout=60).close()
    return time.monotonic() - began


class _Release:
    """The release of a stack, which is changed past Pulumi: the program has no setting for what it refuses to do."""

    def __init__(self, stack: LocalStack) -> None:
        endpoint = f"http://127.0.0.1:{Supervisor(stack.folder).free_port(aws_account.PROCESS)}"
        # What the plugins of a `pulumi up` find in their environment, and pods and HAProxy are started with.
        os.environ.update(aws_account.credentials(endpoint) | stack.environment())
        self._cluster = Cluster(stack.folder)
        found = self._cluster.objects.get("Release", "mlflow", "mlflow")
        if found is None:
            raise RuntimeError("there is no release to measure: bring the stack up first")
        self._version = found["version"]
        self._values = found["values"]

    def change(self, change: Callable[[Values], None]) -> None:
        values = copy.deepcopy(self._values)
        change(values)
        self._cluster.upgrade(Release("mlflow", "mlflow", "mlflow", self._version, values, timeout=300))
        time.sleep(2)
