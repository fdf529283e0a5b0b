"""Checks of the login by OpenID Connect: what the provider publishes, and whom a token is taken for."""

import json
import os
import ssl
import time
import urllib.request
from typing import Any, cast

from components.mlflow_release.pod_code.oidc_rules import RefusedError, machine, person, unverified
from operations.checks import MissingError, NotedError, skip
from operations.doctor.subject import Subject
from settings.oidc import Oidc

TIMEOUT = 10
"""Seconds for each request."""
TOKEN = "MLFLOW_TRACKING_TOKEN"  # noqa: S105 - the name of a variable


def provider(subject: Subject) -> str:
    """Fetch the discovery document and the keys of the identity provider and of the machines' issuers."""
    section = _section(subject)
    others = {workload.partition(" ")[0] for workload in section.machines.values()} - {section.issuer}
    document, keys = _published(section.issuer, section.ca_certificate)
    for issuer in sorted(others):
        _published(issuer, None)
    missing = [name for name in ("authorization_endpoint", "token_endpoint") if name not in document]
    if missing:
        raise MissingError(f"{section.issuer} publishes no {' and no '.join(missing)}, so nobody can log in there")
    if "end_session_endpoint" not in document:
        raise NotedError(
            f"{keys} keys; it publishes no end_session_endpoint, so MLflow's logout leaves the provider's session open"
        )
    supported = document.get("scopes_supported")
    if isinstance(supported, list) and (unknown := [scope for scope in section.scopes if scope not in supported]):
        raise NotedError(f"{keys} keys; it does not list the scope {', '.join(unknown)}, which it may refuse")
    return f"{section.issuer}, {keys} keys"


def token(subject: Subject) -> str:
    """Say whom the token in the environment is taken for. The pods check its signature, this check does not."""
    section = _section(subject)
    if not (given := os.environ.get(TOKEN)):
        skip(f"with {TOKEN} in the environment this line says whom the token is taken for")
    if section.audience is None:
        raise MissingError("mlflow.auth.oidc.audience is not set, so no token is accepted")
    claims = _claims(given)
    rules = section.model_dump(exclude={"client_secret"})
    if claims.get("exp", 0) < time.time():
        raise MissingError("the token has expired; get a new one")
    visitor = machine(rules, {"iss": "", "sub": "", "iat": 0, **claims})
    if visitor is None and claims.get("iss") != section.issuer:
        raise MissingError(
            f"its issuer is {claims.get('iss')} and its subject {claims.get('sub')}; no machine of mlflow.auth.oidc.machines is "
            f'"{claims.get("iss")} {claims.get("sub")}"'
        )
    claim = section.audience_claim if claims.get("iss") == section.issuer else "aud"
    audiences: Any = claims.get(claim)
    if section.audience not in (audiences if isinstance(audiences, list) else [audiences]):
        raise MissingError(f"its {claim} is {audiences}, and mlflow.auth.oidc.audience is {section.audience}")
    try:
        visitor = visitor or person(rules, claims)
    except RefusedError as refusal:
        raise MissingError(f"{refusal} (the token's subject is {claims.get('sub')})") from None
    rights = "an administrator" if visitor.is_admin else "no administrator"
    teams = f", in the teams {', '.join(sorted(visitor.teams))}" if visitor.teams else ""
    return f"{visitor.name}, {rights}{teams}; the pods check the signature, too"


def _section(subject: Subject) -> Oidc:
    section = subject.settings.mlflow.auth.oidc
    if section is None:
        skip(f"mlflow.auth.mode is {subject.settings.mlflow.auth.mode}")
    return section


def _published(issuer: str, authority: str | None) -> tuple[dict[str, Any], int]:
    """Return the discovery document of an issuer, and the number of its keys."""
    document = _get(f"{issuer.rstrip('/')}/.well-known/openid-configuration", authority)
    if document.get("issuer") != issuer:
        raise MissingError(f"its discovery document names the issuer {document.get('issuer')}; write exactly that")
    keys = _get(str(document["jwks_uri"]), authority).get("keys", [])
    if not keys:
        raise MissingError(f"{issuer} publishes no keys")
    return document, len(keys)


def _get(url: str, authority: str | None) -> dict[str, Any]:
    context = ssl.create_default_context(cadata=authority)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT, context=context) as answer:  # noqa: S310 - the settings allow https only
            return cast("dict[str, Any]", json.load(answer))
    except OSError as error:
        raise MissingError(f"{url} cannot be read from here ({error}); the pods have to reach it") from None


def _claims(given: str) -> dict[str, Any]:
    """Return the claims of a token without checking them."""
    try:
        return unverified(given)
    except (LookupError, ValueError):
        raise MissingError(f"{TOKEN} holds no token of a provider (three parts with dots in between)") from None
