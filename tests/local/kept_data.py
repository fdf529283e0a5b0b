"""Data and a reader that an upgrade of MLflow must keep, and a stack with the results of earlier steps."""

import json
import secrets
from typing import Any

from local.http_load import send
from local.stack import Answer, LocalStack
from tests.local.docs_shell import Shell

READER = "reader", secrets.token_hex(16)

NEW_SNAPSHOT = {"replace": ["postgres-upgrade-snapshot", "postgres-upgrade-snapshot-suffix"]}
"""Changes in a preview of another MLflow, besides that of the release."""
FILL = """
import mlflow
from mlflow import MlflowClient

experiment = mlflow.set_experiment("kept")
for depth in range(3):
    with mlflow.start_run(run_name=f"depth-{depth}") as run:
        mlflow.log_param("depth", depth)
        mlflow.set_tag("team", "tests")
        for step in range(4):
            mlflow.log_metric("loss", 1 / (step + depth + 1), step=step)
        mlflow.log_text(f"hello from {depth}", "notes/note.txt")
client = MlflowClient()
client.create_registered_model("kept-model", description="of the tests")
client.create_model_version("kept-model", f"{run.info.artifact_uri}/notes", run.info.run_id)
client.set_registered_model_alias("kept-model", "champion", "1")
client.create_webhook("kept-webhook", "https://1.1.1.1/", ["registered_model.created"], secret="with-a-key-of-the-stack")
print(experiment.experiment_id)
"""
LOOK = """
import json
import mlflow
from mlflow import MlflowClient

client = MlflowClient()
experiment = client.get_experiment_by_name("kept")
runs = [
    {
        "id": run.info.run_id,
        "name": run.info.run_name,
        "status": run.info.status,
        "params": run.data.params,
        "team": run.data.tags["team"],
        "loss": [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "loss")],
        "note": mlflow.artifacts.load_text(f"{run.info.artifact_uri}/notes/note.txt"),
    }
    for run in client.search_runs([experiment.experiment_id], order_by=["attributes.run_name"])
]
model = client.get_registered_model("kept-model")
version = client.get_model_version_by_alias("kept-model", "champion")
# Each worker decrypts the secret to answer this, and connections go to the workers in turn.
webhooks = [[webhook.name for webhook in client.list_webhooks()] for _ in range(8)]
print(json.dumps([runs, model.description, version.version, version.run_id, version.source, webhooks]))
"""


class Site:
    """The stack, and the results of earlier steps."""

    def __init__(self, stack: LocalStack) -> None:
        self.stack = stack
        self.dump = stack.folder / "mlflow.dump"
        self.experiment = ""
        self.before: Any = None
        self.later = ""

    @property
    def admin(self) -> tuple[str, str]:
        return "admin", self.stack.password()

    def version(self) -> str:
        return self.stack.get("/version", login=self.admin).body

    def look(self, version: str) -> Any:
        return json.loads(self.stack.client(LOOK, version=version))

    def run(self, command: str, password: str = "") -> str:
        """Run a command of a page in the folder of the dump, and return its output."""
        with self.stack.connect(as_master=True) as server:
            address = f"host={server.info.host} port={server.info.port}"
        done = Shell(self.stack).run(
            command.replace("host=…", address), cwd=self.dump.parent, variables={"PGPASSWORD": password}
        )
        return done.stdout

    def read_as_reader(self, experiment: str) -> int:
        path = f"/api/2.0/mlflow/experiments/get?experiment_id={experiment}"
        return self.stack.get(path, login=READER).status

    def write_as_reader(self, experiment: str) -> int:
        return send(self.stack, "POST", "/api/2.0/mlflow/runs/create", {"experiment_id": experiment}, READER).status

    def search(self, login: tuple[str, str]) -> Answer:
        return self.stack.get("/api/2.0/mlflow/experiments/search?max_results=1", login=login)

    def add_the_reader(self, grant: str, granted: dict[str, str]) -> None:
        """Make the reader and give it READ on the experiment, by the route of the MLflow that runs."""
        user = {"username": READER[0], "password": READER[1]}
        assert send(self.stack, "POST", "/api/2.0/mlflow/users/create", user, self.admin).status == 200
        fields = {**granted, "username": READER[0], "permission": "READ"}
        assert send(self.stack, "POST", grant, fields, self.admin).status == 200
        self.reader_may_what_was_granted()

    def reader_may_what_was_granted(self) -> None:
        assert self.read_as_reader(self.experiment) == 200
        assert self.write_as_reader(self.experiment) == 403
        assert self.read_as_reader("0") == 403
