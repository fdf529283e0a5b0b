"""Every worker reads what MLflow keeps encrypted, also after passwords, the passphrase and the pods have changed.

The tests are steps that run in the order in which they are written. docs/keys.md describes them.
"""

import json
import secrets
import subprocess
from collections import Counter
from collections.abc import Iterator

import pytest

from local import tools
from local.http_load import send
from local.stack import LocalStack, new_stack
from local.supervisor.client import Supervisor
from tests.docs_commands import block
from tests.local.docs_shell import Shell

pytestmark = pytest.mark.local

API_KEY = "an-api-key-of-a-provider"
KEEP = f"""
from mlflow.entities import GatewayEndpointModelConfig, GatewayModelLinkageType
from mlflow.tracking import _get_store

store = _get_store("postgresql+psycopg2://")
secret = store.create_gateway_secret("kept", {{"api_key": "{API_KEY}"}}, provider="openai")
model = store.create_gateway_model_definition("kept", secret.secret_id, "openai", "a-model")
linked = GatewayEndpointModelConfig(model.model_definition_id, GatewayModelLinkageType.PRIMARY, 1.0)
store.create_gateway_endpoint("kept", [linked])
"""
READ = """
from mlflow.store.tracking.gateway.config_resolver import get_endpoint_config
from mlflow.tracking import _get_store

print(get_endpoint_config("kept", _get_store("postgresql+psycopg2://")).models[0].secret_value["api_key"])
"""
WEBHOOK = {
    "name": "kept",
    "url": "https://1.1.1.1/",
    "events": [{"entity": "REGISTERED_MODEL", "action": "CREATED"}],
    "secret": "signs-what-is-sent",
}


@pytest.fixture(scope="module")
def site() -> Iterator[LocalStack]:
    with new_stack("keys") as stack:
        stack.up()
        yield stack


def in_pod(stack: LocalStack, script: str) -> str:
    """Run a script with the variables of a pod, as the server's workers have them."""
    (pod, *_) = [one.name for one in Supervisor(stack.folder).list() if one.name.startswith("mlflow.mlflow-")]
    spec = json.loads((stack.folder / "supervisor" / "specs" / f"{pod}.json").read_text())
    command = [tools.mlflow_python("3.15.1"), "-c", script]
    done = subprocess.run(command, env=spec["env"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def webhooks(stack: LocalStack) -> Counter[tuple[int, int]]:
    """Ask for the webhooks over many connections, which go to both workers; return status and number of each answer."""
    login = "admin", stack.password()
    answers = [stack.get("/api/2.0/mlflow/webhooks", login=login) for _ in range(12)]
    return Counter((answer.status, answer.body.count('"webhook_id"')) for answer in answers)


def test_every_worker_reads_what_one_has_encrypted(site: LocalStack) -> None:
    login = "admin", site.password()
    assert send(site, "POST", "/api/2.0/mlflow/webhooks", WEBHOOK, login).status == 200
    assert webhooks(site) == {(200, 1): 12}
    in_pod(site, KEEP)
    assert in_pod(site, READ) == API_KEY


def test_what_is_encrypted_cannot_be_read_with_what_mlflow_takes_without_a_key(site: LocalStack) -> None:
    without = "import os\nfor name in list(os.environ):\n    if 'KEK' in name or 'WEBHOOK' in name:\n        del os.environ[name]\n"
    listed = "from mlflow.tracking.client import MlflowClient\nMlflowClient(registry_uri='postgresql+psycopg2://').list_webhooks()"
    with pytest.raises(AssertionError, match="likely encrypted with a custom passphrase"):
        in_pod(site, without + READ)
    with pytest.raises(AssertionError, match="InvalidToken"):
        in_pod(site, without + listed)


def test_a_new_password_of_the_database_leaves_the_keys(site: LocalStack) -> None:
    changed = site.changes(database__rotation=1)
    assert not [name for names in changed.values() for name in names if "key" in name or "passphrase" in name]
    site.up(database__rotation=1)
    assert webhooks(site) == {(200, 1): 12}
    assert in_pod(site, READ) == API_KEY


def test_the_passphrase_can_be_changed_as_the_page_says(site: LocalStack) -> None:
    new, shell = secrets.token_urlsafe(32), Shell(site)
    rotate, passphrase, version, up = block("docs/keys.md", "rotate-kek").to_run()
    said = shell.run(rotate, text=f"{new}\n{new}\n").stdout
    assert "Successfully rotated 1 encryption key" in said
    with pytest.raises(AssertionError, match="Failed to decrypt secret"):
        in_pod(site, READ)
    shell.run(passphrase, text=new)
    shell.run(version)
    # The pods are replaced, and the generated keys stay.
    assert site.changes() == {"update": ["mlflow-mlflow-keys", "mlflow-release"]}
    shell.run(up)
    assert in_pod(site, READ) == API_KEY
    assert webhooks(site) == {(200, 1): 12}
