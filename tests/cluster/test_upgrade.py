"""The older chart, and the way from it to the newer one, on a real cluster."""

import time

import pytest

from local.http_load import Load, Request, over_and_over, report, send
from tests.cluster.real_cluster import HOST, ClusterStack

pytestmark = pytest.mark.cluster

WRITE = """
import mlflow
mlflow.set_experiment("before")
with mlflow.start_run() as run:
    mlflow.log_metric("loss", 0.25)
print(run.info.run_id)
"""
LARGE = """
import hashlib, os, tempfile
import mlflow

with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "random.bin")
    with open(path, "wb") as file:
        for _ in range({size}):
            file.write(os.urandom(2**20))
    mlflow.set_experiment("large-{size}")
    with mlflow.start_run() as run:
        mlflow.log_artifact(path)
    back = mlflow.artifacts.download_artifacts(f"runs:/{{run.info.run_id}}/random.bin", dst_path=os.path.join(folder, "back"))
    digests = [hashlib.file_digest(open(name, "rb"), "sha256").hexdigest() for name in (path, back)]
    print(digests[0] == digests[1], os.path.getsize(back))
"""
READ = """
import mlflow
(run,) = mlflow.search_runs(experiment_names=["before"], output_format="list")
print(run.info.run_id, run.data.metrics["loss"])
"""


@pytest.fixture(scope="module")
def older(site: ClusterStack) -> ClusterStack:
    counts = site.up(mlflow__chartVersion="1.8.1")
    assert set(counts) == {"created"}
    return site


def test_the_older_chart_changes_nothing_in_a_second_preview_and_keeps_to_its_host(older: ClusterStack) -> None:
    assert older.changes() == {}
    assert set(older.refresh()) == {"unchanged"}
    assert older.get("/health").status == 200
    assert older.get("/health").headers["strict-transport-security"] == "max-age=31536000"
    assert older.get("/health", host="other.cluster.test").status == 404
    assert older.get("/health", tls=False).headers["location"] == f"https://{HOST}:443/health"
    search = "/api/2.0/mlflow/experiments/search?max_results=1"
    assert older.get(search).status == 401
    assert older.get(search, login=older.login()).status == 200


def test_a_run_with_a_large_artifact_comes_back_unchanged(older: ClusterStack) -> None:
    assert older.client(LARGE.format(size=200), version="3.7.0") == f"True {200 * 2**20}"


def test_an_upgrade_under_load_keeps_the_data_and_loses_almost_nothing(older: ClusterStack) -> None:
    run = older.client(WRITE, version="3.7.0")
    answer = send(older, "POST", "/api/2.0/mlflow/experiments/create", {"name": "load"}, older.login())
    assert answer.status == 200, answer.body
    script = Request.create_run(answer.body.split('"')[3])
    with Load(older, older.login(), over_and_over(script)) as load:
        time.sleep(5)
        counts = older.up(mlflow__chartVersion="1.11.5")
        deadline = time.monotonic() + 900
        while load.total < 5000 and time.monotonic() < deadline:
            time.sleep(1)
    report("upgrade 1.8.1 to 1.11.5 on the cluster", f"{load.said()}; {counts}")
    print(load.failures[:20])
    assert older.client(READ) == f"{run} 0.25"
    assert older.changes() == {}
    # The migration takes locks, and PostgreSQL ends a request of the old server that waits for it in a circle.
    assert load.failed < 5


def test_a_gigabyte_goes_up_and_comes_back(older: ClusterStack) -> None:
    began = time.monotonic()
    assert older.client(LARGE.format(size=1024)) == f"True {2**30}"
    report("1 GB up and down on the cluster", f"{time.monotonic() - began:.0f} s")
    (pod,) = older.objects("pod", "mlflow")
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0


def test_three_rotations_follow_each_other(older: ClusterStack) -> None:
    for rotation in (1, 2, 3):
        assert older.up(database__rotation=rotation)["replaced"] == 1
        assert older.client(READ).endswith(" 0.25")
