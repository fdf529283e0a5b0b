"""Files up and down: through the pods, by addresses that the pods sign, and with a plain client of S3.

The plain client is MLflow's own for S3, boto3. All rows send the same file to the same store, one after the other.
"""

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from local import tools
from local.bench.serving import StackRelease, Values
from local.bench.soak import memory_of_pods
from local.bench.workloads import SEARCH_RUNS, experiment
from local.charts.mlflow import APP_VERSIONS
from local.http_load import MIB, Load, Sampler
from local.stack import LocalStack

AT_A_TIME = 8
"""Files of the row with several at a time. Together they are as large as the one of the other row."""
OTHERS = 2
"""Other people, who search while files are sent."""
PAUSE = 0.2
"""Seconds between two requests of each of the others."""
PLAIN, PROXIED, DIRECT, BEFORE = "a plain client of S3", "proxied", "direct", "proxied, by the client's own variables"

CLIENT = """
import json, shutil, sys, time
from concurrent.futures import ThreadPoolExecutor
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

root, file, count, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
stores = [get_artifact_repository(f"{root}/{number}") for number in range(count)]
name = file.rpartition("/")[2]

def up(store):
    store.log_artifact(file)

def down(store):
    store.download_artifacts(name, f"{folder}/{stores.index(store)}")

seconds = {}
for what in (up, down):
    for number in range(count):
        shutil.os.makedirs(f"{folder}/{number}", exist_ok=True)
    began = time.monotonic()
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(what, stores))
    seconds[what.__name__] = time.monotonic() - began
print(json.dumps(seconds))
"""


@dataclass(frozen=True)
class Transfer:
    """One way of a file, or of several at a time."""

    name: str
    """Name of the row."""
    files: int
    """Files at a time."""
    up: float
    """Uploaded MiB per second, all files together."""
    down: float
    """Downloaded MiB per second."""
    memory: int
    """Largest memory of the pods in bytes (PSS) meanwhile, above that of idle pods."""
    others: float
    """99th percentile of other people's requests meanwhile, in seconds."""
    failed: int
    """Failed requests of other people."""


def measure(stack: LocalStack, mib: int, endpoint: str | None, say: Callable[[str], None]) -> list[Transfer]:
    """Send a file of some MiB, and as much in several files at a time, in every way.

    Args:
        stack: a stack that is deployed.
        mib: MiB of the file.
        endpoint: another S3 than the stack's stand-in, which has a bucket of the same name. None: the stand-in.
        say: function that prints the progress.

    Raises:
        CalledProcessError: a transfer failed.
    """
    release, measured = StackRelease(stack), list[Transfer]()
    admin = ("admin", stack.password())
    place = experiment(stack, admin, "transfers")
    store = {"AWS_ENDPOINT_URL": endpoint} if endpoint else {}
    mine = {
        "MLFLOW_TRACKING_URI": stack.url,
        "MLFLOW_TRACKING_INSECURE_TLS": "true",
        "MLFLOW_TRACKING_USERNAME": admin[0],
        "MLFLOW_TRACKING_PASSWORD": admin[1],
        "PYTHONWARNINGS": "ignore",
        # MLflow's default is 500 MiB: smaller files go up through the pods, whatever the setting.
        "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE": str(mib * MIB // AT_A_TIME),
    }
    off: dict[str, str] = dict.fromkeys(
        ("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"), "false"
    )
    through, bucket = f"mlflow-artifacts:/{place}/bench", release.values["artifactRoot"]["s3"]["bucket"]
    # Each mode of the pods once, because a change replaces them.
    modes: dict[str, dict[str, tuple[str, dict[str, str]]]] = {
        "direct": {PLAIN: (f"s3://{bucket}/bench", {}), DIRECT: (through, {}), BEFORE: (through, off)},
        "proxied": {PROXIED: (through, {})},
    }
    try:
        for mode, ways in modes.items():
            release.change(lambda values, mode=mode: _into(values, store | {"ARTIFACT_TRANSFERS": mode}))
            for name, (root, extra) in ways.items():
                for count in (1, AT_A_TIME):
                    say(f"{name}, {count} at a time")
                    one = _one(stack, admin, place, f"{root}/{name[:3]}{count}", mib, count, store | mine | extra)
                    measured.append(Transfer(name, count, *one))
    finally:
        release.change(lambda _: None)
    return measured


def _into(values: Values, environment: Mapping[str, str]) -> None:
    values["extraEnvVars"] |= environment


def _one(
    stack: LocalStack, login: tuple[str, str], place: str, root: str, mib: int, count: int, extra: Mapping[str, str]
) -> tuple[float, float, int, float, int]:
    script = SEARCH_RUNS.script(place)
    Load(stack, login, script, clients=OTHERS).run(2)
    time.sleep(2)
    idle = memory_of_pods(stack)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "file.bin")
        with file.open("wb") as content:
            for _ in range(mib // count):
                content.write(os.urandom(MIB))
        python = tools.mlflow_python(APP_VERSIONS["1.11.5"])
        command = [str(python), "-c", CLIENT, root, str(file), str(count), folder]
        held = Sampler(lambda: memory_of_pods(stack), every=0.5)
        with held, Load(stack, login, script, clients=OTHERS, pause=PAUSE) as load:
            done = subprocess.run(
                command, env={**os.environ, **extra}, stdout=subprocess.PIPE, check=True, timeout=1800
            )
    seconds = json.loads(done.stdout.splitlines()[-1])
    late = statistics.quantiles(load.latencies, n=100, method="inclusive")[98]
    more = max([idle, *held.seen]) - idle
    return mib / seconds["up"], mib / seconds["down"], more, late, load.failed
