"""Deployments that many tests only read, so each is made once."""

import pytest

from tests.unit.harness import ANY_CLUSTER, Deployment, deploy, stack_config


@pytest.fixture(scope="session")
def dev() -> Deployment:
    """The committed dev stack."""
    return deploy(stack_config("dev"), stack="dev")


@pytest.fixture(scope="session")
def prod() -> Deployment:
    """The committed prod stack."""
    return deploy(stack_config("prod"), stack="prod")


@pytest.fixture(scope="session")
def local() -> Deployment:
    """The committed local stack."""
    return deploy(stack_config("local"), stack="local")


@pytest.fixture(scope="session")
def any_cluster() -> Deployment:
    """A stack on a cluster that is not EKS, with an existing PostgreSQL server."""
    return deploy(ANY_CLUSTER, secrets=["postgres"])
