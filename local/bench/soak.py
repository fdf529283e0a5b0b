"""An hour of mixed load on the default sizing, then a shortage of database connections.

A good result needs no person at night: no request fails, memory and connections stay bounded, and after a shortage the
pods recover by themselves.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from psycopg.sql import SQL, Identifier, Literal

from local.bench.workloads import MIXED, SEARCH_RUNS, experiment
from local.http_load import MIB, Load, database_login, memory, pods, send
from local.stack import LocalStack
from local.supervisor.client import Supervisor

CLIENTS = 4
"""Clients of the soak."""
PAUSE = 0.1
"""Seconds between two requests of a client."""
EVERY = 10.0
"""Seconds between two samples of the pods and the database."""
SETTLED_AFTER = 1 / 6
"""Share of the time that is not compared, because caches and pools are still filling."""
CROWD = 64
"""Clients of the overload, more than a pod serves at once."""


@dataclass(frozen=True)
class Sample:
    """The state of the pods at one moment."""

    seconds: float
    """Seconds since the start."""
    memory: int
    """Memory of all pods in bytes (PSS)."""
    connections: int
    """Database connections of the pods' role."""
    requests: int
    """Requests answered since the start."""


@dataclass(frozen=True)
class Soak:
    """The result of the soak."""

    minutes: float
    """Minutes that it lasted."""
    load: Load
    """Load with its answers."""
    samples: Sequence[Sample]
    """Samples, from the first to the last."""

    @property
    def settled(self) -> list[Sample]:
        """Samples after the first sixth, in which caches and pools fill."""
        return [one for one in self.samples if one.seconds >= self.minutes * 60 * SETTLED_AFTER]

    @property
    def growth(self) -> float:
        """Growth of the memory in MiB per hour: the slope of a straight line through the settled samples."""
        line = statistics.linear_regression(
            [one.seconds / 3600 for one in self.settled], [one.memory / MIB for one in self.settled]
        )
        return line.slope

    def lines(self) -> list[str]:
        """Return the result as lines of Markdown."""
        first, last = self.settled[0], self.settled[-1]
        connections = [one.connections for one in self.settled]
        return [
            f"- {self.minutes:.0f} minutes, {CLIENTS} clients, {self.load.per_second:.1f} requests/s: {self.load.said()}",
            f"- memory of the pods after the first {self.minutes * SETTLED_AFTER:.0f} minutes: "
            f"{first.memory / MIB:.0f} MiB, in the end {last.memory / MIB:.0f} MiB, "
            f"at most {max(one.memory for one in self.samples) / MIB:.0f} MiB; growth {self.growth:+.1f} MiB an hour",
            f"- connections after that time: {min(connections)} to {max(connections)}, in the end {connections[-1]}",
        ]


@dataclass(frozen=True)
class Overload:
    """The result of a shortage of database connections."""

    wanted: int
    """Connections that the pods used without a limit."""
    allowed: int
    """Connections that the pods were allowed during the shortage."""
    answers: Counter[str]
    """Number of answers by status."""
    words: Sequence[str]
    """Texts of the failed answers, each once."""
    recovered: float | None
    """Seconds from the end of the shortage to the first of twenty good answers in a row.

    None: not within two minutes.
    """
    restarts: int
    """Restarts of pods since before the shortage."""

    def lines(self) -> list[str]:
        """Return the result as lines of Markdown."""
        statuses = ", ".join(f"{count} x {answer}" for answer, count in self.answers.most_common())
        after = (
            "did not recover within two minutes"
            if self.recovered is None
            else f"recovered {self.recovered:.1f} s after its end"
        )
        return [
            f"- {CROWD} clients used {self.wanted} connections; with a limit of {self.allowed} they got {statuses}",
            *(f"  - `{words}`" for words in self.words),
            f"- the pods {after}, restarted {self.restarts} times",
        ]


def soak(stack: LocalStack, minutes: float, say: Callable[[str], None]) -> Soak:
    """Send a mixed load for some minutes, and return samples of the pods."""
    login = ("admin", stack.password())
    samples: list[Sample] = []
    script = MIXED.script(experiment(stack, login, "soak"))
    with Load(stack, login, script, clients=CLIENTS, pause=PAUSE) as load:
        began = time.monotonic()
        while (passed := time.monotonic() - began) < minutes * 60:
            samples.append(Sample(passed, memory_of_pods(stack), connections(stack), load.total))
            if len(samples) % 30 == 1:
                say(f"{passed / 60:.0f} of {minutes:.0f} minutes: {load.said()}, {samples[-1].memory / MIB:.0f} MiB")
            time.sleep(EVERY)
    return Soak(minutes, load, samples)


def overload(stack: LocalStack, seconds: float, say: Callable[[str], None]) -> Overload:
    """Allow the pods half of the connections that many clients make them use, for some seconds."""
    login = ("admin", stack.password())
    script = SEARCH_RUNS.script(experiment(stack, login, "soak"))
    before = _restarts(stack)
    say(f"counting the connections that {CROWD} clients use")
    with Load(stack, login, script, clients=CROWD):
        time.sleep(seconds)
        wanted = connections(stack)
    allowed = wanted // 2
    say(f"{wanted} connections; now a limit of {allowed}")
    with _limited(stack, allowed), Load(stack, login, script, clients=CROWD) as load:
        time.sleep(seconds)
    ended = time.monotonic()
    words = sorted({failure.partition(" ")[2][:120] for _, failure in load.failures})
    recovered = _recovery(stack, login, ended)
    return Overload(wanted, allowed, load.answers, words[:5], recovered, _restarts(stack) - before)


def connections(stack: LocalStack) -> int:
    """Return the number of database connections that the pods have open now."""
    role, _ = database_login(stack)
    with stack.rdsadmin() as server:
        row = server.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = %s", [role]).fetchone()
    return row[0] if row else 0


def memory_of_pods(stack: LocalStack) -> int:
    """Return the memory of all pods in bytes (PSS).

    Raises:
        SupervisorError: the supervisor does not run.
    """
    return sum(memory(leader) for leader in pods(stack).values())


def _restarts(stack: LocalStack) -> int:
    return sum(one.restarts for one in Supervisor(stack.folder).list() if one.name.startswith("mlflow."))


@contextmanager
def _limited(stack: LocalStack, connections: int) -> Generator[None]:
    role, _ = database_login(stack)
    limit = SQL("ALTER ROLE {} CONNECTION LIMIT {}")
    with stack.rdsadmin() as server:
        server.execute(limit.format(Identifier(role), Literal(connections)))
        try:
            yield
        finally:
            server.execute(limit.format(Identifier(role), Literal(-1)))


def _recovery(stack: LocalStack, login: tuple[str, str], ended: float) -> float | None:
    """Return the seconds from a moment to the first of twenty good answers in a row. None: not within two minutes."""
    good: list[float] = []
    while len(good) < 20:
        if time.monotonic() - ended > 120:
            return None
        status = send(stack, "GET", "/api/2.0/mlflow/experiments/search?max_results=1", {}, login).status
        good = [*good, time.monotonic()] if status == 200 else []
    return good[0] - ended
