"""Clients of several versions of MLflow can do with the site what the page on upgrades says.

The packages of old clients come from the index, so `make clients` runs this, and the workflow of each week does. With UPDATE_CLIENTS=1 the
results are written into the record and into the page.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from local.charts.mlflow import APP_VERSIONS
from local.stack import LocalStack, new_stack
from tests.local import clients

pytestmark = pytest.mark.clients


def results(stack: LocalStack) -> dict[str, clients.Results]:
    """Return what each client can do with this site."""
    found: dict[str, clients.Results] = {}
    for version in clients.CLIENTS:
        done = subprocess.run(
            [clients.python(version), Path(__file__).with_name("client_features.py")],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(stack.folder),
                "MLFLOW_TRACKING_URI": stack.url,
                "MLFLOW_TRACKING_INSECURE_TLS": "true",
                "MLFLOW_TRACKING_USERNAME": "admin",
                "MLFLOW_TRACKING_PASSWORD": stack.password(),
                # The client would repeat what is refused for minutes.
                "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        found[version] = json.loads(done.stdout.splitlines()[-1])
        print(f"{version} with {stack.url}:\n{done.stderr[-4000:]}")
    return found


def test_each_client_can_do_what_the_page_says() -> None:
    found: dict[str, dict[str, clients.Results]] = {}
    for chart, server in APP_VERSIONS.items():
        with new_stack(f"clients-{chart}") as stack:
            stack.up(mlflow__chartVersion=chart)
            found[server] = results(stack)
    if os.environ.get("UPDATE_CLIENTS"):
        clients.write(found)
    assert found == clients.recorded(), "if this is right, write it down: UPDATE_CLIENTS=1 make clients"
