import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import ClassVar

import pytest

from operations import people
from operations.mlflow_site import RefusedError, Site, from_environment
from tests.operations.http_server import serving

PASSWORD = "the-password-of-the-administrator"
LOGIN = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": PASSWORD}


class FakeMlflow(BaseHTTPRequestHandler):
    """A server with one answer for every request."""

    answer: ClassVar[tuple[int, str]]
    seen: ClassVar[list[str]]

    def do_GET(self) -> None:
        type(self).seen.append(self.path)
        status, body = self.answer
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(body.encode())

    do_POST = do_GET  # noqa: N815  (the name that the server calls)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def url() -> Iterator[str]:
    FakeMlflow.seen = []
    with serving(FakeMlflow) as address:
        yield address


def run(monkeypatch: pytest.MonkeyPatch, url: str, *arguments: str) -> str:
    """Run a command and return the message with which it ends."""
    for name, value in {"MLFLOW_TRACKING_URI": url, **LOGIN}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["people", *arguments])
    with pytest.raises(SystemExit) as end:
        people.main()
    return str(end.value.code)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, "You are not authenticated.", "refuses the name and the password of admin (401)"),
        (403, '{"error_code": "PERMISSION_DENIED", "message": "No."}', "must be an administrator (403): No."),
        (403, "Invalid Host header", "must be an administrator (403): Invalid Host header"),
        (302, "", "MLflow refuses this (302): Found"),
        (500, "<html>\n<b>Oh</b>", "MLflow refuses this (500): <html> <b>Oh</b>"),
        (
            400,
            '{"error_code": "INVALID_PARAMETER_VALUE", "message": "Too short."}',
            "MLflow refuses this (400): Too short.",
        ),
        (200, "<html>a page of somebody else</html>", "does not answer as MLflow does"),
    ],
)
def test_an_answer_that_is_no_success_is_one_sentence_without_the_password(
    monkeypatch: pytest.MonkeyPatch, url: str, status: int, body: str, said: str
) -> None:
    FakeMlflow.answer = status, body
    message = run(monkeypatch, url, "user", "alice")
    assert said in message
    assert PASSWORD not in message
    # The login would go along with a redirect.
    assert FakeMlflow.seen == ["/api/2.0/mlflow/users/create"]


def test_a_server_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    message = run(monkeypatch, "http://127.0.0.1:9", "user", "alice")
    assert message.startswith("http://127.0.0.1:9 cannot be reached from here")


def test_missing_variables_are_named_together() -> None:
    with pytest.raises(SystemExit, match="Not set: MLFLOW_TRACKING_URI, MLFLOW_TRACKING_PASSWORD"):
        from_environment({"MLFLOW_TRACKING_USERNAME": "admin"})


def test_a_tracking_uri_that_is_no_site_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"MLFLOW_TRACKING_URI is sqlite:///mlflow\.db"):
        from_environment({"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db", **LOGIN})


def test_a_slash_at_the_end_of_the_address_is_left_out(url: str) -> None:
    FakeMlflow.answer = 200, json.dumps({"user": {"username": "a b"}})
    site = from_environment({"MLFLOW_TRACKING_URI": f"{url}/", **LOGIN})
    assert people.People(site).account("a b") == {"username": "a b"}
    assert FakeMlflow.seen == ["/api/2.0/mlflow/users/get?username=a+b"]


def test_the_password_is_not_in_what_python_prints_of_a_site() -> None:
    assert PASSWORD not in repr(Site("https://mlflow.example.com", "admin", PASSWORD))


def test_what_mlflow_does_not_know_is_not_found_and_other_errors_are_errors(url: str) -> None:
    site = Site(url, "admin", PASSWORD)
    FakeMlflow.answer = 404, json.dumps({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "No such user."})
    assert site.find("GET", "/user") is None
    FakeMlflow.answer = 404, "Not Found"
    with pytest.raises(RefusedError):
        site.find("GET", "/user")


@pytest.mark.parametrize(
    "arguments",
    [
        ("grant", "--experiment", "churn"),
        ("grant", "--user", "alice"),
        ("grant", "--user", "alice", "--experiment", "churn", "--permission", "USE"),
        ("team", "churn"),
        ("user",),
        (),
    ],
)
def test_arguments_that_say_too_little_end_before_anything_is_asked(
    monkeypatch: pytest.MonkeyPatch, url: str, arguments: tuple[str, ...]
) -> None:
    assert run(monkeypatch, url, *arguments) == "2"
    assert FakeMlflow.seen == []
