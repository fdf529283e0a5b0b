"""The section `mlflow.auth.oidc`."""

from typing import Annotated

from pydantic import Field

from settings.problem import Problem
from settings.section import Section
from settings.value_types import HOST_NAME, PORT, Certificate, ClientSecret, matching

Issuer = Annotated[
    str,
    matching(
        rf"https://{HOST_NAME}(:{PORT})?(/[^\s?#]*)?",
        "write the address that the provider's discovery document names as issuer, for example {example}",
    ),
]
Group = Annotated[str, matching(r"[^\n]*\S[^\n]*", "write a group as the provider's tokens name it")]
Account = Annotated[
    str,
    matching(
        r"[a-z0-9]([a-z0-9._@+-]{0,62}[a-z0-9])?", "write a name of a-z, 0-9 and . _ @ + -, at most 64 characters"
    ),
]
Workload = Annotated[
    str,
    matching(
        rf"https://{HOST_NAME}(:{PORT})?(/[^\s?#]*)? [^\s*]([^\n*]*[^\s*])?",
        "write an issuer, a space and the exact subject of its tokens, for example "
        "https://token.actions.githubusercontent.com repo:acme/training:ref:refs/heads/main",
    ),
]
Scope = Annotated[str, matching(r"[!#-\[\]-~]+", "write a scope without spaces")]
RESERVED_PARAMETERS = {
    "client_id",
    "code_challenge",
    "code_challenge_method",
    "nonce",
    "redirect_uri",
    "response_mode",
    "response_type",
    "scope",
    "state",
}
"""Parameters of the authorization request that the login itself sets."""


class Oidc(Section):
    """The identity provider that logs people in: ``docs/single-sign-on.md``."""

    issuer: Issuer = Field(examples=["https://login.example.com/realms/ml"])
    """Issuer, exactly as the provider's discovery document writes it."""
    client_id: Annotated[str, matching(r"[!-~]+", "write the id of the client")] = Field(examples=["mlflow"])
    """Id of the client that the provider knows MLflow by. Its redirect URI is the site's address with ``/oidc/callback``."""
    client_secret: ClientSecret = Field(examples=["the-client-secret"])
    """Secret of the client, a secret."""
    scopes: list[Scope] = Field(default=["openid", "profile", "email"])
    """Scopes to ask for. Okta and Entra ID need ``offline_access`` too: without a refresh token a session lasts five minutes."""
    parameters: dict[str, str] = Field(default={}, examples=[{"access_type": "offline"}])
    """Further parameters of the authorization request, such as Google's ``access_type``."""
    name_claim: str = "preferred_username"
    """Claim with the name of a person's account. ``email`` counts only where it is verified."""
    groups_claim: str = "groups"
    """Claim with a person's groups, a list or one text. A path with dots leads into nested claims, for example ``realm_access.roles``."""
    admin_groups: list[Group] = Field(default=[], examples=[["/mlflow-admins"]])
    """Groups whose members are MLflow administrators."""
    user_groups: list[Group] = Field(default=[], examples=[["/mlflow-users"]])
    """Groups whose members may log in. Administrators may in any case."""
    allowed_domains: list[Annotated[str, matching(rf"{HOST_NAME}", "write a domain, for example example.com")]] = Field(
        default=[], examples=[["example.com"]]
    )
    """Domains of verified e-mail addresses (or Google's ``hd``). With ``userGroups``, a person needs both; without, the domain alone."""
    teams: dict[str, Group] = Field(default={}, examples=[{"/vision": "vision"}])
    """Group to the team (a role of MLflow) that its members are in. Who leaves the group leaves the team. See ``docs/users-and-permissions.md``."""
    audience: str | None = Field(default=None, examples=["https://mlflow.example.com"])
    """Audience of the tokens with which programs log in (``MLFLOW_TRACKING_TOKEN``). Default: no such token is accepted."""
    audience_claim: str = "aud"
    """Claim of this issuer's access tokens that names the audience. Cognito writes ``client_id``."""
    machines: dict[Account, Workload] = Field(
        default={},
        examples=[
            {"ci-training": "https://token.actions.githubusercontent.com repo:acme/training:ref:refs/heads/main"}
        ],
    )
    """Account of a machine to whose tokens it takes: an issuer, a space and the exact subject. It gets permissions like a person's."""
    session_hours: int = Field(default=8, ge=1, le=168)
    """Hours after which a person logs in again. A session that nobody used for an hour ends as well."""
    ca_certificate: Certificate | None = None
    """CA certificate of ``issuer``, PEM. Default: the public ones."""

    def problems(self) -> list[Problem]:
        """Reject a login that lets everybody or nobody in, and tokens that would be taken for others."""
        found: list[Problem] = []
        if not self.user_groups and not self.allowed_domains:
            found.append(
                Problem(
                    "userGroups",
                    "is missing, and so is `allowedDomains`; name the groups or the domains whose people may log in, or everybody whom the "
                    "provider knows could",
                    based_on=["allowedDomains"],
                )
            )
        if "openid" not in self.scopes:
            found.append(
                Problem(
                    "scopes", f"is {', '.join(self.scopes)}; without openid no provider says who a person is: add it"
                )
            )
        if wrong := sorted(RESERVED_PARAMETERS & self.parameters.keys()):
            found.append(Problem("parameters", f"has {', '.join(wrong)}, which the login sets itself; drop it"))
        if self.audience is not None and self.audience == self.client_id and self.audience_claim == "aud":
            found.append(
                Problem(
                    "audience",
                    f"is {self.audience}, as `clientId` is, so that ID tokens, which are for the browser, would open the API; write another one",
                    based_on=["clientId"],
                )
            )
        if self.machines and self.audience is None:
            found.append(
                Problem(
                    "audience",
                    "is missing and `machines` are given; write the audience that their tokens have",
                    based_on=["machines"],
                )
            )
        return [*found, *self._twice()]

    def _twice(self) -> list[Problem]:
        """Reject a machine with two accounts, of which one would never be used."""
        accounts: dict[str, str] = {}
        return [
            Problem("machines", f"gives {account} and {accounts[workload]} to the same machine; drop one of them")
            for account, workload in self.machines.items()
            if accounts.setdefault(workload, account) != account
        ]
