"""Login with the passwords in MLflow's database, as MLflow's own but for five things.

- A changed password and a removed user count at once. MLflow 3.15 remembers a login for a minute in each worker, and
  MLflow 3.7.0 hashes the password of every request.
- A header that is no password, such as a token, gets 401. MLflow answers 500.
- A user that does not exist gets the answer after the same time as a wrong password.
- A client that has sent wrong passwords has to wait: `failed_logins.py`.
- What a person may do is decided by `authorization.py`.
- With any function but its own, MLflow's page offers no logout and no change of password. Here it offers both.

It runs in MLflow's pod, as `authorization_function = password_login:authenticate`.
"""
# The virtualenv of this checkout has none of these packages.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

import hmac
import json
import os
import secrets
import threading

import failed_logins
from authorization import authorized
from cachetools import TTLCache
from flask import Response, g, request
from mlflow.exceptions import MlflowException
from mlflow.server import auth
from werkzeug.datastructures import Authorization
from werkzeug.security import check_password_hash, generate_password_hash

_key = secrets.token_bytes(32)
_fitting = TTLCache[bytes, bool](10_000, int(os.environ["LOGIN_CACHE_SECONDS"]))
_lock = threading.Lock()
_nobodys_hash = generate_password_hash(secrets.token_hex())


def check() -> Authorization | Response:
    """Return the login of the current request, or a refusal."""
    given = request.authorization
    if given is None or given.type != "basic" or not given.username or not given.password or "\0" in given.username:
        return auth.make_basic_auth_response()
    try:
        g.sender = auth.store.get_user(given.username)
        stored = g.sender.password_hash
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        stored = _nobodys_hash
    # Neither is remembered, only a keyed digest of both, and the key exists in this process only.
    pair = hmac.digest(_key, f"{stored}\0{given.password}".encode(), "sha256")
    with _lock:
        if pair in _fitting:
            return given
    refusal = failed_logins.begin(given.username, given.password)
    if refusal is not None:
        return refusal
    # Nobody knows the password of `_nobodys_hash`, so it fits none.
    if not check_password_hash(stored, given.password):
        return auth.make_basic_auth_response()
    failed_logins.forget(given.username, given.password)
    with _lock:
        _fitting[pair] = True
    return given


def offer_logout(response: Response) -> None:
    """Let MLflow's page offer its logout and its change of password."""
    user = response.get_json()
    user["is_basic_auth"] = True
    response.set_data(json.dumps(user))


authenticate = authorized(check)
# With LDAP, which imports this file, a changed password would have no effect.
if auth.auth_config.authorization_function == f"{__name__}:authenticate":
    for prefix in ("/api/2.0", "/ajax-api/2.0"):
        auth.AFTER_REQUEST_HANDLERS[f"{prefix}/mlflow/users/current", "GET"] = offer_logout
