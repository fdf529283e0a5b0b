"""Releases that do not become ready, and the reason that `make deploy` prints meanwhile."""

import re
import time
from pathlib import Path

import pytest

from local.http_load import Load, Request, over_and_over, report
from tests.cluster.real_cluster import ClusterStack, site_certificate

pytestmark = pytest.mark.cluster

SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"


@pytest.fixture(scope="module")
def deployed(site: ClusterStack, certificate: tuple[Path, Path]) -> ClusterStack:
    site.up()
    site_certificate(site, certificate)
    return site


def _fails(site: ClusterStack, what: str, reason: str, **settings: object) -> None:
    """Deploy what cannot become ready. A line with the reason comes within a minute, and the old pod serves on."""
    code, lines = site.watched_up(mlflow__timeoutSeconds=60, **settings)
    text = "\n".join(f"{seconds:6.1f} {line}" for seconds, line in lines)
    print(text)
    assert code != 0, text
    began = next(seconds for seconds, line in lines if re.search(r"mlflow-release\W+updating", line))
    said = [seconds for seconds, line in lines if re.search(reason, line)]
    assert said, text
    report(f"the reason on the cluster: {what}", f"{said[0] - began:.0f} s after Helm has begun")
    assert said[0] - began < 60
    # The command ends with it once more, after Pulumi's own "context deadline exceeded".
    assert re.search(reason, text.partition("Seen while the command ran")[2])
    assert site.get(SEARCH, login=site.login()).status == 200


def test_an_image_that_cannot_be_pulled(deployed: ClusterStack) -> None:
    try:
        _fails(deployed, "image", r"ImagePullBackOff|ErrImagePull", mlflow__image__tag="3.99.0")
    finally:
        deployed.unset("mlflow.image")


def test_a_node_that_is_too_small(deployed: ClusterStack) -> None:
    try:
        _fails(deployed, "node", r"Unschedulable.*Insufficient cpu", mlflow__resources__cpuRequest="64")
    finally:
        deployed.set(mlflow__resources__cpuRequest="100m")


def test_a_quota(deployed: ClusterStack) -> None:
    deployed.kubectl("-n", "mlflow", "create", "quota", "small", "--hard=pods=1")
    try:
        _fails(deployed, "quota", r"FailedCreate.*exceeded quota", mlflow__auth__cacheSeconds=31)
    finally:
        deployed.kubectl("-n", "mlflow", "delete", "quota", "small")


def test_a_password_that_the_database_does_not_know(deployed: ClusterStack) -> None:
    with deployed.connect() as admin:
        admin.execute("ALTER ROLE mlflow_user PASSWORD 'another'")
    _fails(deployed, "password", r"password authentication failed", mlflow__auth__cacheSeconds=32)
    # The other role has a password of its own.
    assert deployed.up(database__rotation=1, mlflow__timeoutSeconds=300)["updated"] >= 1
    assert deployed.get(SEARCH, login=deployed.login()).status == 200


def test_destroy_ends_pods_and_clients_that_hold_connections(deployed: ClusterStack) -> None:
    with (
        deployed.connect("mlflow"),
        Load(deployed, deployed.login(), over_and_over(Request("GET", SEARCH)), pause=0.5) as load,
    ):
        deadline = time.monotonic() + 60
        while load.answers["200"] < 8:
            assert time.monotonic() < deadline, load.said()
            time.sleep(1)
        assert set(deployed.destroy()) == {"deleted"}
    assert deployed.state() == []
