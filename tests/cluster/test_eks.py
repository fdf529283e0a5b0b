"""A cluster by its name, as on EKS, with a bucket and two pods of MLflow. Only AWS is the local stack's."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from local.http_load import Load, Request, over_and_over, report, send
from tests.cluster.account import Account, reaches_the_account
from tests.cluster.losses import losses
from tests.cluster.real_cluster import ClusterStack

pytestmark = pytest.mark.cluster

CONTROLLERS = "app.kubernetes.io/name=kubernetes-ingress"
ARTIFACT = """
import hashlib, os, tempfile
import mlflow

with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "random.bin")
    with open(path, "wb") as file:
        file.write(os.urandom(50 * 2**20))
    mlflow.set_experiment("bucket")
    with mlflow.start_run() as run:
        mlflow.log_artifact(path)
    back = mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/random.bin", dst_path=os.path.join(folder, "back"))
    digests = [hashlib.sha256(open(name, "rb").read()).hexdigest() for name in (path, back)]
    print(digests[0] == digests[1], os.path.getsize(back))
"""
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
def site(on_eks: ClusterStack) -> ClusterStack:
    return on_eks


def test_the_first_up_only_creates(site: ClusterStack) -> None:
    began = time.monotonic()
    counts = site.up()
    report("first up in EKS mode on the cluster", f"{counts}, {time.monotonic() - began:.0f} s")
    assert set(counts) == {"created"}
    assert site.changes() == {}
    assert set(site.refresh()) == {"unchanged"}
    assert len(site.objects("pod", "mlflow")) == 2
    assert len(site.objects("pod", "haproxy", CONTROLLERS)) == 3


def test_an_artifact_goes_into_the_bucket_through_two_pods(site: ClusterStack, aws: Account) -> None:
    reaches_the_account(site, aws, "deployment/mlflow", "mlflow")
    site.kubectl("-n", "mlflow", "rollout", "status", "deployment", "mlflow", "--timeout=300s")
    # HAProxy checks a new server every two seconds, and wants two answers.
    time.sleep(10)
    assert site.get("/api/2.0/mlflow/experiments/search?max_results=1").status == 401
    assert site.client(ARTIFACT) == f"True {50 * 2**20}"


@pytest.fixture(scope="module")
def script(site: ClusterStack) -> Request:
    answer = send(site, "POST", "/api/2.0/mlflow/experiments/create", {"name": "load"}, site.login())
    assert answer.status == 200, answer.body
    return Request.create_run(answer.body.split('"')[3])


def test_a_deleted_pod_of_two_loses_no_request(site: ClusterStack, script: Request) -> None:
    with Load(site, site.login(), over_and_over(script)) as load:
        time.sleep(5)
        pod = site.objects("pod", "mlflow")[0]["metadata"]["name"]
        site.kubectl("-n", "mlflow", "delete", "pod", pod)
        assert losses(load, "deleted MLflow pod in EKS mode on the cluster") == 0


def test_a_killed_server_of_two_loses_no_more_than_it_was_at_work_on(site: ClusterStack, script: Request) -> None:
    site.kubectl("-n", "mlflow", "rollout", "status", "deployment", "mlflow", "--timeout=300s")
    time.sleep(10)
    with Load(site, site.login(), over_and_over(script)) as load:
        time.sleep(5)
        pod = site.objects("pod", "mlflow")[0]["metadata"]["name"]
        # Every process but the container's first, which then ends by itself.
        kill = ("python", "-c", "import os; os.kill(-1, 9)")
        site.kubectl("-n", "mlflow", "exec", pod, "-c", "mlflow", "--", *kill)
        assert losses(load, "kill -9 in a pod of two on the cluster") <= load.clients
    (there,) = [one for one in site.objects("pod", "mlflow") if one["metadata"]["name"] == pod]
    assert there["status"]["containerStatuses"][0]["restartCount"] == 1


def test_an_upload_that_is_longer_than_a_pods_end_survives_a_rollout(site: ClusterStack) -> None:
    # Without a bucket, a file that an old pod has stored would go with it.
    with ThreadPoolExecutor() as pool:
        upload = pool.submit(site.client, UPLOAD)
        while not (site.folder / "upload-begins").exists():
            assert not upload.done(), upload.exception()
            time.sleep(0.2)
        time.sleep(10)
        site.kubectl("-n", "mlflow", "rollout", "restart", "deployment", "mlflow")
        site.kubectl("-n", "mlflow", "rollout", "status", "deployment", "mlflow", "--timeout=300s")
        said = upload.result(600)
    report("upload of 80 s during a rollout", f"same content, seconds: {said}")
    assert said.startswith("True ")


def test_another_identity_changes_the_role_and_the_pods(site: ClusterStack) -> None:
    counts = site.up(artifacts__identity="irsa")
    report("from Pod Identity to IRSA on the cluster", str(counts))
    assert site.changes() == {}
    (pods,) = [one for one in site.objects("serviceaccount", "mlflow") if one["metadata"]["name"] == "mlflow"]
    assert pods["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].startswith("arn:aws:iam::")


def test_an_autoscaler_takes_the_place_of_the_replicas(site: ClusterStack) -> None:
    site.unset("mlflow.replicas")
    site.up(mlflow__autoscaling__minReplicas=2, mlflow__autoscaling__maxReplicas=3)
    (scaler,) = site.objects("horizontalpodautoscaler", "mlflow")
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (2, 3)
    assert site.changes() == {}
    assert len(site.objects("pod", "mlflow")) == 2


def test_destroy_leaves_nothing(site: ClusterStack) -> None:
    assert set(site.destroy()) == {"deleted"}
    assert site.state() == []
