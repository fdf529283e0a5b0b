"""The rules of the login by OpenID Connect take what each provider sends, and nothing more. docs/single-sign-on.md has the recipes."""

import time
from collections.abc import Mapping
from typing import Any

import pytest

from components.mlflow_release.pod_code.oidc_rules import RefusedError, machine, person

RULES: Mapping[str, Any] = {
    "issuer": "https://login.example.com",
    "name_claim": "preferred_username",
    "groups_claim": "groups",
    "admin_groups": ["/mlflow-admins"],
    "user_groups": ["/mlflow-users"],
    "allowed_domains": [],
    "teams": {"/vision": "vision", "/speech": "speech"},
    "machines": {"ci": "https://token.actions.githubusercontent.com repo:acme/x:ref:refs/heads/main"},
}
STANDARD: Mapping[str, Any] = {"iss": "https://login.example.com", "sub": "4711", "iat": time.time()}

KEYCLOAK = {**STANDARD, "preferred_username": "bob", "email_verified": False, "groups": ["/mlflow-users", "/vision"]}
KEYCLOAK_ROLES = {**STANDARD, "preferred_username": "bob", "realm_access": {"roles": ["offline_access", "mlflow"]}}
ENTRA = {
    **STANDARD,
    "preferred_username": "bob@example.com",
    "groups": ["5b8c1e4e-0000-4f6e-9a3c-111111111111"],
    "roles": ["mlflow.user"],
}
ENTRA_OVERAGE = {
    **STANDARD,
    "preferred_username": "bob@example.com",
    "_claim_names": {"groups": "src1"},
    "_claim_sources": {"src1": {"endpoint": "https://graph.example.com"}},
}
OKTA = {
    **STANDARD,
    "preferred_username": "bob@example.com",
    "email": "bob@example.com",
    "groups": ["Everyone", "mlflow-users"],
}
GOOGLE = {**STANDARD, "email": "bob@example.com", "email_verified": True, "hd": "example.com"}
COGNITO = {**STANDARD, "cognito:username": "bob", "cognito:groups": ["mlflow-users"], "token_use": "id"}
AUTH0 = {**STANDARD, "nickname": "bob", "https://example.com/groups": ["mlflow-users"]}


@pytest.mark.parametrize(
    ("claims", "rules", "name"),
    [
        pytest.param(KEYCLOAK, {}, "bob", id="Keycloak: groups with their full path"),
        pytest.param(
            KEYCLOAK_ROLES,
            {"groups_claim": "realm_access.roles", "user_groups": ["mlflow"]},
            "bob",
            id="Keycloak: roles",
        ),
        pytest.param(
            ENTRA, {"user_groups": ["5b8c1e4e-0000-4f6e-9a3c-111111111111"]}, "bob@example.com", id="Entra ID: ids"
        ),
        pytest.param(
            ENTRA, {"groups_claim": "roles", "user_groups": ["mlflow.user"]}, "bob@example.com", id="Entra ID: roles"
        ),
        pytest.param(OKTA, {"user_groups": ["mlflow-users"]}, "bob@example.com", id="Okta"),
        pytest.param(
            GOOGLE,
            {"name_claim": "email", "user_groups": [], "allowed_domains": ["Example.com"]},
            "bob@example.com",
            id="Google: no groups",
        ),
        pytest.param(
            COGNITO,
            {"name_claim": "cognito:username", "groups_claim": "cognito:groups", "user_groups": ["mlflow-users"]},
            "bob",
            id="Cognito",
        ),
        pytest.param(
            AUTH0,
            {"name_claim": "nickname", "groups_claim": "https://example.com/groups", "user_groups": ["mlflow-users"]},
            "bob",
            id="a claim with dots in its name",
        ),
        pytest.param({**KEYCLOAK, "groups": "/mlflow-users"}, {}, "bob", id="one group as a text"),
    ],
)
def test_a_person_of_a_group_enters(claims: Mapping[str, Any], rules: Mapping[str, Any], name: str) -> None:
    visitor = person({**RULES, **rules}, claims)
    assert (visitor.name, visitor.subject, visitor.is_admin) == (name, "4711", False)


@pytest.mark.parametrize(
    ("claims", "rules", "said"),
    [
        pytest.param({**KEYCLOAK, "groups": []}, {}, "none of the groups", id="no group"),
        pytest.param(
            {**KEYCLOAK, "groups": ["/ml/mlflow-users"]}, {}, "none of the groups", id="a nested group of the same name"
        ),
        pytest.param({**KEYCLOAK, "groups": ["mlflow-users"]}, {}, "none of the groups", id="a group without its path"),
        pytest.param(
            {**KEYCLOAK, "groups": {"/mlflow-users": 1}}, {}, "none of the groups", id="groups in another form"
        ),
        pytest.param(
            {**KEYCLOAK, "groups": "/mlflow-users-of-others"}, {}, "none of the groups", id="a text that contains it"
        ),
        pytest.param(ENTRA_OVERAGE, {}, "more groups than fit", id="Entra ID: overage"),
        pytest.param(GOOGLE, {"user_groups": [], "allowed_domains": ["example.org"]}, "domain", id="another domain"),
        pytest.param(
            {**GOOGLE, "hd": None, "email_verified": False},
            {"user_groups": [], "allowed_domains": ["example.com"]},
            "not verified",
            id="an address that is not verified",
        ),
        pytest.param(
            {**KEYCLOAK, "email": "bob@example.com"},
            {"name_claim": "email"},
            "not verified",
            id="a name that is not verified",
        ),
        pytest.param({**KEYCLOAK, "preferred_username": None}, {}, "preferred_username", id="no name"),
        pytest.param({**KEYCLOAK, "preferred_username": " "}, {}, "preferred_username", id="an empty name"),
        pytest.param({**KEYCLOAK, "preferred_username": ["bob"]}, {}, "preferred_username", id="a list of names"),
        pytest.param(KEYCLOAK, {"allowed_domains": ["example.com"]}, "domain", id="the group without the domain"),
    ],
)
def test_nobody_else_enters_and_is_told_why(claims: Mapping[str, Any], rules: Mapping[str, Any], said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        person({**RULES, **rules}, claims)


def test_administrators_need_no_other_group() -> None:
    assert person(RULES, {**KEYCLOAK, "groups": ["/mlflow-admins"]}).is_admin


def test_groups_lead_to_the_teams_that_they_are_mapped_to() -> None:
    assert person(RULES, KEYCLOAK).teams == {"vision"}


def test_a_machine_is_known_by_issuer_and_exact_subject() -> None:
    issuer = "https://token.actions.githubusercontent.com"
    known = {**STANDARD, "iss": issuer, "sub": "repo:acme/x:ref:refs/heads/main"}
    visitor = machine(RULES, known)
    assert visitor is not None
    assert (visitor.name, visitor.is_admin) == ("ci", False)
    for other in (
        {"sub": "repo:acme/x:ref:refs/heads/main2"},
        {"sub": "repo:acme/x"},
        {"iss": "https://login.example.com"},
    ):
        assert machine(RULES, {**known, **other}) is None
