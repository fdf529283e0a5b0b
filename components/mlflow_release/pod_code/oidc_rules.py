"""Rules that make a person or a machine of an identity provider's claims, without asking anybody.

It runs in MLflow's pod, where `oidc_login.py` uses it with `oidc.json`, and in `make doctor`.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast


class RefusedError(Exception):
    """The claims let nobody in. The text is for the person."""


@dataclass(frozen=True)
class Visitor:
    """A person or a machine that may enter."""

    name: str
    """Name of the account, as the claim or the settings write it."""
    issuer: str
    subject: str
    """The provider's own name, which never changes and belongs to nobody else."""
    issued_at: float
    """Time of the claims, in seconds since 1970."""
    is_admin: bool = False
    teams: frozenset[str] = frozenset()
    """Teams that the groups lead to."""


def unverified(token: str) -> dict[str, Any]:
    """Return what a token says, which only its signature proves.

    Raises:
        ValueError, LookupError: it is no token of a provider.
    """
    body = token.split(".")[1]
    return cast("dict[str, Any]", json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))))


def person(rules: Mapping[str, Any], claims: Mapping[str, Any]) -> Visitor:
    """Return the person whom verified claims of the provider's are about.

    Raises:
        RefusedError: the rules do not let this person in.
    """
    groups = _groups(rules["groups_claim"], claims)
    is_admin = bool(groups & {*rules["admin_groups"]})
    if not is_admin and rules["user_groups"] and not groups & {*rules["user_groups"]}:
        raise RefusedError("You are in none of the groups that may use MLflow.")
    if rules["allowed_domains"] and _domain(claims) not in {domain.lower() for domain in rules["allowed_domains"]}:
        raise RefusedError("Your e-mail address is not verified, or of a domain that may not use MLflow.")
    claim = rules["name_claim"]
    name = _find(claims, claim)
    if not isinstance(name, str) or not name.strip():
        raise RefusedError(f"The provider tells no {claim}, which would be the name of your account.")
    if claim == "email" and not _is_verified(claims):
        raise RefusedError("Your e-mail address, which would be the name of your account, is not verified.")
    teams = frozenset(team for group, team in rules["teams"].items() if group in groups)
    return Visitor(name, str(claims["iss"]), str(claims["sub"]), float(claims["iat"]), is_admin, teams)


def machine(rules: Mapping[str, Any], claims: Mapping[str, Any]) -> Visitor | None:
    """Return the machine to which the settings give an account; None if the claims are of none."""
    issuer, subject = str(claims["iss"]), str(claims["sub"])
    for name, workload in rules["machines"].items():
        if workload == f"{issuer} {subject}":
            return Visitor(name, issuer, subject, float(claims["iat"]))
    return None


def _groups(claim: str, claims: Mapping[str, Any]) -> set[str]:
    elsewhere = claims.get("_claim_names")
    if isinstance(elsewhere, dict) and claim in elsewhere:
        raise RefusedError(
            "You are in more groups than fit into a token, so the provider leaves all of them out. An administrator can let the provider "
            "send only the groups that are assigned to MLflow, or roles."
        )
    found = _find(claims, claim)
    if isinstance(found, str):
        return {found}
    return {each for each in cast("list[Any]", found) if isinstance(each, str)} if isinstance(found, list) else set()


def _find(claims: Mapping[str, Any], path: str) -> Any:
    """Return a claim. A name with dots is that of a claim, or else leads into nested ones."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        found = cast("dict[str, Any]", found).get(part) if isinstance(found, dict) else None
    return found


def _is_verified(claims: Mapping[str, Any]) -> bool:
    # Cognito writes it as a text.
    return claims.get("email_verified") in (True, "true")


def _domain(claims: Mapping[str, Any]) -> str:
    if isinstance(domain := claims.get("hd"), str):
        return domain.lower()
    return str(claims.get("email", "")).rpartition("@")[2].lower() if _is_verified(claims) else ""
