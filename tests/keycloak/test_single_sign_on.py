"""People and a machine of a real identity provider use the site: in a browser, and with MLflow's client.

The tests are steps that run in the order in which they are written.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Mapping

import pytest
from playwright.sync_api import Page

from local.mlflow_scripts import run_afresh
from local.stack import Answer, LocalStack
from local.supervisor.client import Supervisor
from tests.keycloak.keycloak import (
    ADMINS,
    OTHER_CLIENT,
    OTHER_REALM,
    USERS,
    Keycloak,
)
from tests.keycloak.people import COOKIE, CURRENT_USER, asked, call, enter_password, log_in, person, session
from tests.local.browser import in_a_browser, pages
from tests.local.conftest import SCREENSHOTS

pytestmark = pytest.mark.keycloak

EXPERIMENTS = "/ajax-api/2.0/mlflow/experiments"
RUNS = "/ajax-api/2.0/mlflow/runs"
TRAINING = """
import mlflow
mlflow.set_experiment("training")
with mlflow.start_run(run_name="nightly") as run:
    mlflow.log_metric("loss", 0.25)
    mlflow.log_text("weights", "model/weights.txt")
print(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/model/weights.txt"))
"""


def ask(stack: LocalStack, url: str, **headers: str) -> Answer:
    # A pod answers for the site's name only.
    return stack.get(CURRENT_USER, headers={**headers, "Host": f"localhost:{stack.https_port}"}, url=url)


def with_token(stack: LocalStack, token: str, url: str = "") -> Answer:
    return ask(stack, url, Authorization=f"Bearer {token}")


def with_cookie(stack: LocalStack, cookie: str, url: str = "") -> Answer:
    # MLflow's page sends this header with each request but the one that logs out.
    return ask(stack, url, Cookie=f"{COOKIE}={cookie}", **{"Content-Type": "application/json"})


def account(answer: Answer) -> tuple[str, bool]:
    assert answer.status == 200, f"{answer.status} {answer.body[:300]}"
    user = json.loads(answer.body)["user"]
    return user["username"], user["is_admin"]


def pods(stack: LocalStack) -> list[str]:
    return [f"http://{address}" for address in stack.pod_addresses()]


def eventually(condition: Callable[[], bool], what: str, seconds: float) -> float:
    """Wait for a condition, and return the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"{what} did not happen within {seconds:.0f} s"
        time.sleep(1)
    return time.monotonic() - began


def picture(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"keycloak-{name}.png")


@in_a_browser
def test_an_administrator_logs_in_and_comes_back_where_she_was(stack: LocalStack, keycloak: Keycloak) -> None:
    experiment = stack.client("import mlflow; print(mlflow.set_experiment('of-the-first-administrator').experiment_id)")
    with pages(stack, None) as (page,):
        log_in(page, keycloak, "alice", f"/#/experiments/{experiment}/runs")
        page.get_by_text("of-the-first-administrator").first.wait_for()
        assert f"#/experiments/{experiment}/runs" in page.url
        picture(page, "logged-in")
        assert person(page) == ("alice", True)
        (cookie,) = [each for each in page.context.cookies(stack.url) if each.get("name") == COOKIE]
        assert (cookie.get("secure"), cookie.get("httpOnly"), cookie.get("sameSite")) == (True, True, "Lax")
        page.reload()
        page.get_by_text("of-the-first-administrator").first.wait_for()


@in_a_browser
def test_a_second_tab_and_a_path_with_a_query_need_no_second_password(stack: LocalStack, keycloak: Keycloak) -> None:
    with pages(stack, None) as (page,):
        log_in(page, keycloak, "bob")
        page.context.clear_cookies(name=COOKIE)
        # Keycloak knows bob still, so that the way there and back asks nothing.
        page.goto("/?from=mail#/experiments", wait_until="commit")
        page.get_by_role("heading", name="Experiments").first.wait_for()
        assert page.url == f"{stack.url}/?from=mail#/experiments"


@in_a_browser
def test_a_user_writes_an_experiment_a_run_and_an_artifact(stack: LocalStack, keycloak: Keycloak) -> None:
    with pages(stack, None) as (page,):
        log_in(page, keycloak, "bob", "/#/experiments")
        assert person(page) == ("bob", False)
        page.get_by_role("button", name="Create experiment").click()
        page.get_by_placeholder("Input an experiment name").fill("by-bob")
        page.get_by_role("dialog").get_by_role("button", name="Create").click()
        page.wait_for_url("**/#/experiments/*")
        found = asked(page, "GET", f"{EXPERIMENTS}/get-by-name?experiment_name=by-bob")["experiment"]
        run = asked(page, "POST", f"{RUNS}/create", {"experiment_id": found["experiment_id"], "run_name": "by-hand"})
        run_id = run["run"]["info"]["run_id"]
        metric = {"run_id": run_id, "key": "accuracy", "value": 0.9, "timestamp": 1}
        asked(page, "POST", f"{RUNS}/log-metric", metric)
        path = run["run"]["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/").lstrip("/")
        assert call(page, "PUT", f"/ajax-api/2.0/mlflow-artifacts/artifacts/{path}/note.txt", "kept")[0] == 200
        page.goto(f"/#/experiments/{found['experiment_id']}/runs/{run_id}/artifacts")
        page.get_by_text("note.txt").first.click()
        page.get_by_text("kept").first.wait_for()
        picture(page, "artifact")
        # Nobody sees what is not theirs, and this one is the first administrator's.
        theirs = call(page, "GET", f"{EXPERIMENTS}/get-by-name?experiment_name=of-the-first-administrator")
        assert theirs[0] == 403


@in_a_browser
@pytest.mark.parametrize("name", ["carol", "dave"])
def test_a_person_in_no_group_and_one_in_a_group_of_the_same_name_elsewhere_are_told_why(
    stack: LocalStack, keycloak: Keycloak, name: str
) -> None:
    with pages(stack, None) as (page,):
        page.goto("/", wait_until="commit")
        enter_password(page, keycloak, name)
        page.get_by_text("You are in none of the groups that may use MLflow.").wait_for()
        page.get_by_role("heading", name=f"You may not enter as {name}").wait_for()
        picture(page, f"refused-{name}")
        assert call(page, "GET", CURRENT_USER)[0] == 401
        # Keycloak knows the person still, and would bring the same one back.
        page.get_by_role("link", name="Log in as somebody else").click()
        enter_password(page, keycloak, "bob")
        page.wait_for_url(f"{stack.url}/")
        assert person(page) == ("bob", False)
    assert with_token(stack, keycloak.token(name)).status == 401
    users = stack.get("/api/2.0/mlflow/users/list", login=("admin", stack.password()))
    assert (users.status, f'"{name}"' in users.body) == (200, False)


@in_a_browser
def test_the_page_of_a_login_that_was_used_cannot_be_opened_again(stack: LocalStack, keycloak: Keycloak) -> None:
    with pages(stack, None, None) as (page, thief):
        used: list[str] = []
        page.on("request", lambda request: used.append(request.url) if "/oidc/callback?" in request.url else None)
        log_in(page, keycloak, "bob")
        for who in (page, thief):
            answer = who.goto(used[0])
            assert answer is not None
            assert answer.status == 400
        picture(thief, "not-your-login")
        assert COOKIE not in {each.get("name") for each in thief.context.cookies()}
        page.goto("/")
        assert person(page) == ("bob", False)


@in_a_browser
def test_logout_ends_the_session_with_the_site_and_with_keycloak(stack: LocalStack, keycloak: Keycloak) -> None:
    with pages(stack, None) as (page,):
        log_in(page, keycloak, "alice")
        cookie = session(page)
        assert keycloak.sessions("alice") > 0
        before = keycloak.sessions("alice")
        log_out(page, "alice")
        page.locator("#username").wait_for()
        picture(page, "logged-out")
        assert keycloak.sessions("alice") == before - 1
    for pod in pods(stack):
        assert with_cookie(stack, cookie, url=pod).status == 401


def log_out(page: Page, name: str) -> None:
    page.get_by_role("button", name=name).click()
    page.get_by_role("menuitem", name="Logout").click()


def test_a_machine_logs_a_run_with_an_artifact(stack: LocalStack, keycloak: Keycloak) -> None:
    token = keycloak.machine_token()
    assert account(with_token(stack, token)) == ("trainer", False)
    assert run_afresh("3.15.1", TRAINING, client_environment(stack, token)) == "weights"


def client_environment(stack: LocalStack, token: str) -> Mapping[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(stack.folder),
        "MLFLOW_TRACKING_URI": stack.url,
        "MLFLOW_TRACKING_INSECURE_TLS": "true",
        "MLFLOW_TRACKING_TOKEN": token,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "PYTHONWARNINGS": "ignore",
    }


def test_a_persons_access_token_opens_the_api_and_every_other_token_does_not(
    stack: LocalStack, keycloak: Keycloak
) -> None:
    tokens = keycloak.tokens("bob")
    assert account(with_token(stack, tokens["access_token"])) == ("bob", False)
    assert account(with_token(stack, keycloak.token("alice"))) == ("alice", True)
    refused = {
        "an ID token": tokens["id_token"],
        "a refresh token": tokens["refresh_token"],
        "another client's token": keycloak.token("alice", OTHER_CLIENT),
        "another realm's token": keycloak.token("alice", realm=OTHER_REALM),
    }
    for what, token in refused.items():
        answer = with_token(stack, token)
        assert answer.status == 401, what
        # HTTP ignores the case of a header's name, and uvicorn writes it in small letters.
        headers = {name.lower(): value for name, value in answer.headers.items()}
        assert 'error="invalid_token"' in headers["www-authenticate"], what


@in_a_browser
def test_a_session_is_one_for_all_pods_and_survives_a_killed_one(stack: LocalStack, keycloak: Keycloak) -> None:
    with pages(stack, None) as (page,):
        log_in(page, keycloak, "bob")
        cookie = session(page)
        assert len(pods(stack)) == 2
        for pod in pods(stack):
            # Two workers answer in turn.
            assert {account(with_cookie(stack, cookie, url=pod)) for _ in range(6)} == {("bob", False)}
        supervisor = Supervisor(stack.folder)
        processes = [each for each in supervisor.list() if each.name.startswith("mlflow")]
        assert len(processes) == 2
        assert processes[0].pid
        os.kill(processes[0].pid, signal.SIGKILL)
        assert {person(page) for _ in range(6)} == {("bob", False)}
        eventually(lambda: all(status.ready for status in supervisor.list()), "the pod came back", 300)
        for pod in pods(stack):
            assert account(with_cookie(stack, cookie, url=pod)) == ("bob", False)


@in_a_browser
def test_while_keycloak_hangs_sessions_go_on_and_a_new_login_says_so(stack: LocalStack, keycloak: Keycloak) -> None:
    token, unknown = keycloak.machine_token(), keycloak.token("alice", realm=OTHER_REALM)
    with pages(stack, None, None) as (page, visitor):
        log_in(page, keycloak, "bob")
        assert account(with_token(stack, token)) == ("trainer", False)
        with keycloak.hanging():
            # For five seconds an answer from before is enough to send a browser there.
            time.sleep(6)
            visitor.goto("/#/experiments", wait_until="commit")
            visitor.get_by_text("cannot be reached, so nobody can log in now").wait_for()
            picture(visitor, "away")
            assert person(page) == ("bob", False)
            assert account(with_token(stack, token)) == ("trainer", False)
            for pod in pods(stack):
                assert [with_token(stack, unknown, url=pod).status for _ in range(4)] == [401] * 4
                began = time.monotonic()
                assert stack.get("/health", url=pod).status == 200
                assert time.monotonic() - began < 2
        # The page tries again by itself.
        enter_password(visitor, keycloak, "alice")
        visitor.wait_for_url("**/#/experiments")
        assert person(visitor) == ("alice", True)


@in_a_browser
def test_a_new_key_is_accepted_and_a_withdrawn_one_is_not(stack: LocalStack, keycloak: Keycloak) -> None:
    # Nothing has seen this token before, so that nothing remembers it.
    old_token, (old_key,) = keycloak.machine_token(), keycloak.signing_keys()
    keycloak.rotate_key("second", 200)
    keycloak.withdraw_key(old_key["id"])
    new_token = keycloak.machine_token()
    for pod in pods(stack):
        took = eventually(lambda pod=pod: with_token(stack, new_token, url=pod).status == 200, "the new key works", 90)
        print(f"the new key was accepted after {took:.0f} s")
        # Each of the two workers fetches the keys.
        eventually(lambda pod=pod: _answers(stack, new_token, pod) == {200}, "the new key works everywhere", 90)
        assert _answers(stack, old_token, pod) == {401}
    with pages(stack, None) as (page,):
        log_in(page, keycloak, "alice")
        assert person(page) == ("alice", True)


def _answers(stack: LocalStack, token: str, pod: str) -> set[int]:
    return {with_token(stack, token, url=pod).status for _ in range(8)}


@in_a_browser
def test_who_leaves_a_group_loses_its_rights_within_five_minutes(stack: LocalStack, keycloak: Keycloak) -> None:
    with pages(stack, None, None) as (administrator, user):
        log_in(administrator, keycloak, "alice")
        log_in(user, keycloak, "bob")
        keycloak.join("alice", USERS)
        keycloak.leave("alice", ADMINS)
        keycloak.leave("bob", USERS)
        began, lost = time.monotonic(), dict[str, float]()
        while len(lost) < 2:
            assert time.monotonic() - began < 300, f"only these have lost their rights in five minutes: {lost}"
            if "alice" not in lost and not person(administrator)[1]:
                lost["alice"] = time.monotonic() - began
            if "bob" not in lost and call(user, "GET", CURRENT_USER)[0] == 401:
                lost["bob"] = time.monotonic() - began
            time.sleep(5)
        print(f"seconds from the change in Keycloak: {lost}")
        assert person(administrator) == ("alice", False)
        user.goto("/", wait_until="commit")
        user.get_by_text("You are in none of the groups that may use MLflow.").wait_for()
    assert with_token(stack, keycloak.token("bob")).status == 401
    keycloak.join("bob", USERS)
    with pages(stack, None) as (page,):
        log_in(page, keycloak, "bob")
        assert person(page) == ("bob", False)
