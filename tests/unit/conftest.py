"""Deployments that many tests only read, made once."""

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
    """A cluster that is not EKS, and a server that exists."""
    return deploy(ANY_CLUSTER, secrets=["postgres"])
