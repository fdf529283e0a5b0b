"""Doctor reads what the identity provider publishes, and says whom a token is taken for."""

import base64
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from operations.checks import MissingError, NotedError, SkippedError
from operations.doctor import single_sign_on
from settings.reader import parse
from tests.unit.harness import MINIMAL, OIDC, changed

ISSUER = OIDC["issuer"]
PIPELINES = "https://token.actions.githubusercontent.com"
MACHINE = f"{PIPELINES} repo:acme/x:ref:refs/heads/main"
DOCUMENT = {
    "issuer": ISSUER,
    "jwks_uri": f"{ISSUER}/keys",
    **{f"{name}_endpoint": f"{ISSUER}/{name}" for name in ("authorization", "token", "end_session")},
}


def subject(**changes: Any) -> Any:
    provider = {
        **OIDC,
        "audience": "mlflow-api",
        "machines": {"ci": MACHINE},
        "teams": {"/vision": "vision"},
        **changes,
    }
    settings, problems = parse(changed(MINIMAL, {"mlflow.auth": {"mode": "oidc", "oidc": provider}}), {"mlflow"})
    assert not problems
    return SimpleNamespace(settings=settings)


def token(**claims: Any) -> str:
    known = {"iss": ISSUER, "aud": "mlflow-api", "sub": "4711", "iat": 1, "exp": 32503680000, **claims}
    parts = (json.dumps(part).encode() for part in ({"alg": "RS256"}, known))
    return ".".join([*(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts), "signature"])


@pytest.fixture
def publishes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the provider publish something else than `DOCUMENT`."""

    def publish(**changes: Any) -> None:
        document = {key: value for key, value in {**DOCUMENT, **changes}.items() if value is not None}
        pipelines = {"issuer": PIPELINES, "jwks_uri": f"{PIPELINES}/keys"}
        keys = {"keys": changes.get("keys", [{"kid": "1"}])}
        answers = {
            f"{ISSUER}/.well-known/openid-configuration": document,
            f"{PIPELINES}/.well-known/openid-configuration": pipelines,
        }
        monkeypatch.setattr(single_sign_on, "_get", lambda url, _: answers.get(url, keys))

    publish()
    return publish


def test_a_provider_that_publishes_everything_passes(publishes: Callable[..., None]) -> None:
    assert single_sign_on.provider(subject()) == f"{ISSUER}, 1 keys"


@pytest.mark.parametrize(
    ("published", "said"),
    [
        ({"issuer": f"{ISSUER}/"}, f"names the issuer {ISSUER}/; write exactly that"),
        ({"keys": []}, "publishes no keys"),
        ({"authorization_endpoint": None}, "no authorization_endpoint"),
    ],
)
def test_a_provider_that_lacks_something_is_one_line(publishes: Callable[..., None], published: Any, said: str) -> None:
    publishes(**published)
    with pytest.raises(MissingError, match=said):
        single_sign_on.provider(subject())


@pytest.mark.parametrize(
    ("published", "said"),
    [
        ({"end_session_endpoint": None}, "leaves the provider's session open"),
        ({"scopes_supported": ["openid"]}, "profile, email"),
    ],
)
def test_what_works_at_a_price_is_noted(publishes: Callable[..., None], published: Any, said: str) -> None:
    publishes(**published)
    with pytest.raises(NotedError, match=said):
        single_sign_on.provider(subject())


def test_a_provider_that_cannot_be_reached_is_named() -> None:
    with pytest.raises(MissingError, match="cannot be read from here"):
        single_sign_on.provider(subject(issuer="https://localhost:9/nothing"))


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        (
            {"preferred_username": "bob", "groups": ["/mlflow-users", "/vision"]},
            "bob, no administrator, in the teams vision; the pods check the signature, too",
        ),
        (
            {"iss": PIPELINES, "sub": "repo:acme/x:ref:refs/heads/main"},
            "ci, no administrator; the pods check the signature, too",
        ),
    ],
)
def test_a_token_is_said_to_be_somebodys(monkeypatch: pytest.MonkeyPatch, claims: Any, said: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", token(**claims))
    assert single_sign_on.token(subject()) == said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("a password", "no token of a provider"),
        (token(exp=1), "expired"),
        (token(aud="account"), "its aud is account, and mlflow.auth.oidc.audience is mlflow-api"),
        (token(groups=[]), "none of the groups that may use MLflow. .the token's subject is 4711"),
        (
            token(iss=PIPELINES, sub="repo:acme/y"),
            f'no machine of mlflow.auth.oidc.machines is "{PIPELINES} repo:acme/y"',
        ),
    ],
)
def test_a_token_that_opens_nothing_is_told_why(monkeypatch: pytest.MonkeyPatch, given: str, said: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", given)
    with pytest.raises(MissingError, match=said) as raised:
        single_sign_on.token(subject())
    assert given not in str(raised.value)


def test_without_a_token_or_a_provider_there_is_nothing_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN", raising=False)
    basic, problems = parse(MINIMAL, set())
    assert not problems
    for look, told in ((single_sign_on.token, subject()), (single_sign_on.provider, SimpleNamespace(settings=basic))):
        with pytest.raises(SkippedError):
            look(told)  # pyright: ignore[reportArgumentType]
