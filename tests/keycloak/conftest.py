"""A local stack whose people and machines log in with a Keycloak of the tests, from the first such test to the end of the session."""

import subprocess
from collections.abc import Iterator

import pytest
import yaml

from local.stack import PYTHON, LocalStack, new_stack
from tests import ROOT
from tests.keycloak import keycloak as company
from tests.keycloak.keycloak import Keycloak
from tests.local.conftest import no_leftovers

__all__ = ["no_leftovers"]


@pytest.fixture(scope="session")
def new() -> Iterator[LocalStack]:
    """The stack before it is deployed: Keycloak has to know the site's address."""
    with new_stack("keycloak") as stack:
        yield stack


@pytest.fixture(scope="session")
def keycloak(new: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keycloak]:
    with Keycloak(tmp_path_factory.mktemp("keycloak") / "server", new.url).serving() as running:
        yield running


@pytest.fixture(scope="session")
def stack(new: LocalStack, keycloak: Keycloak) -> LocalStack:
    """Two pods with two workers each: a session has to be one for all four processes."""
    new.up()
    file = new.folder / "project" / "Pulumi.local.yaml"
    config = yaml.safe_load(file.read_text())
    config["config"]["mlflow-eks:mlflow"] |= {
        "replicas": 2,
        "workers": 2,
        # The database has connections for no more.
        "pool": {"size": 3, "overflow": 3},
        "auth": {"mode": "oidc", "oidc": settings(keycloak)},
    }
    file.write_text(yaml.safe_dump(config))
    # The secret goes through standard input, as a person's does: an argument is visible in the process list.
    key = "mlflow-eks:mlflow.auth.oidc.clientSecret"
    subprocess.run(
        [PYTHON, "-m", "local", "pulumi", "config", "set", "--secret", "--path", key],
        cwd=ROOT,
        env=new.environment(),
        input=keycloak.client_secret,
        capture_output=True,
        text=True,
        check=True,
    )
    new.pulumi("up", "--yes", "--skip-preview")
    return new


def settings(keycloak: Keycloak) -> dict[str, object]:
    """Return the section `mlflow.auth.oidc` of the stack, without the secret."""
    return {
        "issuer": keycloak.issuer,
        "clientId": company.CLIENT,
        "adminGroups": [company.ADMINS],
        "userGroups": [company.USERS],
        "audience": company.AUDIENCE,
        "machines": {"trainer": f"{keycloak.issuer} {keycloak.machine_subject()}"},
        "caCertificate": keycloak.authority.read_text(),
    }
