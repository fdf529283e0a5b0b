"""LDAP login for MLflow's basic-auth app. A directory checks passwords; one of its groups may log in, another is admin.

It runs in MLflow's pod, as `authorization_function = ldap_login:authenticate`, with the packages of the chart's image.
The image has a function for LDAP, too (`mlflowstack.auth.ldap`), and docs/ldap.md says why it is not used.
"""
# The virtualenv of this checkout has none of these packages.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

import hmac
import logging
import os
import secrets
import ssl
import threading
import time
from urllib.parse import urlsplit

import failed_logins
import ldap3
import password_login
from accounts import account_name, keep_account
from authorization import authorized
from cachetools import TTLCache
from flask import Response, make_response, request
from ldap3.core.exceptions import LDAPException
from ldap3.utils.conv import escape_filter_chars
from ldap3.utils.dn import escape_rdn, parse_dn
from mlflow.server import auth
from werkzeug.datastructures import Authorization

URI = urlsplit(os.environ["LDAP_URI"])
CA_FILE = os.environ.get("LDAP_CA") or None
VERIFY = os.environ.get("LDAP_TLS_VERIFY", "required") != "none"
START_TLS = URI.scheme == "ldap" and os.environ.get("LDAP_START_TLS", "true") == "true"
LOOKUP_BIND = os.environ["LDAP_LOOKUP_BIND"]
GROUP_BASE = os.environ["LDAP_GROUP_SEARCH_BASE_DN"]
GROUP_FILTER = os.environ["LDAP_GROUP_SEARCH_FILTER"]
GROUP_ATTRIBUTE = os.environ.get("LDAP_GROUP_ATTRIBUTE", "dn")
ADMIN_GROUP = os.environ["LDAP_GROUP_ADMIN_DN"]
USER_GROUP = os.environ["LDAP_GROUP_USER_DN"]
CACHE_SECONDS = int(os.environ.get("LOGIN_CACHE_SECONDS", "60"))
TIMEOUT = 2
"""Seconds for each step with the directory. If request threads wait longer, `/health` fails and the pod is killed."""
PAUSE = 5
"""Seconds without a request to a directory that hung. The first login after that tries alone."""
TEMPORARY = {"busy", "unavailable", "timeLimitExceeded", "adminLimitExceeded", "operationsError", "protocolError"}
"""LDAP results after which the directory counts as unavailable."""

_logger = logging.getLogger(__name__)
_key = secrets.token_bytes(32)
_checked = TTLCache[bytes, bool](10_000, CACHE_SECONDS)
_checked_lock = threading.Lock()
_retry_at = 0.0


class _UnavailableError(Exception):
    """The directory does not answer."""


def check() -> Authorization | Response:
    """Return the login of the current request, or a refusal."""
    given = request.authorization
    # A simple bind without a password is an anonymous bind, and succeeds (RFC 4513, 5.1.2).
    if given is None or given.type != "basic" or not given.username or not given.password:
        return auth.make_basic_auth_response()
    name = account_name(given.username)
    if name is None:
        return auth.make_basic_auth_response()
    if name == account_name(auth.auth_config.admin_username):
        # The first administrator has a password in the database. So this login works without the directory, and no
        # person in the directory can have its name.
        return password_login.check()
    key = hmac.digest(_key, f"{name}\0{given.password}".encode(), "sha256")
    with _checked_lock:
        checked = key in _checked
    if not checked:
        refusal = _refusal(name, given.password)
        if refusal is not None:
            return refusal
        with _checked_lock:
            _checked[key] = True
    return Authorization("basic", {"username": name, "password": given.password})


def _refusal(name: str, password: str) -> Response | None:
    """Check a login with the directory, and make sure that an accepted person has an account.

    Return a refusal or None.
    """
    refusal = failed_logins.begin(name, password)
    if refusal is not None:
        return refusal
    try:
        groups = _groups_of(name, password)
    except _UnavailableError as error:
        failed_logins.forget(name, password)
        _logger.error("the directory did not answer: %s", error)
        # MLflow's client retries after a 503 and gives up after a 401.
        response = make_response("The directory that checks passwords does not answer. Please try again.", 503)
        response.headers["Retry-After"] = str(PAUSE)
        return response
    is_admin = groups is not None and normal_dn(ADMIN_GROUP) in groups
    if groups is None or not (is_admin or normal_dn(USER_GROUP) in groups):
        _logger.warning("%r may not enter: %s", name, "password refused" if groups is None else "in neither group")
        return auth.make_basic_auth_response()
    failed_logins.forget(name, password)
    keep_account(name, is_admin)
    return None


def normal_dn(dn: str) -> tuple[tuple[str, str], ...]:
    """Return a comparable form of a DN, without differences in case and in spaces around its parts."""
    return tuple((attribute.lower(), value.strip().lower()) for attribute, value, _ in parse_dn(dn, strip=True))


def _groups_of(name: str, password: str) -> set[tuple[tuple[str, str], ...]] | None:
    """Return the DNs of the person's groups, or None if the directory refuses the password."""
    global _retry_at  # noqa: PLW0603  (one directory, one state)
    if time.monotonic() < _retry_at:
        raise _UnavailableError("waiting before it is asked again")
    if _retry_at:
        _retry_at = time.monotonic() + PAUSE
    started = time.monotonic()
    try:
        groups = _ask(name, password)
    except (LDAPException, OSError) as error:
        # Pause only after a slow step, which a login cannot cause. Otherwise one person could lock out all others.
        if time.monotonic() - started > TIMEOUT / 2:
            _retry_at = time.monotonic() + PAUSE
        raise _UnavailableError(f"{type(error).__name__}: {error}") from error
    _retry_at = 0.0
    return groups


def _ask(name: str, password: str) -> set[tuple[tuple[str, str], ...]] | None:
    encrypted = URI.scheme == "ldaps"
    tls = ldap3.Tls(validate=ssl.CERT_REQUIRED if VERIFY else ssl.CERT_NONE, ca_certs_file=CA_FILE)
    port = URI.port or (636 if encrypted else 389)
    # The schema is not loaded: it is large, and a search for the pseudo-attribute `dn` would fail its check.
    server = ldap3.Server(URI.hostname or "", port, encrypted, tls=tls, get_info=ldap3.NONE, connect_timeout=TIMEOUT)
    # A bind name like an e-mail address (Active Directory) is not a DN, so nothing in it is escaped.
    user = LOOKUP_BIND.replace("%s", escape_rdn(name) if "=" in LOOKUP_BIND else name)
    connection = ldap3.Connection(
        server,
        user,
        # ldap3 normalizes a password given as text (SASLprep). Bytes are sent unchanged.
        password.encode(),  # pyright: ignore[reportArgumentType]
        receive_timeout=TIMEOUT,
        # Following a referral would send the password to the host that the answer names.
        auto_referrals=False,
        read_only=True,
        check_names=False,
    )
    try:
        connection.open()
        if START_TLS and not connection.start_tls():
            raise _UnavailableError("it does not do StartTLS")
        if not connection.bind():
            reason = connection.result["description"]
            if reason in TEMPORARY:
                raise _UnavailableError(reason)
            if reason != "invalidCredentials":
                _logger.warning("the directory refuses the bind of %r: %s", name, reason)
            return None
        search = GROUP_FILTER.replace("%s", escape_filter_chars(user))
        own_name = GROUP_ATTRIBUTE.lower() == "dn"
        connection.search(GROUP_BASE, search, attributes=None if own_name else [GROUP_ATTRIBUTE])
        reason = connection.result["description"]
        if reason in TEMPORARY:
            raise _UnavailableError(reason)
        if reason != "success":
            _logger.warning("the directory refuses the search for the groups of %r: %s", name, reason)
        entries = [entry for entry in connection.response or [] if entry["type"] == "searchResEntry"]
    finally:
        connection.unbind()
    if own_name:
        return {normal_dn(entry["dn"]) for entry in entries}
    values = [entry["attributes"].get(GROUP_ATTRIBUTE, []) for entry in entries]
    return {normal_dn(dn) for value in values for dn in ([value] if isinstance(value, str) else value)}


authenticate = authorized(check)
