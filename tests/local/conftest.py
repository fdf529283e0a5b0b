"""One local stack for all tests that only read it, from the first such test to the end of the session."""

from collections.abc import Iterator

import pytest

from local.stack import LocalStack, new_stack
from tests import ROOT

SCREENSHOTS = ROOT / "artifacts"


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
