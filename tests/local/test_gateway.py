"""Requests that users make the server send: the gateway is off, with the setting on it is guarded, and so are webhooks.

A server on loopback stands for one inside the cluster. It must not hear a word.
"""

import contextlib
import http.server
import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from components.mlflow_release.login_code import CODE
from local import tools
from local.charts.mlflow import APP_VERSIONS
from local.stack import LocalStack, new_stack
from tests.local.sites import Login, Site

pytestmark = pytest.mark.local

GATEWAY_MLFLOW = APP_VERSIONS["1.11.5"]
USER = "caller", "a-password-of-a-caller"
CHAT = "/gateway/mlflow/v1/chat/completions"


class Inner:
    """A server inside the cluster, which takes down what it is told."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.heard: list[bytes] = []
        self._server = socket.create_server((address, 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                connection.settimeout(10)
                with connection, contextlib.suppress(OSError):
                    said = connection.recv(65536)
                    if said:
                        self.heard.append(said)
                        connection.sendall(
                            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
                        )

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def inner() -> Iterator[Inner]:
    server = Inner()
    yield server
    server.close()


@pytest.fixture(scope="module")
def open_gateway() -> Iterator[Site]:
    """A site with the gateway, and with a user who may use each endpoint."""
    with new_stack("gateway") as new:
        new.up(mlflow__gateway=True)
        site = Site(new, GATEWAY_MLFLOW)
        account = {"username": USER[0], "password": USER[1]}
        assert site.connect().ask("POST", "/api/2.0/mlflow/users/create", site.admin, account)[0] == 200
        yield site


@pytest.fixture(scope="module")
def closed_gateway(stack: LocalStack) -> Site:
    return Site(stack, GATEWAY_MLFLOW)


def manage(site: Site, what: str, body: dict[str, Any], login: Login | None = None) -> tuple[int, Any]:
    status, text = site.connect().ask("POST", f"/api/3.0/mlflow/{what}", login or site.admin, body)
    return status, json.loads(text)


def endpoint(site: Site, name: str, address: str, *, user: bool = False) -> str:
    """Make an endpoint of the gateway that leads to an address, and return its name."""
    secret = {"secret_name": name, "secret_value": {"api_key": "k"}, "provider": "openai"}
    _, made = manage(site, "gateway/secrets/create", {**secret, "auth_config": {"api_base": address}})
    model = {"name": name, "secret_id": made["secret"]["secret_id"], "provider": "openai", "model_name": "m"}
    _, made = manage(site, "gateway/model-definitions/create", model)
    config = {
        "model_definition_id": made["model_definition"]["model_definition_id"],
        "linkage_type": "PRIMARY",
        "weight": 1,
    }
    status, made = manage(site, "gateway/endpoints/create", {"name": name, "model_configs": [config]})
    assert status == 200, made
    if user:
        grant = {
            "username": USER[0],
            "resource_type": "gateway_endpoint",
            "resource_id": made["endpoint"]["endpoint_id"],
            "permission": "USE",
        }
        status, text = manage(site, "users/permissions/grant", grant)
        assert status == 200, text
    return name


def chat(name: str) -> dict[str, Any]:
    return {"model": name, "messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", CHAT),
        ("POST", "/gateway/any/mlflow/invocations"),
        ("POST", "/gateway/proxy/any/path"),
        ("POST", "/%67ateway/mlflow/v1/chat/completions"),
        ("POST", "/gateway/openai/v1/responses"),
        ("POST", "/api/3.0/mlflow/gateway/secrets/create"),
        ("POST", "/ajax-api/3.0/mlflow/gateway/endpoints/create"),
        ("GET", "/ajax-api/3.0/mlflow/gateway/secrets/list"),
        ("GET", "/ajax-api/2.0/mlflow/gateway-proxy?gateway_path=api/2.0/endpoints/"),
    ],
)
def test_nobody_uses_the_gateway_unless_it_is_turned_on(closed_gateway: Site, method: str, path: str) -> None:
    for address in (None, *closed_gateway.pods):
        host = {} if address is None else {"Host": "mlflow.mlflow.svc"}
        status, text = closed_gateway.connect(address).ask(method, path, closed_gateway.admin, chat("any"), **host)
        assert status == 403
        assert b"mlflow.gateway" in text


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "127.1"])
def test_the_gateway_reaches_nothing_inside(open_gateway: Site, inner: Inner, host: str) -> None:
    name = endpoint(open_gateway, f"inside-{len(host)}-{inner.port}", f"http://{host}:{inner.port}/v1")
    connection = open_gateway.connect()
    for path in (CHAT, f"/gateway/{name}/mlflow/invocations", f"/gateway/proxy/{name}/any/path"):
        status, _ = connection.ask("POST", path, open_gateway.admin, chat(name))
        assert status >= 400, path
    assert inner.heard == []


def test_a_provider_that_brings_a_client_of_its_own_is_refused(open_gateway: Site) -> None:
    secret = {"secret_name": "other", "secret_value": {"api_key": "k"}, "provider": "databricks"}
    _, made = manage(
        open_gateway, "gateway/secrets/create", {**secret, "auth_config": {"api_base": "http://127.0.0.1"}}
    )
    model = {"name": "other", "secret_id": made["secret"]["secret_id"], "provider": "databricks", "model_name": "m"}
    _, made = manage(open_gateway, "gateway/model-definitions/create", model)
    config = {
        "model_definition_id": made["model_definition"]["model_definition_id"],
        "linkage_type": "PRIMARY",
        "weight": 1,
    }
    manage(open_gateway, "gateway/endpoints/create", {"name": "other", "model_configs": [config]})
    status, text = open_gateway.connect().ask("POST", CHAT, open_gateway.admin, chat("other"))
    assert status == 400
    assert b"not allowed by the current gateway provider policy" in text


def test_a_page_of_another_site_cannot_call_the_gateway(open_gateway: Site, inner: Inner) -> None:
    name = endpoint(open_gateway, f"origin-{inner.port}", f"http://127.0.0.1:{inner.port}/v1")
    connection = open_gateway.connect()
    status, text = connection.ask("POST", CHAT, open_gateway.admin, chat(name), Origin="https://evil.example")
    assert (status, b"https://evil.example" in text) == (403, True)
    status, text = connection.ask("POST", CHAT, open_gateway.admin, chat(name), Origin=open_gateway.stack.url)
    assert status != 403


def test_only_who_may_use_an_endpoint_calls_it_and_only_administrators_do_more(
    open_gateway: Site, inner: Inner
) -> None:
    address = f"http://127.0.0.1:{inner.port}/v1"
    usable = endpoint(open_gateway, f"usable-{inner.port}", address, user=True)
    other = endpoint(open_gateway, f"other-{inner.port}", address)
    connection = open_gateway.connect()
    assert connection.ask("POST", CHAT, USER, chat(other))[0] == 403
    # The call goes through, up to the address, which is an inner one.
    assert connection.ask("POST", CHAT, USER, chat(usable))[0] not in {401, 403}
    assert connection.ask("POST", f"/gateway/{usable}/mlflow/invocations", USER, chat(usable))[0] not in {401, 403}
    assert connection.ask("POST", f"/gateway/proxy/{usable}/any/path", USER, chat(usable))[0] == 403
    assert connection.ask("POST", f"/gateway/proxy/{usable}/mlflow/invocations", USER, chat(usable))[0] == 403
    secret = {"secret_name": "mine", "secret_value": {"api_key": "k"}, "provider": "openai"}
    assert manage(open_gateway, "gateway/secrets/create", secret, USER)[0] == 403
    assert connection.ask("GET", "/ajax-api/3.0/mlflow/gateway/secrets/list", USER)[0] == 403


REDIRECTED = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
import aiohttp
import outgoing

outgoing.is_public = lambda address: address in sys.argv[3:]
outgoing.guard_gateway()

async def call():
    async with aiohttp.ClientSession() as session, session.post(sys.argv[2], json={}) as answer:
        print(answer.status)

try:
    asyncio.run(call())
except outgoing.InternalAddressError as error:
    print(error)
"""


class _Redirect(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_response(307)
        self.send_header("Location", self.path.removeprefix("/"))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.mark.parametrize("version", ["3.15.1", "3.17.2"])
def test_a_redirect_does_not_lead_the_gateway_inside(version: str) -> None:
    # This machine has no public address, so 127.0.0.1 stands for one and 127.0.0.2 for one inside.
    inner = Inner("127.0.0.2")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Redirect) as outer:
        threading.Thread(target=outer.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{outer.server_port}/http://127.0.0.2:{inner.port}/"
        assert _called(version, address, "127.0.0.1") == "127.0.0.2 is not a public address."
        assert inner.heard == []
        # Without the guard the redirect is followed.
        assert _called(version, address, "127.0.0.1", "127.0.0.2") == "200"
        assert len(inner.heard) == 1
        outer.shutdown()
    inner.close()


def _called(version: str, address: str, *public: str) -> str:
    command = [tools.mlflow_python(version), "-c", REDIRECTED, str(CODE), address, *public]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.strip()


ADDRESSES = """
import json, os, sys
os.environ["INTERNAL_NETWORKS"] = "11.0.0.0/8,12.1.0.0/16"
sys.path.insert(0, sys.argv[1])
import outgoing

print(json.dumps([outgoing.is_public(address) for address in sys.argv[2:]]))
"""
INSIDE = [
    *(
        "127.0.0.1",
        "10.0.0.1",
        "172.20.0.10",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "169.254.170.23",
        "0.0.0.0",
    ),
    *("::1", "::", "fe80::1%eth0", "fd00:ec2::254", "::ffff:10.0.0.1", "::ffff:169.254.169.254"),
    *("64:ff9b::a9fe:a9fe", "2002:a00:1::1", "11.2.3.4", "12.1.255.255"),
]
OUTSIDE = ["1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101", "12.2.0.1"]


def test_an_address_inside_is_known_in_every_spelling() -> None:
    command = [tools.mlflow_python(GATEWAY_MLFLOW), "-c", ADDRESSES, str(CODE), *INSIDE, *OUTSIDE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    public = dict(zip([*INSIDE, *OUTSIDE], json.loads(done.stdout), strict=True))
    assert [address for address, is_public in public.items() if is_public] == OUTSIDE


WEBHOOK = """
import sys
sys.path.insert(0, sys.argv[1])
import requests
from mlflow.webhooks import delivery
import outgoing

if sys.argv[3] == "guarded":
    outgoing.guard_webhooks()
try:
    delivery._create_webhook_session().post(sys.argv[2], data=b"{}", timeout=5)
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("version", ["3.7.0", "3.15.1", "3.17.2"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_webhook_reaches_nothing_inside(inner: Inner, version: str, scheme: str) -> None:
    def send(how: str) -> str:
        command = [tools.mlflow_python(version), "-c", WEBHOOK, str(CODE), f"{scheme}://localhost:{inner.port}/", how]
        # Without the guard MLflow tries again and again.
        env = {"MLFLOW_WEBHOOK_REQUEST_MAX_RETRIES": "0"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout.strip()

    assert send("guarded") == "InternalAddressError"
    assert inner.heard == []
    if version == "3.7.0":
        send("as it is")
        assert len(inner.heard) == 1
