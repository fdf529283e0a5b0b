"""Requests that take the short ways get what they would get on MLflow's own."""

import json
import os
import secrets
from pathlib import Path
from typing import Any

import pytest

from components.mlflow_release.login_code import CODE
from local.mlflow_scripts import run_afresh

pytestmark = pytest.mark.local

SCRIPT = Path(__file__).with_name("asgi_requests.py")


@pytest.fixture(scope="module", params=["3.15.1", "3.17.2"])
def asked(request: pytest.FixtureRequest) -> dict[str, Any]:
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": str(CODE),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
    }
    return json.loads(run_afresh(request.param, SCRIPT.read_text(), environment))


def test_every_answer_is_the_same_as_without_them(asked: dict[str, Any]) -> None:
    assert asked["different"] == {}
    assert set(asked["statuses"].values()) == {200, 201, 204, 401, 403, 404, 500}


def test_fastapis_routes_and_a_workspace_go_through_every_middleware(asked: dict[str, Any]) -> None:
    # Who does not get past the first one is refused there. The request for the small answer names a workspace.
    assert asked["passed"] == {
        "/ajax-api/3.0/mlflow/unknown": 3,
        "/api/2.0/mlflow/small": 3,
        "/v1/traces": 1,
        "/gateway/some/mlflow/invocations": 1,
        "/api/2.0/mlflow-artifacts/artifacts/1/a.txt": 1,
        "/ajax-api/3.0/jobs/1": 1,
    }


def test_a_path_that_fastapi_has_a_check_for_goes_through_the_check(asked: dict[str, Any]) -> None:
    assert asked["checked"] == [401, 1]


def test_no_route_of_fastapis_is_on_a_short_way(asked: dict[str, Any]) -> None:
    assert asked["fastapis"] > 50
    assert asked["on a short way"] == []


def test_a_file_waits_for_a_slow_client_outside_memory(asked: dict[str, Any]) -> None:
    # Bytes that were read when the client took the first piece and the second, by the size of the file's blocks.
    assert asked["ahead"] == {"8192": [2**18, 2**19], str(2**20): [2**20, 2**21]}


def test_a_stream_without_a_length_is_sent_when_it_is_there(asked: dict[str, Any]) -> None:
    assert asked["live"] == "one, in time"


def test_every_answer_is_closed_at_its_end_in_a_thread(asked: dict[str, Any]) -> None:
    assert asked["closed"] == {
        **dict.fromkeys(("small", "nothing", "empty"), 3),
        # Of a file, Werkzeug lets only HEAD close the answer. It closes the file itself.
        **dict.fromkeys(("live", "trace", "file", "8192", "gone"), 1),
        # A client went away while it was sent the second time.
        str(2**20): 2,
    }
    assert asked["threads"] == ["AnyIO worker thread"]


def test_a_new_run_is_not_asked_for_inputs(asked: dict[str, Any]) -> None:
    assert asked["inputs"] == {"create": [[]], "get": "asked"}
