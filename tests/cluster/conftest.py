"""A stack on a real cluster for the tests of a file. Its end destroys it."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

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
