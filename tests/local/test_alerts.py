"""Faults of a running site fire their alert and no other, in a real Prometheus with the program's own rules. Ordinary work fires none.

`ALERTS_MINUTES=60` lets the ordinary work last an hour instead of five minutes.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from components.site_alerts import SiteAlertsArgs
from components.site_alerts.dashboard import panels
from local.http_load import Load, Request, Script, over_and_over
from local.stack import LocalStack, free_ports, new_stack
from local.supervisor.client import Supervisor
from local.supervisor.spec import ProcessSpec
from tests.docs_commands import block, blocks
from tests.local.browser import CHROMIUM, OPTIONS
from tests.local.conftest import SCREENSHOTS
from tests.local.docs_shell import Shell
from tests.local.test_faults import small_disk
from tests.prometheus import Prometheus, needs_prometheus, running

pytestmark = [pytest.mark.local, pytest.mark.slow, needs_prometheus]

ARGS = SiteAlertsArgs(namespace="mlflow")
HAPROXY = "haproxy.ha-proxy-ingress-kubernetes-ingress"
SEARCH = Request("GET", "/api/2.0/mlflow/experiments/search?max_results=5")
WITHIN = 300
"""Seconds in which an alert must fire."""


@pytest.fixture(scope="module")
def site() -> Iterator[LocalStack]:
    with new_stack("alerts") as new:
        # Two workers, whose counts must add up.
        new.up(monitoring__enabled=True, mlflow__workers=2)
        yield new


@pytest.fixture(scope="module")
def login(site: LocalStack) -> tuple[str, str]:
    return "admin", site.password()


@contextlib.contextmanager
def watched(site: LocalStack, folder: Path, history: str = "") -> Generator[Prometheus]:
    """Run Prometheus with the rules of the stack's PrometheusRule, and the targets that its ServiceMonitors lead to."""
    (rule,) = (
        json.loads(file.read_text()) for file in (site.folder / "cluster/objects").glob("PrometheusRule/*/*.json")
    )
    assert rule["spec"]["groups"][0]["rules"][0]["labels"] == {"site": "mlflow"}
    supervisor = Supervisor(site.folder)
    controllers = [f"127.0.0.1:{supervisor.free_port(f'{HAPROXY}.stat')}"]
    pods = [
        f"127.0.0.1:{supervisor.free_port(name)}" for name in processes(site, "mlflow.") if name.endswith(".metrics")
    ]
    assert pods
    targets = {
        "haproxy": (controllers, {"namespace": "haproxy"}),
        "mlflow-metrics": (pods, {"namespace": "mlflow"}),
    }
    with running(folder / "prometheus", free_ports()[0], rule["spec"], targets, history=history) as server:
        eventually(lambda: server.query("count(up == 1) == 2") != [], 60)
        yield server


def processes(site: LocalStack, beginning: str) -> list[str]:
    return [process.name for process in Supervisor(site.folder).list() if process.name.startswith(beginning)]


def process(site: LocalStack, beginning: str) -> str:
    (only,) = (name for name in processes(site, beginning) if not name.endswith(".metrics"))
    return only


def pid(site: LocalStack, beginning: str) -> int:
    status = Supervisor(site.folder).get(process(site, beginning))
    assert status
    assert status.pid
    return status.pid


def eventually(true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"the condition was not met within {seconds:.0f} s"
        time.sleep(1)


def ordinary_work() -> Script:
    """Requests of one client: a run with metrics, and searches."""
    while True:
        answer = yield Request.create_run("0")
        if answer:
            run = json.loads(answer)["run"]["info"]["run_id"]
            metrics = [{"key": f"m{n}", "value": n, "timestamp": 0, "step": 0} for n in range(10)]
            yield Request("POST", "/api/2.0/mlflow/runs/log-batch", {"run_id": run, "metrics": metrics})
        yield SEARCH
        yield Request("POST", "/api/2.0/mlflow/runs/search", {"experiment_ids": ["0"], "max_results": 5})


# The faults


@contextlib.contextmanager
def gone(site: LocalStack, beginning: str) -> Generator[None]:
    """Keep a process from running."""
    supervisor, name = Supervisor(site.folder), process(site, beginning)
    spec = json.loads((site.folder / "supervisor" / "specs" / f"{name}.json").read_text())
    supervisor.delete(name)
    try:
        yield
    finally:
        supervisor.keep_running(ProcessSpec(**spec), 240)


def no_haproxy(site: LocalStack) -> contextlib.AbstractContextManager[None]:
    return gone(site, HAPROXY)


def no_mlflow(site: LocalStack) -> contextlib.AbstractContextManager[None]:
    return gone(site, "mlflow.mlflow-")


def no_database(site: LocalStack) -> contextlib.AbstractContextManager[None]:
    return gone(site, "rds-")


@contextlib.contextmanager
def full_disk(site: LocalStack) -> Generator[None]:
    """Fill the disk of the database."""
    with small_disk(site) as disk:
        eventually(lambda: works(site, ("admin", site.password())), 60)
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(65536)):
                pass
        try:
            yield
        finally:
            filler.unlink()


def signal_database(server: int, number: int) -> None:
    # PostgreSQL has a process for each connection.
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    for each in (server, *map(int, children)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, number)


@contextlib.contextmanager
def hanging_database(site: LocalStack) -> Generator[None]:
    """Let the database answer nothing, as if the network to it were cut."""
    server = pid(site, "rds-")
    signal_database(server, signal.SIGSTOP)
    try:
        yield
    finally:
        signal_database(server, signal.SIGCONT)


@contextlib.contextmanager
def slow_database(site: LocalStack) -> Generator[None]:
    """Let the database work for one second in five."""
    over = threading.Event()

    def brake() -> None:
        while not over.is_set():
            with hanging_database(site):
                over.wait(4)
            over.wait(1)

    thread = threading.Thread(target=brake)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def many_clients(site: LocalStack) -> Generator[None]:
    """Send short requests with three times as many clients as a pod has places."""
    with Load(site, ("admin", site.password()), over_and_over(SEARCH), clients=27):
        yield


@contextlib.contextmanager
def hanging_database_of_many(site: LocalStack) -> Generator[None]:
    with many_clients(site), hanging_database(site):
        yield


@pytest.mark.parametrize(
    ("fault", "alert"),
    [
        (no_haproxy, "MlflowNotSeen"),
        (no_mlflow, "MlflowDown"),
        (no_database, "MlflowErrors"),
        (full_disk, "MlflowErrors"),
        (slow_database, "MlflowSlow"),
        (hanging_database, "MlflowStuck"),
        (hanging_database_of_many, "MlflowStuck"),
        (many_clients, "MlflowPlacesFull"),
    ],
)
def test_a_fault_fires_its_alert_within_five_minutes_and_no_other(
    site: LocalStack,
    login: tuple[str, str],
    tmp_path: Path,
    fault: Callable[[LocalStack], contextlib.AbstractContextManager[None]],
    alert: str,
) -> None:
    # After an outage MlflowErrors is silent for six minutes, and the first sample counts.
    eventually(lambda: works(site, login), 120)
    time.sleep(10)
    with Load(site, login, ordinary_work, clients=2, pause=0.3), watched(site, tmp_path) as prometheus:
        time.sleep(30)
        assert prometheus.alerts() == prometheus.alerts("pending") == set()
        with fault(site):
            began = time.monotonic()
            eventually(lambda: prometheus.alerts() != set(), WITHIN)
            print(f"{alert} after {time.monotonic() - began:.0f} s")
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                assert prometheus.alerts() == {alert}
                time.sleep(2)
    # The next fault needs a site that works.
    eventually(lambda: works(site, login), 120)


def test_what_is_killed_and_comes_back_by_itself_fires_nothing(
    site: LocalStack, login: tuple[str, str], tmp_path: Path
) -> None:
    eventually(lambda: works(site, login), 120)
    with (
        Load(site, login, ordinary_work, clients=2, pause=0.3) as work,
        watched(site, tmp_path, hour_of_work()) as prometheus,
    ):
        eventually(lambda: prometheus.query("mlflow:requests:rate1h > 4") != [], 30)
        # A pod that is killed and back within a minute fires nothing either, but MLflow may take longer to start.
        server = pid(site, "mlflow.mlflow-")
        found = subprocess.check_output(["pgrep", "--session", str(server), "--full", "spawn_main"])
        worker = int(found.split()[0])
        for victim in (pid(site, "rds-"), pid(site, HAPROXY), worker):
            os.kill(victim, signal.SIGKILL)
            deadline = time.monotonic() + 150
            while time.monotonic() < deadline:
                assert prometheus.alerts() == set()
                time.sleep(2)
            assert works(site, login)
    print(work.said())
    assert work.failed


def hour_of_work() -> str:
    """Return an hour of requests without errors, in OpenMetrics: the alert on errors looks back so far."""
    begin = round(time.time()) - 3600
    series = 'haproxy_backend_http_responses_total{proxy="mlflow_svc_mlflow_http",code="2xx",job="haproxy"}'
    return "".join(f"{series} {5 * second} {begin + second}\n" for second in range(0, 3590, 10)) + "# EOF\n"


def works(site: LocalStack, login: tuple[str, str]) -> bool:
    with contextlib.suppress(OSError):
        return site.get(SEARCH.path, login=login).status == 200
    return False


def test_the_statement_of_the_runbook_shows_what_waits(site: LocalStack, login: tuple[str, str]) -> None:
    (statement,) = block("docs/alerts.md", "pg_stat_activity").to_run()
    (question,) = block("docs/alerts.md", "SELECT now()").to_run()
    with site.connect(as_master=True) as master:
        of_master = {
            "PGHOST": master.info.host,
            "PGPORT": str(master.info.port),
            "PGUSER": master.info.user,
            "PGPASSWORD": master.info.password,
            "PGDATABASE": master.info.dbname,
        }
    shell = Shell(site, **of_master)
    assert "(1 row)" in shell.run(question).stdout
    with site.connect() as server, ThreadPoolExecutor() as pool:
        with server.transaction():
            server.execute("LOCK TABLE experiments")
            waiting = pool.submit(site.get, SEARCH.path, login=login)
            eventually(lambda: re.search(r"\| Lock +\|", shell.run(statement).stdout) is not None, 60)
        assert waiting.result().status == 200


def test_the_commands_of_the_runbook_count_clients_and_failed_requests_in_haproxys_log(
    site: LocalStack, login: tuple[str, str]
) -> None:
    with gone(site, "mlflow.mlflow-"):
        eventually(lambda: site.get(SEARCH.path, login=login).status == 503, 60)
    clients, failed = block("docs/alerts.md", "cut"), block("docs/alerts.md", "awk")
    last = [Shell(site).run(*each.to_run()).stdout.splitlines()[-1] for each in (clients, failed)]
    assert re.fullmatch(r" *\d+ 127\.0\.0\.1", last[0])
    assert re.fullmatch(r' *\d+ 503 "(GET|POST) localhost(:\d+)?/api/2\.0/mlflow/\S+', last[1])


def test_ordinary_work_fires_nothing_and_every_panel_has_data(
    site: LocalStack, login: tuple[str, str], tmp_path: Path
) -> None:
    minutes = float(os.environ.get("ALERTS_MINUTES", "5"))
    before = calls(site)
    with Load(site, login, ordinary_work, clients=6, pause=0.1) as work, watched(site, tmp_path) as prometheus:
        fired: set[str] = set()
        deadline = time.monotonic() + 60 * minutes
        while time.monotonic() < deadline:
            fired |= prometheus.alerts()
            time.sleep(5)
        empty = [
            (panel.title, legend)
            for panel in panels(ARGS)
            for legend, query in panel.queries.items()
            if not prometheus.query(query)
        ]
        for page in ("docs/alerts.md", "docs/slo.md"):
            queries = [one.text for one in blocks(page) if one.language == "promql"]
            assert queries
            empty += [(page, query) for query in queries if not prometheus.query(query)]
        in_pictures(prometheus, minutes)
    print(f"{minutes:g} minutes: {work.said()}; {work.total} requests, {work.per_second:.0f}/s")
    assert fired == set()
    assert empty == []
    assert calls(site) - before == work.total


def calls(site: LocalStack) -> int:
    """Return the number of calls that all workers have answered, as MLflow's metrics have it."""
    supervisor, total = Supervisor(site.folder), 0.0
    for name in processes(site, "mlflow."):
        if name.endswith(".metrics"):
            text = site.get("/metrics", url=f"http://127.0.0.1:{supervisor.free_port(name)}").body
            total += sum(map(float, re.findall(r"^mlflow_http_request_total\{.*\} (\S+)$", text, re.MULTILINE)))
    return round(total)


def in_pictures(prometheus: Prometheus, minutes: float) -> None:
    """Take a picture of the requests by status as Prometheus draws them."""
    if CHROMIUM is None:
        return
    queries = [query for panel in panels(ARGS)[2:3] for query in panel.queries.values()]
    page = {}
    for number, query in enumerate(queries):
        page |= {f"g{number}.expr": query, f"g{number}.tab": "0", f"g{number}.range_input": f"{minutes:.0f}m"}
    SCREENSHOTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        opened = browser.new_page(viewport={"width": 1200, "height": 900})
        opened.goto(f"{prometheus.url}/classic/graph?{urllib.parse.urlencode(page)}")
        opened.wait_for_timeout(5000)
        opened.screenshot(path=SCREENSHOTS / "alerts-prometheus.png")
        browser.close()
