"""Servers for this folder's tests, on loopback ports: a directory, a database, and MLflow as the release starts it."""

import base64
import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from components.mlflow_release import login_code
from local import paths, tools

SLAPD = shutil.which("slapd", path=f"/usr/sbin:/usr/libexec:{os.defpath}")
SCHEMAS = Path("/etc/ldap/schema")
BASE = "dc=example,dc=com"
PEOPLE = f"ou=people,{BASE}"
GROUPS = f"ou=groups,{BASE}"
ADMINS = f"cn=mlflow-admins,{GROUPS}"
USERS = f"cn=mlflow-users,{GROUPS}"
MANAGER = f"cn=manager,{BASE}"
LDAP3 = "2.9.1"
"""Version of ldap3 in the chart's image, which has it for the chart's own LDAP function."""


def dn_of(name: str) -> str:
    return f"uid={name},{PEOPLE}"


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
def running(argv: Sequence[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Run a server in a new process group, and end the group at the end of the block."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, **options
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        # A server that a test has stopped (SIGSTOP) handles SIGTERM only after SIGCONT.
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def server_folder(name: str) -> Iterator[Path]:
    """Provide a folder for a module's servers. The database runs as a user who cannot enter pytest's folder."""
    folder = paths.home() / f"test-{name}-{os.getpid()}"
    paths.make_traversable(folder)
    yield folder
    subprocess.run(["rm", "-rf", str(folder)], check=True)


@dataclass(frozen=True)
class Certificates:
    """A certificate for the loopback address, its authority, and another authority."""

    authority: Path
    certificate: Path
    key: Path
    other_authority: Path
    """Authority that has not signed the certificate."""

    @classmethod
    def make(cls, folder: Path) -> "Certificates":
        def openssl(*arguments: str) -> None:
            subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

        folder.mkdir()
        # Python 3.13, the image's version, requires the authority's key identifier.
        (folder / "extensions").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        for name in ("ca", "other-ca"):
            files = ("-keyout", f"{name}.key", "-out", f"{name}.crt")
            openssl("req", "-x509", *key, *files, "-subj", f"/CN={name}", "-days", "2")
        openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=server")
        signer = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extensions", "-days", "2")
        openssl("x509", "-req", "-in", "server.csr", "-out", "server.crt", *signer)
        return cls(*(folder / name for name in ("ca.crt", "server.crt", "server.key", "other-ca.crt")))


@dataclass
class Directory:
    """An OpenLDAP server that accepts passwords over TLS only."""

    folder: Path
    certificates: Certificates
    port: int = field(default_factory=free_port)
    tls_port: int = field(default_factory=free_port)
    referral_port: int = field(default_factory=free_port)
    """Port in the referral that it answers to a search outside its tree."""

    @property
    def uri(self) -> str:
        return f"ldaps://localhost:{self.tls_port}"

    def fill(self, people: Mapping[str, str], members: Mapping[str, Sequence[str]]) -> None:
        """Create the directory's database: people with their passwords, and groups with their members."""
        assert SLAPD is not None
        (self.folder / "data").mkdir(parents=True)
        (self.folder / "manager").touch(mode=0o600)
        (self.folder / "manager").write_text("manager-password")
        schemas = "".join(f"include {SCHEMAS}/{name}.schema\n" for name in ("core", "cosine", "inetorgperson"))
        settings = f"""\
            moduleload back_mdb
            referral ldap://127.0.0.1:{self.referral_port}
            TLSCACertificateFile {self.certificates.authority}
            TLSCertificateFile {self.certificates.certificate}
            TLSCertificateKeyFile {self.certificates.key}
            security simple_bind=128
            database mdb
            suffix "{BASE}"
            rootdn "{MANAGER}"
            rootpw manager-password
            directory {self.folder}/data
            maxsize 10485760
            access to attrs=userPassword by anonymous auth by * none
            access to * by users read by * none
            """
        (self.folder / "slapd.conf").write_text(schemas + textwrap.dedent(settings))
        entries = [
            f"dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: Example\ndc: example\n",
            f"dn: {PEOPLE}\nobjectClass: organizationalUnit\nou: people\n",
            f"dn: {GROUPS}\nobjectClass: organizationalUnit\nou: groups\n",
        ]
        for name, password in people.items():
            attributes = f"uid: {name}\ncn: {name}\nsn: {name}\nuserPassword: {password}\n"
            entries.append(f"dn: {dn_of(name)}\nobjectClass: inetOrgPerson\n{attributes}")
        for group, names in members.items():
            uniques = "".join(f"uniqueMember: {dn}\n" for dn in (MANAGER, *map(dn_of, names)))
            entries.append(f"dn: {group}\nobjectClass: groupOfUniqueNames\n{uniques}")
        ldif = self.folder / "entries.ldif"
        ldif.write_text("\n".join(entries))
        configuration = str(self.folder / "slapd.conf")
        subprocess.run([SLAPD, "-Ta", "-f", configuration, "-l", str(ldif)], check=True, capture_output=True)

    @contextlib.contextmanager
    def serving(self) -> Iterator[subprocess.Popen[Any]]:
        assert SLAPD is not None
        addresses = (f"ldap://127.0.0.1:{self.port}", f"ldaps://127.0.0.1:{self.tls_port}")
        # The certificate is not valid for this address.
        addresses += (f"ldaps://127.0.0.2:{self.tls_port}",)
        argv = [SLAPD, "-d", "stats", "-f", str(self.folder / "slapd.conf"), "-h", " ".join(addresses)]
        with running(argv, self.log) as process:
            eventually(lambda: listens(self.tls_port), "slapd listens", 15)
            yield process

    def modify(self, dn: str, change: str) -> None:
        """Change an entry. The change is LDIF: `add`, `delete` or `replace`, the attribute, and its lines."""
        # For `localhost`, the client would look for this machine's name in the certificate, so this uses the address.
        login = ["-x", "-H", f"ldaps://127.0.0.1:{self.tls_port}", "-D", MANAGER, "-y", str(self.folder / "manager")]
        environment = {"PATH": os.defpath, "LDAPTLS_CACERT": str(self.certificates.authority)}
        ldif = f"dn: {dn}\nchangetype: modify\n{change}\n"
        subprocess.run(["ldapmodify", *login], input=ldif.encode(), env=environment, check=True, capture_output=True)

    def leave(self, group: str, name: str) -> None:
        self.modify(group, f"delete: uniqueMember\nuniqueMember: {dn_of(name)}")

    def join(self, group: str, name: str) -> None:
        self.modify(group, f"add: uniqueMember\nuniqueMember: {dn_of(name)}")

    @property
    def log(self) -> Path:
        return self.folder / "slapd.log"

    def binds(self, name: str) -> int:
        """Return how often a person's password was checked."""
        return self.log.read_text(errors="replace").count(f'BIND dn="{dn_of(name)}" method=128')


@contextlib.contextmanager
def active_directory(port: int, group: str) -> Iterator[list[bytes]]:
    """Answer one login as Active Directory does, and provide the messages that were received.

    Active Directory accepts a bind with a name like an e-mail address, and the person's entry lists the groups.
    OpenLDAP accepts a bind with a DN only.
    """

    def part(tag: int, *contents: bytes) -> bytes:
        content = b"".join(contents)
        size = len(content)
        return bytes([tag]) + (bytes([size]) if size < 128 else bytes([0x82, size >> 8, size & 255])) + content

    def answers(question: bytes, *operations: bytes) -> bytes:
        # A message begins with a tag, its size in one byte or two, and its number. The answers repeat the number.
        start = 2 + (question[1] == 0x81)
        number = question[start : start + 2 + question[start + 1]]
        return b"".join(part(0x30, number, operation) for operation in operations)

    success = (part(0x0A, b"\0"), part(0x04), part(0x04))
    member_of = part(0x30, part(0x04, b"memberOf"), part(0x31, part(0x04, group.encode())))
    entry = part(0x64, part(0x04, b"CN=Bob Smith,OU=Staff,DC=example,DC=com"), part(0x30, member_of))
    elsewhere = part(0x73, part(0x04, b"ldap://DomainDnsZones.example.com/DC=DomainDnsZones,DC=example,DC=com"))
    got: list[bytes] = []

    def serve(server: socket.socket) -> None:
        with contextlib.suppress(OSError), server.accept()[0] as connection:
            got.append(connection.recv(4096))
            connection.sendall(answers(got[0], part(0x61, *success)))
            got.append(connection.recv(4096))
            connection.sendall(answers(got[1], entry, elsewhere, part(0x65, *success)))
            connection.recv(4096)

    with socket.create_server(("127.0.0.1", port)) as server:
        server.settimeout(60)
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        yield got
    thread.join(timeout=60)


@dataclass
class Database:
    """A PostgreSQL server that accepts TLS only, with a database for each MLflow version."""

    folder: Path
    certificates: Certificates
    password: str
    port: int = field(default_factory=free_port)

    @contextlib.contextmanager
    def serving(self) -> Iterator["Database"]:
        programs = tools.postgres_dir() / "bin"
        self.folder.mkdir()
        data, secret = self.folder / "data", self.folder / "password"
        secret.write_text(self.password)
        for source, name in ((self.certificates.certificate, "server.crt"), (self.certificates.key, "server.key")):
            shutil.copy(source, self.folder / name)
            (self.folder / name).chmod(0o600)
        identity: dict[str, Any] = {"cwd": self.folder, "env": {"LC_ALL": "C.UTF-8"}}
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root.
            nobody = pwd.getpwnam("nobody")
            identity |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            for path in (self.folder, *self.folder.iterdir()):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        initdb = [programs / "initdb", "-D", data, "-U", "mlflow_user", "-A", "scram-sha-256", "--pwfile", secret]
        subprocess.run([*initdb, "--no-sync"], check=True, capture_output=True, **identity)
        (data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
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
            yield self

    def query(self, statement: str, database: str = "postgres") -> list[list[str]]:
        """Run a statement and return its rows. It runs in MLflow's virtualenv, which has the driver."""
        script = (
            "import json, psycopg2, sys\n"
            "connection = psycopg2.connect(''); connection.autocommit = True; cursor = connection.cursor()\n"
            "cursor.execute(sys.stdin.read()); rows = cursor.fetchall() if cursor.description else []\n"
            "print(json.dumps([[str(value) for value in row] for row in rows]))"
        )
        python = tools.mlflow_python("3.15.1")
        environment = self.environment(database)
        answer = subprocess.run(
            [python, "-c", script], input=statement.encode(), env=environment, check=True, capture_output=True
        )
        return json.loads(answer.stdout)

    def environment(self, database: str) -> dict[str, str]:
        login = {"PGUSER": "mlflow_user", "PGPASSWORD": self.password, "PGDATABASE": database}
        return {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), **login}


def ldap3_folder() -> Path:
    """Return a folder for PYTHONPATH with the LDAP client of the chart's image."""
    folder = paths.tools_dir() / f"ldap3-{LDAP3}"
    if not (folder / ".complete").exists():
        install = [str(tools.uv_bin()), "pip", "install", "--quiet", "--target", str(folder)]
        subprocess.run([*install, "--python", str(tools.mlflow_python("3.15.1")), f"ldap3=={LDAP3}"], check=True)
        (folder / ".complete").touch()
    return folder


@dataclass
class Mlflow:
    """An MLflow server, as in one pod."""

    folder: Path
    version: str
    database: Database
    values: Mapping[str, Any]
    """Values of the release."""
    environment: Mapping[str, str]
    """Environment variables that override those of the values on this machine."""
    admin_password: str
    port: int = field(default_factory=free_port)

    @contextlib.contextmanager
    def serving(self) -> Iterator["Mlflow"]:
        python = tools.mlflow_python(self.version)
        self.folder.mkdir(exist_ok=True)
        ini = self.folder / "auth.ini"
        ini.write_text(self._ini())
        ini.chmod(0o600)
        environment = {
            "PATH": f"{python.parent}:{os.defpath}",
            "HOME": str(self.folder),
            "MLFLOW_AUTH_CONFIG_PATH": str(ini),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "the same in every replica",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            **self.database.environment(self.database_name),
            **{name: str(value) for name, value in self.values["extraEnvVars"].items()},
            # The tests send many wrong passwords from one address.
            "LOGIN_TRIES": "1000",
            **self.environment,
        }
        argv = [str(python.with_name("mlflow")), "server", "--host=127.0.0.1", f"--port={self.port}", "--workers=1"]
        if options := self.values["extraArgs"].get("gunicornOpts"):
            here = options.replace(login_code.FOLDER, str(login_code.CODE))
            argv.append(f"--gunicorn-opts={here}")
        argv += ["--backend-store-uri=postgresql+psycopg2://", "--app-name=basic-auth", "--serve-artifacts"]
        argv += [f"--artifacts-destination={self.folder / 'artifacts'}"]
        with running(argv, self.log, cwd=self.folder, env=environment) as process:
            eventually(lambda: self.healthy() or process.poll() is not None, "MLflow answers", 90)
            assert process.poll() is None, self.log.read_text()[-3000:]
            yield self

    @property
    def database_name(self) -> str:
        return f"mlflow_{self.version.replace('.', '_')}"

    def _ini(self) -> str:
        # The file is as the chart renders it. The authorization function is the last value and can have a second line.
        values = self.values["auth"]
        server = f"127.0.0.1:{self.database.port}/{self.database_name}"
        first, *more = values["authorizationFunction"].split("\n")
        lines = [
            "[mlflow]",
            f"default_permission = {values['defaultPermission']}",
            f"database_uri = postgresql+psycopg2://mlflow_user:{self.database.password}@{server}",
            "admin_username = admin",
            f"admin_password = {self.admin_password}",
            f"authorization_function = {first}",
            *(line.removeprefix("    ") for line in more),
        ]
        return "\n".join(lines) + "\n"

    @property
    def log(self) -> Path:
        return self.folder / "mlflow.log"

    def healthy(self) -> bool:
        with contextlib.suppress(requests.RequestException):
            return self.get("/health", timeout=1).ok
        return False

    def get(self, path: str, login: tuple[str, str] | None = None, timeout: float = 30) -> requests.Response:
        return requests.get(f"http://127.0.0.1:{self.port}{path}", headers=_basic(login), timeout=timeout)

    def call(self, login: tuple[str, str] | None, path: str, **body: Any) -> requests.Response:
        """Call a method of MLflow's API."""
        url = f"http://127.0.0.1:{self.port}/api/2.0/mlflow/{path}"
        return requests.post(url, headers=_basic(login), json=body, timeout=30)

    def status(self, user: str, password: str) -> int:
        """Return the status of a harmless request with this login."""
        return self.call((user, password), "experiments/search", max_results=1).status_code


def _basic(login: tuple[str, str] | None) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(':'.join(login).encode()).decode()}"} if login else {}
