"""Commands that are killed while Helm works. The next `up` mends what is left, or `make unstick` and the commands that it names."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from local.http_load import report
from local.stack import CommandError
from tests.cluster.real_cluster import ClusterStack, site_certificate

pytestmark = pytest.mark.cluster

BOTH = ("engine", "plugin")


@pytest.fixture(scope="module")
def deployed(site: ClusterStack, certificate: tuple[Path, Path]) -> ClusterStack:
    site.up()
    site_certificate(site, certificate)
    return site


def _helm(site: ClusterStack, *statuses: str) -> Callable[[], bool]:
    """Return a function that says whether Helm has such a status for MLflow's release. No status: no release."""

    def look() -> bool:
        found = site.objects("secret", "mlflow", "owner=helm,name=mlflow")
        now = {secret["metadata"]["labels"]["status"] for secret in found}
        return bool(now & set(statuses)) if statuses else not now

    return look


def _release(site: ClusterStack) -> str:
    (found,) = [each["urn"] for each in site.state() if each["urn"].endswith("::mlflow-release")]
    return found


def _serves(site: ClusterStack) -> bool:
    deployment = json.loads(site.kubectl("-n", "mlflow", "get", "deployment", "mlflow", "-o", "json"))
    return (
        deployment["status"].get("readyReplicas", 0) >= 1
        and site.get("/api/2.0/mlflow/experiments/search?max_results=1", login=site.login()).status == 200
    )


def _goes_on(site: ClusterStack) -> str:
    """Bring the stack up again, and return the way. `up` must not succeed while MLflow does not run."""
    try:
        site.up()
        way = "up"
    except CommandError:
        site.unstick()
        way = "make unstick"
    assert _serves(site)
    return way


@pytest.mark.parametrize(
    ("victims", "seconds"),
    [(BOTH, 1), (("engine",), 5), (("plugin",), 10), (BOTH, 20)],
    ids=["both at once", "the engine", "the plugin", "both at the end"],
)
def test_a_killed_upgrade_can_be_gone_on_from(
    deployed: ClusterStack, request: pytest.FixtureRequest, victims: tuple[str, ...], seconds: float
) -> None:
    # A value that differs in each case.
    deployed.set(mlflow__auth__cacheSeconds=30 + int(seconds))
    deployed.kill(victims, _helm(deployed, "pending-upgrade"), seconds, "up")
    report(f"killed upgrade, {request.node.callspec.id}", _goes_on(deployed))


@pytest.mark.parametrize(
    ("victims", "seconds"),
    [(BOTH, 1), (("engine",), 5), (("plugin",), 10), (BOTH, 20)],
    ids=["both at once", "the engine", "the plugin", "both at the end"],
)
def test_a_killed_install_can_be_gone_on_from(
    deployed: ClusterStack, request: pytest.FixtureRequest, victims: tuple[str, ...], seconds: float
) -> None:
    deployed.destroy_only(_release(deployed))
    deployed.kill(victims, _helm(deployed, "pending-install"), seconds, "up")
    report(f"killed install, {request.node.callspec.id}", _goes_on(deployed))


@pytest.mark.parametrize(
    ("victims", "seconds"),
    [(BOTH, 0.5), (("engine",), 0.5), (("plugin",), 0.5)],
    ids=["both", "the engine", "the plugin"],
)
def test_a_killed_uninstall_can_be_gone_on_from(
    deployed: ClusterStack, request: pytest.FixtureRequest, victims: tuple[str, ...], seconds: float
) -> None:
    command = ("destroy", "--target", _release(deployed), "--target-dependents")
    deployed.kill(victims, deployed.deletes_the_release, seconds, *command)
    report(f"killed uninstall, {request.node.callspec.id}", _goes_on(deployed))


def test_nothing_is_left_of_all_the_killed_commands(deployed: ClusterStack) -> None:
    assert deployed.changes() == {}
    assert set(deployed.refresh()) == {"unchanged"}


def test_a_killed_destroy_is_finished_by_the_next_one(deployed: ClusterStack) -> None:
    deployed.kill(BOTH, deployed.deletes_the_release, 0, "destroy")
    deployed.unstick(then=("destroy", "--refresh"))
    assert deployed.state() == []
