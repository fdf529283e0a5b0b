"""One local stack for all tests that only look at it; it comes up with the first and goes with the last."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from local import paths
from tests.local.stack import LocalStack, free_ports

SCREENSHOTS = Path(__file__).parents[2] / "artifacts"


def _new(name: str) -> LocalStack:
    folder = paths.home() / "stacks" / f"test-{name}-{os.getpid()}"
    http, https = free_ports()
    return LocalStack(folder, http, https)


def _gone(stack: LocalStack) -> None:
    stack.command("down", ok=False)
    stack.command("down", "--force", ok=False)
    shutil.rmtree(stack.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def stack() -> Iterator[LocalStack]:
    """The stack of Pulumi.local.yaml."""
    made = _new("main")
    try:
        made.up()
        yield made
    finally:
        _gone(made)


@pytest.fixture
def own_stack(request: pytest.FixtureRequest) -> Iterator[LocalStack]:
    """A stack that a test may do anything to; not up yet."""
    made = _new(request.node.name.removeprefix("test_")[:24])
    try:
        yield made
    finally:
        _gone(made)
