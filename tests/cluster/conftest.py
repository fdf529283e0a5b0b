"""A stack on a real cluster for the tests of a file. Its end destroys it."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from local import aws_account
from tests.cluster.account import Account, account
from tests.cluster.real_cluster import HOST, ClusterStack, Place


@pytest.fixture(scope="session")
def place() -> Place:
    found = Place.from_environment()
    if reason := found.missing():
        if os.environ.get("CLUSTER_TEST_REQUIRED"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def site(place: Place) -> Iterator[ClusterStack]:
    """A stack that is not deployed yet. The tests of a file run in the order in which they are written."""
    folder = Path(tempfile.mkdtemp(prefix="cluster-test-"))
    stack = ClusterStack(place, folder / "stack")
    stack.create()
    yield stack
    stack.destroy()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def aws(place: Place) -> Iterator[Account]:
    folder = Path(tempfile.mkdtemp(prefix="cluster-test-account-"))
    with account(place.context, _own_address(place), folder) as running:
        yield running
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def on_eks(place: Place, aws: Account) -> Iterator[ClusterStack]:
    """A stack that names its cluster as on EKS, with two pods of MLflow and three of the controller. It is not deployed yet."""
    folder = Path(tempfile.mkdtemp(prefix="cluster-test-"))
    stack = ClusterStack(place, folder / "stack", {"cluster__name": aws_account.CLUSTER}, aws.environment)
    stack.create(mlflow__replicas=2, ingress__replicas=3)
    yield stack
    stack.destroy(ok=False)
    shutil.rmtree(folder)


def _own_address(place: Place) -> str:
    """Return this machine's address on the way to the database, which pods reach, too."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect((place.database.rpartition(":")[0], 9))
        return way.getsockname()[0]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Files of a certificate for the site's host and of its key."""
    folder = tmp_path_factory.mktemp("certificate")
    files = folder / "tls.crt", folder / "tls.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={HOST}"),
            *("-addext", f"subjectAltName=DNS:{HOST}", "-out", files[0], "-keyout", files[1]),
        ],
        check=True,
        capture_output=True,
    )
    return files
