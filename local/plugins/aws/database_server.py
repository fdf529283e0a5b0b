"""The PostgreSQL server of an RDS instance on the local stack, with RDS's roles.

As on RDS, the superuser `rdsadmin` belongs to the service; here only this file has its password. The master is a member
of `rds_superuser` and may create databases and roles, but is not a superuser. All connections use TLS.
"""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from local import paths, tools
from local.certificates import self_signed
from local.supervisor.client import Supervisor
from local.supervisor.spec import ProcessSpec, SupervisorError

ADDRESS = "127.0.0.1"
"""Address that the servers listen on."""

_START_SECONDS = 60
"""Seconds that a server may take until it accepts connections."""
_CERTIFICATE_DAYS = 3650
"""Validity of a server's certificate in days."""


class DatabaseServer:
    """The PostgreSQL server of one instance."""

    def __init__(self, identifier: str) -> None:
        self._process = f"rds-{identifier}"
        self._folder = paths.stack_dir() / "postgres" / identifier
        self._supervisor = Supervisor(paths.stack_dir())

    @property
    def exists(self) -> bool:
        """True if the supervisor runs the server."""
        return self._supervisor.get(self._process) is not None

    @property
    def port(self) -> int:
        """TCP port of the server."""
        return self._supervisor.free_port(self._process)

    def start(self, parameters: Mapping[str, str], version: str) -> None:
        """Start or restart the server with these parameters. A new server first gets its data folder.

        Args:
            parameters: PostgreSQL's parameters.
            version: version of PostgreSQL. The data of an older major version is upgraded before.

        Raises:
            SupervisorError: the server did not start.
            ToolError: PostgreSQL could not be installed.
        """
        data = self._folder / "data"
        if not data.exists():
            self._create(data, version)
        elif (data / "PG_VERSION").read_text().strip() != version.partition(".")[0]:
            self._upgrade(data, version, parameters)
        self._run(data, version, parameters)

    def _upgrade(self, data: Path, version: str, parameters: Mapping[str, str]) -> None:
        """Carry roles and databases over into a new data folder. RDS uses pg_upgrade, which leaves the same behind."""
        password = (self._folder / "rdsadmin-password").read_bytes()
        dump, old = self._write("upgrade.sql", b""), self._folder / "data.old"
        self._client("pg_dumpall", "--file", str(dump))
        self._supervisor.delete(self._process)
        data.rename(old)
        self._create(data, version)
        self._run(data, version, parameters)
        # The dump sets the old password, while psql is still to log in again for each database.
        with self.rdsadmin() as connection:
            connection.execute(SQL("ALTER ROLE rdsadmin PASSWORD {}").format(Literal(password.decode())))
        self._write("rdsadmin-password", password)
        said = self._client("psql", "--quiet", "--dbname", "postgres", "--file", str(dump))
        # The superuser is there already.
        wrong = [line for line in said.splitlines() if "ERROR" in line and 'role "rdsadmin" already exists' not in line]
        if wrong:
            raise SupervisorError(f"the upgrade to PostgreSQL {version} failed, and {old} has the data: {wrong[0]}")
        dump.unlink()
        shutil.rmtree(old)

    def _client(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's client programs as the superuser, and return its messages."""
        with self.rdsadmin():
            pass
        path = tools.ensure(tools.POSTGRES_CLIENT).with_name(program)
        login = {
            "PATH": os.defpath,
            "PGHOST": ADDRESS,
            "PGPASSWORD": (self._folder / "rdsadmin-password").read_text(),
            "PGPORT": str(self.port),
            "PGSSLMODE": "require",
            "PGUSER": "rdsadmin",
        }
        done = subprocess.run([path, *arguments], env=login, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SupervisorError(f"{program} failed: {done.stderr.strip()}")
        return done.stderr

    def _run(self, data: Path, version: str, parameters: Mapping[str, str]) -> None:
        settings = {
            "hba_file": str(self._folder / "pg_hba.conf"),
            "listen_addresses": ADDRESS,
            "port": str(self.port),
            "ssl": "on",
            "ssl_cert_file": str(self._folder / "server.crt"),
            "ssl_key_file": str(self._folder / "server.key"),
            "unix_socket_directories": "",
            # PostgreSQL does not know the parameters `rds.*`. `rds.force_ssl` is applied in pg_hba.conf below.
            **{name: value for name, value in parameters.items() if not name.startswith("rds.")},
        }
        kind = "host" if parameters.get("rds.force_ssl") == "0" else "hostssl"
        options = (part for name, value in settings.items() for part in ("-c", f"{name}={value}"))
        spec = self._spec(
            self._process,
            [str(tools.postgres_dir(version) / "bin" / "postgres"), "-D", str(data), *options],
            files={settings["hba_file"]: f"{kind} all all {ADDRESS}/32 scram-sha-256\n"},
            ready={"tcp": f"{ADDRESS}:{self.port}"},
            stop_signal="SIGINT",
            stop_timeout=30,
        )
        self._supervisor.keep_running(spec, _START_SECONDS)

    def set_master(self, name: str, password: str) -> None:
        """Create the master user, or change its password.

        Raises:
            psycopg.OperationalError: the server did not accept a connection within 60 seconds.
        """
        with self.rdsadmin() as connection:

            def missing(role: str) -> bool:
                return connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is None

            if missing("rds_superuser"):
                connection.execute("CREATE ROLE rds_superuser NOLOGIN IN ROLE pg_monitor, pg_signal_backend")
            if missing(name):
                role = "CREATE ROLE {} LOGIN CREATEDB CREATEROLE IN ROLE rds_superuser"
                connection.execute(SQL(role).format(Identifier(name)))
            connection.execute(SQL("ALTER ROLE {} PASSWORD {}").format(Identifier(name), Literal(password)))

    def remove(self) -> None:
        """Stop the server and delete its data.

        Raises:
            SupervisorError: the supervisor does not run.
        """
        self._supervisor.delete(self._process)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _create(self, data: Path, version: str) -> None:
        paths.make_traversable(self._folder.parent)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._set_owner(self._folder)
        certificate, key = self_signed([ADDRESS], _CERTIFICATE_DAYS)
        self._write("server.crt", certificate.encode())
        self._write("server.key", key.encode())
        template = tools.postgres_data(version)
        self._write("rdsadmin-password", (template / "rdsadmin-password").read_bytes())
        # The copy gets its final name when it is complete, so an interrupted copy starts over.
        unfinished = self._folder / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        copy = ["cp", "-R", "-p", str(template / "data"), str(unfinished)]
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
        self._set_owner(file)
        return file

    def _set_owner(self, path: Path) -> None:
        if tools.POSTGRES_USER is not None:
            shutil.chown(path, tools.POSTGRES_USER)

    @contextlib.contextmanager
    def rdsadmin(self) -> Generator[psycopg.Connection]:
        """Connect as the superuser, for one transaction."""
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
                # PostgreSQL listens a moment before it accepts logins.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        with connection:
            yield connection
