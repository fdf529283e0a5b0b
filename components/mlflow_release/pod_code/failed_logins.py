"""A limit for wrong passwords: a client that has sent some has to wait before another one is looked at.

The same wrong password counts once, so a forgotten script with an old password stops nobody. A password that a worker remembers
as right passes in any case. Each worker counts for itself, so `LOGIN_TRIES` is the share of one.

It runs in MLflow's pod, where the login modules use it.
"""
# The virtualenv of this checkout has none of these packages.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

import hmac
import logging
import os
import secrets
import threading
import time

from cachetools import LRUCache
from flask import Response, make_response, request

TRIES = int(os.environ.get("LOGIN_TRIES", "5"))
"""Different wrong passwords of one client in `SECONDS`, for this process."""
BY_ADDRESS = os.environ.get("LOGIN_CLIENTS") == "address"
"""True if a client is an address. False: a client is a user name, because all addresses are a load balancer's."""
SECONDS = 30
"""Seconds for which a wrong password counts."""

_logger = logging.getLogger(__name__)
_key = secrets.token_bytes(32)
_tried = LRUCache[str, dict[bytes, float]](10_000)
"""Client to its passwords that were not right, and when they came. A password is kept as a digest with a key of this process."""
_lock = threading.Lock()


def begin(name: str, password: str) -> Response | None:
    """Count a password before it is looked at, because a client can send many at once.

    Return an answer if the client has to wait, or None.
    """
    now, client, pair = time.monotonic(), _client(name), _pair(name, password)
    with _lock:
        tries = {tried: at for tried, at in _tried.get(client, {}).items() if now - at < SECONDS}
        may_try = pair in tries or len(tries) < TRIES
        if may_try:
            tries[pair] = now
        _tried[client] = tries
    if may_try:
        return None
    _logger.warning("too many refused logins from %s, the last one for %r", _address(), name)
    response = make_response(f"Too many wrong passwords. Please try again in {SECONDS} seconds.", 429)
    response.headers["Retry-After"] = str(SECONDS)
    return response


def forget(name: str, password: str) -> None:
    """Take back a `begin`, because the password was right or nobody could tell."""
    with _lock:
        _tried.get(_client(name), {}).pop(_pair(name, password), None)


def _client(name: str) -> str:
    return _address() if BY_ADDRESS else name


def _address() -> str:
    """Return the address that HAProxy saw. It adds one after all that the client may have written."""
    forwarded = request.headers.get("X-Forwarded-For", "")
    return forwarded.rsplit(",", 1)[-1].strip() or request.remote_addr or ""


def _pair(name: str, password: str) -> bytes:
    return hmac.digest(_key, f"{name}\0{password}".encode(), "sha256")
