"""Load on a local stack: HTTP clients through HAProxy, and measurements taken while they run."""

import contextlib
import http.client
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from local import paths
from local.cluster.objects import Objects
from local.stack import Answer, LocalStack, basic
from local.supervisor.client import Supervisor

REPORT = paths.CHECKOUT / "artifacts" / "day-two.md"
"""File that `report` writes to."""
MIB = 2**20
"""Bytes of a mebibyte."""
T = TypeVar("T")


class Site(Protocol):
    """A site of MLflow that this machine reaches."""

    def https(self) -> http.client.HTTPSConnection:
        """Return a new connection, which opens with its first request."""
        ...


@dataclass(frozen=True)
class Request:
    """A request to MLflow's API."""

    method: str
    """HTTP method."""
    path: str
    """Path and query."""
    fields: Mapping[str, object] | None = None
    """Fields of the JSON body. None: no body."""

    @classmethod
    def create_run(cls, experiment: str) -> Self:
        """Return a request that creates a run, which is the smallest write of MLflow."""
        return cls("POST", "/api/2.0/mlflow/runs/create", {"experiment_id": experiment})


Script = Generator[Request, str | None, None]
"""Requests of one client.

The script yields a request and is sent the body of its answer, or None if the status was not 200.
"""


def over_and_over(request: Request) -> Callable[[], Script]:
    """Return a script that sends the same request for ever."""

    def script() -> Script:
        while True:
            yield request

    return script


@dataclass
class Load:
    """Clients that each keep a connection open and send a request when the one before is answered.

    No request is tried again. `answers` counts an answer by its status, and a broken connection by the name of its
    exception.
    """

    site: Site
    """Site that gets the requests."""
    login: tuple[str, str] | None
    """User and password. None: no login."""
    script: Callable[[], Script]
    """Function that returns the requests of one client."""
    clients: int = 8
    """Number of clients, default 8."""
    pause: float = 0.0
    """Seconds that a client waits between two requests, default 0."""
    answers: Counter[str] = field(default_factory=Counter[str])
    """Number of answers by status or exception."""
    failures: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    """Failed requests: seconds since the start, and the first 200 characters of the answer or the error."""
    latencies: list[float] = field(default_factory=list[float])
    """Seconds that each request took."""
    seconds: float = 0.0
    """Seconds that the load lasted, 0 before its end."""

    @property
    def total(self) -> int:
        """Number of requests."""
        return self.answers.total()

    @property
    def failed(self) -> int:
        """Number of requests whose answer was not a 200."""
        return self.total - self.answers["200"]

    @property
    def per_second(self) -> float:
        """Requests per second."""
        return self.total / self.seconds

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.seconds = time.monotonic() - self._started

    def run(self, seconds: float) -> Self:
        """Send requests for some seconds and return this load."""
        with self:
            time.sleep(seconds)
        return self

    def said(self) -> str:
        """Return the number of failed requests as a sentence."""
        others = ", ".join(f"{count} x {answer}" for answer, count in self.answers.most_common() if answer != "200")
        window = ""
        if self.failures:
            moments = [moment for moment, _ in self.failures]
            window = f" within {max(moments) - min(moments):.1f} s"
        return f"{self.failed} of {self.total} requests failed{window}{f' ({others})' if others else ''}"

    def _ask(self) -> None:
        connection, headers = self.site.https(), _headers(self.login)
        script = self.script()
        request = next(script)
        while not self._stop.is_set():
            body = None if request.fields is None else json.dumps(request.fields)
            began = time.monotonic()
            try:
                connection.request(request.method, request.path, body, headers)
                answer = connection.getresponse()
                kind, text = str(answer.status), answer.read().decode(errors="replace")
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                kind, text = type(error).__name__, str(error)
            ended = time.monotonic()
            with self._lock:
                self.answers[kind] += 1
                self.latencies.append(ended - began)
                if kind != "200":
                    self.failures.append((ended - self._started, f"{kind} {text[:200]}"))
            request = script.send(text if kind == "200" else None)
            self._stop.wait(self.pause)
        connection.close()


class Sampler(Generic[T]):
    """Repeated calls of a function while a block runs. `seen` holds the results.

    Args:
        look: the function.
        every: seconds between two calls, default 0.2.
    """

    def __init__(self, look: Callable[[], T], every: float = 0.2) -> None:
        self.seen: list[T] = []
        self._look, self._every = look, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self.seen.append(self._look())


def pods(stack: LocalStack) -> dict[str, int]:
    """Return the running pods of MLflow, each with the id of its first process.

    Raises:
        SupervisorError: the supervisor does not run.
    """
    processes = Supervisor(stack.folder).list()
    return {one.name: one.pid for one in processes if one.name.startswith("mlflow.") and one.running and one.pid}


def memory(leader: int) -> int:
    """Return the proportional memory (PSS) of a process group in bytes."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[2]) == leader:
                rollup = (stat.parent / "smaps_rollup").read_text()
                total += sum(int(size) * 1024 for size in re.findall(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE))
    return total


def database_login(stack: LocalStack) -> tuple[str, str]:
    """Return the database user and password in the pods' Secret.

    Raises:
        ClusterError: there is no such Secret.
    """
    secret = Objects(stack.folder / "cluster" / "objects").secret_data("mlflow", "postgres-database-secret")
    return secret["username"], secret["password"]


def libpq_login(stack: LocalStack) -> dict[str, str]:
    """Return libpq's variables for the login of the pods."""
    role, password = database_login(stack)
    server = stack.resources()["postgres-instance"]["outputs"]
    return {
        "PGHOST": server["address"],
        "PGPORT": str(server["port"]),
        "PGDATABASE": "mlflow",
        "PGUSER": role,
        "PGPASSWORD": password,
        "PGSSLMODE": "require",
    }


def report(subject: str, said: str) -> None:
    """Print a measurement and write it into the report as one line. It replaces that line of an earlier run."""
    print(f"\n{subject}: {said}")
    lines = REPORT.read_text().splitlines() if REPORT.exists() else ["# Day two, measured on a local stack", ""]
    start = f"- **{subject}**: "
    new = start + said
    REPORT.parent.mkdir(exist_ok=True)
    kept = [new if line.startswith(start) else line for line in lines]
    REPORT.write_text("\n".join(kept if new in kept else [*kept, new]) + "\n")


def send(
    site: Site,
    method: str,
    path: str,
    fields: Mapping[str, object],
    login: tuple[str, str] | None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send one request with a JSON body, on a new connection."""
    connection = site.https()
    try:
        connection.request(method, path, json.dumps(fields), {**_headers(login), **(headers or {})})
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.headers), answer.read().decode(errors="replace"))
    finally:
        connection.close()


def _headers(login: tuple[str, str] | None) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    if login is not None:
        headers["Authorization"] = basic(login)
    return headers
