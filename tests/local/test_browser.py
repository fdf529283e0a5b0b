"""A real browser logs in through HAProxy and shows the run that a client has logged."""

import pytest
from playwright.sync_api import Error

from local.stack import LocalStack
from tests.local.browser import in_a_browser, pages
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
