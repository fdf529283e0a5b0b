"""A stack of the program on a real cluster, with the Pulumi CLI and the plugins of this machine."""

import contextlib
import http.client
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from local.mlflow_scripts import run_afresh
from local.stack import Answer, CommandError, any_certificate, basic
from tests import ROOT

HOST = "mlflow.cluster.test"
"""Host of the site. No DNS knows it: every connection here goes to the Service's cluster address."""
STACK = "cluster"
SETTINGS = "mlflow-eks"
_PREFIX = "CLUSTER_TEST_"
_COUNTS = re.compile(r"^\s+[^\s\d]*\s*(\d+) (created|updated|replaced|deleted|unchanged)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Place:
    """A cluster and a database server, as the environment names them."""

    context: str
    """Context of the kubeconfig."""
    database: str
    """`host:port` of the server as pods reach it."""
    admin_address: str
    """`host:port` of the server as this machine reaches it."""
    user: str
    """Master of the server: CREATEDB and CREATEROLE, and no superuser."""
    password: str

    @classmethod
    def from_environment(cls) -> "Place":
        """Read the variables. What is not set is empty."""
        database = os.environ.get(f"{_PREFIX}DATABASE", "")
        return cls(
            context=os.environ.get(f"{_PREFIX}CONTEXT", ""),
            database=database,
            admin_address=os.environ.get(f"{_PREFIX}DATABASE_ADMIN", "") or database,
            user=os.environ.get(f"{_PREFIX}DATABASE_USER", "") or "postgres",
            password=os.environ.get(f"{_PREFIX}DATABASE_PASSWORD", ""),
        )

    def missing(self) -> str | None:
        """Return a sentence that says what the machine lacks, or None."""
        for program in ("pulumi", "pulumi-language-python", "kubectl"):
            if not shutil.which(program):
                return f"{program} is not on the PATH"
        for plugin in ("kubernetes", "postgresql", "random"):
            if not (shutil.which(f"pulumi-resource-{plugin}") or [*_plugins().glob(f"resource-{plugin}-v*")]):
                return f"Pulumi's plugin {plugin} is missing; run: pulumi plugin install resource {plugin}"
        if not self.context:
            return "no context is named; run: make cluster-test CONTEXT=…"
        if not (self.database and self.password):
            return f"no database is named; set {_PREFIX}DATABASE=host:port and {_PREFIX}DATABASE_PASSWORD"
        if kubectl(self.context, "get", "--raw", "/readyz", ok=False).returncode:
            return f"the cluster of the context {self.context} does not answer"
        host, _, port = self.admin_address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, ValueError):
            return f"nothing answers at the database's address {self.admin_address}"
        return None


def kubectl(context: str, *arguments: str, ok: bool = True, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run kubectl in a context, with a text on its standard input.

    Raises:
        CommandError: the command failed, and `ok` is true.
    """
    done = subprocess.run(
        ["kubectl", "--context", context, *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if ok and done.returncode:
        raise CommandError(f"kubectl {' '.join(arguments)} failed:\n{done.stderr[-4000:]}")
    return done


@dataclass
class ClusterStack:
    """A stack whose state and settings are in a folder of its own."""

    place: Place
    folder: Path
    cluster: Mapping[str, str] = field(default_factory=dict[str, str])
    """Settings that name the cluster. Default: its context of the kubeconfig."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """Variables of each command of Pulumi, besides the environment of this process."""

    def create(self, **settings: Any) -> None:
        """Make the stack with its settings, named as for `up`. Nothing is deployed yet.

        Raises:
            CommandError: Pulumi refused.
        """
        host, _, port = self.place.database.rpartition(":")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "backend").mkdir()
        (self.folder / "passphrase").touch(mode=0o600)
        (self.folder / "passphrase").write_text(secrets.token_urlsafe(24))
        # `stack init` writes the salt next to the Pulumi.yaml that it finds.
        shutil.copy2(ROOT / "Pulumi.yaml", self.folder)
        self._pulumi("stack", "init", STACK, cwd=self.folder)
        self.set(
            **self.cluster or {"cluster__kubeContext": self.place.context},
            postgres__existing__host=host,
            postgres__existing__port=int(port),
            postgres__existing__adminUsername=self.place.user,
            mlflow__host=HOST,
            mlflow__workers=1,
            mlflow__timeoutSeconds=300,
            # For a small node.
            mlflow__resources__cpuRequest="100m",
            mlflow__resources__memoryRequest="512Mi",
            ingress__tlsSecretName="site-tls",
            protect=False,
        )
        if self.place.admin_address != self.place.database:
            self.set(database__adminAddress=self.place.admin_address)
        secret = f"{SETTINGS}:postgres.existing.adminPassword"
        self._pulumi("config", "set", *self._config, "--secret", "--path", secret, given=self.place.password)
        self.set(**settings)

    def set(self, **settings: Any) -> None:
        """Change settings. `database__rotation=1` sets `mlflow-eks:database.rotation` to 1.

        Raises:
            CommandError: Pulumi refused a setting.
        """
        pairs = [
            f"{SETTINGS}:{key.replace('__', '.')}={str(value).lower() if isinstance(value, bool) else value}"
            for key, value in settings.items()
        ]
        if pairs:
            self._pulumi(
                "config",
                "set-all",
                *self._config,
                "--path",
                *(word for pair in pairs for word in ("--plaintext", pair)),
            )

    def unset(self, key: str) -> None:
        """Drop a setting or a section.

        Raises:
            CommandError: there is none.
        """
        self._pulumi("config", "rm", *self._config, "--path", f"{SETTINGS}:{key}")

    def up(self, **settings: Any) -> dict[str, int]:
        """Change settings, deploy, and return how many resources were created, updated, replaced, deleted and unchanged.

        Raises:
            CommandError: the deployment failed.
        """
        self.set(**settings)
        return _counts(self._pulumi("up", *self._config, "--yes", "--skip-preview"))

    def watched_up(self, **settings: Any) -> tuple[int, list[tuple[float, str]]]:
        """Change settings, deploy as `make deploy` does, and return the exit status, and each line with the seconds since the first.

        Raises:
            CommandError: Pulumi refused a setting.
        """
        self.set(**settings)
        watch = [sys.executable, "-m", "operations.release_watch", "--stack", STACK, "--"]
        words = ["pulumi", "--non-interactive", "--color=never", "up", *self._config, "--yes", "--skip-preview"]
        lines: list[tuple[float, str]] = []
        with subprocess.Popen(
            [*watch, *words],
            cwd=ROOT,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            began = time.monotonic()
            for line in process.stdout or ():
                lines.append((time.monotonic() - began, line.rstrip()))
        return process.returncode, lines

    def refresh(self) -> dict[str, int]:
        """Compare the state with what is there, and return the numbers of resources as `up` does."""
        return _counts(self._pulumi("refresh", *self._config, "--yes", "--skip-preview"))

    def destroy(self, *, ok: bool = True) -> dict[str, int]:
        """Delete everything, and return the numbers of resources as `up` does."""
        return _counts(self._pulumi("destroy", *self._config, "--yes", "--skip-preview", ok=ok))

    def kill(self, victims: Collection[str], moment: Callable[[], bool], seconds: float, *command: str) -> None:
        """Run a command of Pulumi, and kill its engine, its plugin for Kubernetes or both some seconds after a moment.

        If only the plugin is killed, the command ends by itself. If only the engine is killed, the plugin works on.

        Args:
            victims: `engine`, `plugin` or both.
            moment: returns True from the moment on.
            seconds: time from the moment to the kill.
            command: the command, for example `up`.

        Raises:
            CommandError: the moment did not come before the command's end.
        """
        words = ["pulumi", "--non-interactive", "--color=never", *command, *self._config, "--yes", "--skip-preview"]
        with self._killed_log.open("wb") as log:
            engine = subprocess.Popen(words, cwd=ROOT, env=self._environment(), stdout=log, stderr=log)
            while not moment():
                if engine.poll() is not None:
                    raise CommandError(f"pulumi {command[0]} ended before it could be killed")
                time.sleep(0.05)
            time.sleep(seconds)
            plugins = [pid for pid, program in _children(engine.pid) if "pulumi-resource-kubernetes" in program]
            for pid in [*(plugins if "plugin" in victims else []), *([engine.pid] if "engine" in victims else [])]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            engine.wait(600)

    def deletes_the_release(self) -> bool:
        """Return True once the command that is to be killed deletes MLflow's release, which takes Helm about a second."""
        return re.search(r"mlflow-release\W+deleting", self._killed_log.read_text()) is not None

    @property
    def _killed_log(self) -> Path:
        return self.folder / "killed.log"

    def unstick(self, then: Sequence[str] = ()) -> str:
        """Run `make unstick`, then a command or those that it names, and return what it said.

        Raises:
            CommandError: it failed, or one of the commands.
        """
        done = subprocess.run(
            [sys.executable, "-m", "operations.unstick", STACK],
            # Pulumi writes its settings file where it runs.
            cwd=self.folder,
            env={**self._environment(), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
        if done.returncode:
            raise CommandError(f"unstick failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        steps = done.stdout.partition("Now run:\n")[2].partition("To finish")[0]
        named = [shlex.split(step, comments=True)[1:] for step in steps.splitlines() if step.strip()]
        for words in [then] if then else named:
            self._pulumi(*words, *self._config, "--yes", "--skip-preview")
        return done.stdout

    def destroy_only(self, urn: str) -> None:
        """Delete a resource and what depends on it.

        Raises:
            CommandError: Pulumi could not.
        """
        self._pulumi("destroy", *self._config, "--yes", "--skip-preview", "--target", urn, "--target-dependents")

    def state(self) -> list[dict[str, Any]]:
        """Return the resources of the state."""
        return json.loads(self._pulumi("stack", "export"))["deployment"].get("resources", [])

    def changes(self) -> dict[str, list[str]]:
        """Preview an `up`, and return its operations except `same` and `read`, each with the logical names."""
        digest = json.loads(self._pulumi("preview", *self._config, "--json"))
        changes: dict[str, list[str]] = {}
        for step in digest["steps"]:
            if step["op"] not in {"same", "read"}:
                changes.setdefault(step["op"], []).append(step["urn"].rsplit("::", 1)[-1])
        return changes

    def outputs(self) -> dict[str, Any]:
        """Return the stack's outputs, secrets unencrypted."""
        return json.loads(self._pulumi("stack", "output", "--json", "--show-secrets"))

    def connect(self, database: str = "postgres", user: str = "", password: str = "") -> "psycopg.Connection[Any]":
        """Connect to the database server, by default as its admin."""
        host, _, port = self.place.admin_address.rpartition(":")
        return psycopg.connect(
            host=host,
            port=int(port),
            user=user or self.place.user,
            password=password or self.place.password,
            dbname=database,
            sslmode="require",
            autocommit=True,
        )

    def login(self) -> tuple[str, str]:
        """Return the administrator's name and password."""
        outputs = self.outputs()
        return outputs["adminUser"], outputs["adminPassword"]

    def kubectl(self, *arguments: str, ok: bool = True, given: str = "") -> str:
        """Run kubectl on this stack's cluster and return its output."""
        return kubectl(self.place.context, *arguments, ok=ok, given=given).stdout

    def objects(self, kind: str, namespace: str, selector: str = "") -> list[dict[str, Any]]:
        """Return the objects of a kind in a namespace."""
        words = ["--selector", selector] if selector else []
        return json.loads(self.kubectl("-n", namespace, "get", kind, "-o", "json", *words))["items"]

    def address(self) -> str:
        """Return the cluster address of HAProxy's Service."""
        (service,) = [one for one in self.objects("service", "haproxy") if one["spec"]["type"] == "LoadBalancer"]
        return service["spec"]["clusterIP"]

    def https(self) -> http.client.HTTPSConnection:
        """Return a new connection to the site, which opens with its first request."""
        return _Connection(self.address())

    def get(self, path: str, *, login: tuple[str, str] | None = None, host: str = HOST, tls: bool = True) -> Answer:
        """Send a GET request through HAProxy, without following redirects."""
        connection = self.https() if tls else http.client.HTTPConnection(self.address(), 80, timeout=60)
        headers = {"Host": host} | ({"Authorization": basic(login)} if login else {})
        with contextlib.closing(connection):
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            # A header's name is as the server wrote it, in HTTP/1.1.
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read().decode(errors="replace"))

    def client(self, script: str, *, version: str = "3.15.1") -> str:
        """Run a Python script with the MLflow client as administrator, and return the last line of its output.

        Raises:
            ScriptError: the script failed.
        """
        user, password = self.login()
        # No DNS knows the host, and a client sends the name of its address as `Host`.
        found = (
            "import socket\n_find = socket.getaddrinfo\n"
            f"socket.getaddrinfo = lambda host, *rest, **more: _find({self.address()!r} if host == {HOST!r} else host, *rest, **more)\n"
        )
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "MLFLOW_TRACKING_URI": f"https://{HOST}",
            "MLFLOW_TRACKING_INSECURE_TLS": "true",
            "MLFLOW_TRACKING_USERNAME": user,
            "MLFLOW_TRACKING_PASSWORD": password,
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "PYTHONWARNINGS": "ignore",
        }
        return run_afresh(version, found + script, environment)

    @property
    def _config(self) -> tuple[str, ...]:
        return ("--config-file", str(self.folder / f"Pulumi.{STACK}.yaml"))

    def _environment(self) -> Mapping[str, str]:
        return {
            **os.environ,
            **self.environment,
            "PULUMI_BACKEND_URL": f"file://{self.folder / 'backend'}",
            "PULUMI_CONFIG_PASSPHRASE_FILE": str(self.folder / "passphrase"),
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_STACK": STACK,
            # The plugin for AWS is among the program's packages, and nothing here uses it.
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        }

    def _pulumi(self, *arguments: str, cwd: Path = ROOT, given: str = "", ok: bool = True) -> str:
        done = subprocess.run(
            ["pulumi", "--non-interactive", "--color=never", *arguments],
            cwd=cwd,
            env=self._environment(),
            input=given,
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
        if ok and done.returncode:
            raise CommandError(f"pulumi {arguments[0]} failed:\n{done.stdout[-6000:]}\n{done.stderr[-4000:]}")
        return done.stdout


class _Connection(http.client.HTTPSConnection):
    """A connection to an address, for the site's name."""

    def __init__(self, address: str) -> None:
        super().__init__(HOST, 443, timeout=60)
        self._address = address

    def connect(self) -> None:
        raw = socket.create_connection((self._address, 443), timeout=60)
        self.sock = any_certificate().wrap_socket(raw, server_hostname=HOST)


def _children(pid: int) -> Iterator[tuple[int, str]]:
    """Find the children of a process, each with its program."""
    lines = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    for child, parent, program, *_ in (line.split() for line in lines.splitlines()):
        if int(parent) == pid:
            yield int(child), program


def _plugins() -> Path:
    return Path(os.environ.get("PULUMI_HOME", "~/.pulumi")).expanduser() / "plugins"


def site_certificate(site: ClusterStack, files: tuple[Path, Path], namespace: str = "mlflow") -> None:
    """Give the site a certificate and its key."""
    made = site.kubectl(
        *("-n", namespace, "create", "secret", "tls", "site-tls", "--dry-run=client", "-o", "yaml"),
        *(f"--cert={files[0]}", f"--key={files[1]}"),
    )
    site.kubectl("apply", "-f", "-", given=made)


def _counts(output: str) -> dict[str, int]:
    return {what: int(number) for number, what in _COUNTS.findall(output)}
