"""Keycloak on a loopback port, over HTTPS, with a realm for the tests.

The distribution comes from Maven and is kept with the other tools, built. Its database is in memory, so that each start is a new
Keycloak. It needs Java 17 or newer and 400 MB of memory.
"""

import contextlib
import hashlib
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import time
import zipfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from local import tools

VERSION = "26.7.3"
SHA512 = "15c764765576eef267cf15cc5225a5826b5394a25a83d9bfa5b8544e4bbba690cb743c9d384200b93bb71ee4c4a328e1dd8c0a00f822fd3e6e154f14b1e47216"
"""SHA-512 of the distribution's archive."""
MAVEN_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
MEMORY = ["-Xms64m", "-Xmx384m", "-XX:MaxMetaspaceSize=256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
START_SECONDS = 420
"""Seconds for a start, which takes 42 s of CPU: a busy machine needs minutes."""

REALM, OTHER_REALM = "ml", "other"
CLIENT, MACHINE, TERMINAL, OTHER_CLIENT = "mlflow", "trainer", "terminal", "dashboards"
AUDIENCE = "mlflow-api"
USERS, ADMINS, NESTED_USERS = "/mlflow-users", "/mlflow-admins", "/ml/mlflow-users"
PEOPLE = {"alice": [ADMINS], "bob": [USERS], "carol": [], "dave": [NESTED_USERS]}
"""Person to the groups."""


def _install(tool: tools.Tool, say: tools.Say) -> None:
    maven = shutil.which("mvn")
    if maven is None or shutil.which("java") is None:
        raise tools.ToolError(
            "Keycloak needs Maven and Java 17, which are not on the PATH (Debian: apt-get install maven)"
        )
    for old in tool.folder.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    work = tool.folder / "work"
    work.mkdir()
    copy = [maven, "--batch-mode", "--quiet", MAVEN_PLUGIN, f"-DoutputDirectory={work}"]
    copy.append(f"-Dartifact=org.keycloak:keycloak-quarkus-dist:{tool.version}:zip")
    # The archive has 177 MB, and one copy is enough.
    copy.append(f"-Dmaven.repo.local={work / 'repository'}")
    _run(tool, copy)
    (archive,) = work.glob("*.zip")
    if hashlib.sha512(archive.read_bytes()).hexdigest() != SHA512:
        raise tools.ToolError(
            f"{archive.name} is not the one that tests/keycloak/keycloak.py was written for (SHA-512 differs)"
        )
    with zipfile.ZipFile(archive) as contents:
        contents.extractall(work)
    for part in (work / f"keycloak-{tool.version}").iterdir():
        part.rename(tool.folder / part.name)
    shutil.rmtree(work)
    # A production server for one machine, whose database ends with it. Without this step each start builds it, for a minute of CPU.
    _run(tool, [*java(tool.folder, tool.folder), "build", "--db=dev-mem"])


def _run(tool: tools.Tool, command: Sequence[str]) -> None:
    log = tool.folder.with_name(f"{tool.folder.name}.log")
    with log.open("wb") as output:
        code = subprocess.run(command, stdout=output, stderr=output, cwd=tool.folder, check=False).returncode
    if code:
        raise tools.ToolError(
            f"{tool.name} {tool.version} could not be installed: {Path(command[0]).name} ended with {code}; its output is in {log}"
        )


DISTRIBUTION = tools.Tool("keycloak", VERSION, "lib/quarkus-run.jar", _install)


def java(distribution: Path, home: Path) -> list[str]:
    """Return the command of Keycloak without its arguments: what `bin/kc.sh` starts, as one process and with a folder of its own."""
    opens = [
        f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in ("util", "util.concurrent", "security", "lang")
    ]
    properties = {
        "java.util.logging.manager": "org.jboss.logmanager.LogManager",
        "java.util.concurrent.ForkJoinPool.common.threadFactory": (
            "io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory"
        ),
        "kc.home.dir": str(home),
        "jboss.server.config.dir": str(home / "conf"),
        "user.language": "en",
    }
    options = [f"-D{name}={value}" for name, value in properties.items()]
    jar = str(distribution / "lib" / "quarkus-run.jar")
    return ["java", *MEMORY, *opens, *options, "-cp", jar, "io.quarkus.bootstrap.runner.QuarkusEntryPoint"]


def free_port() -> int:
    """Return a port below those that Linux gives to outgoing connections, because Keycloak listens minutes later only."""
    while True:
        port = random.randrange(28000, 29900)
        with contextlib.suppress(OSError), socket.socket() as held:
            held.bind(("127.0.0.1", port))
            return port


@dataclass
class Keycloak:
    """A Keycloak server. The passwords are made for one run."""

    folder: Path
    site: str
    """Address of the MLflow that people come from and go back to."""
    port: int = field(default_factory=free_port)
    client_secret: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    machine_secret: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    admin_password: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    passwords: dict[str, str] = field(
        default_factory=lambda: {name: secrets.token_urlsafe(12) for name in PEOPLE}, repr=False
    )

    @property
    def url(self) -> str:
        # The site is at `localhost`: for a browser this is another site, as an identity provider is.
        return f"https://127.0.0.1:{self.port}"

    @property
    def issuer(self) -> str:
        return f"{self.url}/realms/{REALM}"

    @property
    def authority(self) -> Path:
        """Certificate of the authority that has signed the server's."""
        return self.folder / "ca.crt"

    @contextlib.contextmanager
    def serving(self) -> Generator["Keycloak"]:
        """Run the server with the realm, until the end of the block."""
        distribution = tools.ensure(DISTRIBUTION).parents[1]
        self._make_certificates()
        home = self.folder / "home"
        home.mkdir()
        for part in ("conf", "lib", "providers", "themes"):
            (home / part).symlink_to(distribution / part)
        options = {
            "http-host": "127.0.0.1",
            "https-port": str(self.port),
            "hostname": self.url,
            "https-certificate-file": str(self.folder / "server.crt"),
            "https-certificate-key-file": str(self.folder / "server.key"),
            "cache": "local",
            "log-level": "info",
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        login = {"KC_BOOTSTRAP_ADMIN_USERNAME": "root", "KC_BOOTSTRAP_ADMIN_PASSWORD": self.admin_password}
        with (self.folder / "keycloak.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*java(distribution, home), "start", "--optimized", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"]} | login,
                start_new_session=True,
            )
        try:
            self._wait()
            self.admin("POST", "/admin/realms", realm(REALM, self))
            self.admin("POST", "/admin/realms", realm(OTHER_REALM, self))
            yield self
        finally:
            # A server that a test has stopped ends after SIGCONT only.
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGCONT)
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    @contextlib.contextmanager
    def hanging(self) -> Generator[None]:
        """Let the server answer nobody, while its port accepts connections."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def _wait(self) -> None:
        log, deadline = self.folder / "keycloak.log", time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(requests.RequestException):
                # It answers 503 until its database is made.
                if requests.get(f"{self.url}/realms/master", verify=str(self.authority), timeout=10).ok:
                    return
            end = log.read_text(errors="replace")[-3000:]
            assert self.process.poll() is None, f"Keycloak has ended:\n{end}"
            assert time.monotonic() < deadline, f"Keycloak has not started in {START_SECONDS} s:\n{end}"
            time.sleep(2)

    def _make_certificates(self) -> None:
        def openssl(*arguments: str) -> None:
            subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)

        self.folder.mkdir(parents=True)
        (self.folder / "extensions").write_text("subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=company-ca", "-days", "2")
        openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=keycloak")
        signer = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extensions", "-days", "2")
        openssl("x509", "-req", "-in", "server.csr", "-out", "server.crt", *signer)

    def admin(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request to Keycloak's admin API and return the answer, if it has one."""
        login = {"grant_type": "password", "client_id": "admin-cli", "username": "root"}
        token = self._token("master", **login, password=self.admin_password)["access_token"]
        answer = requests.request(
            method,
            f"{self.url}{path}",
            json=body,
            headers={"Authorization": f"Bearer {token}"},
            verify=str(self.authority),
            timeout=60,
        )
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json() if answer.content else None

    def tokens(self, person: str, client: str = TERMINAL, realm: str = REALM) -> dict[str, str]:
        """Return all tokens that a client gets for a person, without a browser."""
        login = {"grant_type": "password", "client_id": client, "username": person, "scope": "openid"}
        return self._token(realm, **login, password=self.passwords[person])

    def token(self, person: str, client: str = TERMINAL, realm: str = REALM) -> str:
        """Return a person's access token."""
        return self.tokens(person, client, realm)["access_token"]

    def machine_token(self) -> str:
        """Return the access token of the machine's service account."""
        login = {"grant_type": "client_credentials", "client_id": MACHINE, "client_secret": self.machine_secret}
        return self._token(REALM, **login)["access_token"]

    def _token(self, realm: str, **parameters: str) -> dict[str, str]:
        address = f"{self.url}/realms/{realm}/protocol/openid-connect/token"
        answer = requests.post(address, data=parameters, verify=str(self.authority), timeout=60)
        assert answer.ok, f"{address}: {answer.status_code} {answer.text[:500]}"
        return answer.json()

    def machine_subject(self) -> str:
        """Return the subject in the machine's tokens."""
        (client,) = self.admin("GET", f"/admin/realms/{REALM}/clients?clientId={MACHINE}")
        return self.admin("GET", f"/admin/realms/{REALM}/clients/{client['id']}/service-account-user")["id"]

    def leave(self, person: str, group: str) -> None:
        """Take a person out of a group."""
        self.admin("DELETE", self._membership(person, group))

    def join(self, person: str, group: str) -> None:
        """Put a person into a group."""
        self.admin("PUT", self._membership(person, group))

    def _membership(self, person: str, group: str) -> str:
        (user,) = self.admin("GET", f"/admin/realms/{REALM}/users?username={person}&exact=true")
        found = self.admin("GET", f"/admin/realms/{REALM}/group-by-path{group}")
        return f"/admin/realms/{REALM}/users/{user['id']}/groups/{found['id']}"

    def sessions(self, person: str) -> int:
        """Return the number of a person's sessions with Keycloak."""
        (user,) = self.admin("GET", f"/admin/realms/{REALM}/users?username={person}&exact=true")
        return len(self.admin("GET", f"/admin/realms/{REALM}/users/{user['id']}/sessions"))

    def signing_keys(self) -> list[dict[str, Any]]:
        """Return the components that hold the keys with which the realm signs tokens, the newest first."""
        path = f"/admin/realms/{REALM}/components?type=org.keycloak.keys.KeyProvider"
        found = [each for each in self.admin("GET", path) if each["providerId"] == "rsa-generated"]
        return sorted(found, key=lambda each: -int(each["config"].get("priority", ["0"])[0]))

    def rotate_key(self, name: str, priority: int) -> None:
        """Sign with a new key from now on. The old ones stay published."""
        config = {"priority": [str(priority)], "algorithm": ["RS256"], "keySize": ["2048"]}
        component = {"name": name, "providerId": "rsa-generated", "providerType": "org.keycloak.keys.KeyProvider"}
        self.admin("POST", f"/admin/realms/{REALM}/components", component | {"config": config})

    def withdraw_key(self, component: str) -> None:
        """Delete a key, so that it is published no more."""
        self.admin("DELETE", f"/admin/realms/{REALM}/components/{component}")


def realm(name: str, keycloak: Keycloak) -> dict[str, Any]:
    """Return a realm as Keycloak exports and imports it."""
    groups = {
        "name": "groups",
        "protocol": "openid-connect",
        "protocolMapper": "oidc-group-membership-mapper",
        # Without the full path `/ml/mlflow-users` is `mlflow-users`, too.
        "config": {"full.path": "true", "claim.name": "groups", **_everywhere()},
    }
    audience = {
        "name": "audience",
        "protocol": "openid-connect",
        "protocolMapper": "oidc-audience-mapper",
        "config": {"included.custom.audience": AUDIENCE, "access.token.claim": "true"},
    }
    site = {
        "clientId": CLIENT,
        "secret": keycloak.client_secret,
        "redirectUris": [f"{keycloak.site}/oidc/callback"],
        "attributes": {"post.logout.redirect.uris": f"{keycloak.site}/", "pkce.code.challenge.method": "S256"},
        "protocolMappers": [groups],
    }
    machine = {
        "clientId": MACHINE,
        "secret": keycloak.machine_secret,
        "standardFlowEnabled": False,
        "serviceAccountsEnabled": True,
        "protocolMappers": [audience],
    }
    terminal = {"publicClient": True, "standardFlowEnabled": False, "directAccessGrantsEnabled": True}
    return {
        "realm": name,
        "enabled": True,
        "sslRequired": "all",
        "groups": [
            {"name": "mlflow-users"},
            {"name": "mlflow-admins"},
            {"name": "ml", "subGroups": [{"name": "mlflow-users"}]},
        ],
        "users": [_person(person, groups, keycloak.passwords[person]) for person, groups in PEOPLE.items()],
        "clients": [
            site,
            machine,
            terminal | {"clientId": TERMINAL, "protocolMappers": [groups, audience]},
            terminal | {"clientId": OTHER_CLIENT, "protocolMappers": [groups]},
        ],
    }


def _everywhere() -> dict[str, str]:
    return dict.fromkeys(("id.token.claim", "access.token.claim", "userinfo.token.claim"), "true")


def _person(name: str, groups: Sequence[str], password: str) -> dict[str, Any]:
    return {
        "username": name,
        "enabled": True,
        # Keycloak asks a person without one of these for it, at the login.
        "firstName": name.title(),
        "lastName": "Example",
        "email": f"{name}@example.com",
        "emailVerified": True,
        "groups": list(groups),
        "credentials": [{"type": "password", "value": password}],
    }
