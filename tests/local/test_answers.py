"""Answers to what goes wrong: as a fault of the caller, of the server, or of nobody for long."""

import json
import os
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from components.mlflow_release.login_code import CODE
from local import tools
from local.charts.mlflow import APP_VERSIONS
from local.stack import LocalStack, new_stack
from tests.local import strangers
from tests.local.generated_requests import Request, requests
from tests.local.sites import Login, Site, messages, routes
from tests.local.strangers import VICTIM as OWNER
from tests.local.strangers import Victim as Owned

pytestmark = pytest.mark.local

DEFAULT_MLFLOW, GUIDES_MLFLOW = APP_VERSIONS["1.11.5"], APP_VERSIONS["1.8.1"]
EXAMPLES = int(os.environ.get("REQUESTS_A_ROUTE", "2"))
"""Generated requests for each route and method. The figures in docs/errors.md come from 12."""
INSIDE = re.compile(
    rb"psycopg2|sqlalche\.me|\[SQL|\bINSERT INTO\b|artifacts-bucket|Traceback|site-packages", re.IGNORECASE
)
"""Words that no answer has, but for a signed address, which needs the name of the bucket."""
SIGNED = ("/presigned", "mpu/create")
NUL = "a\x00b"


@pytest.fixture(scope="module")
def guides_stack() -> Iterator[LocalStack]:
    """A stack with the chart of the manual guide."""
    with new_stack("answers-guide") as new:
        new.up(mlflow__chartVersion="1.8.1")
        yield new


@pytest.fixture(scope="module", params=[DEFAULT_MLFLOW, GUIDES_MLFLOW])
def site(request: pytest.FixtureRequest) -> Site:
    return Site(request.getfixturevalue("stack" if request.param == DEFAULT_MLFLOW else "guides_stack"), request.param)


@pytest.fixture(scope="module")
def default_site(stack: LocalStack) -> Site:
    return Site(stack, DEFAULT_MLFLOW)


@pytest.fixture(scope="module")
def owned(site: Site) -> Owned:
    """One object of each kind, of an owner who is no administrator."""
    return new_objects(site, "answers")


def new_objects(site: Site, name: str) -> Owned:
    return strangers.make_victim(strangers.asker(site.connect()), site.admin, name)


def send(
    site: Site, method: str, path: str, body: Mapping[str, object] | bytes | None = None, login: Login | None = None
) -> tuple[int, Any]:
    """Send a request as the owner, or as somebody else, and return the status and the parsed answer."""
    status, answer = site.connect().ask(method, path, login or OWNER, body)
    assert not INSIDE.search(answer), answer
    return status, json.loads(answer) if answer[:1] in (b"{", b"[") else answer.decode(errors="replace")


def post(site: Site, route: str, login: Login | None = None, **body: object) -> tuple[int, Any]:
    return send(site, "POST", f"/api/2.0/mlflow/{route}", body, login)


def new_run(site: Site, owned: Owned) -> str:
    return post(site, "runs/create", experiment_id=owned.names["experiment_id"])[1]["run"]["info"]["run_id"]


def test_no_generated_request_is_answered_as_a_fault_of_the_server(site: Site) -> None:
    """Every route with wrong and right values of every type, for the owner and for an administrator."""
    # Some requests delete them.
    known, shapes = new_objects(site, "generated").bag(), messages(site.mlflow)
    listed = {(method, path) for path, methods, _ in routes(site.mlflow) for method in methods if method != "OPTIONS"}
    # The same handlers a second time, for the page.
    twice = {
        (method, path)
        for method, path in listed
        if "/ajax-api/" in path and (method, path.replace("/ajax-api/", "/api/")) in listed
    }
    order = ["GET", "HEAD", "PUT", "PATCH", "POST", "DELETE"]
    statuses, found, connection = Counter[int](), list[str](), site.connect()
    for method, path in sorted(listed - twice, key=lambda one: ("delete" in one[1], order.index(one[0]), one[1])):
        plain = re.sub(r"<\w+:(\w+)>", r"<\1>", path)
        fields = shapes.get(f"{method} {path}") or shapes.get(f"{method} {plain}")

        @settings(
            max_examples=EXAMPLES,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
        )
        @given(request=requests(method, path, fields, known), login=st.sampled_from([OWNER, site.admin]))
        def walk(request: Request, login: Login) -> None:
            status, answer = connection.ask(request.method, request.path, login, request.body, **request.headers)
            statuses[status] += 1
            if status >= 500 or (
                INSIDE.search(answer) and not (status == 200 and any(part in request.path for part in SIGNED))
            ):
                found.append(f"{status} {answer[:200]!r} for {login[0]}: {request}")

        walk()
    print(f"MLflow {site.mlflow}: {statuses.total()} requests: {sorted(statuses.items())}")
    assert found == []
    # Otherwise the requests would prove nothing.
    assert statuses[200] > statuses.total() / 20
    assert statuses[400] + statuses[404] > statuses.total() / 5


def test_an_artifact_that_is_not_there_is_not_found(site: Site, owned: Owned) -> None:
    run, home = owned.names["run_id"], owned.names["experiment_id"]
    for path in (
        f"/api/2.0/mlflow-artifacts/artifacts/{home}/{run}/artifacts/none-such.txt",
        f"/api/2.0/mlflow-artifacts/artifacts/{home}/{run}/artifacts/none/such",
        f"/get-artifact?run_uuid={run}&path=none-such.txt",
        f"/model-versions/get-artifact?name={owned.names['name']}&version=1&path=none-such.txt",
    ):
        status, answer = send(site, "GET", path)
        assert (status, answer["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST"), path


def test_a_folder_of_artifacts_is_no_file(site: Site, owned: Owned) -> None:
    run, home = owned.names["run_id"], owned.names["experiment_id"]
    for path in (
        f"/api/2.0/mlflow-artifacts/artifacts/{home}/{run}/artifacts",
        f"/get-artifact?run_uuid={run}&path=.",
    ):
        assert send(site, "GET", path)[0] in {400, 404}, path


def test_text_with_nul_is_refused_at_once_wherever_it_is(site: Site, owned: Owned) -> None:
    run, home = owned.names["run_id"], owned.names["experiment_id"]
    refused = [
        post(site, "runs/create", experiment_id=home, run_name=NUL),
        post(site, "runs/set-tag", run_id=run, key="t", value=NUL),
        post(site, "runs/set-tag", run_id=run, key=NUL, value="v"),
        post(site, "runs/log-batch", run_id=run, params=[{"key": "p", "value": NUL}]),
        post(site, "runs/search", experiment_ids=[home], filter=f"params.a = '{NUL}'"),
        post(site, "experiments/create", name=NUL),
        post(site, "registered-models/create", name="nul", description=NUL),
        send(site, "GET", f"/api/2.0/mlflow/runs/get?run_id={quote(NUL)}"),
        send(site, "GET", f"/api/2.0/mlflow/experiments/get-by-name?experiment_name={quote(NUL)}"),
        send(site, "GET", f"/api/2.0/mlflow-artifacts/artifacts/{home}/{run}/artifacts/{quote(NUL)}"),
        send(site, "PUT", f"/api/2.0/mlflow-artifacts/artifacts/{home}/{run}/artifacts/{quote(NUL)}", b"x"),
        send(site, "PUT", f"/api/2.0/mlflow-artifacts/artifacts/{home}/{run}/artifacts/{quote(quote(NUL))}", b"x"),
    ]
    assert [answer for status, answer in refused if status not in {400, 404}] == []
    assert {answer["error_code"] for _, answer in refused} <= {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"}


@pytest.mark.parametrize("location", ["mlflow-artifacts:/team-x", "s3://another-store/x", "file:///tmp/x"])
def test_a_location_of_artifacts_is_refused_when_the_experiment_is_made(
    site: Site, owned: Owned, location: str
) -> None:
    for login in (OWNER, site.admin):
        status, answer = post(site, "experiments/create", login, name=f"at {location}", artifact_location=location)
        assert status == 400
        assert "leave artifact_location out" in answer["message"]


def test_ranks_that_write_to_one_run_at_once_lose_nothing(site: Site, owned: Owned) -> None:
    """Eight writers of the same keys, at the same moment. None of them tries again."""
    run, ranks, steps, lost = new_run(site, owned), 8, 10, list[object]()
    together = threading.Barrier(ranks)

    def write(rank: int) -> None:
        connection = site.connect()
        for step in range(steps):
            together.wait()
            metrics = [{"key": f"m{step}", "value": rank, "timestamp": rank, "step": step}]
            batch = {
                "run_id": run,
                "metrics": metrics,
                "params": [{"key": f"p{step}", "value": "same"}],
                "tags": [{"key": f"t{step}", "value": str(rank)}],
            }
            dataset = {"name": f"d{step}", "digest": "x", "source_type": "local", "source": "{}"}
            for route, body in (
                ("runs/log-batch", batch),
                ("runs/set-tag", {"run_id": run, "key": f"s{step}", "value": str(rank)}),
                ("runs/log-inputs", {"run_id": run, "datasets": [{"tags": [], "dataset": dataset}]}),
            ):
                status, answer = connection.ask("POST", f"/api/2.0/mlflow/{route}", OWNER, body)
                if status != 200:
                    lost.append((route, status, answer[:200]))

    threads = [threading.Thread(target=write, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lost == []
    for step in range(steps):
        history = f"/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key=m{step}&max_results=100"
        assert len(send(site, "GET", history)[1]["metrics"]) == ranks


def test_a_database_that_is_read_only_for_a_while_loses_no_point_of_a_client(site: Site, owned: Owned) -> None:
    """The client tries again by itself, with its own defaults."""
    run, rdsadmin = new_run(site, owned), site.stack.rdsadmin()
    history = f"/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key=loss&max_results=100"
    script = (
        "import os, time\n"
        "os.environ.pop('MLFLOW_HTTP_REQUEST_MAX_RETRIES')\n"
        "import mlflow\n"
        "client = mlflow.MlflowClient()\n"
        "for step in range(40):\n"
        f"    client.log_metric('{run}', 'loss', step, step=step)\n"
        "    time.sleep(0.1)\n"
    )

    def switch(what: str) -> None:
        rdsadmin.execute(f"ALTER DATABASE mlflow {what}".encode())
        rdsadmin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'mlflow' AND usename LIKE 'mlflow_user%'"
        )

    with ThreadPoolExecutor(1) as pool:
        client = pool.submit(site.stack.client, script, user=OWNER[0], password=OWNER[1])
        while len(send(site, "GET", history)[1].get("metrics", [])) < 3 and not client.done():
            time.sleep(0.1)
        switch("SET default_transaction_read_only = on")
        try:
            # The first requests may find connections that were cut.
            refused = [post(site, "runs/set-tag", run_id=run, key="t", value="v") for _ in range(3)]
            read = [send(site, "GET", history)[0] for _ in range(3)]
        finally:
            switch("RESET default_transaction_read_only")
        client.result()
    assert {(status, answer["error_code"]) for status, answer in refused} == {(503, "TEMPORARILY_UNAVAILABLE")}
    assert read[-1] == 200, "what only reads goes on"
    assert len(send(site, "GET", history)[1]["metrics"]) == 40


def test_a_fault_of_the_server_is_500_and_in_its_log(default_site: Site) -> None:
    connection = default_site.stack.connect(as_master=False)
    connection.execute("ALTER TABLE webhooks RENAME TO webhooks_away")
    try:
        status, answer = send(default_site, "GET", "/api/2.0/mlflow/webhooks", login=default_site.admin)
    finally:
        connection.execute("ALTER TABLE webhooks_away RENAME TO webhooks")
    assert (status, answer["message"]) == (500, "The server failed. Its log has the reason.")
    logs = [
        file.read_text() for file in (default_site.stack.folder / "supervisor" / "logs").glob("mlflow.mlflow-*.log")
    ]
    assert any('relation "webhooks" does not exist' in log for log in logs)


@pytest.mark.parametrize("version", [DEFAULT_MLFLOW, GUIDES_MLFLOW])
def test_only_what_passes_by_itself_is_answered_with_try_again(version: str) -> None:
    command = [tools.mlflow_python(version), Path(__file__).with_name("judged_errors.py")]
    environment = os.environ | {"PYTHONPATH": str(CODE)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    judged = json.loads(done.stdout.splitlines()[-1])
    by_code = {code: {name for name in judged if judged[name] == code} for code in judged.values()}
    assert by_code == {
        "TEMPORARILY_UNAVAILABLE": {
            *("08006", "25006", "40001", "40P01", "53100", "53300", "55P03", "57014", "57P01", "57P03"),
            *("SlowDown", "503", "store away", "store away, as text"),
            *("lost connection", "no free connection", "full disk"),
        },
        "INVALID_PARAMETER_VALUE": {
            *("22003", "22P02", "23502", "23505", "42883", "54000", "wrong type for the driver"),
            *("KeyTooLongError", "InvalidPart", "long name"),
        },
        "RESOURCE_DOES_NOT_EXIST": {
            *("23503", "NoSuchKey", "404", "NoSuchUpload", "absent, as text", "folder"),
        },
        "INTERNAL_ERROR": {"42501", "42P01", "AccessDenied", "NoSuchBucket", "of nobody knows what"},
    }


class TestKnownLimits:
    """Faults of MLflow's own. A test that fails here is good news: a newer MLflow mended it, and docs/known-limits.md can do without."""

    def test_a_metric_that_is_not_a_number_cannot_be_logged_again_at_its_step(self, site: Site, owned: Owned) -> None:
        run = new_run(site, owned)
        metric = {"run_id": run, "key": "loss", "value": "NaN", "timestamp": 1, "step": 0}
        assert post(site, "runs/log-metric", **metric)[0] == 200
        assert post(site, "runs/log-metric", **metric)[0] == 400

    def test_names_of_artifacts_are_decoded_twice(self, site: Site, owned: Owned) -> None:
        run, home = new_run(site, owned), owned.names["experiment_id"]
        folder = f"/api/2.0/mlflow-artifacts/artifacts/{home}/{run}/artifacts/"
        assert send(site, "PUT", folder + quote("a%41.txt"), b"x")[0] == 200
        listed = send(site, "GET", f"/api/2.0/mlflow/artifacts/list?run_id={run}")[1]
        assert [file["path"] for file in listed["files"]] == ["aA.txt"]
