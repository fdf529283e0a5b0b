"""One local stack for all tests that only look at it; it comes up with the first and goes with the last."""

from collections.abc import Iterator

import pytest

from local.stack import LocalStack, new_stack
from tests import ROOT

SCREENSHOTS = ROOT / "artifacts"


@pytest.fixture(scope="session")
def stack() -> Iterator[LocalStack]:
    """The stack of Pulumi.local.yaml."""
    with new_stack("main") as made:
        made.up()
        yield made


@pytest.fixture
def own_stack(request: pytest.FixtureRequest) -> Iterator[LocalStack]:
    """A stack that a test may do anything to; not up yet."""
    with new_stack(request.node.name.removeprefix("test_")[:24]) as made:
        yield made
