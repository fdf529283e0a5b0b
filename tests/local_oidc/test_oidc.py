"""The login by OpenID Connect is as docs/single-sign-on.md says, with MLflow in two pods, a database and a provider that also attacks."""

import base64
import dataclasses
import hmac
import html
import json
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from components.mlflow_release import DatabaseArgs, LoginArgs, LoginMode, MlflowReleaseArgs, OidcArgs, SiteArgs
from components.mlflow_release.chart_values import mlflow_values
from components.mlflow_release.login_code import login_code
from tests.local_ldap.servers import Certificates, Database, Mlflow, eventually, server_folder
from tests.local_oidc.issuer import AUDIENCE, CLIENT, SECRET, Issuer

pytestmark = pytest.mark.local

ADMIN = ("admin", "local-admin-password")
SITE = "https://mlflow.example.com"
USERS, ADMINS = "/mlflow-users", "/mlflow-admins"
MACHINE = "repo:acme/training:ref:refs/heads/main"


def person(name: str, *groups: str) -> dict[str, Any]:
    return {"sub": f"id-of-{name}", "preferred_username": name, "groups": list(groups)}


PEOPLE = {
    "alice": person("Alice", ADMINS),
    "bob": person("bob", USERS, "/vision"),
    "carol": person("carol", "/ml/mlflow-users"),
    "dave": person("dave", USERS),
    "erin": person("erin", USERS),
    "frank": person("frank", USERS),
    "grace": person("grace", ADMINS),
    "heidi": person("heidi", USERS),
    "ivan": person("ivan", USERS),
    "other-bob": {**person("bob", USERS), "sub": "another-bob"},
    "like-a-machine": person("ci-training", USERS),
    "like-the-first": person("Admin", ADMINS),
    "trainer": {"sub": "id-of-trainer", "azp": "trainer"},
}


@dataclass
class Browser:
    """A browser: it keeps the cookies and follows nothing by itself."""

    issuer: Issuer
    pod: Mlflow
    cookies: dict[str, str] = field(default_factory=dict[str, str])

    def send(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {
            "Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()),
            **options.pop("headers", {}),
        }
        answer = requests.request(
            method,
            f"http://127.0.0.1:{self.pod.port}{path}",
            headers=headers,
            allow_redirects=False,
            timeout=30,
            **options,
        )
        for name, cookie in answer.cookies.items():
            self.cookies[name] = cookie or ""
        for name in [name for name in self.cookies if f'{name}=""' in answer.headers.get("Set-Cookie", "")]:
            del self.cookies[name]
        return answer

    def page(self, path: str = "/") -> requests.Response:
        return self.send("GET", path, headers={"Accept": "text/html"})

    def to_provider(self, path: str = "/") -> str:
        """Open a page, and return the address to which it leads."""
        return destination(self.page(path))

    def from_provider(self, address: str) -> str:
        """Log in, and return the address of the way back without its host."""
        authority = str(self.issuer.certificates.authority)
        back = requests.get(address, allow_redirects=False, verify=authority, timeout=30).headers["Location"]
        assert back.startswith(f"{SITE}/oidc/callback?")
        return back.removeprefix(SITE)

    def log_in(self, path: str = "/") -> requests.Response:
        return self.page(self.from_provider(self.to_provider(path)))

    def api(self, path: str, **body: Any) -> requests.Response:
        return self.send("POST", f"/api/2.0/mlflow/{path}", json=body)

    def me(self) -> requests.Response:
        return self.send("GET", "/ajax-api/2.0/mlflow/users/current", headers={"Content-Type": "application/json"})


@dataclass
class Site:
    """Two pods of one release."""

    issuer: Issuer
    database: Database
    pod: Mlflow
    other: Mlflow
    args: MlflowReleaseArgs
    """Arguments of the release that the pods are of."""

    def browser(self, login: str, pod: Mlflow | None = None) -> Browser:
        """Return a browser in which a person has logged in."""
        self.issuer.person = login
        browser = Browser(self.issuer, pod or self.pod)
        answer = browser.log_in()
        assert answer.status_code == 200, answer.text
        return browser

    def with_token(self, token: str, path: str = "/api/2.0/mlflow/users/current", **headers: str) -> requests.Response:
        headers |= {"Authorization": f"Bearer {token}"}
        return requests.get(f"http://127.0.0.1:{self.pod.port}{path}", headers=headers, timeout=30)

    def query(self, statement: str) -> list[list[str]]:
        return self.database.query(statement, self.pod.database_name)

    def check_now(self, account: str) -> None:
        """Let the time come in which the pods ask the provider about an account's sessions."""
        self.query(f"UPDATE oidc_sessions SET checked_at = 0 WHERE account = '{account}'")


def destination(page: requests.Response) -> str:
    found = re.search(r"location\.replace\((\"(?:[^\"\\]|\\.)*\")", page.text)
    assert found, page.text
    return json.loads(found[1])


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with server_folder("oidc") as folder:
        yield folder


@pytest.fixture(scope="module")
def certificates(folder: Path) -> Certificates:
    return Certificates.make(folder / "certificates")


@pytest.fixture(scope="module")
def issuer(certificates: Certificates) -> Iterator[Issuer]:
    with Issuer(certificates, {login: dict(known) for login, known in PEOPLE.items()}).serving() as issuer:
        yield issuer


@pytest.fixture(scope="module")
def pipelines(certificates: Certificates) -> Iterator[Issuer]:
    """Another issuer of tokens, as that of a pipeline."""
    with Issuer(
        certificates, {"run": {"sub": MACHINE}, "foreign": {"sub": f"{MACHINE}-of-a-fork"}}
    ).serving() as issuer:
        yield issuer


@pytest.fixture(scope="module")
def site(folder: Path, certificates: Certificates, issuer: Issuer, pipelines: Issuer) -> Iterator[Site]:
    args = MlflowReleaseArgs(
        site=SiteArgs(
            "mlflow.example.com",
            SITE,
            ingress_class="haproxy",
            ingress_namespace="haproxy",
            allowed_hosts=["127.0.0.1:*"],
        ),
        database=DatabaseArgs("127.0.0.1", 5432, name="mlflow", user="mlflow_user", password="", networks={}),
        login=LoginArgs(
            mode=LoginMode.OIDC,
            oidc=OidcArgs(
                issuer=issuer.url,
                client_id=CLIENT,
                client_secret=SECRET,
                user_groups=[USERS],
                admin_groups=[ADMINS],
                teams={"/vision": "vision"},
                audience=AUDIENCE,
                machines={"trainer": f"{issuer.url} id-of-trainer", "ci-training": f"{pipelines.url} {MACHINE}"},
                ca_certificate=certificates.authority.read_text(),
            ),
        ),
    )
    code = login_code(args)
    assert code
    (folder / "code").mkdir()
    for name, text in code.files.items():
        (folder / "code" / name).write_text(text)
    here = {
        "PYTHONPATH": str(folder / "code"),
        "OIDC_CLIENT_SECRET": SECRET,
        "OIDC_SESSION_KEY": "a-key",
        # The pipeline's server has a public certificate in reality.
        "REQUESTS_CA_BUNDLE": str(certificates.authority),
    }
    with Database(folder / "database", certificates, "database-password").serving() as database:
        pods = [
            Mlflow(folder / name, "3.15.1", database, mlflow_values(args, code, "checksum"), here, ADMIN[1])
            for name in ("pod", "other")
        ]
        database.query(f"CREATE DATABASE {pods[0].database_name}")
        with pods[0].serving(), pods[1].serving():
            yield Site(issuer, database, pods[0], pods[1], args)


def test_a_browser_goes_to_the_provider_and_comes_back_where_it_was(site: Site) -> None:
    browser = Browser(site.issuer, site.pod)
    site.issuer.person = "bob"
    opened = browser.page("/?workspace=default")
    assert opened.status_code == 401
    asked = {name: value for name, (value,) in parse_qs(urlsplit(destination(opened)).query).items()}
    assert asked["redirect_uri"] == f"{SITE}/oidc/callback"
    assert (asked["response_type"], asked["code_challenge_method"], asked["scope"]) == (
        "code",
        "S256",
        "openid profile email",
    )
    cookie = opened.headers["Set-Cookie"]
    assert cookie.startswith("__Host-mlflow-login=")
    assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    back = browser.page(browser.from_provider(destination(opened)))
    assert destination(back) == "/?workspace=default"
    assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= {
        part.strip() for part in back.headers["Set-Cookie"].split(";")
    }
    assert browser.me().json()["user"]["username"] == "bob"
    assert browser.page("/").status_code == 200


def test_groups_say_who_may_enter_and_who_is_an_administrator(site: Site) -> None:
    assert site.browser("alice").me().json()["user"] | {"id": 0} == {"id": 0, "username": "alice", "is_admin": True}
    assert site.browser("bob").me().json()["user"]["is_admin"] is False
    site.issuer.person = "carol"
    refused = Browser(site.issuer, site.pod).log_in()
    assert refused.status_code == 403
    assert "You are in none of the groups that may use MLflow." in html.unescape(refused.text)
    assert ["carol"] not in site.query("SELECT username FROM users")
    # The provider's session would bring carol back, so the link to another account ends it.
    (link,) = re.findall(r'<a href="([^"]*)">Log in as somebody else</a>', refused.text)
    assert html.unescape(link).startswith(f"{site.issuer.url}/logout?id_token_hint=")


def test_a_session_is_good_in_every_pod_and_writes(site: Site) -> None:
    browser = site.browser("bob")
    browser.pod = site.other
    experiment = browser.api("experiments/create", name="bob's").json()["experiment_id"]
    stranger = site.browser("dave")
    path = f"/api/2.0/mlflow/experiments/get?experiment_id={experiment}"
    assert [each.send("GET", path).status_code for each in (browser, stranger)] == [200, 403]


def test_the_pages_logout_ends_the_session_everywhere_and_with_the_provider(site: Site) -> None:
    browser = site.browser("erin")
    before = dict(browser.cookies)
    # MLflow's page asks so, and then opens itself again.
    assert browser.send("GET", "/ajax-api/2.0/mlflow/users/current").status_code == 401
    assert Browser(site.issuer, site.other, before).me().status_code == 401
    out = browser.page()
    assert out.status_code == 302
    address = urlsplit(out.headers["Location"])
    asked = parse_qs(address.query)
    assert address.path.endswith("/logout")
    assert asked["post_logout_redirect_uri"] == [f"{SITE}/"]
    assert json.loads(_body(asked["id_token_hint"][0]))["sub"] == "id-of-erin"
    assert "/authorize" in browser.to_provider()


def test_the_address_of_the_logout_does_the_same(site: Site) -> None:
    browser = site.browser("erin")
    assert "/logout?" in browser.page("/oidc/logout").headers["Location"]
    assert browser.me().status_code == 401


def test_who_loses_a_group_is_out_within_minutes(site: Site) -> None:
    browser = site.browser("frank")
    token = site.issuer.token("frank")
    site.issuer.people["frank"]["groups"] = []
    site.check_now("frank")
    eventually(lambda: browser.me().status_code == 401, "the session ends", 60)
    # A token from before says more than the newest claims.
    assert site.with_token(token).status_code == 401
    site.issuer.people["frank"]["groups"] = [USERS]
    time.sleep(1)
    assert site.browser("frank").me().ok


def test_who_is_no_administrator_any_more_is_none_within_minutes(site: Site) -> None:
    browser = site.browser("grace")
    assert browser.me().json()["user"]["is_admin"] is True
    site.issuer.people["grace"]["groups"] = [USERS]
    time.sleep(1)
    site.check_now("grace")
    eventually(lambda: browser.me().json()["user"]["is_admin"] is False, "the right ends", 60)


def test_groups_lead_to_teams(site: Site) -> None:
    browser = site.browser("bob")
    teams = "SELECT r.name FROM roles r JOIN user_role_assignments a ON a.role_id = r.id JOIN users u ON u.id = a.user_id WHERE u.username = 'bob'"
    assert ["vision"] in site.query(teams)
    site.issuer.people["bob"]["groups"] = [USERS]
    time.sleep(1)
    site.check_now("bob")
    eventually(lambda: ["vision"] not in site.query(teams), "bob leaves the team", 60)
    assert browser.me().ok
    site.issuer.people["bob"]["groups"] = [USERS, "/vision"]


def test_a_login_that_the_provider_has_ended_ends_here(site: Site) -> None:
    browser = site.browser("heidi")
    site.issuer.refuses_refresh = True
    try:
        site.check_now("heidi")
        eventually(lambda: browser.me().status_code == 401, "the session ends", 60)
    finally:
        site.issuer.refuses_refresh = False


def test_tokens_of_people_and_machines_log_in(site: Site, pipelines: Issuer) -> None:
    tokens = {
        "dave": site.issuer.token("dave"),
        "trainer": site.issuer.token("trainer"),
        "ci-training": pipelines.token("run"),
    }
    for name, token in tokens.items():
        answer = site.with_token(token)
        assert answer.json()["user"]["username"] == name, answer.text
        assert answer.json()["user"]["is_admin"] is False
    listed = site.issuer.token("dave", aud=["account", AUDIENCE], jti="a list")
    assert site.with_token(listed).ok


def test_a_token_also_opens_the_routes_beside_flasks(site: Site) -> None:
    path = "/ajax-api/3.0/mlflow/gateway/supported-providers"
    assert site.with_token("nothing", path).status_code == 401
    assert site.with_token(site.issuer.token("dave"), path).status_code in (200, 403)


def _body(token: str) -> bytes:
    part = token.split(".")[1]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _forged(issuer: Issuer) -> Mapping[str, str]:
    """Return tokens that must not be accepted, by what is wrong with them."""
    claims, now = issuer.claims("alice"), int(time.time())
    good = issuer.sign(claims)
    header, _, signature = good.split(".")
    own = RSAKey.generate_key(2048)
    public = issuer.key.as_pem(private=False)

    def part(value: Mapping[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    signed = f"{part({'alg': 'HS256', 'kid': issuer.kid})}.{part(claims)}"
    digest = base64.urlsafe_b64encode(hmac.digest(public, signed.encode(), "sha256")).decode().rstrip("=")

    return {
        "no signature": f"{part({'alg': 'none'})}.{part(claims)}.",
        "no signature, in capitals": f"{part({'alg': 'None', 'kid': issuer.kid})}.{part(claims)}.{signature}",
        "signed with the public key": f"{signed}.{digest}",
        "a secret's signature, as Keycloak's refresh tokens have": jwt.encode(
            {"alg": "HS256", "kid": "unknown"}, claims, OctKey.generate_key(256)
        ),
        "an own key under the real name": jwt.encode({"alg": "RS256", "kid": issuer.kid}, claims, own),
        "an own key in the header": jwt.encode({"alg": "RS256", "jwk": own.as_dict(private=False)}, claims, own),
        "changed groups": f"{header}.{part({**claims, 'groups': [ADMINS]})}.{signature}",
        "another issuer": issuer.sign({**claims, "iss": "https://login.example.org"}),
        "an issuer with a slash more": issuer.sign({**claims, "iss": f"{issuer.url}/"}),
        "another audience": issuer.sign({**claims, "aud": "account"}),
        "no audience": issuer.sign({key: value for key, value in claims.items() if key != "aud"}),
        "an ID token": issuer.sign({**claims, "aud": CLIENT}),
        "expired": issuer.sign({**claims, "exp": now - 60}),
        "not yet valid": issuer.sign({**claims, "nbf": now + 120}),
        "issued in the future": issuer.sign({**claims, "iat": now + 3600}),
        "no end": issuer.sign({key: value for key, value in claims.items() if key != "exp"}),
        "no subject": issuer.sign({key: value for key, value in claims.items() if key != "sub"}),
        "in no group": issuer.token("carol"),
        "the first administrator's name": issuer.token("like-the-first"),
        "a machine's name": issuer.token("like-a-machine"),
        "somebody else's name": issuer.token("other-bob"),
        "more groups than fit": issuer.token("dave", groups=None, _claim_names={"groups": "src1"}),
        "garbage": "garbage",
        "three parts": "a.b.c",
        "20 kB": "x" * 20_000,
    }


def test_every_forged_or_foreign_token_is_refused(site: Site, pipelines: Issuer) -> None:
    site.browser("bob")
    assert site.with_token(site.issuer.token("alice")).ok
    answers = {what: site.with_token(token).status_code for what, token in _forged(site.issuer).items()}
    answers["a pipeline of a fork"] = site.with_token(pipelines.token("foreign")).status_code
    answers["a person of the pipeline's issuer"] = site.with_token(
        pipelines.sign({**site.issuer.claims("alice"), "iss": pipelines.url})
    ).status_code
    assert {what: status for what, status in answers.items() if status != 401} == {}


def test_headers_that_pretend_to_be_a_proxys_open_nothing(site: Site) -> None:
    names = (
        "X-Forwarded-User",
        "X-Forwarded-Email",
        "X-Forwarded-Preferred-Username",
        "X-Forwarded-Access-Token",
        "X-Auth-Request-User",
        "X-Auth-Request-Email",
        "X-Remote-User",
        "Remote-User",
    )
    answer = requests.get(
        f"http://127.0.0.1:{site.pod.port}/api/2.0/mlflow/users/current",
        headers=dict.fromkeys(names, "alice"),
        timeout=30,
    )
    assert answer.status_code == 401


def test_a_way_back_that_this_browser_has_not_begun_is_refused(site: Site) -> None:
    site.issuer.person = "bob"
    begun = Browser(site.issuer, site.pod)
    back = begun.from_provider(begun.to_provider())
    stranger = Browser(site.issuer, site.pod)
    assert stranger.page(back).status_code == 400
    stranger.to_provider()
    assert stranger.page(back).status_code == 400
    assert "__Host-mlflow" not in stranger.cookies
    assert begun.page("/oidc/callback?code=x&state=wrong").status_code == 400
    assert begun.page(back).status_code == 200
    # The code was used.
    assert begun.page(back).status_code == 400


def test_an_id_token_of_another_login_or_client_is_refused(site: Site) -> None:
    site.issuer.person = "bob"
    for changes in ({"nonce": "another"}, {"aud": "another"}, {"iss": "https://login.example.org"}):
        site.issuer.changes = changes
        try:
            assert Browser(site.issuer, site.pod).log_in().status_code == 400, changes
        finally:
            site.issuer.changes = {}


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "///evil.example/x"])
def test_the_way_back_leads_to_this_site_only(site: Site, path: str) -> None:
    site.issuer.person = "bob"
    where = destination(Browser(site.issuer, site.pod).log_in(path))
    assert re.match(r"/(?![/\\])", where), where


def test_the_providers_refusal_is_shown_and_runs_nothing(site: Site) -> None:
    browser = Browser(site.issuer, site.pod)
    state = parse_qs(urlsplit(browser.to_provider()).query)["state"][0]
    said = browser.page(
        f"/oidc/callback?state={state}&error=access_denied&error_description=%3Cscript%3Ealert(1)%3C/script%3E"
    )
    assert said.status_code == 403
    assert "access_denied &lt;script&gt;" in said.text


def test_only_the_first_administrator_has_a_password(site: Site) -> None:
    assert site.pod.status(*ADMIN) == 200
    made = site.pod.call(ADMIN, "users/create", username="old-timer", password="a long password")
    assert made.ok
    assert site.pod.status("old-timer", "a long password") == 401
    browser = Browser(site.issuer, site.pod)
    assert browser.page("/oidc/password").headers["WWW-Authenticate"].startswith("Basic")
    basic = base64.b64encode(":".join(ADMIN).encode()).decode()
    entered = browser.send("GET", "/oidc/password", headers={"Authorization": f"Basic {basic}", "Accept": "text/html"})
    assert destination(entered) == "/"
    assert browser.me().json()["user"]["username"] == "admin"
    changed = browser.send(
        "PATCH", "/api/2.0/mlflow/users/update-password", json={"username": "admin", "password": "another password"}
    )
    assert changed.status_code == 400


def test_an_account_from_before_keeps_its_permissions(site: Site) -> None:
    # As it is after basic or LDAP: the account and its permissions are there, and no provider has seen the person.
    assert site.pod.call(ADMIN, "users/create", username="ivan", password="a long password").ok
    experiment = site.pod.call(ADMIN, "experiments/create", name="for ivan").json()["experiment_id"]
    granted = requests.post(
        f"http://127.0.0.1:{site.pod.port}/api/3.0/mlflow/users/permissions/grant",
        auth=ADMIN,
        json={"username": "ivan", "resource_type": "experiment", "resource_id": experiment, "permission": "READ"},
        timeout=30,
    )
    assert granted.ok, granted.text
    browser = site.browser("ivan")
    assert browser.send("GET", f"/api/2.0/mlflow/experiments/get?experiment_id={experiment}").status_code == 200


def test_the_way_back_to_passwords_loses_nothing(site: Site) -> None:
    browser = site.browser("heidi")
    experiment = browser.api("experiments/create", name="heidi's").json()["experiment_id"]
    assert site.pod.call(ADMIN, "users/create", username="from-before", password="a long password").ok
    args = dataclasses.replace(site.args, login=LoginArgs())
    values = mlflow_values(args, login_code(args), "checksum")
    code = {"PYTHONPATH": site.pod.environment["PYTHONPATH"]}
    with Mlflow(site.pod.folder.parent / "back", "3.15.1", site.database, values, code, ADMIN[1]).serving() as back:
        assert back.status("from-before", "a long password") == 200
        assert back.status(*ADMIN) == 200
        given = requests.patch(
            f"http://127.0.0.1:{back.port}/api/2.0/mlflow/users/update-password",
            auth=ADMIN,
            json={"username": "heidi", "password": "another long password"},
            timeout=30,
        )
        assert given.ok, given.text
        path = f"/api/2.0/mlflow/experiments/get?experiment_id={experiment}"
        assert back.get(path, ("heidi", "another long password")).status_code == 200
        assert back.get(path, ("from-before", "a long password")).status_code == 403
    # And forth again.
    assert site.browser("heidi").send("GET", path).status_code == 200


def test_a_name_that_somebody_else_had_is_refused_until_the_account_is_removed(site: Site) -> None:
    site.browser("bob")
    site.issuer.person = "other-bob"
    assert Browser(site.issuer, site.pod).log_in().status_code == 403
    assert requests.delete(
        f"http://127.0.0.1:{site.pod.port}/api/2.0/mlflow/users/delete",
        auth=ADMIN,
        json={"username": "bob"},
        timeout=30,
    ).ok
    assert site.browser("other-bob").me().ok


def test_the_keys_are_fetched_once_and_again_for_a_new_one(site: Site) -> None:
    before = site.issuer.fetches
    for number in range(20):
        assert site.with_token(site.issuer.token("dave", jti=str(number))).ok
    assert site.issuer.fetches == before
    old = site.issuer.token("dave", jti="old")
    site.issuer.rotate()
    # A forged token makes them be fetched at most once a minute, so this waits for that minute.
    eventually(lambda: site.with_token(site.issuer.token("dave", jti="new")).ok, "the new key is fetched", 90)
    assert site.with_token(old).status_code == 401


def test_while_the_provider_hangs_sessions_and_checked_tokens_go_on(site: Site) -> None:
    browser, token = site.browser("dave"), site.issuer.token("dave")
    assert site.with_token(token).ok
    site.issuer.hangs.set()
    try:
        site.check_now("dave")
        forged = [
            jwt.encode({"alg": "RS256", "kid": f"k{number}"}, site.issuer.claims("alice"), RSAKey.generate_key(2048))
            for number in range(4)
        ]
        with ThreadPoolExecutor(8) as pool:
            for path in ("/v1/traces", "/api/2.0/mlflow/users/current"):
                answers = [pool.submit(site.with_token, each, path) for each in forged]
                began = time.monotonic()
                assert site.pod.get("/health", timeout=3).ok
                assert time.monotonic() - began < 2
                assert {answer.result().status_code for answer in answers} <= {401, 405, 503}
        time.sleep(35)
        assert browser.me().ok
        assert site.with_token(token).ok
        # A browser that is sent to the provider now would wait there for ever.
        for _ in range(2):
            page = Browser(site.issuer, site.pod).page()
            assert page.status_code == 503
            assert "cannot be reached" in page.text
    finally:
        site.issuer.hangs.clear()
    eventually(lambda: Browser(site.issuer, site.pod).page().status_code == 401, "new logins go on", 30)


def test_a_pod_that_starts_while_the_provider_is_away_says_so_and_keeps_sessions(site: Site) -> None:
    browser = site.browser("dave")
    site.issuer.hangs.set()
    fresh = Mlflow(
        site.pod.folder.parent / "fresh", "3.15.1", site.database, site.pod.values, site.pod.environment, ADMIN[1]
    )
    try:
        with fresh.serving():
            browser.pod = fresh
            assert browser.me().ok
            page = Browser(site.issuer, fresh).page()
            assert page.status_code == 503
            assert "cannot be reached" in page.text
            # A browser ignores the header Refresh for an address with `#`.
            assert "location.reload()" in page.text
            assert page.headers["Retry-After"] == "10"
            assert fresh.healthy()
    finally:
        site.issuer.hangs.clear()


def test_secrets_are_in_no_log_and_hidden_in_the_database(site: Site) -> None:
    browser = site.browser("dave")
    logs = site.pod.log.read_text() + site.other.log.read_text()
    assert SECRET not in logs
    assert browser.cookies["__Host-mlflow"] not in logs
    rows = site.query("SELECT * FROM oidc_sessions")
    assert rows
    for row in rows:
        assert browser.cookies["__Host-mlflow"] not in row
        assert not [value for value in row if value.startswith("eyJ")]
