"""A further local stack for tests and measurements.

It has the commands of `make up`, its own folder and its own ports.
"""

import contextlib
import http.client
import json
import os
import random
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from ssl import CERT_NONE, SSLContext, create_default_context
from typing import Any

import psycopg

from local import aws_account, mlflow_scripts, paths
from local.pulumi_cli.engine import Engine
from local.supervisor.client import Supervisor

PYTHON = paths.CHECKOUT / ".venv" / "bin" / "python"


class CommandError(RuntimeError):
    """A command failed. The message ends with the end of the command's output."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    """Status code."""
    headers: Mapping[str, str]
    body: str
    """Body as text."""


@dataclass
class LocalStack:
    """A local stack. Its commands are those that `make` runs (`python -m local`)."""

    folder: Path
    """Folder of the stack."""
    http_port: int
    """Loopback port of the Ingress for HTTP."""
    https_port: int
    """Loopback port of the Ingress for HTTPS."""
    _answers: dict[tuple[tuple[str, ...], int], str] = field(
        default_factory=dict[tuple[tuple[str, ...], int], str], init=False, repr=False, compare=False
    )

    @property
    def url(self) -> str:
        """Address of the site, without a path."""
        return f"https://localhost:{self.https_port}"

    def https(self) -> http.client.HTTPSConnection:
        """Return a new connection to the site, which opens with its first request."""
        return http.client.HTTPSConnection("localhost", self.https_port, timeout=60, context=any_certificate())

    def environment(self) -> dict[str, str]:
        """Return the environment of the stack's commands."""
        return {
            **os.environ,
            "MLFLOW_EKS_STACK_DIR": str(self.folder),
            "MLFLOW_EKS_HTTP_PORT": str(self.http_port),
            "MLFLOW_EKS_HTTPS_PORT": str(self.https_port),
        }

    def command(self, *arguments: str, ok: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m local`.

        Args:
            arguments: the command and its arguments.
            ok: True (default) to raise an error if the command fails.
            variables: environment variables in addition to the stack's.

        Raises:
            CommandError: the command failed, and `ok` is true.
        """
        done = subprocess.run(
            [PYTHON, "-m", "local", *arguments],
            cwd=paths.CHECKOUT,
            env=self.environment() | variables,
            capture_output=True,
            text=True,
            timeout=1500,
            check=False,
        )
        if ok and done.returncode:
            raise CommandError(f"{' '.join(arguments)} failed:\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}")
        return done

    def up(self, **settings: str | int | bool) -> str:
        """Deploy the stack and return the output. `database__rotation=1` sets `mlflow-eks:database.rotation` to 1.

        A new stack has the settings from its first resource on.

        Raises:
            CommandError: the deployment failed.
        """
        if not settings:
            return self.command("up").stdout
        if not self.folder.exists():
            # It makes the stack with the settings of the checkout and deploys nothing.
            self.command("preview")
        self.set(**settings)
        return self.pulumi("up", "--yes", "--skip-preview").stdout

    def set(self, **settings: str | int | bool) -> None:
        """Change settings of this stack, named as for `up`. An `up` without settings restores those of the checkout.

        Raises:
            CommandError: Pulumi refused a setting.
        """
        for key, value in settings.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            self.pulumi("config", "set", "--path", f"mlflow-eks:{key.replace('__', '.')}", text)

    @contextlib.contextmanager
    def with_settings(self, **settings: str | int | bool) -> Generator[None]:
        """Change settings, named as for `up`, and restore the old ones at the end of the block."""
        file = self.folder / "project" / "Pulumi.local.yaml"
        before = file.read_text()
        try:
            self.set(**settings)
            yield
        finally:
            file.write_text(before)

    def pulumi(self, *arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the Pulumi CLI on this stack. Arguments and errors are those of `command`."""
        return self.command("pulumi", *arguments, ok=ok)

    def pod_addresses(self) -> list[str]:
        """Return the `host:port` of each MLflow pod, for requests that do not go through the Ingress."""
        endpoints = self.folder / "cluster" / "objects" / "Endpoints" / "mlflow" / "mlflow.json"
        return list(json.loads(endpoints.read_text())["servers"].values())

    def changes(self, **settings: str | int | bool) -> dict[str, list[str]]:
        """Preview an `up` and return its operations except `same` and `read`, each with the logical names.

        Raises:
            CommandError: the preview failed.
        """
        with self.with_settings(**settings):
            digest = json.loads(self.pulumi("preview", "--json").stdout)
        changes: dict[str, list[str]] = {}
        for step in digest["steps"]:
            if step["op"] not in {"same", "read"}:
                changes.setdefault(step["op"], []).append(step["urn"].rsplit("::", 1)[-1])
        return {operation: sorted(names) for operation, names in changes.items()}

    def outputs(self) -> dict[str, Any]:
        """Return the stack's outputs, secrets unencrypted.

        Raises:
            CommandError: the stack has no state that can be read.
        """
        return json.loads(self._of_state("output", "--json"))

    def resources(self) -> dict[str, dict[str, Any]]:
        """Return the resources of the state by logical name, secrets unencrypted.

        Raises:
            CommandError: the stack has no state that can be read.
        """
        exported = json.loads(self._of_state("export"))
        return {resource["urn"].rsplit("::", 1)[-1]: resource for resource in exported["deployment"]["resources"]}

    def _of_state(self, *command: str) -> str:
        """Return the answer of `pulumi stack`, secrets unencrypted. Each takes the CLI a second, so it is asked once for each state."""
        state = Engine(self.folder).state
        version = (command, state.stat().st_mtime_ns if state.exists() else 0)
        if version not in self._answers:
            self._answers[version] = self.pulumi("stack", *command, "--show-secrets").stdout
        return self._answers[version]

    def password(self) -> str:
        """Return the administrator's password."""
        return self.outputs()["adminPassword"]

    def connect(self, *, as_master: bool = False, sslmode: str = "require") -> psycopg.Connection[Any]:
        """Connect to MLflow's database as its active login role, or as the server's master."""
        resources = self.resources()
        server = resources["postgres-instance"]["outputs"]
        if as_master:
            user, password = server["username"], _plain(server["password"])
        else:
            data = _plain(resources["mlflow-postgres-database-secret"]["inputs"]["stringData"])
            user, password = _plain(data["username"]), _plain(data["password"])
        return psycopg.connect(
            host=server["address"],
            port=int(server["port"]),
            dbname="mlflow",
            user=user,
            password=password,
            sslmode=sslmode,
            autocommit=True,
        )

    def rdsadmin(self) -> psycopg.Connection[Any]:
        """Connect as `rdsadmin`, the superuser that RDS keeps for itself.

        This needs neither the engine nor the state.
        """
        (server,) = (self.folder / "postgres").iterdir()
        return psycopg.connect(
            host="127.0.0.1",
            port=Supervisor(self.folder).free_port(f"rds-{server.name}"),
            user="rdsadmin",
            password=(server / "rdsadmin-password").read_text(),
            dbname="postgres",
            sslmode="require",
            autocommit=True,
        )

    def get(
        self,
        path: str,
        *,
        login: tuple[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        url: str = "",
    ) -> Answer:
        """Send a GET request to the site, without following redirects.

        Args:
            path: path and query.
            login: user and password. None: no login.
            headers: further headers.
            url: address of another server, for example of a pod. Empty: the site's.
        """
        request = urllib.request.Request(f"{url or self.url}{path}", headers=dict(headers or {}))  # noqa: S310 - http(s) only
        if login:
            request.add_header("Authorization", basic(login))
        opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=any_certificate()), _NoRedirect())
        try:
            with opener.open(request, timeout=30) as answer:
                return Answer(answer.status, dict(answer.headers), answer.read().decode(errors="replace"))
        except urllib.error.HTTPError as error:
            return Answer(error.code, dict(error.headers), error.read().decode(errors="replace"))

    def client(self, script: str, *, user: str = "admin", password: str | None = None, version: str = "3.15.1") -> str:
        """Run a Python script with the MLflow client, logged in, and return the last line of its output.

        Args:
            script: the script.
            user: user to log in as, default `admin`.
            password: password of the user. None: the administrator's.
            version: version of MLflow, default 3.15.1.

        Raises:
            ScriptError: the script failed.
        """
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "MLFLOW_TRACKING_URI": self.url,
            "MLFLOW_TRACKING_INSECURE_TLS": "true",
            "MLFLOW_TRACKING_USERNAME": user,
            "MLFLOW_TRACKING_PASSWORD": self.password() if password is None else password,
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "PYTHONWARNINGS": "ignore",
        }
        return mlflow_scripts.run(version, script, environment)


class Project:
    """Another Pulumi project on a stack's engine: the same AWS account and cluster, and a state of its own."""

    folder: Path
    """Folder of the program, in which its modules can be put."""
    environment: dict[str, str]
    """Environment of the project's commands."""

    def __init__(self, stack: LocalStack, name: str, main: str, *, project: str = "") -> None:
        """Write the project's files and make its stack, which has the same name.

        Args:
            stack: a stack whose account and plugins run.
            name: name of the folder, the stack and the project.
            main: text of ``__main__.py``.
            project: name of the project instead, for a program with the settings of another one.
        """
        endpoint = f"http://127.0.0.1:{Supervisor(stack.folder).free_port(aws_account.PROCESS)}"
        own = {key: value for key, value in stack.environment().items() if key.startswith("MLFLOW_EKS_")}
        self.environment = {**Engine(stack.folder, endpoint).environment(), **own, "PULUMI_STACK": name}
        self._pulumi = stack.folder / "bin" / "pulumi"
        self.folder = stack.folder / "projects" / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        (self.folder / "Pulumi.yaml").write_text(f"name: {project or name}\nruntime: python\n")
        (self.folder / "__main__.py").write_text(main)
        self.pulumi("stack", "rm", "--yes", "--force", "--stack", name, ok=False)
        self.pulumi("stack", "init", name)

    def pulumi(
        self, *arguments: str, ok: bool = True, cwd: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the Pulumi CLI on this project.

        Args:
            arguments: the command and its arguments.
            ok: refuse a failure.
            cwd: folder of another project, to run that with this one's environment.
            variables: environment in addition to the project's.

        Raises:
            CommandError: the command failed, and `ok` is true.
        """
        done = subprocess.run(
            [self._pulumi, "--non-interactive", *arguments],
            cwd=cwd or self.folder,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=1500,
            check=False,
        )
        if ok and done.returncode:
            raise CommandError(f"pulumi {' '.join(arguments)} failed:\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}")
        return done


@contextlib.contextmanager
def new_stack(name: str) -> Generator[LocalStack]:
    """Provide a stack that is not deployed yet. The end of the block removes it, whatever state it is in."""
    stack = LocalStack(paths.home() / "stacks" / f"test-{name}-{os.getpid()}", *free_ports())
    try:
        yield stack
    finally:
        stack.command("down", "--force", ok=False)
        shutil.rmtree(stack.folder, ignore_errors=True)


def free_ports() -> tuple[int, int]:
    """Return two ports that nothing listens on, below Linux's default range for outgoing connections (from 32768).

    Nothing listens yet on the ports of a stack that is not deployed. So each parallel worker of pytest has its own
    range.
    """
    first = 30000 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 5 * 550
    with contextlib.ExitStack() as held:
        free: list[int] = []
        while len(free) < 2:
            port = random.randrange(first, first + 550)  # noqa: S311 - no secret
            with contextlib.suppress(OSError):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
                free.append(port)
    return free[0], free[1]


def _plain(value: Any) -> Any:
    """Return the content of a secret of the state. Return any other value unchanged."""
    try:
        return json.loads(value["plaintext"])
    except (KeyError, TypeError):
        return value


def basic(login: tuple[str, str]) -> str:
    """Return the header `Authorization` of a user and password."""
    return "Basic " + b64encode(":".join(login).encode()).decode()


def any_certificate() -> SSLContext:
    """Return a context that accepts the local stack's self-signed certificate."""
    context = create_default_context()
    context.check_hostname = False
    context.verify_mode = CERT_NONE
    return context


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None
