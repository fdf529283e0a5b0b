"""The pages of MLflow in a real browser: the site with its login, and MLflow alone, which take turns.

MLflow alone is `mlflow server` with as many workers as the pod has, on the same database, without login, proxy and TLS. A cold view is
that of a browser that has kept nothing, a warm one the next of the same browser. A view ends when the words stand there that a person waits for.
"""

import contextlib
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import BrowserContext, BrowserType, sync_playwright

from local import tools
from local.bench.serving import DEFAULT_WORKERS
from local.bench.workloads import experiment
from local.browser import CHROMIUM, OPTIONS, trusting
from local.charts.mlflow import APP_VERSIONS
from local.http_load import libpq_login, send
from local.stack import LocalStack, basic, free_ports

NAME = "pages"
"""Name of the experiment."""
METRICS, STEPS, PARAMETERS = 10, 200, 30
"""Metrics of the run, steps of each, and parameters of the run."""
TEMPERATURES = ("cold", "warm")
REST = 2
"""Seconds for the rest of a page."""
SECONDS = 60
"""Seconds in which a page must be there, and a server must answer."""


@dataclass
class View:
    """The seconds until one page was there, on the site and on MLflow alone."""

    page: str
    """Name of the page, and if the browser was cold or warm."""
    site: list[float] = field(default_factory=list[float])
    """Seconds on the site, one number per round."""
    alone: list[float] = field(default_factory=list[float])
    """Seconds on MLflow alone."""

    @property
    def ratio(self) -> float:
        """Median of the site's seconds to that of MLflow alone."""
        return statistics.median(self.site) / statistics.median(self.alone)


def measure(stack: LocalStack, rounds: int, say: Callable[[str], None]) -> list[View]:
    """Look at the list of experiments and at a run, cold and warm, in turns.

    Args:
        stack: a stack that is deployed.
        rounds: measured views of each page; one more comes first and does not count.
        say: function that prints the progress.

    Raises:
        RuntimeError: there is no Chromium, or MLflow alone did not start.
    """
    if CHROMIUM is None:
        raise RuntimeError("there is no Chromium on this machine; on Debian, `apt-get install chromium` installs it")
    login = "admin", stack.password()
    place = experiment(stack, login, NAME)
    run = _run(stack, login, place)
    pages = {
        "first view": ("/#/experiments", NAME),
        "a run": (f"/#/experiments/{place}/runs/{run}", f"p{PARAMETERS - 1}"),
    }
    views = {(page, heat): View(f"{page}, {heat}") for page in pages for heat in TEMPERATURES}
    with _mlflow_alone(stack) as address, sync_playwright() as playwright:
        for number in range(rounds + 1):
            say(f"round {number} of {rounds}" if number else "one round that does not count")
            # The first of a round has another one before it in each second round.
            for which in ("site", "alone")[:: 1 if number % 2 else -1]:
                for page, (path, words) in pages.items():
                    with _browser(playwright.chromium, stack, address if which == "alone" else "", login) as browser:
                        for heat in TEMPERATURES:
                            seconds = _view(browser, path, words)
                            if number:
                                getattr(views[page, heat], which).append(seconds)
    return list(views.values())


def _run(stack: LocalStack, login: tuple[str, str], place: str) -> str:
    def post(call: str, fields: dict[str, object]) -> str:
        answer = send(stack, "POST", f"/api/2.0/mlflow/runs/{call}", fields, login)
        if answer.status != 200:
            raise RuntimeError(f"MLflow refused the run: {answer.status} {answer.body[:200]}")
        return answer.body

    run: str = json.loads(post("create", {"experiment_id": place, "start_time": int(time.time() * 1000)}))["run"][
        "info"
    ]["run_id"]
    post("log-batch", {"run_id": run, "params": [{"key": f"p{n}", "value": str(n)} for n in range(PARAMETERS)]})
    for metric in range(METRICS):
        values = [{"key": f"m{metric}", "value": step, "timestamp": step, "step": step} for step in range(STEPS)]
        post("log-batch", {"run_id": run, "metrics": values})
    return run


@contextlib.contextmanager
def _mlflow_alone(stack: LocalStack) -> Generator[str]:
    """Run MLflow without anything in front of it, and provide its address."""
    port, python = free_ports()[0], tools.mlflow_python(APP_VERSIONS["1.11.5"])
    environment = {
        "PATH": f"{python.parent}{os.pathsep}{os.defpath}",
        "HOME": str(stack.folder),
        **libpq_login(stack),
        "MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg2://",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [
        python.with_name("mlflow"),
        "server",
        "--host=127.0.0.1",
        f"--port={port}",
        f"--workers={DEFAULT_WORKERS}",
    ]
    with Path(stack.folder, "mlflow-alone.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=stack.folder)
        try:
            _wait(stack, f"http://127.0.0.1:{port}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _wait(stack: LocalStack, address: str) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if stack.get("/health", url=address).status == 200:
                return
        time.sleep(0.5)
    raise RuntimeError(f"MLflow alone did not answer within {SECONDS} s; {stack.folder}/mlflow-alone.log may say why")


@contextlib.contextmanager
def _browser(
    chromium: BrowserType, stack: LocalStack, address: str, login: tuple[str, str]
) -> Generator[BrowserContext]:
    """Provide a browser that has kept nothing. Without an address it looks at the site, logged in."""
    options = OPTIONS if address else [*OPTIONS, trusting(stack.folder / "site.crt")]
    browser = chromium.launch(executable_path=CHROMIUM, args=options)
    try:
        headers = {} if address else {"Authorization": basic(login)}
        yield browser.new_context(base_url=address or stack.url, extra_http_headers=headers)
    finally:
        browser.close()


def _view(browser: BrowserContext, path: str, words: str) -> float:
    page = browser.new_page()
    began = time.monotonic()
    page.goto(path)
    page.get_by_text(words, exact=True).first.wait_for(timeout=SECONDS * 1000)
    seconds = time.monotonic() - began
    # The rest of the page must not disturb the next view. It never ends altogether: MLflow's page asks again and again.
    time.sleep(REST)
    page.close()
    return seconds


def lines(views: Sequence[View]) -> list[str]:
    """Return the views as a table in Markdown."""
    rows = [f"| {view.page} | {_spread(view.site)} | {_spread(view.alone)} | **{view.ratio:.2f}** |" for view in views]
    return ["| | the site, s | MLflow alone, s | ratio |", "| --- | --- | --- | --- |", *rows]


def _spread(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f}-{max(seconds):.2f})"
