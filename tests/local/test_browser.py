"""A real browser logs in through HAProxy, shows the run that a client has logged, and loads the page from a busy server."""

import contextlib
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor, as_completed

import pytest
from playwright.sync_api import Error

from local.stack import LocalStack
from tests.local.browser import Visitor, in_a_browser, pages
from tests.local.conftest import SCREENSHOTS

pytestmark = [pytest.mark.local, pytest.mark.browser]


@in_a_browser
def test_a_person_logs_in_and_sees_the_experiment(stack: LocalStack) -> None:
    experiment = stack.client(
        "import mlflow\n"
        "experiment = mlflow.set_experiment('seen-in-a-browser')\n"
        "for depth in range(3):\n"
        "    with mlflow.start_run(run_name=f'depth-{depth}'):\n"
        "        mlflow.log_metric('accuracy', 0.9 + depth / 100)\n"
        "print(experiment.experiment_id)"
    )
    SCREENSHOTS.mkdir(exist_ok=True)
    with pages(stack, None, ("admin", stack.password())) as (anonymous, page):
        with pytest.raises(Error, match="ERR_INVALID_AUTH_CREDENTIALS"):
            anonymous.goto("/")
        page.goto("/#/experiments")
        page.get_by_text("seen-in-a-browser").first.wait_for()
        page.goto(f"/#/experiments/{experiment}/runs")
        page.get_by_text("depth-2").first.wait_for()
        page.screenshot(path=SCREENSHOTS / "mlflow-ui.png")


@contextlib.contextmanager
def slow_calls(stack: LocalStack) -> Generator[None]:
    """Hold all places of the API with calls that wait for a table."""
    path, login = "/api/2.0/mlflow/registered-models/search", ("admin", stack.password())
    with ThreadPoolExecutor(12) as callers, stack.connect() as database, database.transaction(force_rollback=True):
        database.execute("LOCK TABLE registered_models IN ACCESS EXCLUSIVE MODE")
        calls = [callers.submit(stack.get, path, login=login) for _ in range(12)]
        # More calls than places: one is refused when all of the others wait in the pod.
        assert next(as_completed(calls)).result().status == 503
        yield


@in_a_browser
def test_the_page_is_complete_for_a_first_visit_while_slow_calls_hold_all_places(stack: LocalStack) -> None:
    with slow_calls(stack), Visitor(stack) as browser:
        answers = browser.visit("/#/experiments", "Experiments")
    api = {path: answers.pop(path) for path in list(answers) if "api/" in path}
    assert set(api.values()) == {503}, "the places are taken"
    assert answers.pop("/") == 200
    assert {path.partition("/")[2].partition("/")[0] for path in answers} == {"static-files"}
    assert any(path.endswith(".chunk.js") for path in answers)
    assert set(answers.values()) == {200}


@in_a_browser
def test_a_browser_keeps_the_scripts_and_styles(stack: LocalStack) -> None:
    with Visitor(stack) as browser:
        assert [path for path in browser.visit("/#/experiments", "Experiments") if path.startswith("/static-files/")]
        again = browser.visit("/#/experiments", "Experiments")
    assert again.pop("/") == 200
    assert [path for path in again if "api/" not in path] == []
