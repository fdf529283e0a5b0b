"""A server in the middle, which pretends to be the database and asks for the password in clear text, does not get it."""

import contextlib
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from local import tools
from local.certificates import self_signed
from local.charts import mlflow
from tests.unit.harness import ANY_CLUSTER, changed, deploy, plain

pytestmark = pytest.mark.local

PASSWORD = "the-password-that-nobody-may-see"
CONNECT = """
from sqlalchemy import create_engine
create_engine("postgresql+psycopg2://").connect()
"""
SSL_REQUEST = 80877103


class FalseServer:
    """A PostgreSQL server up to the login, with TLS and a certificate of its own."""

    def __init__(self, folder: Path) -> None:
        self.passwords: list[bytes] = []
        """Passwords that it was told."""
        self.logins = 0
        """Connections that came as far as TLS and a user's name."""
        certificate, key = self_signed(["localhost", "127.0.0.1"], 1)
        self.certificate = folder / "false.pem"
        self.certificate.write_text(certificate)
        (folder / "false.key").write_text(key)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(self.certificate, folder / "false.key")
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                connection.settimeout(10)
                with connection, contextlib.suppress(OSError, struct.error):
                    self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        _, code = struct.unpack("!II", connection.recv(8))
        assert code == SSL_REQUEST, "a client that does without TLS"
        connection.sendall(b"S")
        with self._tls.wrap_socket(connection, server_side=True) as encrypted:
            if not encrypted.recv(4096):
                return
            self.logins += 1
            encrypted.sendall(b"R" + struct.pack("!II", 8, 3))
            answer = encrypted.recv(4096)
            if answer[:1] == b"p":
                self.passwords.append(answer[5:].rstrip(b"\0"))


@pytest.fixture
def false_server(tmp_path: Path) -> Iterator[FalseServer]:
    server = FalseServer(tmp_path)
    yield server
    server.close()


def environments(chart: str, port: int, settings: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the variables of each container that connects to the database, as the chart gives them."""
    existing = {"host": "localhost", "port": port, "adminPassword": "a-master"}
    changes = {"mlflow.chartVersion": chart, "postgres": {"existing": existing}, "database.password": PASSWORD}
    deployment = deploy(changed(ANY_CLUSTER, {**changes, **settings}), secrets=["postgres", "database"])
    release = plain(deployment.named("mlflow-release").inputs)
    rendered = mlflow.render(chart, release["name"], release["namespace"], release["values"])
    secrets = {
        resource["metadata"]["name"]: resource["stringData"]
        for resource in deployment.of_type("kubernetes:core/v1:Secret")
    }
    found: dict[str, dict[str, str]] = {}
    for container in (*rendered.pod.init_containers, rendered.pod.container):
        env: dict[str, str] = {}
        for kind, name in container.env_from:
            env |= rendered.config_maps[name] if kind == "ConfigMap" else secrets.get(name, {})
        for name, value in container.env.items():
            env[name] = value if isinstance(value, str) else secrets[value.secret][value.key]
        if "PGPASSWORD" in env:
            found[container.name] = {name: value for name, value in env.items() if name.startswith("PG")}
    return found


def connect(version: str, env: Mapping[str, str]) -> str:
    """Connect as MLflow does, and return what the client says about it."""
    command = [tools.mlflow_python(version), "-c", CONNECT]
    done = subprocess.run(command, env=dict(env), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0, "the false server has let it in"
    return done.stderr


@pytest.mark.parametrize(("chart", "version"), mlflow.APP_VERSIONS.items())
def test_neither_the_server_nor_the_migration_tells_it_the_password(
    false_server: FalseServer, chart: str, version: str
) -> None:
    containers = environments(chart, false_server.port, {})
    assert containers.keys() == {"migration", "mlflow"}
    for env in containers.values():
        assert env["PGPASSWORD"] == PASSWORD
        assert "channel binding" in connect(version, env)
    assert false_server.logins == 2
    assert false_server.passwords == []
    # The server asks for it in vain: without the variable it is told.
    connect(version, {name: value for name, value in containers["mlflow"].items() if name != "PGCHANNELBINDING"})
    assert false_server.passwords == [PASSWORD.encode()]


@pytest.mark.parametrize(("chart", "version"), mlflow.APP_VERSIONS.items())
def test_with_an_authority_it_does_not_come_as_far_as_a_login(
    false_server: FalseServer, chart: str, version: str, tmp_path: Path
) -> None:
    authority = tmp_path / "authority.pem"
    authority.write_text(self_signed(["localhost"], 1)[0])
    for name, env in environments(chart, false_server.port, {"database.caFile": str(authority)}).items():
        assert "certificate verify failed" in connect(version, env | {"PGSSLROOTCERT": str(authority)}), name
    assert (false_server.logins, false_server.passwords) == (0, [])


def test_pulumis_own_connection_is_told_the_authority(false_server: FalseServer, tmp_path: Path) -> None:
    from local.plugins.postgresql import Server  # noqa: PLC0415

    authority = tmp_path / "authority.pem"
    authority.write_text(self_signed(["localhost"], 1)[0])
    changes = {"postgres": {"existing": {"host": "localhost", "port": false_server.port, "adminPassword": PASSWORD}}}
    deployment = deploy(changed(ANY_CLUSTER, {**changes, "database.caFile": str(authority)}), secrets=["postgres"])
    inputs = plain(deployment.named("database-server").inputs)
    server = Server()
    server.configure(
        {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in inputs.items()}
    )
    with pytest.raises(Exception, match="certificate verify failed"), server.transaction():
        pass
    assert (false_server.logins, false_server.passwords) == (0, [])
