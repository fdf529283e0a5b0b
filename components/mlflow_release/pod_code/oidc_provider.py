"""Identity providers: what they publish, their tokens, and the requests to them.

No request of MLflow's waits for a provider's keys, because anybody can send forged tokens: a thread fetches them.

It runs in MLflow's pod, where `oidc_login.py` uses it.
"""
# The virtualenv of this checkout has none of these packages.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote_plus

import jwt
import requests

TIMEOUT = (3, 5)
"""Seconds to connect, and to wait for an answer."""
FRESH = 600
"""Seconds after which the keys are fetched again."""
PAUSE = 60
"""Seconds in which an unknown key makes them be fetched once."""
RETRY = 10
"""Seconds after a failure."""
SURE = 5
"""Seconds for which an answer of the provider's is proof enough that a person can be sent there."""
LEEWAY = 30
"""Seconds by which clocks may differ."""
ENDED = {"invalid_grant", "interaction_required", "login_required", "consent_required", "access_denied"}
"""Errors by which a provider says that a person's login is over. Others are the provider's or this server's."""
KINDS = {"RSA", "EC", "OKP"}
"""Kinds of keys. All are public ones, so nobody can sign with what is published."""
SIGNATURES = ("RS", "PS", "ES", "EdDSA")
"""Beginnings of the algorithms of such keys."""

_logger = logging.getLogger(__name__)


class AwayError(Exception):
    """The provider does not answer, or answers what nobody can use."""


class EndedError(Exception):
    """The provider says that a login is over."""


class WrongTokenError(Exception):
    """The token is not one of this provider's for this use."""


class Provider:
    """An issuer of tokens."""

    def __init__(self, issuer: str, authority: str | None) -> None:
        """Begin to fetch the keys.

        Args:
            issuer: the issuer, as its tokens name it.
            authority: file with the CA certificate of its server; None for the public ones.
        """
        self.issuer = issuer
        self._verify = authority or True
        self._document: Mapping[str, Any] = {}
        self._keys: Mapping[str | None, Any] = {}
        self._forced_at = self._answered_at = -1e9
        self._is_away = False
        self._asking = threading.Lock()
        self._tried = threading.Event()
        self._wanted = threading.Event()
        threading.Thread(target=self._fetch_for_ever, daemon=True, name=f"keys of {issuer}").start()

    def endpoint(self, name: str) -> Any:
        """Return a value of the discovery document, None if it is not there.

        Raises:
            AwayError: the document was never fetched.
        """
        self._wait_for_first()
        if not self._document:
            raise AwayError(f"{self.issuer} does not answer.")
        return self._document.get(name)

    def make_sure(self) -> None:
        """Let nobody be sent to a provider that does not answer, where the browser would wait for ever.

        Raises:
            AwayError: it does not answer.
        """
        # Threads are few, so one at a time waits, and none once the attempts fail: they go on every ten seconds.
        if not (self._is_away or self._has_just_answered() or _on_event_loop()) and self._asking.acquire(
            blocking=False
        ):
            try:
                self._tried.clear()
                self._wanted.set()
                self._tried.wait(3)
            finally:
                self._asking.release()
            if not self._has_just_answered():
                raise AwayError(f"{self.issuer} does not answer.")
        if self._is_away:
            raise AwayError(f"{self.issuer} does not answer.")

    def claims(self, token: str, audience: str, audience_claim: str = "aud", wait: float = 0) -> dict[str, Any]:
        """Return the verified claims of a token.

        Args:
            token: the token.
            audience: whom it must be for.
            audience_claim: claim that says so.
            wait: seconds to wait for a key that is not known yet.

        Raises:
            AwayError: the keys were never fetched, or are being fetched.
            WrongTokenError: the token is forged, expired, or for somebody else.
        """
        key = self._key(token, wait)
        by_claim = audience_claim == "aud"
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                issuer=self.issuer,
                audience=audience if by_claim else None,
                leeway=LEEWAY,
                options={"require": ["exp", "iat", "sub", "iss"], "verify_aud": by_claim},
            )
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise WrongTokenError(f"{type(error).__name__}: {error}") from error
        if not by_claim and claims.get(audience_claim) != audience:
            raise WrongTokenError("it is for somebody else")
        if not isinstance(claims["sub"], str) or not claims["sub"]:
            raise WrongTokenError("it is about nobody")
        return claims

    def tokens(self, client_id: str, secret: str, **parameters: str) -> dict[str, Any]:
        """Return the answer of the token endpoint.

        Raises:
            AwayError: there is no answer that says whether the login holds.
            EndedError: the provider refuses.
        """
        methods = self.endpoint("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        basic = "client_secret_basic" in methods
        login = {} if basic else {"client_id": client_id, "client_secret": secret}
        try:
            answer = requests.post(
                self.endpoint("token_endpoint") or "",
                data=parameters | login,
                auth=(quote_plus(client_id), quote_plus(secret)) if basic else None,
                timeout=TIMEOUT,
                verify=self._verify,
                allow_redirects=False,
            )
            said = answer.json()
        except (requests.RequestException, ValueError) as error:
            raise AwayError(f"{self.issuer}: {type(error).__name__}") from error
        if answer.status_code == 200 and isinstance(said, dict):
            return said
        problem = said.get("error") if isinstance(said, dict) else None
        if problem in ENDED:
            raise EndedError(str(problem))
        raise AwayError(f"{self.issuer} answers {answer.status_code} {problem}")

    def _key(self, token: str, wait: float) -> Any:
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError) as error:
            raise WrongTokenError(str(error)) from error
        if not str(header.get("alg")).startswith(SIGNATURES):
            raise WrongTokenError("it is not signed with a key that a provider publishes")
        self._wait_for_first()
        if not self._keys:
            raise AwayError(f"The keys of {self.issuer} could not be fetched yet.")
        kid = header.get("kid")
        found = self._find(kid)
        is_fetching = not self._tried.is_set()
        if found is None and (is_fetching or time.monotonic() - self._forced_at > PAUSE):
            if not is_fetching:
                self._forced_at = time.monotonic()
                self._tried.clear()
                self._wanted.set()
            self._tried.wait(wait)
            found = self._find(kid)
            if found is None and not self._tried.is_set():
                raise AwayError(f"The keys of {self.issuer} are being fetched.")
        if found is None:
            raise WrongTokenError("its key is not one of the provider's")
        return found

    def _find(self, kid: str | None) -> Any:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid)

    def _wait_for_first(self) -> None:
        """Give the first attempt of a process three seconds, but not on the event loop, where `/health` would wait, too."""
        if not self._document and not _on_event_loop():
            self._tried.wait(3)

    def _has_just_answered(self) -> bool:
        return time.monotonic() - self._answered_at < SURE

    def _fetch_for_ever(self) -> None:
        while True:
            try:
                self._fetch()
                self._answered_at, self._is_away, pause = time.monotonic(), False, FRESH
            except Exception as error:
                _logger.error("the keys of %s: %s: %s", self.issuer, type(error).__name__, error)
                self._is_away, pause = True, RETRY
            self._tried.set()
            self._wanted.wait(pause)
            self._wanted.clear()

    def _fetch(self) -> None:
        document = self._get(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
        if document.get("issuer") != self.issuer:
            raise ValueError(f"its discovery document names another issuer, {document.get('issuer')!r}")
        keys: dict[str | None, Any] = {}
        for each in self._get(document["jwks_uri"])["keys"]:
            if each.get("kty") in KINDS and each.get("use", "sig") == "sig":
                try:
                    keys[each.get("kid")] = jwt.PyJWK(each)
                except (jwt.PyJWTError, ValueError) as error:
                    _logger.warning("a key of %s cannot be read: %s", self.issuer, error)
        if not keys:
            raise ValueError("it publishes no key")
        self._document, self._keys = document, keys

    def _get(self, address: str) -> dict[str, Any]:
        answer = requests.get(address, timeout=TIMEOUT, verify=self._verify)
        answer.raise_for_status()
        return answer.json()


def _on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
