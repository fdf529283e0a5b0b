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
    """Name of the administrator. Empty: requests have no login."""
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
        query = f"?{urllib.parse.urlencode(values)}" if get and values else ""
        status, body, reason = self.send(method, path + query, None if get else json.dumps(values).encode())
        if status >= 300:
            raise self._refused(status, body, reason)
        try:
            return json.loads(body or b"{}")
        except ValueError:
            raise SystemExit(f"{self.url} does not answer as MLflow does: it sent no JSON.") from None

    def send(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> tuple[int, bytes, str]:
        """Send a request and return the answer's status, body and reason, whatever the status is.

        Args:
            method: HTTP method.
            path: path below the address, with the query.
            body: body of the request.
            kind: type of the body, default JSON.

        Raises:
            SystemExit: the site cannot be reached. No password is in the message.
        """
        headers = {"Content-Type": kind}
        if self.user:
            headers["Authorization"] = basic(self.user, self.password)
        request = urllib.request.Request(self.url + path, data=body, method=method, headers=headers)  # noqa: S310  (the site's own URL)
        # The trusted certificates take longer to read than most answers.
        tls = [urllib.request.HTTPSHandler(context=trusted())] if self.url.startswith("https:") else []
        opener = urllib.request.build_opener(*tls, _NoRedirect())
        try:
            with opener.open(request, timeout=60) as answer:
                return answer.status, answer.read(), ""
        except urllib.error.HTTPError as error:
            return error.code, error.read(), str(error.reason)
        except OSError as error:
            raise SystemExit(f"{self.url} cannot be reached from here ({error}).") from None

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

    def _refused(self, status: int, answer: bytes, reason: str) -> RefusedError:
        body = answer.decode(errors="replace")
        try:
            said = json.loads(body)
            code, message = str(said["error_code"]), str(said["message"])
        except (ValueError, LookupError, TypeError):
            code, message = "", " ".join(body.split())[:200] or reason
        if status == 401:
            raise SystemExit(f"{self.url} refuses the name and the password of {self.user} (401).")
        if status == 403:
            raise SystemExit(f"{self.url} refuses this to {self.user}, who must be an administrator (403): {message}")
        return RefusedError(status, code, message)


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


def basic(user: str, password: str) -> str:
    """Return the header `Authorization` of a user and password."""
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


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
