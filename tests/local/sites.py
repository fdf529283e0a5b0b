"""A local stack as those see it who send requests: its site, its pods, and the routes of its MLflow."""

import functools
import http.client
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path

from local import tools
from local.stack import LocalStack, any_certificate, basic

Login = tuple[str, str]


@dataclass(frozen=True)
class Site:
    """A stack with one version of MLflow."""

    stack: LocalStack
    mlflow: str

    @functools.cached_property
    def admin(self) -> Login:
        return "admin", self.stack.password()

    @functools.cached_property
    def pods(self) -> list[str]:
        return self.stack.pod_addresses()

    def connect(self, pod: str | None = None, source: str = "") -> "Connection":
        """Connect to a pod or to the site, to the latter from an address if one is given."""
        if pod is not None:
            host, _, port = pod.rpartition(":")
            return Connection(http.client.HTTPConnection(host, int(port), timeout=60))
        connection = http.client.HTTPSConnection(
            "localhost",
            self.stack.https_port,
            context=any_certificate(),
            timeout=60,
            source_address=(source, 0) if source else None,
        )
        return Connection(connection)


@dataclass
class Connection:
    """A connection that is kept for many requests."""

    connection: http.client.HTTPConnection
    headers: Message = field(default_factory=Message)
    """Headers of the last answer."""

    def ask(
        self,
        method: str,
        path: str,
        login: Login | None = None,
        body: Mapping[str, object] | bytes | None = None,
        **headers: str,
    ) -> tuple[int, bytes]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if login:
            sent["Authorization"] = basic(login)
        if isinstance(body, Mapping):
            sent.setdefault("Content-Type", "application/json")
            body = json.dumps(body).encode()
        self.connection.request(method, path, body, sent)
        answer = self.connection.getresponse()
        self.headers = answer.headers
        return answer.status, answer.read()


@functools.cache
def routes(version: str) -> list[tuple[str, list[str], str]]:
    return json.loads(_printed(version, "mlflow_routes.py"))


@functools.cache
def messages(version: str) -> dict[str, object]:
    """Return what the routes take, as `mlflow_messages.py` prints it."""
    return json.loads(_printed(version, "mlflow_messages.py"))


def _printed(version: str, script: str) -> str:
    command = [tools.mlflow_python(version), Path(__file__).with_name(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]
