"""Rollouts under the load of raw clients without retries, through the cluster address of HAProxy's Service."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from local.http_load import Load, Request, over_and_over, report, send
from tests.cluster.real_cluster import ClusterStack

pytestmark = pytest.mark.cluster

CONTROLLERS = "app.kubernetes.io/name=kubernetes-ingress"
REQUESTS = int(os.environ.get("CLUSTER_TEST_REQUESTS") or 5000)
"""Requests of each load, at least."""
PATIENCE = 900
"""Seconds that they may take. A node with two cores that are busy answers 20 requests a second."""
UPLOAD = """
import hashlib, os, ssl, tempfile, time
import mlflow

# 20 MB in 80 seconds, longer than a pod has to end.
_send = ssl.SSLSocket.sendall
def slowly(self, data, *rest):
    if len(data) > 8192:
        time.sleep(len(data) / 250_000)
    return _send(self, data, *rest)
ssl.SSLSocket.sendall = slowly
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "7"
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "random.bin")
    with open(path, "wb") as file:
        file.write(os.urandom(20_000_000))
    mlflow.set_experiment("slow")
    with mlflow.start_run() as run:
        open(os.environ["HOME"] + "/upload-begins", "w").close()
        began = time.monotonic()
        mlflow.log_artifact(path)
        took = time.monotonic() - began
    back = mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/random.bin", dst_path=os.path.join(folder, "back"))
    digests = [hashlib.sha256(open(name, "rb").read()).hexdigest() for name in (path, back)]
    print(digests[0] == digests[1], round(took))
"""


@pytest.fixture(scope="module")
def deployed(site: ClusterStack) -> ClusterStack:
    site.up()
    return site


@pytest.fixture(scope="module")
def script(deployed: ClusterStack) -> Request:
    answer = send(deployed, "POST", "/api/2.0/mlflow/experiments/create", {"name": "load"}, deployed.login())
    assert answer.status == 200, answer.body
    return Request.create_run(answer.body.split('"')[3])


@pytest.fixture
def load(deployed: ClusterStack, script: Request) -> Iterator[Load]:
    """Eight clients, from some seconds before the block to some after it."""
    with Load(deployed, deployed.login(), over_and_over(script)) as clients:
        time.sleep(5)
        yield clients


def _losses(load: Load, what: str) -> int:
    time.sleep(15)
    deadline = time.monotonic() + PATIENCE
    while load.total < REQUESTS and time.monotonic() < deadline:
        time.sleep(1)
    times = sorted(load.latencies)
    report(what, f"{load.said()}; p99 {times[len(times) * 99 // 100]:.1f} s, longest {times[-1]:.1f} s")
    print(load.failures[:20])
    return load.failed


def test_a_rotation_loses_no_request(deployed: ClusterStack, load: Load) -> None:
    deployed.up(database__rotation=1)
    assert _losses(load, "rotation on the cluster") == 0


def test_a_changed_setting_loses_no_request(deployed: ClusterStack, load: Load) -> None:
    deployed.up(mlflow__auth__defaultPermission="READ")
    assert _losses(load, "changed setting on the cluster") == 0


def test_a_rollout_of_the_controller_loses_no_request(deployed: ClusterStack, load: Load) -> None:
    deployed.kubectl("-n", "haproxy", "rollout", "restart", "deployment")
    deployed.kubectl("-n", "haproxy", "rollout", "status", "deployment", "--timeout=300s")
    assert _losses(load, "rollout of the controller on the cluster") == 0


def test_a_deleted_controller_pod_loses_no_request(deployed: ClusterStack, load: Load) -> None:
    pod = deployed.objects("pod", "haproxy", CONTROLLERS)[0]["metadata"]["name"]
    deployed.kubectl("-n", "haproxy", "delete", "pod", pod)
    assert _losses(load, "deleted HAProxy pod on the cluster") == 0


def test_an_upload_that_is_longer_than_a_pods_end_survives_a_rollout(deployed: ClusterStack) -> None:
    with ThreadPoolExecutor() as pool:
        upload = pool.submit(deployed.client, UPLOAD)
        while not (deployed.folder / "upload-begins").exists():
            assert not upload.done(), upload.exception()
            time.sleep(0.2)
        time.sleep(10)
        deployed.kubectl("-n", "mlflow", "rollout", "restart", "deployment", "mlflow")
        deployed.kubectl("-n", "mlflow", "rollout", "status", "deployment", "mlflow", "--timeout=300s")
        said = upload.result(600)
    report("upload of 80 s during a rollout", f"same content, seconds: {said}")
    assert said.startswith("True ")


class TestTwoPods:
    """The release has one pod, because there is no bucket. The tests add one, which shares the database."""

    @pytest.fixture(autouse=True)
    def two_pods(self, deployed: ClusterStack) -> None:
        deployed.kubectl("-n", "mlflow", "scale", "deployment", "mlflow", "--replicas=2")
        deployed.kubectl("-n", "mlflow", "rollout", "status", "deployment", "mlflow", "--timeout=300s")
        # HAProxy checks a new server every two seconds, and wants two answers.
        time.sleep(10)

    def test_a_deleted_pod_of_two_loses_no_request(self, deployed: ClusterStack, two_pods: None, load: Load) -> None:
        pod = deployed.objects("pod", "mlflow")[0]["metadata"]["name"]
        deployed.kubectl("-n", "mlflow", "delete", "pod", pod)
        assert _losses(load, "deleted MLflow pod on the cluster") == 0

    def test_a_killed_server_of_two_loses_few_requests(
        self, deployed: ClusterStack, two_pods: None, load: Load
    ) -> None:
        pod = deployed.objects("pod", "mlflow")[0]["metadata"]["name"]
        deployed.kubectl("-n", "mlflow", "delete", "pod", pod, "--grace-period=0", "--force")
        # What was on its way when the pod was killed.
        assert _losses(load, "killed MLflow pod on the cluster") <= load.clients
