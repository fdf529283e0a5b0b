"""Our code that checks logins inside MLflow's pods, where MLflow's own login is not enough."""

import hashlib
import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import dataclass

from . import pod_code
from .arguments import LoginMode, MlflowReleaseArgs

CODE = importlib.resources.files(pod_code)
"""Folder of the code that runs in the pods."""
FOLDER = "/etc/mlflow-login"
"""Folder in the pods that holds that code."""
GUNICORN_CONFIGURATION = "login_tables.py"
"""File of the code that creates the login's tables before gunicorn starts workers."""


@dataclass(frozen=True)
class LoginCode:
    """Code that MLflow calls for each login, in a ConfigMap that the pods mount at `FOLDER`."""

    name: str
    """Name of the volume. The ConfigMap's name is the same with ``mlflow-`` before it."""
    function: str
    """Function of the code, as MLflow's configuration names it."""
    files: Mapping[str, str]
    """Content of the ConfigMap: name of a file to its text."""
    gunicorn_configuration: str | None = None
    """Path in the pod of the file that gunicorn runs as its configuration; None if gunicorn is not used."""

    @property
    def config_map(self) -> str:
        """Name of the ConfigMap."""
        return f"mlflow-{self.name}"

    @property
    def checksum(self) -> str:
        """Hash of the files. The chart does not watch the ConfigMap, so an annotation with the hash replaces the pods."""
        return hashlib.sha256(json.dumps(self.files, sort_keys=True).encode()).hexdigest()[:16]


def login_code(args: MlflowReleaseArgs) -> LoginCode | None:
    """Return the login code to mount, or None where MLflow's own basic login is used."""
    login, chart = args.login, args.chart
    if login.ldap is not None:
        # The image's own function refuses every login over TLS, and blocks the server while the directory does not answer: docs/ldap.md.
        name, module = "ldap-login", "ldap_login"
    elif login.mode == LoginMode.BASIC and not chart.has_login_cache:
        name, module = "login-cache", "login_cache"
    else:
        return None
    authority = {"ca.crt": login.ldap.ca_certificate} if login.ldap and login.ldap.ca_certificate else {}
    modules = [f"{module}.py", *([GUNICORN_CONFIGURATION] if chart.gunicorn else [])]
    code = {file: (CODE / file).read_text(encoding="utf-8") for file in modules}
    return LoginCode(
        name,
        f"{module}:authenticate",
        {**code, **authority},
        f"{FOLDER}/{GUNICORN_CONFIGURATION}" if chart.gunicorn else None,
    )
