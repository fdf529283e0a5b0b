"""Requests that take the short ways get what they would get on MLflow's own."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from components.mlflow_release.login_code import CODE
from local import tools

pytestmark = pytest.mark.local

SCRIPT = Path(__file__).with_name("asgi_requests.py")


@pytest.fixture(scope="module", params=["3.15.1", "3.17.2"])
def asked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = subprocess.run(
        [tools.mlflow_python(request.param), SCRIPT, str(CODE)],
        cwd=tmp_path_factory.mktemp("asked"),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


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


def test_no_route_of_fastapis_is_on_a_short_way(asked: dict[str, Any]) -> None:
    assert asked["routes"] > 300
    assert asked["fastapis"] == []


def test_a_file_waits_for_a_slow_client_outside_memory(asked: dict[str, Any]) -> None:
    assert asked["large"] == [200, True]
    # Blocks that were read when the client took the first piece and the second.
    assert asked["ahead"] == [32, 64]


def test_a_stream_without_a_length_is_sent_when_it_is_there(asked: dict[str, Any]) -> None:
    assert asked["live"] == "one, in time"


def test_every_answer_is_closed_at_its_end(asked: dict[str, Any]) -> None:
    assert asked["closed"] == {"small": 3, "nothing": 3, "empty": 3, "live": 1, "trace": 1, "large": 1}


def test_a_new_run_has_no_inputs(asked: dict[str, Any]) -> None:
    assert asked["of_a_new_run"] == [[]]
