"""HAProxy in front of the pods: strangers, large bodies and slow clients take nobody's place, and wrong passwords cost time."""

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ssl import SSLError, SSLSocket, SSLWantReadError

import pytest

from components.mlflow_release.edge_rules import MAX_BODY
from local.charts.mlflow import APP_VERSIONS
from local.stack import LocalStack, any_certificate, basic
from tests.local.sites import Login, Site

pytestmark = pytest.mark.local

CREATE_RUN = "/api/2.0/mlflow/runs/create"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
SOURCES = [f"127.0.0.{number}" for number in range(2, 8)]
"""Addresses of clients. Linux has all of 127.0.0.0/8."""


@pytest.fixture(scope="module")
def site(stack: LocalStack) -> Site:
    return Site(stack, APP_VERSIONS["1.11.5"])


def authorization(login: Login) -> str:
    return f"Authorization: {basic(login)}"


def ask(site: Site, method: str, path: str, *headers: str, body: Iterable[bytes] = ()) -> tuple[int, bytes]:
    """Send one request as it is written here, and return the status and the rest of the answer."""
    with any_certificate().wrap_socket(socket.create_connection(("localhost", site.stack.https_port), 90)) as client:
        head = [f"{method} {path} HTTP/1.1", f"Host: localhost:{site.stack.https_port}", *headers]
        client.sendall(("\r\n".join([*head, "Connection: close"]) + "\r\n\r\n").encode())
        # HAProxy answers before the body is sent, and closes its side.
        with contextlib.suppress(OSError):
            for part in body:
                client.sendall(part)
        answer = b""
        with contextlib.suppress(OSError):
            while part := client.recv(65536):
                answer += part
    return int(answer.split(maxsplit=2)[1]), answer


def chunked(size: int) -> Iterator[bytes]:
    piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    yield from [piece] * (size // 0x10000)
    yield b"0\r\n\r\n"


@dataclass
class SlowClients:
    """Clients that send a byte a second, or read as slowly, until the end of the block."""

    site: Site
    clients: list[SSLSocket] = field(default_factory=list[SSLSocket])
    receives: list[SSLSocket] = field(default_factory=list[SSLSocket])

    def send(self, count: int, source: str, request: str, *headers: str, at_once: int = 100_000) -> None:
        """Send the beginning of a body of 5 MB, many times."""
        self.clients += [
            self._open(source, request, "Content-Length: 5000000", *headers, body=b"x" * at_once) for _ in range(count)
        ]

    def receive(self, count: int, source: str, request: str, *headers: str) -> None:
        """Ask for a large answer, many times."""
        self.receives += [self._open(source, request, *headers, window=4096) for _ in range(count)]

    def answers(self) -> Counter[int]:
        """Return the statuses of the answers that came to those who send."""
        statuses = Counter[int]()
        for client in self.clients:
            with contextlib.suppress(SSLWantReadError, SSLError, OSError):
                client.setblocking(False)
                if answer := client.recv(1000):
                    statuses[int(answer.split()[1])] += 1
        return statuses

    def __enter__(self) -> "SlowClients":
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._trickle)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for client in self.clients + self.receives:
            client.close()

    def _open(
        self, source: str, request: str, *headers: str, body: bytes = b"", window: int | None = None
    ) -> SSLSocket:
        plain = socket.socket()
        if window:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        plain.bind((source, 0))
        plain.settimeout(20)
        plain.connect(("127.0.0.1", self.site.stack.https_port))
        client = any_certificate().wrap_socket(plain)
        head = [f"{request} HTTP/1.1", f"Host: localhost:{self.site.stack.https_port}", *headers]
        with contextlib.suppress(OSError):
            client.sendall("\r\n".join([*head, "", ""]).encode() + body)
        return client

    def _trickle(self) -> None:
        while not self._stop.wait(1):
            for client in list(self.clients):
                with contextlib.suppress(OSError, ValueError):
                    client.send(b"x")
            for client in list(self.receives):
                with contextlib.suppress(OSError, ValueError):
                    client.recv(100)


def others(site: Site, seconds: float = 6) -> Counter[str]:
    """Return the answers that other people get meanwhile, for the probe, the page and the API."""
    connection, answers, slowest = site.connect(source="127.0.0.99"), Counter[str](), 0.0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for method, path, login in (
            ("GET", "/health", None),
            ("GET", "/", site.admin),
            ("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0", site.admin),
        ):
            began = time.monotonic()
            status, _ = connection.ask(method, path, login)
            slowest = max(slowest, time.monotonic() - began)
            answers[f"{path.split('?')[0]} {status}"] += 1
    print(f"others: {dict(answers)}, slowest {slowest:.2f} s")
    return answers


def only_good(answers: Counter[str]) -> bool:
    return len(answers) == 3 and all(answer.endswith(" 200") for answer in answers)


@pytest.fixture(scope="module")
def large_file(site: Site) -> str:
    """Path of an artifact of 40 MB."""
    connection = site.connect()
    path = f"{ARTIFACTS}/0/slow/artifacts/large.bin"
    assert connection.ask("PUT", path, site.admin, b"x" * 40_000_000)[0] == 200
    return path


def test_a_request_without_a_login_is_refused_before_its_body_comes(site: Site) -> None:
    with SlowClients(site) as slow:
        for request in (f"POST {CREATE_RUN}", f"PUT {ARTIFACTS}/0/x", "POST /health", f"OPTIONS {CREATE_RUN}"):
            slow.send(25, SOURCES[0], request)
        assert only_good(others(site, 5))
        # A client that goes on sending can lose the answer with its connection.
        assert slow.answers().keys() == {401}


def test_the_login_is_asked_for_as_browsers_know_it(site: Site) -> None:
    connection = site.connect()
    for authorization in ("", "Bearer x", "Digest x", "rubbish"):
        assert connection.ask("GET", "/", None, None, Authorization=authorization)[0] == 401
        assert connection.headers["WWW-Authenticate"] == 'Basic realm="mlflow"'


def test_a_preflight_needs_no_login(site: Site) -> None:
    asked = {"Origin": site.stack.url, "Access_Control_Request_Method": "POST"}
    status, _ = site.connect().ask("OPTIONS", "/ajax-api/2.0/mlflow/runs/create", None, None, **asked)
    assert status < 300


@pytest.mark.parametrize("login", [("nobody", "wrong"), None], ids=["wrong", "right"])
def test_slow_bodies_leave_places_to_others(site: Site, login: Login | None) -> None:
    with SlowClients(site) as slow:
        for source in SOURCES:
            slow.send(10, source, f"POST {CREATE_RUN}", authorization(login or site.admin))
        assert only_good(others(site))
        # HAProxy waits for these, so they take no place.
        slow.send(30, SOURCES[0], f"POST {CREATE_RUN}", authorization(login or site.admin), at_once=20_000)
        assert only_good(others(site, 5))


def test_slow_transfers_leave_places_to_others(site: Site, large_file: str) -> None:
    login = authorization(site.admin)
    with SlowClients(site) as slow:
        for source in SOURCES:
            slow.receive(5, source, f"GET {large_file}", login)
            slow.send(5, source, f"PUT {ARTIFACTS}/0/slow/artifacts/never.bin", login)
        assert only_good(others(site))


def test_slow_readers_of_the_page_leave_places_to_others(site: Site) -> None:
    script = next(part for part in site.connect().ask("GET", "/", site.admin)[1].decode().split('"') if "main." in part)
    with SlowClients(site) as slow:
        for source in SOURCES:
            slow.receive(30, source, f"GET /{script.lstrip('/')}")
        assert only_good(others(site))


def test_a_client_has_a_hundred_requests_at_a_time(site: Site) -> None:
    with SlowClients(site) as slow:
        slow.send(110, SOURCES[0], f"PUT {ARTIFACTS}/0/slow/artifacts/never.bin", authorization(site.admin))
        assert only_good(others(site, 1))
        assert slow.answers() == {429: 10}


def test_idle_connections_take_nothing(site: Site) -> None:
    with contextlib.ExitStack() as idle:
        for _ in range(50):
            idle.enter_context(socket.create_connection(("127.0.0.1", site.stack.https_port)))
        assert only_good(others(site, 5))


def test_a_transfer_cannot_hide_behind_percent_signs(site: Site, large_file: str) -> None:
    for path in (large_file.replace("artifacts/", "artifact%73/", 1), "/get%2Dartifact?path=x", "/%73tatic-files/x.js"):
        assert ask(site, "GET", path, authorization(site.admin))[0] == 400


def test_a_body_larger_than_25_mib_is_refused_unless_it_is_a_file(site: Site) -> None:
    login, size = authorization(site.admin), MAX_BODY + 1
    assert ask(site, "POST", CREATE_RUN, login, f"Content-Length: {size}", body=[b"x" * size])[0] == 413
    assert ask(site, "POST", CREATE_RUN, login, "Transfer-Encoding: chunked", body=chunked(size))[0] == 413
    path = f"{ARTIFACTS}/0/sizes/artifacts/file.bin"
    assert ask(site, "PUT", path, login, f"Content-Length: {size}", body=[b"x" * size])[0] == 200
    assert ask(site, "PUT", path, login, "Transfer-Encoding: chunked", body=chunked(size))[0] == 200


def test_the_file_of_a_logged_model_is_asked_for_as_before(site: Site) -> None:
    # MLflow, not HAProxy, says that there is no such model.
    path = "/ajax-api/2.0/mlflow/logged-models/m-0/artifacts/files?artifact_file_path=x"
    status, answer = site.connect().ask("GET", path, site.admin)
    assert status == 404
    assert b"RESOURCE_DOES_NOT_EXIST" in answer


def test_a_short_body_needs_no_length(site: Site) -> None:
    # Exporters of OpenTelemetry send one without. MLflow, not HAProxy, says that these four bytes are no traces.
    headers = (authorization(site.admin), "Transfer-Encoding: chunked", "Content-Type: application/x-protobuf")
    status, answer = ask(
        site, "POST", "/v1/traces", *headers, "x-mlflow-experiment-id: 0", body=[b"4\r\nxxxx\r\n0\r\n\r\n"]
    )
    assert status in {400, 422}
    assert b"server: uvicorn" in answer.lower()


def test_a_body_may_come_late(site: Site) -> None:
    # The controller's own limit is 5 s.
    body = b'{"name": "with a late body"}'
    headers = (authorization(site.admin), f"Content-Length: {len(body)}", "Content-Type: application/json")

    def late() -> Iterator[bytes]:
        yield body[:5]
        time.sleep(31)
        yield body[5:]

    assert ask(site, "POST", "/api/2.0/mlflow/experiments/create", *headers, body=late())[0] == 200


def test_wrong_passwords_slow_down_where_they_come_from(site: Site) -> None:
    guesser, answers = site.connect(source="127.0.0.50"), Counter[int]()
    for number in range(20):
        status, _ = guesser.ask("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0", ("admin", f"guess {number}"))
        answers[status] += 1
    # The rest was not looked at, and has to come again after half a minute.
    assert answers[401] <= 10
    assert answers[401] + answers[429] == 20
    assert guesser.headers["Retry-After"] == "30"
    assert site.connect(source="127.0.0.51").ask("GET", "/", site.admin)[0] == 200
