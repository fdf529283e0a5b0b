"""What stands behind an RDS instance of the local stack: a real PostgreSQL with RDS's permission model.

The superuser is `rdsadmin`, which nobody but the "service" (this file) can be; the master may create databases and roles and is a
member of `rds_superuser`, but is no superuser. Connections are TLS only.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from local import paths, tools
from local.certificates import self_signed
from local.supervisor.client import Supervisor
from local.supervisor.spec import ProcessSpec

VERSION = "17.6"
"""The PostgreSQL that `local.tools` installs."""
ADDRESS = "127.0.0.1"

_START_SECONDS = 60
_CERTIFICATE_DAYS = 3650


class DatabaseServer:
    """The PostgreSQL of one instance."""

    def __init__(self, identifier: str) -> None:
        self._process = f"rds-{identifier}"
        self._folder = paths.stack_dir() / "postgres" / identifier
        self._supervisor = Supervisor(paths.stack_dir())

    @property
    def exists(self) -> bool:
        """Whether the machine runs it."""
        return self._supervisor.get(self._process) is not None

    @property
    def port(self) -> int:
        """Its TCP port."""
        return self._supervisor.free_port(self._process)

    def start(self, parameters: Mapping[str, str]) -> None:
        """Run it with these parameters, making it first where it is new."""
        data = self._folder / "data"
        if not data.exists():
            self._make(data)
        settings = {
            "hba_file": str(self._folder / "pg_hba.conf"),
            "listen_addresses": ADDRESS,
            "port": str(self.port),
            "ssl": "on",
            "ssl_cert_file": str(self._folder / "server.crt"),
            "ssl_key_file": str(self._folder / "server.key"),
            "unix_socket_directories": "",
            # The `rds.` parameters are RDS's own; the one that matters here is in pg_hba.conf.
            **{name: value for name, value in parameters.items() if not name.startswith("rds.")},
        }
        kind = "host" if parameters.get("rds.force_ssl") == "0" else "hostssl"
        options = (part for name, value in settings.items() for part in ("-c", f"{name}={value}"))
        spec = self._spec(
            self._process,
            [str(tools.postgres_dir() / "bin" / "postgres"), "-D", str(data), *options],
            files={settings["hba_file"]: f"{kind} all all {ADDRESS}/32 scram-sha-256\n"},
            ready={"tcp": f"{ADDRESS}:{self.port}"},
            stop_signal="SIGINT",
            stop_timeout=30,
        )
        self._supervisor.keep_running(spec, _START_SECONDS)

    def set_master(self, name: str, password: str) -> None:
        """Make the master user, or give it another password."""
        with self._rdsadmin() as connection:

            def missing(role: str) -> bool:
                return connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is None

            if missing("rds_superuser"):
                connection.execute("CREATE ROLE rds_superuser NOLOGIN IN ROLE pg_monitor, pg_signal_backend")
            if missing(name):
                role = "CREATE ROLE {} LOGIN CREATEDB CREATEROLE IN ROLE rds_superuser"
                connection.execute(SQL(role).format(Identifier(name)))
            connection.execute(SQL("ALTER ROLE {} PASSWORD {}").format(Identifier(name), Literal(password)))

    def remove(self) -> None:
        """Stop it and delete its data."""
        self._supervisor.delete(self._process)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _make(self, data: Path) -> None:
        paths.make_traversable(self._folder.parent)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._give(self._folder)
        certificate, key = self_signed([ADDRESS], _CERTIFICATE_DAYS)
        self._write("server.crt", certificate.encode())
        self._write("server.key", key.encode())
        fresh = tools.postgres_data()
        self._write("rdsadmin-password", (fresh / "rdsadmin-password").read_bytes())
        # Under another name until it is complete: a copy that was interrupted starts over.
        unfinished = self._folder / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        copy = ["cp", "-R", "-p", str(fresh / "data"), str(unfinished)]
        self._supervisor.run(self._spec(f"{self._process}-copy", copy), _START_SECONDS)
        unfinished.rename(data)

    def _spec(self, name: str, argv: list[str], **more: Any) -> ProcessSpec:
        return ProcessSpec(
            name=name,
            argv=argv,
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC"},
            cwd=str(self._folder),
            user=tools.POSTGRES_USER,
            **more,
        )

    def _write(self, name: str, content: bytes) -> Path:
        file = self._folder / name
        file.touch(mode=0o600)
        file.write_bytes(content)
        self._give(file)
        return file

    def _give(self, path: Path) -> None:
        if tools.POSTGRES_USER is not None:
            shutil.chown(path, tools.POSTGRES_USER)

    @contextlib.contextmanager
    def _rdsadmin(self) -> Generator[psycopg.Connection]:
        password = (self._folder / "rdsadmin-password").read_text()
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                connection = psycopg.connect(
                    host=ADDRESS,
                    port=self.port,
                    user="rdsadmin",
                    password=password,
                    dbname="postgres",
                    sslmode="require",
                )
                break
            except psycopg.OperationalError:
                # It listens a moment before it lets anybody in.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        with connection:
            yield connection
