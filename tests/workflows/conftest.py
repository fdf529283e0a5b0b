"""The project on a stand-in for `pulumi`, and with `make workflows` on the local stack."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from local.stack import LocalStack, new_stack
from tests.github_server import serving_github
from tests.workflows.project import Project, Real, Told, new_project


@pytest.fixture(scope="session")
def real_stack() -> Iterator[LocalStack]:
    with new_stack("workflows") as deployed:
        deployed.up()
        yield deployed


@pytest.fixture(params=["told", pytest.param("real", marks=pytest.mark.workflows)])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    """A repository whose program is deployed. Only the database's backup may be another one."""
    real = request.param == "real"
    stack = Real(request.getfixturevalue("real_stack")) if real else Told(tmp_path / "state")
    with serving_github() as github:
        made = new_project(tmp_path / "project", github, stack)
        if isinstance(stack, Told):
            stack.deploy({"identifier": "postgres-1", "backupRetentionDays": 1})
        yield made
