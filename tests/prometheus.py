"""A real Prometheus for tests, of Debian's package `prometheus`: its tool for rules, and its server on a loopback port."""

import contextlib
import json
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None or PROMTOOL is None,
    reason="needs Prometheus: apt-get install --no-install-recommends prometheus",
)


def promtool(*arguments: str | Path) -> None:
    """Run promtool.

    Raises:
        AssertionError: promtool refuses its files, with what it says.
    """
    assert PROMTOOL
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@dataclass
class Prometheus:
    """A running server."""

    port: int
    """Loopback port of its API."""

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of the API."""
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}{query}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[tuple[Mapping[str, str], float]]:
        """Return labels and value of each sample of an expression now."""
        found = self.ask("query", query=expression)["result"]
        return [(sample["metric"], float(sample["value"][1])) for sample in found]

    def alerts(self, state: str = "firing") -> set[str]:
        """Return the names of the alerts in a state."""
        return {alert["labels"]["alertname"] for alert in self.ask("alerts")["alerts"] if alert["state"] == state}


@contextlib.contextmanager
def running(
    folder: Path,
    port: int,
    rules: Mapping[str, Any],
    targets: Mapping[str, tuple[Sequence[str], Mapping[str, str]]],
    interval: str = "5s",
    history: str = "",
) -> Iterator[Prometheus]:
    """Run a server, and end it after the block.

    Args:
        folder: an empty folder.
        port: free loopback port.
        rules: spec of a PrometheusRule.
        targets: job to its `host:port`s and their further labels, as the operator makes them from a ServiceMonitor.
        interval: interval of scrapes and rules.
        history: samples from before, in OpenMetrics. Default: none.
    """
    assert PROMETHEUS
    folder.mkdir(parents=True)
    (folder / "rules.json").write_text(json.dumps(rules))
    if history:
        (folder / "history").write_text(history)
        promtool("tsdb", "create-blocks-from", "openmetrics", folder / "history", folder / "data")
    scrapes = [
        {"job_name": job, "static_configs": [{"targets": [*addresses], "labels": {**labels}}]}
        for job, (addresses, labels) in targets.items()
    ]
    every = {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval}
    configuration = {"global": every, "rule_files": ["rules.json"], "scrape_configs": scrapes}
    (folder / "prometheus.json").write_text(json.dumps(configuration))
    options = [
        f"--config.file={folder}/prometheus.json",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("w") as log, subprocess.Popen([PROMETHEUS, *options], stdout=log, stderr=log) as server:
        try:
            started = Prometheus(port)
            deadline = time.monotonic() + 30
            while True:
                with contextlib.suppress(urllib.error.URLError):
                    started.ask("status/buildinfo")
                    break
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.1)
            yield started
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)
