"""Rollouts under the load of raw clients without retries, through the cluster address of HAProxy's Service."""

import time
from collections.abc import Iterator

import pytest

from local.http_load import Load, Request, over_and_over, send
from tests.cluster.losses import losses
from tests.cluster.real_cluster import ClusterStack

pytestmark = pytest.mark.cluster

CONTROLLERS = "app.kubernetes.io/name=kubernetes-ingress"


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


def test_a_rotation_loses_no_request(deployed: ClusterStack, load: Load) -> None:
    deployed.up(database__rotation=1)
    assert losses(load, "rotation on the cluster") == 0


def test_a_changed_setting_loses_no_request(deployed: ClusterStack, load: Load) -> None:
    deployed.up(mlflow__auth__defaultPermission="READ")
    assert losses(load, "changed setting on the cluster") == 0


def test_a_rollout_of_the_controller_loses_no_request(deployed: ClusterStack, load: Load) -> None:
    deployed.kubectl("-n", "haproxy", "rollout", "restart", "deployment")
    deployed.kubectl("-n", "haproxy", "rollout", "status", "deployment", "--timeout=300s")
    assert losses(load, "rollout of the controller on the cluster") == 0


def test_a_deleted_controller_pod_loses_no_request(deployed: ClusterStack, load: Load) -> None:
    pod = deployed.objects("pod", "haproxy", CONTROLLERS)[0]["metadata"]["name"]
    deployed.kubectl("-n", "haproxy", "delete", "pod", pod)
    assert losses(load, "deleted HAProxy pod on the cluster") == 0


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
        assert losses(load, "deleted MLflow pod on the cluster") == 0

    def test_a_killed_server_of_two_loses_few_requests(
        self, deployed: ClusterStack, two_pods: None, load: Load
    ) -> None:
        pod = deployed.objects("pod", "mlflow")[0]["metadata"]["name"]
        deployed.kubectl("-n", "mlflow", "delete", "pod", pod, "--grace-period=0", "--force")
        # What was on its way when the pod was killed.
        assert losses(load, "killed MLflow pod on the cluster") <= load.clients
