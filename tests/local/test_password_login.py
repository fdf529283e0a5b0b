"""The login with a password, called in the virtualenv of each MLflow without a server."""

import json
import os
import secrets
from collections.abc import Mapping

import pytest

from components.mlflow_release.login_code import CODE
from local import tools
from local.mlflow_scripts import run_afresh

pytestmark = pytest.mark.local

ASK = """
import gc, json, time

# The clock stands still between steps, because on a busy machine hashing takes longer than a password is remembered.
# It is set before the first import, because cachetools keeps the function that it finds.
clock = time.monotonic()
time.monotonic = lambda: clock

from flask import Flask, Response
from mlflow.server import auth

authenticate = auth.get_auth_func(auth.auth_config.authorization_function)
import failed_logins
import password_login

hashed, looked_up = [], []
plain = password_login.check_password_hash
password_login.check_password_hash = lambda *args: hashed.append(args) or plain(*args)
user_of = auth.store.get_user
auth.store.get_user = lambda name: looked_up.append(name) or user_of(name)
auth.store.init_db(auth.auth_config.database_uri)
app = Flask("ask")
answers = {}


def ask(what, user, password, forwarded_for="192.0.2.1"):
    before = len(hashed)
    with app.test_request_context("/", auth=(user, password), headers={"X-Forwarded-For": forwarded_for}):
        answer = authenticate()
    answers[what] = [answer.status_code if isinstance(answer, Response) else answer.username, len(hashed) - before]


for name in ("alice", "bob"):
    auth.store.create_user(name, f"password of {name}")
ask("first", "alice", "password of alice")
ask("again", "alice", "password of alice")
ask("wrong", "alice", "password of bob")
ask("wrong again", "alice", "password of bob")
ask("somebody else", "bob", "password of bob")
ask("unknown", "eve", "password of bob")
auth.store.update_user("alice", "another password")
ask("changed", "alice", "password of alice")
ask("new", "alice", "another password")
auth.store.delete_user("bob")
auth.store.create_user("bea", "password of bea")
ask("removed", "bob", "password of bob")
with app.test_request_context("/", auth=("alice", "another password")):
    before = len(looked_up)
    names = {authenticate().username for _ in range(3)}
    answers["three times in a request"] = [*names, len(looked_up) - before]
clock += 2.1
ask("later", "alice", "another password")

auth.store.create_user("carol", "password of carol")
for number in range(7):
    ask(f"guess {number}", "carol", f"guess {number}")
ask("first guess again", "carol", "guess 0")
ask("right after guesses", "carol", "password of carol")
ask("somebody else meanwhile", "alice", "another password")
clock += failed_logins.SECONDS
ask("right half a minute later", "carol", "password of carol")
failed_logins.BY_ADDRESS = True
for number in range(7):
    ask(f"guess {number} from an address", f"user-{number}", f"guess {number}", f"198.51.100.{number}, 203.0.113.9")
ask("new login from that address", "bea", "password of bea", "203.0.113.9")
ask("remembered login from that address", "carol", "password of carol", "203.0.113.9")
ask("new login from another address", "bea", "password of bea", "203.0.113.10")
answers["collector"] = [gc.get_threshold()[0], gc.get_freeze_count()]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module", params=tools.MLFLOW_VERSIONS)
def answers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, tuple[str | int, int]]:
    """Results by case: the user or the status of the refusal, and the number of passwords hashed or users looked up."""
    folder = tmp_path_factory.mktemp("login")
    tools.ensure(tools.mlflow(request.param))
    (folder / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\nadmin_password = unused-password\n"
        f"database_uri = sqlite:///{folder}/users.db\nauthorization_function = password_login:authenticate\n"
    )
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": str(CODE),
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
        "LOGIN_CACHE_SECONDS": "2",
        "LOGIN_TRIES": "5",
    }
    output = run_afresh(request.param, ASK, environment)
    return {case: (result[0], result[1]) for case, result in json.loads(output).items()}


def test_a_password_is_hashed_once_for_as_long_as_it_is_remembered(
    answers: Mapping[str, tuple[str | int, int]],
) -> None:
    assert answers["first"] == ("alice", 1)
    assert answers["again"] == ("alice", 0)
    assert answers["somebody else"] == ("bob", 1)
    assert answers["later"] == ("alice", 1)


def test_a_user_is_looked_up_once_for_a_request(answers: Mapping[str, tuple[str | int, int]]) -> None:
    assert answers["three times in a request"] == ("alice", 1)


def test_the_collector_of_garbage_leaves_alone_what_was_imported(answers: Mapping[str, tuple[str | int, int]]) -> None:
    threshold, left_alone = answers["collector"]
    assert threshold == 10_000
    assert left_alone > 100_000


def test_a_wrong_password_is_refused_every_time(answers: Mapping[str, tuple[str | int, int]]) -> None:
    assert answers["wrong"] == answers["wrong again"] == (401, 1)


def test_an_unknown_user_takes_as_long_as_a_wrong_password(answers: Mapping[str, tuple[str | int, int]]) -> None:
    assert answers["unknown"] == answers["wrong"]


def test_a_new_password_and_a_removed_user_count_at_once(answers: Mapping[str, tuple[str | int, int]]) -> None:
    assert answers["changed"][0] == 401
    assert answers["new"] == ("alice", 1)
    assert answers["removed"] == (401, 1)


def test_a_client_that_sends_wrong_passwords_has_to_wait(answers: Mapping[str, tuple[str | int, int]]) -> None:
    assert [answers[f"guess {number}"] for number in range(7)] == [(401, 1)] * 5 + [(429, 0)] * 2
    assert answers["right after guesses"] == (429, 0)
    assert answers["right half a minute later"] == ("carol", 1)


def test_a_wrong_password_counts_once_however_often_it_is_sent(answers: Mapping[str, tuple[str | int, int]]) -> None:
    assert answers["first guess again"][0] == 401


def test_other_people_do_not_wait(answers: Mapping[str, tuple[str | int, int]]) -> None:
    assert answers["somebody else meanwhile"][0] == "alice"
    assert answers["new login from another address"] == ("bea", 1)


def test_guesses_for_many_names_from_one_address_have_to_wait_too(
    answers: Mapping[str, tuple[str | int, int]],
) -> None:
    # The last address is the one that HAProxy adds. Those before it are the client's own words.
    assert [answers[f"guess {number} from an address"][0] for number in range(7)] == [401] * 5 + [429] * 2
    assert answers["new login from that address"] == (429, 0)
    assert answers["remembered login from that address"] == ("carol", 0)
