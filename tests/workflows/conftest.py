"""The project on a stand-in for `pulumi`, and with `make workflows` on the local stack."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from local.stack import LocalStack, new_stack
from tests.github_server import serving_github
from tests.workflows.project import Project, Real, Stack, Told, new_project


@pytest.fixture(scope="session")
def real_stack() -> Iterator[LocalStack]:
    with new_stack("workflows") as deployed:
        deployed.up()
        yield deployed


@contextmanager
def made(folder: Path, stack: Stack) -> Iterator[Project]:
    with serving_github() as github:
        yield new_project(folder / "project", github, stack)


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Project]:
    """A repository whose program is deployed, with a stand-in for `pulumi`."""
    stack = Told(tmp_path / "state")
    stack.deploy({"identifier": "postgres-1", "backupRetentionDays": 1})
    with made(tmp_path, stack) as project:
        yield project


@pytest.fixture(params=["told", pytest.param("real", marks=pytest.mark.workflows)])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    """That repository, and one that is deployed on the local stack. There the database may have any days of backup."""
    if request.param == "told":
        yield request.getfixturevalue("told")
        return
    with made(tmp_path, Real(request.getfixturevalue("real_stack"))) as real:
        yield real
