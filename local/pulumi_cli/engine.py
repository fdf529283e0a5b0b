"""The pulumi CLI as the local stack runs it: a home, a backend and a passphrase of its own, and nothing of the user's."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from local import aws_account, paths, tools
from local.plugins import install, nursery_socket
from local.pulumi_cli.recovery import likely_id
from local.supervisor.process import end_with_parent

STACK = "local"
PROJECT = "mlflow-eks"
HTTP_PORT, HTTPS_PORT = 8080, 8443

_CONFIG = f"Pulumi.{STACK}.yaml"
_TAKE_CONFIG_FILE = {"up", "update", "preview", "refresh", "destroy", "config", "import"}


class EngineError(Exception):
    """A pulumi command failed; it has said why itself where the message is empty."""


@dataclass(frozen=True)
class Engine:
    """The CLI for one local stack."""

    folder: Path
    endpoint: str = "http://127.0.0.1:1"
    """Of the AWS account; commands that only look at the state do without."""

    def prepare(self, pulumi: Path) -> None:
        """Lay out everything a command needs. Nothing is written to the checkout."""
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
        # The engine takes a language host that lies beside it as its own, so it needs a place of its own.
        if not (binaries / "pulumi").exists() or not (binaries / "pulumi").samefile(pulumi):
            (binaries / "pulumi").unlink(missing_ok=True)
            try:
                (binaries / "pulumi").hardlink_to(pulumi)
            except OSError:
                shutil.copy2(pulumi, binaries / "pulumi")
        install(self.folder / "pulumi-home", binaries, nursery_socket(self.folder))
        self._write_config()
        if not self.exists():
            # In a folder of its own, because it writes the stack's salt beside the Pulumi.yaml that it finds.
            self._quietly("--cwd", str(self._project), "stack", "init", STACK)
            self._write_config()

    def exists(self) -> bool:
        """Whether there is a stack at all."""
        return self._state.exists()

    def readable(self) -> bool:
        """Whether what is needed to decrypt the state is still there."""
        return (self.folder / "passphrase").exists() and "encryptionsalt:" in _read(self._config)

    def outputs(self) -> dict[str, Any]:
        """The stack's outputs, with secrets as they are in the state: encrypted."""
        # The CLI would take its time to derive the key of the secrets, of which none is shown.
        resources: list[dict[str, Any]] = json.loads(self._state.read_text())["checkpoint"]["latest"]["resources"]
        return next(resource["outputs"] for resource in resources if resource["type"] == "pulumi:pulumi:Stack")

    def run(self, *arguments: str) -> None:
        """Run a command with the terminal, and let it end in its own way when the user interrupts it."""
        config = ["--config-file", str(self._config)] if arguments and arguments[0] in _TAKE_CONFIG_FILE else []
        command = [str(self.folder / "bin" / "pulumi"), *arguments[:1], *config, *arguments[1:]]
        process = subprocess.Popen(
            command,
            cwd=paths.CHECKOUT,
            env=self.environment(),
            # However this command ends, pulumi then saves its state and ends as well.
            preexec_fn=lambda: end_with_parent(signal.SIGINT),  # noqa: PLW1509
        )

        def hand_on(number: int, _: FrameType | None) -> None:
            # The terminal has sent Ctrl-C to pulumi already; a second one would make it drop what it is doing.
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
                f"pulumi was ended by {signal.Signals(-code).name}: the same command again goes on from there"
            )
        if code != 0:
            raise EngineError

    def destroy(self, *arguments: str) -> None:
        """Destroy everything and forget the stack."""
        # `--remove` takes the stack's settings with it: those of the copy, not those of the checkout.
        copy = ("--cwd", str(self._project))
        self.run("destroy", "--yes", "--skip-preview", "--remove", "--stack", STACK, *copy, *arguments)

    def recover(self, say: Callable[[str], None]) -> None:
        """Put right what a killed command has left behind. To be called by the only command at work on the stack."""
        locks = list((self.folder / "backend" / ".pulumi" / "locks").rglob("*.json"))
        for lock in locks:
            say("ending what is left of the command that was interrupted")
            self._end_orphan(json.loads(lock.read_text()).get("pid", 0))
        if any(lock.exists() for lock in locks):
            self._quietly("cancel", "--yes", "--stack", STACK)
        export = self._export()
        deployment: dict[str, Any] = export.get("deployment") or {}
        pending: list[dict[str, Any]] = deployment.pop("pending_operations", None) or []
        if not pending:
            return
        say(f"clearing away what {len(pending)} interrupted operations have left half-made")
        # What may have been made is looked for under the id that it would have (`--import-pending-creates` only forgets it).
        half_made = [operation["resource"] for operation in pending if operation["type"] == "creating"]
        known: list[dict[str, Any]] = []
        for resource in half_made:
            inputs: dict[str, Any] = resource.get("inputs", {})
            name = likely_id(resource["type"], inputs, self.folder, self.endpoint)
            known += [resource | {"id": name, "outputs": inputs}] if name else []
        deployment["resources"] += known
        self._quietly("stack", "import", "--stack", STACK, stdin=json.dumps(export))
        self._quietly("refresh", "--yes", "--skip-preview", "--stack", STACK)
        # Nothing can depend on it yet, and how much of it was made is not to be known: it goes, and `up` makes it anew.
        there: set[str] = {resource["urn"] for resource in self._export()["deployment"]["resources"]}
        targets = [word for resource in known if resource["urn"] in there for word in ("--target", resource["urn"])]
        if targets:
            self._quietly("destroy", "--yes", "--skip-preview", "--stack", STACK, *targets)

    def environment(self) -> dict[str, str]:
        """Of every pulumi command, and so of the program and the plugins."""
        ours = ("PULUMI_", "AWS_", "KUBECONFIG", "HELM_", "PG", "MLFLOW_")
        kept = ("MLFLOW_EKS_",)
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(ours) or name.startswith(kept)
        }
        return {
            **inherited,
            **aws_account.credentials(self.endpoint),
            "PATH": f"{self.folder / 'bin'}:{os.environ.get('PATH', os.defpath)}",
            "PULUMI_HOME": str(self.folder / "pulumi-home"),
            # Without .attrs files, the only ones that are not put in place whole: a kill can leave an empty one, and the state is unreadable.
            "PULUMI_BACKEND_URL": f"file://{self.folder / 'backend'}?metadata=skip",
            "PULUMI_CONFIG_PASSPHRASE_FILE": str(self.folder / "passphrase"),
            "PULUMI_STACK": STACK,
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "KUBECONFIG": os.devnull,
            "MLFLOW_EKS_HOME": str(paths.home()),
            "MLFLOW_EKS_STACK_DIR": str(self.folder),
        }

    @property
    def _state(self) -> Path:
        return self.folder / "backend" / ".pulumi" / "stacks" / PROJECT / f"{STACK}.json"

    @property
    def _project(self) -> Path:
        return self.folder / "project"

    @property
    def _config(self) -> Path:
        return self._project / _CONFIG

    def _write_config(self) -> None:
        salt = [line for line in _read(self._config).splitlines() if line.startswith("encryptionsalt:")]
        text = (paths.CHECKOUT / _CONFIG).read_text()
        # The one thing that the program cannot know: which port of this machine stands for 443.
        text = text.replace(f"localhost:{HTTPS_PORT}", f"localhost:{ports()[1]}")
        self._config.write_text("\n".join([*salt, text]))
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
    """The ports of this machine that stand for the load balancer's 80 and 443."""
    return _port("MLFLOW_EKS_HTTP_PORT", HTTP_PORT), _port("MLFLOW_EKS_HTTPS_PORT", HTTPS_PORT)


def _port(variable: str, default: int) -> int:
    value = os.environ.get(variable) or str(default)
    if not value.isdigit() or not 0 < int(value) < 65536:
        raise tools.ToolError(f"{variable} is {value!r}; write a port number")
    return int(value)


def _read(file: Path) -> str:
    return file.read_text() if file.exists() else ""
