"""Login by OpenID Connect: the company's identity provider for people, tokens for machines.

- A browser without a session goes to the provider and comes back (code flow with PKCE). `oidc_sessions.py` keeps the session.
- A program sends a token (`MLFLOW_TRACKING_TOKEN`) of the provider, of Kubernetes or of a pipeline.
- The first administrator's password still works, for the day when the provider does not: with basic auth, and at `PASSWORD`.

It runs in MLflow's pod, as `authorization_function = oidc_login:authenticate`, with `oidc.json` beside it.
"""
# The virtualenv of this checkout has none of these packages.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

import base64
import hashlib
import hmac
import html
import json
import logging
import os
import secrets
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

import oidc_rules
import password_login
from accounts import account_name
from authorization import authorized
from cachetools import TTLCache
from cryptography.fernet import InvalidToken
from flask import Response, g, make_response, request
from mlflow.exceptions import MlflowException
from mlflow.server import auth
from oidc_provider import AwayError, EndedError, Provider, WrongTokenError
from oidc_rules import RefusedError, Visitor
from oidc_sessions import Sessions
from werkzeug.datastructures import Authorization

RULES = json.loads((Path(__file__).parent / "oidc.json").read_text())
"""Settings of the login, from the section `mlflow.auth.oidc`."""
SECRET = os.environ["OIDC_CLIENT_SECRET"]
CALLBACK, LOGOUT, PASSWORD = "/oidc/callback", "/oidc/logout", "/oidc/password"
CURRENT_USER = "/ajax-api/2.0/mlflow/users/current"
COOKIE, LOGIN_COOKIE = "__Host-mlflow", "__Host-mlflow-login"
LOGIN_SECONDS = 600
"""Seconds that a person has for the provider's page."""
EXCHANGES = 4
"""Logins for which a worker asks the provider at a time, because each of them holds a thread."""
REMEMBERED = 240
"""Seconds for which a checked token is remembered."""

_logger = logging.getLogger(__name__)
_exchanges = threading.BoundedSemaphore(EXCHANGES)
_key = secrets.token_bytes(32)
_tokens = TTLCache[bytes, tuple[str, float]](10_000, REMEMBERED)
"""Checked token, as a digest with a key of this process, to its account and its end."""
_tokens_lock = threading.Lock()


def check() -> Authorization | Response:
    """Return the login of the current request, or an answer: a refusal, or a step of a login."""
    login = _login()
    if isinstance(login, Authorization) and request.path.endswith("/users/update-password"):
        return make_response("Nobody logs in with a password of MLflow's here. The provider keeps yours.", 400)
    return login


def _login() -> Authorization | Response:
    given = request.authorization
    if given is not None and given.type == "basic":
        return _with_password(given)
    if given is not None:
        return _with_token(given.token or "") if given.type == "bearer" else _unauthorized("Log in with a token.")
    if request.method == "GET" and request.path in STEPS:
        return STEPS[request.path]()
    cookie = request.cookies.get(COOKIE, "")
    account = _sessions.find(cookie) if cookie else None
    if account is not None and _is_logout():
        _sessions.end(cookie)
        account = None
    if account is not None and _has_account(account):
        return Authorization("session", {"username": account})
    if request.method != "GET" or not _is_navigation():
        return _unauthorized("Log in at the site, or send a token.")
    over = _sessions.forget(cookie, only_over=True) if cookie else None
    return _to_login() if over is None else _out_of_provider(over)


def _is_logout() -> bool:
    """Return True for the request by which MLflow's page logs out: that for the user, without the header of all its others."""
    return (
        request.path == CURRENT_USER
        and request.method == "GET"
        and not request.headers.get("Content-Type")
        and not _is_navigation()
    )


def _is_navigation() -> bool:
    return "text/html" in request.headers.get("Accept", "")


def _has_account(name: str) -> bool:
    """Return False where an administrator has removed the account meanwhile."""
    try:
        g.sender = auth.store.get_user(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


def _with_password(given: Authorization) -> Authorization | Response:
    if account_name(given.username or "") != account_name(auth.auth_config.admin_username):
        return _unauthorized("Only the first administrator has a password here. Log in at the site, or send a token.")
    checked = password_login.check()
    return (
        _begin(auth.auth_config.admin_username, seconds=3600)
        if request.path == PASSWORD and isinstance(checked, Authorization)
        else checked
    )


def _with_token(token: str) -> Authorization | Response:
    digest = hmac.digest(_key, token.encode(), "sha256")
    with _tokens_lock:
        account, end = _tokens.get(digest, ("", 0.0))
    if end <= time.time() or not _has_account(account):
        try:
            account, end = _account_of(token)
        except AwayError as error:
            _logger.warning("%s", error)
            return _later("The provider's keys are being fetched. Please try again.", 1)
        except (WrongTokenError, RefusedError) as error:
            _logger.warning("a token was refused: %s", error)
            return _unauthorized("This token is not accepted.", 'Bearer realm="mlflow", error="invalid_token"')
        with _tokens_lock:
            _tokens[digest] = account, end
    return Authorization("bearer", {"username": account})


def _account_of(token: str) -> tuple[str, float]:
    """Check a token and return its account and its end."""
    if not RULES["audience"]:
        raise WrongTokenError("no audience is set, so no token is accepted")
    issuer = _issuer_of(token)
    if issuer not in _providers:
        raise WrongTokenError("its issuer is not known")
    claim = RULES["audience_claim"] if issuer == RULES["issuer"] else "aud"
    claims = _providers[issuer].claims(token, RULES["audience"], claim)
    visitor = oidc_rules.machine(RULES, claims)
    if visitor is None:
        if issuer != RULES["issuer"]:
            raise WrongTokenError(f"its subject has no account: {claims['sub']}")
        visitor = _person(claims)
    return _sessions.enter(visitor), float(claims["exp"])


def _issuer_of(token: str) -> str:
    """Return the issuer that a token names, which only its signature proves."""
    try:
        return str(oidc_rules.unverified(token)["iss"])
    except (ValueError, LookupError, TypeError):
        raise WrongTokenError("it is no token of a provider") from None


def _person(claims: dict) -> Visitor:
    visitor = oidc_rules.person(RULES, claims)
    if account_name(visitor.name) in RULES["machines"]:
        raise RefusedError(f"The account {visitor.name} is a machine's.")
    return visitor


def _to_login() -> Response:
    """Send a browser to the provider. The page in between keeps the part of the address behind `#`, which no server sees."""
    try:
        address = _provider.endpoint("authorization_endpoint")
        _provider.make_sure()
    except AwayError as error:
        _logger.error("%s", error)
        return _page(
            "The login does not answer",
            f"{RULES['issuer']} cannot be reached, so nobody can log in now. Sessions that are open go on. This page tries again by itself.",
            503,
            again=10,
        )
    state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
    # Not `//host`, which a browser takes for another site.
    path = "/" + request.full_path.removesuffix("?").lstrip("/\\")
    step = _sessions.cipher.encrypt(json.dumps([state, nonce, verifier, path]).encode()).decode()
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
    parameters = RULES["parameters"] | {
        "response_type": "code",
        "client_id": RULES["client_id"],
        "redirect_uri": RULES["site"] + CALLBACK,
        "scope": " ".join(RULES["scopes"]),
        "state": state,
        "nonce": nonce,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    response = _onwards(f"{address}{'&' if '?' in address else '?'}{urlencode(parameters)}", "save")
    response.set_cookie(LOGIN_COOKIE, step, max_age=LOGIN_SECONDS, secure=True, httponly=True, samesite="Lax", path="/")
    return response


def _callback() -> Response:
    """Take the person back from the provider."""
    begun = _begun()
    if begun is None:
        return _page(
            "This login is not yours, or too old",
            "It was not begun in this browser, or more than ten minutes ago.",
            400,
        )
    if problem := request.args.get("error"):
        said = f"It says: {problem[:100]} {request.args.get('error_description', '')[:300]}"
        return _page("The provider let nobody in", said, 403)
    if not _exchanges.acquire(blocking=False):
        return _page("Too many logins at once", "This page tries again by itself.", 503, again=2)
    try:
        return _exchange(*begun)
    except (AwayError, EndedError, WrongTokenError) as error:
        _logger.warning("a login failed: %s", error)
        return _failed(error)
    finally:
        _exchanges.release()


def _failed(error: Exception) -> Response:
    if isinstance(error, AwayError):
        sentence = f"{RULES['issuer']} cannot be asked now. Please try again."
        return _page("The login does not answer", sentence, 503, {"Retry-After": "10"})
    return _page("This login cannot be used", "It was used before, or took too long.", 400)


def _begun() -> tuple[str, str, str] | None:
    """Return nonce, verifier and path of the login that this browser has begun; None if it is not the one that comes back."""
    try:
        step = _sessions.cipher.decrypt(request.cookies.get(LOGIN_COOKIE, "").encode(), ttl=LOGIN_SECONDS)
        state, nonce, verifier, path = json.loads(step)
    except (InvalidToken, ValueError):
        return None
    is_same = hmac.compare_digest(state.encode(), request.args.get("state", "").encode())
    return (nonce, verifier, path) if is_same else None


def _exchange(nonce: str, verifier: str, path: str) -> Response:
    told = _provider.tokens(
        RULES["client_id"],
        SECRET,
        grant_type="authorization_code",
        code=request.args.get("code", ""),
        redirect_uri=RULES["site"] + CALLBACK,
        code_verifier=verifier,
    )
    claims = _provider.claims(str(told.get("id_token", "")), RULES["client_id"], wait=5)
    if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
        raise WrongTokenError("it is of another login")
    id_token = str(told["id_token"])
    try:
        account = _sessions.enter(_person(claims))
    except RefusedError as error:
        _logger.warning("%r may not enter: %s", claims["sub"], error)
        name = str(claims.get(RULES["name_claim"]) or claims["sub"])[:100]
        # The provider's session would bring the same person back at once, so the way to another account ends that session.
        link = ("Log in as somebody else", _end_of_session(id_token) or "/")
        return _page(f"You may not enter as {name}", str(error), 403, link=link)
    return _begin(account, path, id_token, told.get("refresh_token"))


def _begin(
    account: str, path: str = "/", id_token: str = "", refresh_token: str | None = None, seconds: float | None = None
) -> Response:
    cookie = _sessions.begin(account, id_token, refresh_token, seconds)
    response = _onwards(path, "restore")
    # MLflow passes on only the last cookie of an answer, so that of the login ends by itself.
    response.set_cookie(COOKIE, cookie, secure=True, httponly=True, samesite="Lax", path="/")
    return response


def _logout() -> Response:
    return _out_of_provider(_sessions.forget(request.cookies.get(COOKIE, "")) or "")


def _out_of_provider(id_token: str) -> Response:
    """End the session with the provider, too, where it has a page for that."""
    address = _end_of_session(id_token) if id_token else None
    if address is None:
        response = _page("You are logged out", "The session with the provider may go on.", 200)
    else:
        response = make_response("", 302)
        response.headers["Location"] = address
    response.delete_cookie(COOKIE, secure=True, httponly=True, samesite="Lax", path="/")
    return response


def _end_of_session(id_token: str) -> str | None:
    """Return the address at which the provider ends a person's session and sends the browser back; None if it has none."""
    try:
        address = _provider.endpoint("end_session_endpoint")
    except AwayError:
        return None
    hint = {
        "id_token_hint": id_token,
        "client_id": RULES["client_id"],
        "post_logout_redirect_uri": f"{RULES['site']}/",
    }
    return address and f"{address}{'&' if '?' in address else '?'}{urlencode(hint)}"


def _ask_for_password() -> Response:
    return auth.make_basic_auth_response()


def _refreshed(refresh_token: str) -> tuple[Visitor, str, str | None]:
    """Ask the provider whether a login still holds, and return who the person is now, and the new tokens."""
    told = _provider.tokens(RULES["client_id"], SECRET, grant_type="refresh_token", refresh_token=refresh_token)
    try:
        claims = _provider.claims(str(told.get("id_token", "")), RULES["client_id"], wait=5)
    except WrongTokenError as error:
        raise EndedError(f"the answer has no ID token that can be used: {error}") from error
    return _person(claims), str(told["id_token"]), told.get("refresh_token")


def _onwards(address: str, fragment: str) -> Response:
    """Return a page that goes on to an address. `save` keeps the part behind `#` in the tab, `restore` adds it."""
    script = {
        "save": "sessionStorage.setItem('mlflow-fragment', location.hash); location.replace(%s)",
        "restore": "location.replace(%s + (sessionStorage.getItem('mlflow-fragment') || ''))",
    }[fragment] % json.dumps(address).replace("<", "\\u003c")
    link = html.escape(address, quote=True)
    body = (
        f'<!doctype html><title>MLflow</title><script>{script}</script><noscript><a href="{link}">Go on</a></noscript>'
    )
    response = make_response(body, 401 if fragment == "save" else 200)
    response.headers |= {
        "Cache-Control": "no-store",
        "Content-Type": "text/html; charset=utf-8",
        "Referrer-Policy": "no-referrer",
    }
    return response


def _page(
    title: str,
    sentence: str,
    status: int,
    headers: dict[str, str] | None = None,
    link: tuple[str, str] = ("Log in", "/"),
    again: int = 0,
) -> Response:
    # Not the header Refresh: a browser ignores it for an address with `#`, as all of MLflow's pages have.
    reload = f"<script>setTimeout(() => location.reload(), {again * 1000})</script>" if again else ""
    body = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>MLflow: '
        f'{html.escape(title)}</title><body style="font:16px/1.5 system-ui;max-width:34rem;margin:12vh auto;padding:0 1rem">'
        f'<h1 style="font-size:1.4rem">{html.escape(title)}</h1><p>{html.escape(sentence)}</p><p><a href="{html.escape(link[1])}">{html.escape(link[0])}</a></p>{reload}'
    )
    response = make_response(body, status)
    response.headers |= {"Cache-Control": "no-store", "Content-Type": "text/html; charset=utf-8", **(headers or {})}
    if again:
        response.headers["Retry-After"] = str(again)
    return response


def _unauthorized(sentence: str, challenge: str = 'Bearer realm="mlflow"') -> Response:
    response = make_response(sentence, 401)
    response.headers["WWW-Authenticate"] = challenge
    return response


def _later(sentence: str, seconds: int) -> Response:
    response = make_response(sentence, 503)
    response.headers["Retry-After"] = str(seconds)
    return response


STEPS = {CALLBACK: _callback, LOGOUT: _logout, PASSWORD: _ask_for_password}
# First, because it fails while the database is away, and is then imported again.
_sessions = Sessions(
    os.environ["OIDC_SESSION_KEY"], RULES["session_hours"], frozenset(RULES["teams"].values()), _refreshed
)
_authority = Path(__file__).parent / "ca.crt"
_provider = Provider(RULES["issuer"], str(_authority) if _authority.exists() else None)
_others = {workload.partition(" ")[0] for workload in RULES["machines"].values()} - {RULES["issuer"]}
_providers = {RULES["issuer"]: _provider} | {issuer: Provider(issuer, None) for issuer in _others}
authenticate = authorized(check)
# MLflow's page offers its logout only so. It offers a change of the password, too, which `_with_password` and MLflow refuse.
for prefix in ("/api/2.0", "/ajax-api/2.0"):
    auth.AFTER_REQUEST_HANDLERS[f"{prefix}/mlflow/users/current", "GET"] = password_login.offer_logout
