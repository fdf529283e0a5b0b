"""One local stack for all tests that only read it, from the first such test to the end of the session."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from local import paths
from local.stack import LocalStack, new_stack
from local.supervisor.client import Supervisor
from tests import ROOT

SCREENSHOTS = ROOT / "artifacts"


@pytest.fixture(scope="session", autouse=True)
def no_leftovers() -> None:
    """End the stacks that a killed run of the tests has left: their names end with the run's process id."""
    for folder in (paths.home() / "stacks").glob("test-*"):
        run = folder.name.rpartition("-")[2]
        if folder.is_dir() and run.isdigit() and not Path("/proc", run).exists():
            Supervisor(folder).stop()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def stack() -> Iterator[LocalStack]:
    """The stack of Pulumi.local.yaml, deployed."""
    with new_stack("main") as deployed:
        deployed.up()
        yield deployed


@pytest.fixture
def own_stack(request: pytest.FixtureRequest) -> Iterator[LocalStack]:
    """A stack for one test, which may do anything to it. It is not deployed yet."""
    with new_stack(request.node.name.removeprefix("test_")[:24]) as new:
        yield new
