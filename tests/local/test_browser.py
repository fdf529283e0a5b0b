"""A real browser logs in through HAProxy and shows the run that a client has logged."""

import shutil

import pytest
from playwright.sync_api import Error, sync_playwright

from local.stack import LocalStack
from tests.local.conftest import SCREENSHOTS

pytestmark = [pytest.mark.local, pytest.mark.browser]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")
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
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        anonymous = browser.new_context(ignore_https_errors=True).new_page()
        with pytest.raises(Error, match="ERR_INVALID_AUTH_CREDENTIALS"):
            anonymous.goto(stack.url)
        context = browser.new_context(
            ignore_https_errors=True,
            http_credentials={"username": "admin", "password": stack.password()},
            viewport={"width": 1400, "height": 900},
        )
        page = context.new_page()
        page.goto(f"{stack.url}/#/experiments")
        page.get_by_text("seen-in-a-browser").first.wait_for(timeout=60_000)
        page.goto(f"{stack.url}/#/experiments/{experiment}/runs")
        page.get_by_text("depth-2").first.wait_for(timeout=60_000)
        page.screenshot(path=SCREENSHOTS / "mlflow-ui.png")
        browser.close()
