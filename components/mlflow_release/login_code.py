"""Our code that checks logins and permissions inside MLflow's pods. MLflow's own lets users reach what is not theirs."""

import hashlib
import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields

from . import pod_code
from .arguments import LoginMode, MlflowReleaseArgs

CODE = importlib.resources.files(pod_code)
"""Folder of the code that runs in the pods."""
FOLDER = "/etc/mlflow-login"
"""Folder in the pods that holds that code."""
VOLUME = "login"
"""Name of the volume in the pods."""
CONFIG_MAP = "mlflow-login"
"""Name of the ConfigMap that holds the code."""
FILES = (
    "accounts.py",
    "answers.py",
    "authorization.py",
    "failed_logins.py",
    "json_answers.py",
    "ldap_login.py",
    "login_tables.py",
    "oidc_login.py",
    "oidc_provider.py",
    "oidc_rules.py",
    "oidc_sessions.py",
    "outgoing.py",
    "password_login.py",
    "request_rules.py",
    "short_ways.py",
    "transfers.py",
)
"""Files of the code."""
NOT_RULES = {"client_secret", "ca_certificate"}
"""Arguments of the login by OpenID Connect that are elsewhere than in its rules."""
GUNICORN_CONFIGURATION = "login_tables.py"
"""File of the code that creates the login's tables before gunicorn starts workers."""


@dataclass(frozen=True)
class LoginCode:
    """Code that MLflow calls for each login, in a ConfigMap that the pods mount at `FOLDER`."""

    function: str
    """Function of the code, as MLflow's configuration names it."""
    files: Mapping[str, str]
    """Content of the ConfigMap: name of a file to its text."""
    gunicorn_configuration: str | None = None
    """Path in the pod of the file that gunicorn runs as its configuration; None if gunicorn is not used."""

    @property
    def checksum(self) -> str:
        """Hash of the files. The chart does not watch the ConfigMap, so an annotation with the hash replaces the pods."""
        return hashlib.sha256(json.dumps(self.files, sort_keys=True).encode()).hexdigest()[:16]


def login_code(args: MlflowReleaseArgs) -> LoginCode | None:
    """Return the code to mount, or None without a login."""
    login, chart = args.login, args.chart
    if login.mode == LoginMode.NONE:
        return None
    # The image's own function for LDAP refuses every login over TLS, and blocks the server while the directory does not answer: docs/ldap.md.
    module = "ldap_login" if login.ldap else "oidc_login" if login.oidc else "password_login"
    server = login.ldap or login.oidc
    settings = {"ca.crt": server.ca_certificate} if server and server.ca_certificate else {}
    if login.oidc:
        rules = {field.name: getattr(login.oidc, field.name) for field in fields(login.oidc)}
        rules = {key: rule for key, rule in rules.items() if key not in NOT_RULES}
        settings["oidc.json"] = json.dumps(rules | {"site": args.site.url}, default=list, indent=1, sort_keys=True)
    # Every file, whatever the login and the chart: a release that is rolled back finds the code of its pods.
    code = {file: (CODE / file).read_text(encoding="utf-8") for file in FILES}
    return LoginCode(
        f"{module}:authenticate",
        {**code, **settings},
        f"{FOLDER}/{GUNICORN_CONFIGURATION}" if chart.gunicorn else None,
    )
