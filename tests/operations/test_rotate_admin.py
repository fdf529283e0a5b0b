import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar

import pytest

from operations.rotate_admin import change_password
from tests.operations.http_server import serving


class FakeMlflow(BaseHTTPRequestHandler):
    status = 200
    seen: ClassVar[list[dict[str, Any]]] = []

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).seen.append({"path": self.path, "login": self.headers["Authorization"], **body})
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def server() -> Iterator[str]:
    FakeMlflow.seen, FakeMlflow.status = [], 200
    with serving(FakeMlflow) as address:
        yield address


def test_the_current_and_the_new_password_go_to_mlflow(server: str) -> None:
    change_password(server, "admin", "the-current-one", "the-new-one-1")
    [seen] = FakeMlflow.seen
    assert seen["path"] == "/api/2.0/mlflow/users/update-password"
    assert (seen["username"], seen["password"], seen["current_password"]) == (
        "admin",
        "the-new-one-1",
        "the-current-one",
    )


def test_a_refusal_is_one_line_without_a_password(server: str) -> None:
    FakeMlflow.status = 401
    with pytest.raises(SystemExit) as refused:
        change_password(server, "admin", "the-current-one", "the-new-one-1")
    assert "401" in str(refused.value)
    assert "the-current-one" not in str(refused.value)
    assert "the-new-one-1" not in str(refused.value)


def test_a_server_that_is_not_there_is_said_so() -> None:
    with pytest.raises(SystemExit, match="cannot be reached"):
        change_password("http://127.0.0.1:9", "admin", "a", "b")
