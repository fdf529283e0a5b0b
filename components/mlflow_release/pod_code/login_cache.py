"""A login cache for MLflow 3.7.0, which hashes the password of every request more than once.

Newer versions have a cache. This one runs in MLflow's pod, as `authorization_function = login_cache:authenticate`. It
remembers that a password fits the hash in the database. The hash is still read once per request, so a new password or
a removed user counts at once on every pod.
"""
# The virtualenv of this checkout has none of these packages.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

import hmac
import os
import secrets
import threading

from cachetools import TTLCache
from flask import g
from mlflow.server import auth
from mlflow.server.auth import sqlalchemy_store
from werkzeug import Response
from werkzeug.datastructures import Authorization

_check_password_hash = sqlalchemy_store.check_password_hash
_key = secrets.token_bytes(32)
_fitting = TTLCache[bytes, bool](10_000, int(os.environ["LOGIN_CACHE_SECONDS"]))
_lock = threading.Lock()


def authenticate() -> Authorization | Response:
    """Return the login of the current request.

    MLflow calls this several times in a request, and only the first is checked.
    """
    if "login_cache_answer" not in g:
        g.login_cache_answer = auth.authenticate_request_basic_auth()
    return g.login_cache_answer


def check_password_hash(stored: str, password: str) -> bool:
    """Return True if the password fits the hash. This replaces MLflow's function of the same name."""
    # Neither the hash nor the password is stored. Only a keyed digest of both is, and the key exists in this process
    # only.
    pair = hmac.digest(_key, f"{stored}\0{password}".encode(), "sha256")
    with _lock:
        if pair in _fitting:
            return True
    fits = _check_password_hash(stored, password)
    if fits:
        with _lock:
            _fitting[pair] = True
    return fits


sqlalchemy_store.check_password_hash = check_password_hash
