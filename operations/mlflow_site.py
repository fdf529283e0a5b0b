"""A running MLflow, asked through its API with the login of an administrator."""

import json
import os
import secrets
import shlex
import ssl
import string
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPMessage
from typing import IO, Any

LENGTH = 32
"""Characters of a generated password."""


class RefusedError(Exception):
    """MLflow refused a request. The text is MLflow's own."""

    def __init__(self, status: int, code: str, message: str) -> None:
        """Keep the answer: its status, MLflow's word for the error, and MLflow's message."""
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Site:
    """Address of an MLflow, and an administrator of it."""

    url: str
    """Address, without a path."""
    user: str
    """Name of the administrator."""
    password: str = field(repr=False)
    """Password of the administrator."""

    def ask(self, method: str, path: str, **values: object) -> Any:
        """Send a request and return the answer's JSON.

        Args:
            method: HTTP method.
            path: path below the address.
            values: query of a GET, body of every other request.

        Raises:
            RefusedError: MLflow answered with an error that depends on the request.
            SystemExit: the site cannot be reached, or refuses the login. No password is in the message.
        """
        get = method == "GET"
        request = urllib.request.Request(  # noqa: S310  (the site's own URL)
            f"{self.url}{path}{'?' + urllib.parse.urlencode(values) if get and values else ''}",
            data=None if get else json.dumps(values).encode(),
            method=method,
            headers={
                "Content-Type": "application/json",
                "Authorization": "Basic " + b64encode(f"{self.user}:{self.password}".encode()).decode(),
            },
        )
        opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=trusted()), _NoRedirect())
        try:
            with opener.open(request, timeout=60) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            raise self._refused(error) from None
        except OSError as error:
            raise SystemExit(f"{self.url} cannot be reached from here ({error}).") from None
        except ValueError:
            raise SystemExit(f"{self.url} does not answer as MLflow does: it sent no JSON.") from None

    def find(self, method: str, path: str, **values: object) -> Any:
        """Send a request as `ask` does, and return None if MLflow does not know what the request is about.

        Raises:
            RefusedError: MLflow answered with another error that depends on the request.
            SystemExit: as for `ask`.
        """
        try:
            return self.ask(method, path, **values)
        except RefusedError as refused:
            if refused.code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def _refused(self, error: urllib.error.HTTPError) -> RefusedError:
        body = error.read().decode(errors="replace")
        try:
            said = json.loads(body)
            code, message = str(said["error_code"]), str(said["message"])
        except (ValueError, LookupError, TypeError):
            code, message = "", " ".join(body.split())[:200] or error.reason
        if error.code == 401:
            raise SystemExit(f"{self.url} refuses the name and the password of {self.user} (401).")
        if error.code == 403:
            raise SystemExit(f"{self.url} refuses this to {self.user}, who must be an administrator (403): {message}")
        return RefusedError(error.code, code, message)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follow no redirect. The login would go along, to whatever address the answer names."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> None:
        """Refuse a redirect."""


def trusted() -> ssl.SSLContext:
    """Return the certificates to trust, chosen by the same variables as for MLflow's own client."""
    context = ssl.create_default_context(cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"))
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() == "true":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def from_environment(environment: Mapping[str, str] = os.environ) -> Site:
    """Return the site of the variables with which MLflow's own client logs in.

    Raises:
        SystemExit: variables are missing.
    """
    names = ["MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"]
    if missing := [name for name in names if not environment.get(name)]:
        raise SystemExit(
            f"Not set: {', '.join(missing)}. Set them as for MLflow's client, with the login of an administrator, "
            "or name a stack with --stack."
        )
    url, user, password = (environment[name] for name in names)
    if not url.startswith(("https://", "http://")):
        raise SystemExit(f"MLFLOW_TRACKING_URI is {url}; write the address of the site, https://….")
    return Site(url.rstrip("/"), user, password)


def run_pulumi(pulumi: str, stack: str, *arguments: str, text: str | None = None) -> str:
    """Run the Pulumi CLI on a stack and return what it prints.

    Args:
        pulumi: command of the CLI, with arguments if need be.
        stack: name of the stack.
        arguments: arguments, without the stack.
        text: standard input.

    Raises:
        SystemExit: there is no such program, or it failed.
    """
    command = [*shlex.split(pulumi), *arguments, "--stack", stack]
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SystemExit(f"{command[0]} is not on the PATH: install the Pulumi CLI, or name it with --pulumi") from None
    if done.returncode:
        raise SystemExit(f"`{' '.join(command)}` failed:\n{done.stderr.strip()}")
    return done.stdout


def from_stack(stack: str, pulumi: str = "pulumi") -> Site:
    """Return the site of a stack, from its outputs.

    Args:
        stack: name of the stack.
        pulumi: command of the CLI.

    Raises:
        SystemExit: pulumi failed, or the stack has no administrator.
    """
    outputs = json.loads(run_pulumi(pulumi, stack, "stack", "output", "--json", "--show-secrets"))
    if "adminPassword" not in outputs:
        raise SystemExit(f"The stack {stack} has no administrator (mlflow.auth.mode is none), or was never brought up.")
    return Site(outputs["url"], outputs["adminUser"], outputs["adminPassword"])


def new_password() -> str:
    """Return a new password of letters and digits."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(LENGTH))
