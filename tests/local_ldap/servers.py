"""The servers of this folder's tests, all on loopback ports: a directory, a database, and MLflow as the release starts it."""

import configparser
import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from local import paths, tools

SLAPD = shutil.which("slapd", path=f"/usr/sbin:/usr/libexec:{os.defpath}")
BASE = "dc=example,dc=com"
PEOPLE = f"ou=people,{BASE}"
GROUPS = f"ou=groups,{BASE}"
ADMINS = f"cn=mlflow-admins,{GROUPS}"
USERS = f"cn=mlflow-users,{GROUPS}"
MANAGER = f"cn=manager,{BASE}"
LDAP3 = "ldap3==2.9.1"
"""In the chart's image, because its own LDAP function needs it."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def eventually(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:.0f} s"
        time.sleep(0.1)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def running(argv: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in a process group of its own, so that nothing of it is left over."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, **options
        )
    try:
        yield process
    finally:
        # A stopped process does not hear the first signal before the second.
        for number in (signal.SIGTERM, signal.SIGCONT):
            process.send_signal(number)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Certificates:
    """A certificate for the loopback address and the authority behind it."""

    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def make(cls, folder: Path) -> "Certificates":
        def openssl(*arguments: str) -> None:
            subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

        (folder / "extensions").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=Test CA", "-days", "2")
        openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=loopback")
        authority = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial")
        openssl("x509", "-req", "-in", "server.csr", *authority, "-out", "server.crt", "-extfile", "extensions", "-days", "2")
        return cls(folder / "ca.crt", folder / "server.crt", folder / "server.key")


@dataclass
class Directory:
    """An OpenLDAP server with people and two groups."""

    folder: Path
    certificates: Certificates
    port: int = field(default_factory=free_port)
    tls_port: int = field(default_factory=free_port)

    def fill(self, people: Mapping[str, str], members: Mapping[str, list[str]]) -> None:
        """Make the database: people with their passwords, groups with the people in them."""
        (self.folder / "data").mkdir()
        (self.folder / "manager").write_text("manager-password")
        schemas = "".join(f"include /etc/ldap/schema/{name}.schema\n" for name in ("core", "cosine", "inetorgperson"))
        (self.folder / "slapd.conf").write_text(
            schemas
            + textwrap.dedent(f"""\
                moduleload back_mdb
                pidfile {self.folder}/slapd.pid
                TLSCACertificateFile {self.certificates.authority}
                TLSCertificateFile {self.certificates.certificate}
                TLSCertificateKeyFile {self.certificates.key}
                database mdb
                suffix "{BASE}"
                rootdn "{MANAGER}"
                rootpw manager-password
                directory {self.folder}/data
                maxsize 10485760
                access to attrs=userPassword by anonymous auth by * none
                access to * by users read by * none
                """)
        )
        entries = [
            f"dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: Example\ndc: example\n",
            f"dn: {PEOPLE}\nobjectClass: organizationalUnit\nou: people\n",
            f"dn: {GROUPS}\nobjectClass: organizationalUnit\nou: groups\n",
        ]
        entries += [
            f"dn: {dn_of(name)}\nobjectClass: inetOrgPerson\nuid: {name}\ncn: {name}\nsn: {name}\nuserPassword: {password}\n"
            for name, password in people.items()
        ]
        entries += [
            f"dn: {group}\nobjectClass: groupOfUniqueNames\nuniqueMember: {MANAGER}\n"
            + "".join(f"uniqueMember: {dn_of(name)}\n" for name in names)
            for group, names in members.items()
        ]
        ldif = self.folder / "entries.ldif"
        ldif.write_text("\n".join(entries))
        assert SLAPD is not None
        subprocess.run(
            [SLAPD, "-Ta", "-f", str(self.folder / "slapd.conf"), "-l", str(ldif)], check=True, capture_output=True
        )

    @contextlib.contextmanager
    def serving(self) -> Iterator[subprocess.Popen[bytes]]:
        assert SLAPD is not None
        urls = f"ldap://127.0.0.1:{self.port} ldaps://127.0.0.1:{self.tls_port}"
        argv = [SLAPD, "-d", "stats", "-f", str(self.folder / "slapd.conf"), "-h", urls]
        with running(argv, self.folder / "slapd.log") as process:
            eventually(lambda: listens(self.tls_port), "slapd listens", 15)
            yield process

    def modify(self, ldif: str) -> None:
        subprocess.run(
            ["ldapmodify", "-x", "-H", f"ldap://127.0.0.1:{self.port}", "-D", MANAGER, "-y", str(self.folder / "manager")],
            input=textwrap.dedent(ldif).encode(),
            check=True,
            capture_output=True,
        )

    def remove_from(self, group: str, name: str) -> None:
        self.modify(f"dn: {group}\nchangetype: modify\ndelete: uniqueMember\nuniqueMember: {dn_of(name)}\n")

    def add_to(self, group: str, name: str) -> None:
        self.modify(f"dn: {group}\nchangetype: modify\nadd: uniqueMember\nuniqueMember: {dn_of(name)}\n")

    def binds(self) -> int:
        return (self.folder / "slapd.log").read_text(errors="replace").count(' BIND dn="uid=')


def dn_of(name: str) -> str:
    return f"uid={name},{PEOPLE}"


@dataclass
class Database:
    """A PostgreSQL server with the database `mlflow`."""

    folder: Path
    certificates: Certificates
    password: str
    port: int = field(default_factory=free_port)

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        programs = tools.postgres_dir() / "bin"
        data, secret = self.folder / "data", self.folder / "password"
        secret.write_text(self.password)
        for source, name in ((self.certificates.certificate, "server.crt"), (self.certificates.key, "server.key")):
            shutil.copy(source, self.folder / name)
            (self.folder / name).chmod(0o600)
        # PostgreSQL refuses to run as root.
        user = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        identity: dict[str, Any] = {"cwd": self.folder, "env": {"LC_ALL": "C.UTF-8"}}
        if os.geteuid() == 0:
            identity |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            for path in (self.folder, *self.folder.iterdir()):
                os.chown(path, user.pw_uid, user.pw_gid)
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "mlflow_user", "-A", "scram-sha-256", "--pwfile", secret, "--no-sync"],
            check=True,
            capture_output=True,
            **identity,
        )
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",
            "ssl": "on",
            "ssl_cert_file": self.folder / "server.crt",
            "ssl_key_file": self.folder / "server.key",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with running([str(programs / "postgres"), "-D", str(data), *options], self.folder / "log", **identity):
            eventually(lambda: listens(self.port), "PostgreSQL listens", 30)
            yield

    def query(self, statement: str) -> list[list[str]]:
        """Rows of the database `postgres`, which is the one MLflow is given, through MLflow's own driver."""
        script = (
            "import os, json, psycopg2, sys\n"
            "c = psycopg2.connect(''); c.autocommit = True; k = c.cursor(); k.execute(sys.stdin.read())\n"
            "print(json.dumps([[str(v) for v in r] for r in k.fetchall()] if k.description else []))\n"
        )
        import json

        answer = subprocess.run(
            [tools.mlflow_python("3.15.1"), "-c", script],
            input=statement.encode(),
            env=self.environment,
            check=True,
            capture_output=True,
        )
        return json.loads(answer.stdout)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGDATABASE": "postgres",
            "PGUSER": "mlflow_user",
            "PGPASSWORD": self.password,
        }


def ldap3_folder() -> Path:
    """A folder with the LDAP client of the chart's image, for PYTHONPATH."""
    folder = paths.tools_dir() / f"ldap3-{LDAP3.partition('==')[2]}"
    if not (folder / ".complete").exists():
        python = str(tools.mlflow_python("3.15.1"))
        subprocess.run(
            [str(tools.uv_bin()), "pip", "install", "--quiet", "--python", python, "--target", str(folder), LDAP3], check=True
        )
        (folder / ".complete").touch()
    return folder


@dataclass
class Mlflow:
    """One MLflow server, that is one pod."""

    folder: Path
    database: Database
    values: Mapping[str, Any]
    """The release's values for the chart."""
    admin_password: str
    version: str = "3.15.1"
    python_path: str = ""
    options: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)

    @contextlib.contextmanager
    def serving(self) -> Iterator["Mlflow"]:
        python = tools.mlflow_python(self.version)
        ini = self.folder / "auth.ini"
        ini.write_text(self._ini())
        ini.chmod(0o600)
        environment = {
            "PATH": f"{python.parent}:{os.defpath}",
            "HOME": str(self.folder),
            "MLFLOW_AUTH_CONFIG_PATH": str(ini),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "test",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            **self.database.environment,
            **{name: str(value) for name, value in self.values["extraEnvVars"].items()},
        }
        if self.python_path:
            environment["PYTHONPATH"] = self.python_path
        argv = [str(python.with_name("mlflow")), "server", "--host=127.0.0.1", f"--port={self.port}", "--workers=1"]
        argv += ["--backend-store-uri=postgresql+psycopg2://", "--app-name=basic-auth", *self.options]
        with running(argv, self.log, cwd=self.folder, env=environment) as process:
            self.process = process
            eventually(lambda: self.healthy() or process.poll() is not None, "MLflow answers", 90)
            assert process.poll() is None, self.log.read_text()[-3000:]
            yield self

    def _ini(self) -> str:
        # As the chart renders it: the authorization function is the last line, and a second line rides along with it.
        values = self.values["auth"]
        url = f"postgresql+psycopg2://mlflow_user:{self.database.password}@127.0.0.1:{self.database.port}/postgres"
        first, *more = values["authorizationFunction"].split("\n")
        lines = [
            "[mlflow]",
            f"default_permission = {values['defaultPermission']}",
            f"database_uri = {url}",
            "admin_username = admin",
            f"admin_password = {self.admin_password}",
            f"authorization_function = {first}",
            *(line.removeprefix("    ") for line in more),
        ]
        text = "\n".join(lines) + "\n"
        configparser.ConfigParser().read_string(text)
        return text

    @property
    def log(self) -> Path:
        return self.folder / "mlflow.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def healthy(self) -> bool:
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{self.url}/health", timeout=1).ok
        return False

    def ask(
        self, user: str, password: str, path: str = "/api/2.0/mlflow/experiments/search?max_results=5", **body: Any
    ) -> requests.Response:
        credentials = (user.encode(), password.encode())
        if body:
            return requests.post(self.url + path, auth=credentials, json=body, timeout=30)
        return requests.get(self.url + path, auth=credentials, timeout=30)


