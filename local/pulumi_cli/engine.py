"""The Pulumi CLI for the local stack: with its own home, backend and passphrase, and nothing of the user's."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from local import aws_account, paths, tools
from local.plugins.start_and_attach import attach
from local.pulumi_cli.recovery import likely_id
from local.supervisor.client import Supervisor
from local.supervisor.process import end_with_parent
from local.supervisor.spec import SupervisorError

STACK = "local"
PROJECT = "mlflow-eks"
HTTP_PORT, HTTPS_PORT = 8080, 8443

_CONFIG = f"Pulumi.{STACK}.yaml"
_TAKE_CONFIG_FILE = {"up", "update", "preview", "refresh", "destroy", "config", "import"}
_SHOW_PROGRESS = _TAKE_CONFIG_FILE - {"config"}


class EngineError(Exception):
    """A Pulumi command failed. Where the message is empty, the command has printed the reason."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status
        """Exit status of the command, for example 7: changes where `--expect-no-changes` expects none."""


@dataclass(frozen=True)
class Engine:
    """The CLI for one local stack."""

    folder: Path
    endpoint: str = "http://127.0.0.1:1"
    """URL of the local AWS API. Commands that only read the state do not need it."""

    def prepare(self, pulumi: Path) -> None:
        """Write everything that a command needs. Nothing is written to the checkout.

        Raises:
            EngineError: the settings are not YAML, or the stack cannot be created.
        """
        for name in ("pulumi-home", "backend", "project"):
            paths.make_private(self.folder / name)
        passphrase = self.folder / "passphrase"
        if not passphrase.exists():
            new = passphrase.with_suffix(".new")
            new.touch(mode=0o600)
            new.write_text(secrets.token_urlsafe(32))
            new.rename(passphrase)
        binaries = self.folder / "bin"
        binaries.mkdir(exist_ok=True)
        # Each stack has its own link to the executable. By its path, `_end_orphan` finds the Pulumi processes of this stack.
        if not (binaries / "pulumi").exists() or not (binaries / "pulumi").samefile(pulumi):
            (binaries / "pulumi").unlink(missing_ok=True)
            try:
                (binaries / "pulumi").hardlink_to(pulumi)
            except OSError:
                shutil.copy2(pulumi, binaries / "pulumi")
        self._write_config()
        if not self.exists():
            # In the stack's folder, which has a copy of Pulumi.yaml: `stack init` writes the salt next to that file.
            self._quietly("--cwd", str(self._project), "stack", "init", STACK)
            self._write_config()

    def exists(self) -> bool:
        """Return True if there is a stack."""
        return self.state.exists()

    def readable(self) -> bool:
        """Return True if the state can be decrypted: the passphrase and the salt are there."""
        return (self.folder / "passphrase").exists() and "encryptionsalt:" in _read(self._config)

    def outputs(self) -> dict[str, Any]:
        """Return the stack's outputs, secrets encrypted as in the state."""
        # The CLI takes half a second to derive the key of the secrets, and none is shown.
        return next(one["outputs"] for one in self._resources() if one["type"] == "pulumi:pulumi:Stack")

    def is_up(self) -> bool:
        """Return True if an `up` has come to its end, so that the stack has outputs."""
        return any(
            one["type"] == "pulumi:pulumi:Stack" and "url" in one.get("outputs", {}) for one in self._resources()
        )

    def interrupted(self) -> bool:
        """Return True if the last command was killed in the middle of an operation."""
        return bool(self._latest().get("pending_operations"))

    def run(self, *arguments: str) -> None:
        """Run a command on the terminal. It ends in its own way when the user interrupts it.

        Raises:
            EngineError: the command failed.
        """
        name = arguments[0] if arguments else ""
        options = ["--config-file", str(self._config)] if name in _TAKE_CONFIG_FILE else []
        # In a log, each dot of the progress would be a line.
        options += ["--suppress-progress"] if name in _SHOW_PROGRESS and not sys.stdout.isatty() else []
        command = [str(self.folder / "bin" / "pulumi"), *arguments[:1], *options, *arguments[1:]]
        process = subprocess.Popen(
            command,
            cwd=paths.CHECKOUT,
            env=self.environment(),
            # However this process ends, Pulumi then saves its state and ends as well.
            preexec_fn=lambda: end_with_parent(signal.SIGINT),  # noqa: PLW1509
        )

        interrupted = False

        def hand_on(number: int, _: FrameType | None) -> None:
            nonlocal interrupted
            interrupted = True
            # The terminal has sent Ctrl-C to Pulumi already. A second one would make Pulumi drop its operations.
            if number != signal.SIGINT:
                process.send_signal(signal.SIGINT)

        before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            code = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if code < 0:
            raise EngineError(
                f"Pulumi was ended by {signal.Signals(-code).name}. Run the same command again to continue."
            )
        if code != 0:
            # After an interrupted `destroy`, Pulumi only says that it refuses to remove a stack with resources.
            again = "Pulumi was interrupted. Run the same command again to continue."
            raise EngineError(again if interrupted else "", code)

    def destroy(self, *arguments: str) -> None:
        """Destroy everything and remove the stack."""
        # In the stack's folder: `--remove` removes the settings file next to the Pulumi.yaml that it finds.
        copy = ("--cwd", str(self._project))
        self.run("destroy", "--yes", "--skip-preview", "--remove", "--stack", STACK, *copy, *arguments)

    def unlock(self, say: Callable[[str], None] = lambda _: None) -> bool:
        """End the Pulumi process of an interrupted command, and release its lock. Return True if there was one."""
        locks = list((self.folder / "backend" / ".pulumi" / "locks").rglob("*.json"))
        for lock in locks:
            say("stopping the interrupted Pulumi process")
            self._end_orphan(json.loads(lock.read_text()).get("pid", 0))
        if any(lock.exists() for lock in locks):
            self._quietly("cancel", "--yes", "--stack", STACK)
        return bool(locks)

    def follow_checkout(self) -> None:
        """Take over an edit of the checkout's settings, unless `pulumi config set` has changed the stack's copy.

        Raises:
            EngineError: the settings are not YAML.
        """
        if self._config.exists() and _read(self._config) == _read(self._written):
            self._write_config()

    def recover(self, say: Callable[[str], None]) -> None:
        """Repair what a killed command has left, after `unlock`. No other command may use the stack meanwhile."""
        export = self._export()
        deployment: dict[str, Any] = export.get("deployment") or {}
        pending: list[dict[str, Any]] = deployment.pop("pending_operations", None) or []
        if not pending:
            return
        say(f"removing what {len(pending)} interrupted operation(s) may have half created")
        # A resource that may exist is looked up under the id that it would have (`--import-pending-creates` only forgets it).
        half_made = [operation["resource"] for operation in pending if operation["type"] == "creating"]
        known: list[dict[str, Any]] = []
        for resource in half_made:
            inputs: dict[str, Any] = resource.get("inputs", {})
            name = likely_id(resource["type"], inputs, self.folder, self.endpoint)
            known += [resource | {"id": name, "outputs": inputs}] if name else []
        deployment["resources"] += known
        self._quietly("stack", "import", "--stack", STACK, stdin=json.dumps(export))
        self._quietly("refresh", "--yes", "--skip-preview", "--stack", STACK)
        # Nothing depends on such a resource yet, and it may be incomplete: it is deleted, and `up` creates it again.
        there: set[str] = {resource["urn"] for resource in self._export()["deployment"]["resources"]}
        targets = [word for resource in known if resource["urn"] in there for word in ("--target", resource["urn"])]
        if targets:
            self._quietly("destroy", "--yes", "--skip-preview", "--stack", STACK, *targets)

    def environment(self) -> dict[str, str]:
        """Return the environment of a Pulumi command. The program and the plugins get it, too."""
        ours = ("PULUMI_", "AWS_", "KUBECONFIG", "HELM_", "PG", "MLFLOW_")
        kept = ("MLFLOW_EKS_", "PULUMI_K8S_UPSERT_EXISTING_OBJECTS")
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(ours) or name.startswith(kept)
        }
        with contextlib.suppress(SupervisorError):
            # Without the supervisor, a command can only read the state.
            inherited |= attach(Supervisor(self.folder))
        return {
            # The CLI ends after seconds. With Go's own threshold it spends a sixth of them on collecting garbage.
            "GOGC": "400",
            **inherited,
            **aws_account.credentials(self.endpoint),
            "PATH": f"{self.folder / 'bin'}:{os.environ.get('PATH', os.defpath)}",
            "PULUMI_HOME": str(self.folder / "pulumi-home"),
            # Without .attrs files: they are not written atomically, and an empty one after a kill makes the state unreadable.
            "PULUMI_BACKEND_URL": f"file://{self.folder / 'backend'}?metadata=skip",
            "PULUMI_CONFIG_PASSPHRASE_FILE": str(self.folder / "passphrase"),
            "PULUMI_STACK": STACK,
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "KUBECONFIG": os.devnull,
            "MLFLOW_EKS_HOME": str(paths.home()),
            "MLFLOW_EKS_STACK_DIR": str(self.folder),
        }

    def _latest(self) -> dict[str, Any]:
        return json.loads(self.state.read_text())["checkpoint"].get("latest") or {}

    def _resources(self) -> list[dict[str, Any]]:
        return self._latest().get("resources") or []

    @property
    def state(self) -> Path:
        """File of the stack's state, which need not exist."""
        return self.folder / "backend" / ".pulumi" / "stacks" / PROJECT / f"{STACK}.json"

    @property
    def _project(self) -> Path:
        return self.folder / "project"

    @property
    def _config(self) -> Path:
        return self._project / _CONFIG

    @property
    def _written(self) -> Path:
        """Copy of the settings as they were last taken from the checkout."""
        return self._project / "settings-of-checkout.yaml"

    def _write_config(self) -> None:
        salt = [line for line in _read(self._config).splitlines() if line.startswith("encryptionsalt:")]
        file = paths.CHECKOUT / _CONFIG
        text = file.read_text()
        try:
            yaml.compose(text)
        except yaml.MarkedYAMLError as error:
            # Pulumi's own error names no file, and its line is another one.
            line = error.problem_mark.line + 1 if error.problem_mark else "?"
            raise EngineError(f"{file}, line {line}: {error.problem}; check indentation and quotes there") from error
        # Replace the default port in `mlflow.url` by the port of this stack.
        text = text.replace(f"localhost:{HTTPS_PORT}", f"localhost:{ports()[1]}")
        self._config.write_text("\n".join([*salt, text]))
        self._written.write_text(self._config.read_text())
        shutil.copy(paths.CHECKOUT / "Pulumi.yaml", self._project)

    def _quietly(self, *arguments: str, stdin: str = "") -> str:
        command = [str(self.folder / "bin" / "pulumi"), "--non-interactive", *arguments]
        if arguments[0] in _TAKE_CONFIG_FILE:
            command += ["--config-file", str(self._config)]
        answer = subprocess.run(
            command,
            cwd=paths.CHECKOUT,
            env=self.environment(),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode != 0:
            raise EngineError(f"`pulumi {' '.join(arguments)}` failed:\n{(answer.stderr or answer.stdout).strip()}")
        return answer.stdout

    def _export(self) -> dict[str, Any]:
        return json.loads(self._quietly("stack", "export", "--stack", STACK))

    def _end_orphan(self, pid: int) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if Path(f"/proc/{pid}/exe").readlink() != self.folder / "bin" / "pulumi":
                    return
                os.kill(pid, signal.SIGINT if time.monotonic() < deadline - 30 else signal.SIGKILL)
            except OSError:
                return
            time.sleep(1)


def ports() -> tuple[int, int]:
    """Return the ports of this machine that stand for the load balancer's ports 80 and 443."""
    return _port("MLFLOW_EKS_HTTP_PORT", HTTP_PORT), _port("MLFLOW_EKS_HTTPS_PORT", HTTPS_PORT)


def _port(variable: str, default: int) -> int:
    value = os.environ.get(variable) or str(default)
    if not value.isdigit() or not 0 < int(value) < 65536:
        raise tools.ToolError(f"{variable} is {value!r}; write a port number")
    return int(value)


def _read(file: Path) -> str:
    return file.read_text() if file.exists() else ""
