"""The clean-up takes what was deleted long ago from the database and the bucket, and nothing else.

The pod of the CronJob is run as a process, with the command, the environment and the files that the program gives it.
"""

import json
import subprocess
import time
from collections.abc import Iterator

import pytest

from local import aws_account, tools
from local.charts.mlflow import APP_VERSIONS
from local.cluster.objects import Objects
from local.stack import LocalStack, new_stack
from local.supervisor.client import Supervisor
from tests.local.account import aws_client
from tests.local.docs_shell import Shell
from tests.local.restored_instances import keep_a_backup, make_restore

pytestmark = pytest.mark.local

FILL = """
import json
import pathlib
import tempfile
import mlflow
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag

client = MlflowClient()
mlflow.set_experiment("work")
made = {}
folder = tempfile.mkdtemp()
pathlib.Path(folder, "weights").write_text("of a model")

def run(name, experiment="work", values=3):
    mlflow.set_experiment(experiment)
    with mlflow.start_run(run_name=name) as one:
        mlflow.log_param("name", name)
        client.log_batch(one.info.run_id, metrics=[mlflow.entities.Metric("loss", 1.0, 0, step) for step in range(values)])
        mlflow.log_text(name, "note.txt")
        dataset = Dataset(name="rows", digest="1", source_type="http", source="{}")
        client.log_inputs(one.info.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    made[name] = one.info.run_id

def model(name, experiment):
    mlflow.set_experiment(experiment)
    logged = mlflow.initialize_logged_model(name=name)
    client.log_model_artifacts(logged.model_id, folder)
    mlflow.finalize_logged_model(logged.model_id, "READY")
    made[name] = logged.model_id

def trace(name, experiment):
    mlflow.set_experiment(experiment)
    with mlflow.start_span(name=name) as span:
        span.set_inputs({"question": name})
    mlflow.flush_trace_async_logging()
    made[name] = span.trace_id

for name in ("stays", "deleted-now", "deleted-long-ago", "registered", "restored"):
    run(name, values=1000 if name == "deleted-long-ago" else 3)
for experiment in ("gone", "gone-with-a-registered-model"):
    run(f"run-of-{experiment}", experiment)
    trace(f"trace-of-{experiment}", experiment)
model("model-of-gone", "gone")
model("model-deleted", "work")
for name in ("trace-new", "trace-old"):
    trace(name, "work")
client.create_registered_model("kept")
for name in ("registered", "run-of-gone-with-a-registered-model"):
    source = client.get_run(made[name]).info.artifact_uri
    client.create_model_version("kept", source, made[name])
for name in ("deleted-now", "deleted-long-ago", "registered", "restored"):
    client.delete_run(made[name])
client.delete_logged_model(made["model-deleted"])
for experiment in ("gone", "gone-with-a-registered-model"):
    made[experiment] = client.get_experiment_by_name(experiment).experiment_id
    client.delete_experiment(made[experiment])
made["work"] = client.get_experiment_by_name("work").experiment_id
print(json.dumps(made))
"""
# 31 days, in milliseconds.
AGE = (
    "UPDATE runs SET deleted_time = deleted_time - 2678400000 WHERE run_uuid <> %(deleted-now)s",
    "UPDATE logged_models SET last_updated_timestamp_ms = last_updated_timestamp_ms - 2678400000",
    "UPDATE experiments SET last_update_time = last_update_time - 2678400000 WHERE lifecycle_stage = 'deleted'",
)


ROWS = {
    "runs": "run_uuid",
    "logged_models": "model_id",
    "experiments": "experiment_id",
    "trace_info": "request_id",
}
"""Table to its key."""
GOES = {"deleted-long-ago", "run-of-gone", "trace-of-gone", "model-of-gone", "model-deleted", "gone"}
MARKS = {"lifecycle_stage", "last_update_time", "deleted_time"}


class Site:
    """A stack with the clean-up on, and what was made in it."""

    def __init__(self, stack: LocalStack, mlflow: str) -> None:
        self.stack = stack
        self.mlflow = mlflow
        self.made: dict[str, str] = json.loads(stack.client(FILL, version=mlflow))
        """Name of a thing to its id."""
        self.made_with_files = self.files()
        """The things that MLflow's client gave files.

        A trace of MLflow 3.7 always has one. One of MLflow 3.15 has one when the client's threads announce the trace
        before they send its content, because the client does not know yet that the database will have the content.
        """
        self.database = stack.connect()
        for statement in AGE:
            self.database.execute(statement.encode(), self.made)
        self.gone = self.rows_of_gone()

    def rows_of_gone(self) -> set[str]:
        """Return all rows of the experiment that goes, without the marks of its deletion."""
        ids = {self.made[name] for name in GOES if name.endswith("gone")} - {self.made["gone"]}
        tables = self.database.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
        )
        found: set[str] = set()
        for (table,) in tables.fetchall():
            for (row,) in self.database.execute(f"SELECT to_jsonb(t) FROM {table} t".encode()):
                if ids & {*map(str, row.values())} or str(row.get("experiment_id")) == self.made["gone"]:
                    left = {key: value for key, value in row.items() if key not in MARKS}
                    found.add(f"{table} {json.dumps(left, sort_keys=True)}")
        return found

    def rows(self) -> set[str]:
        """Return the names of what is in the database."""
        ids = {
            str(row[0])
            for table, key in ROWS.items()
            for row in self.database.execute(f"SELECT {key} FROM {table}".encode())
        }
        return {name for name, known in self.made.items() if known in ids}

    def files(self) -> set[str]:
        """Return the names of what has files in the bucket."""
        keys = self.keys()
        return {name for name, known in self.made.items() if any(known in key.split("/")[2:] for key in keys)}

    def keys(self) -> set[str]:
        s3 = aws_client(self.stack, "s3")
        bucket = self.stack.resources()["artifacts-bucket"]["outputs"]["bucket"]
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {found["Key"] for page in pages for found in page.get("Contents", [])}

    def start(self, **changes: str) -> subprocess.Popen[str]:
        """Start the pod of the CronJob, with other values for some variables."""
        objects = Objects(self.stack.folder / "cluster" / "objects")
        job = objects.get("CronJob", "mlflow", "mlflow-clean-up")
        assert job is not None
        pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        code = objects.get("ConfigMap", "mlflow", pod["volumes"][0]["configMap"]["name"])
        assert code is not None
        folder = self.stack.folder / "clean-up"
        folder.mkdir(exist_ok=True)
        for file, text in code["data"].items():
            (folder / file).write_text(text)
        python = tools.mlflow_python(self.mlflow)
        environment = {"PATH": f"{python.parent}:/usr/bin:/bin", "HOME": str(folder), "PYTHONWARNINGS": "ignore"}
        endpoint = f"http://{aws_account.ADDRESS}:{Supervisor(self.stack.folder).free_port(aws_account.PROCESS)}"
        environment |= aws_account.credentials(endpoint)
        for variable in container["env"]:
            secret = variable.get("valueFrom", {}).get("secretKeyRef")
            environment[variable["name"]] = (
                objects.secret_data("mlflow", secret["name"])[secret["key"]] if secret else variable["value"]
            )
        command = [
            word.replace(container["volumeMounts"][0]["mountPath"], str(folder)) for word in container["command"]
        ]
        return subprocess.Popen(
            command, env=environment | changes, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def clean_up(self, *, status: int = 0, **changes: str) -> str:
        """Make a pass and return its log."""
        one = self.start(**changes)
        out, errors = one.communicate(timeout=180)
        assert one.returncode == status, f"{out}\n{errors}"
        return out


@pytest.fixture(scope="module", params=["1.11.5", pytest.param("1.8.1", marks=pytest.mark.slow)])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with new_stack("clean-up") as new:
        new.up(mlflow__chartVersion=request.param, retention__deletedDays=30)
        site = Site(new, APP_VERSIONS[request.param])
        keep_a_backup(new)
        yield site


def test_a_dry_run_counts_and_takes_nothing(site: Site) -> None:
    rows, keys = site.rows(), site.keys()
    log = site.clean_up(CLEAN_UP_DRY_RUN="true", CLEAN_UP_DELETE_TRACES_DAYS="30")
    assert "dry run, would take: 1 experiments, 1 logged models, 3 runs, 2 runs kept for a registered model" in log
    assert (site.rows(), site.keys()) == (rows, keys)


def test_without_the_bucket_nothing_goes_and_the_pass_fails(site: Site) -> None:
    rows = site.rows()
    log = site.clean_up(status=1, AWS_ENDPOINT_URL="http://127.0.0.1:1", AWS_MAX_ATTEMPTS="1")
    assert f"failed: runs {site.made['deleted-long-ago']}: EndpointConnectionError" in log
    assert site.rows() == rows


def test_a_second_pass_beside_a_first_takes_nothing(site: Site) -> None:
    with site.stack.connect() as first:
        first.execute("SELECT pg_advisory_lock(1835820899)")
        assert "another one runs" in site.clean_up()


def test_a_pass_after_a_killed_one_takes_what_was_deleted_long_ago_and_nothing_else(site: Site) -> None:
    rows, files = site.rows(), site.files()
    with site.stack.connect() as somebody, somebody.transaction():
        # As MLflow does while it restores the run.
        somebody.execute("SELECT 1 FROM runs WHERE run_uuid = %s FOR UPDATE", [site.made["restored"]])
        killed = site.start()
        while site.files() == files and killed.poll() is None:
            time.sleep(0.05)
        killed.kill()
        killed.communicate()
        log = site.clean_up()
    assert "2 runs kept for a registered model" in log
    assert rows - site.rows() == GOES
    assert files - site.files() == GOES & files
    restore = f"import mlflow; mlflow.MlflowClient().restore_run({site.made['restored']!r})"
    site.stack.client(restore, version=site.mlflow)
    assert site.clean_up().strip() == "clean-up: 2 runs kept for a registered model"


def test_old_traces_are_archived_and_still_read(site: Site) -> None:
    if site.mlflow == APP_VERSIONS["1.8.1"]:
        pytest.skip("this MLflow has no archive, and the settings refuse it")
    age = "UPDATE trace_info SET timestamp_ms = timestamp_ms - 2678400000 WHERE request_id = %(trace-old)s"
    site.database.execute(age, site.made)
    assert "1 traces archived" in site.clean_up(CLEAN_UP_ARCHIVE_TRACES_DAYS="30")
    (kept,) = site.database.execute("SELECT max(length(content)) FROM spans WHERE trace_id = %(trace-old)s", site.made)
    assert kept == (0,)
    read = f"import mlflow; print(mlflow.get_trace({site.made['trace-old']!r}).data.spans[0].inputs)"
    assert site.stack.client(read, version=site.mlflow) == "{'question': 'trace-old'}"


def test_old_traces_go_with_their_files(site: Site) -> None:
    age = "UPDATE trace_info SET timestamp_ms = timestamp_ms - 2678400000 WHERE request_id = %(trace-old)s"
    site.database.execute(age, site.made)
    rows = site.rows()
    assert "1 traces" in site.clean_up(CLEAN_UP_DELETE_TRACES_DAYS="31")
    assert rows - site.rows() == {"trace-old"}
    assert "trace-old" not in site.files()


def test_an_experiment_that_was_purged_is_brought_back_alone(site: Site) -> None:
    rows, files, keys = site.rows(), site.files(), site.keys()
    said = make_restore(site.stack, "experiment", "--experiment", "gone", "--time", "2026-11-01T00:00:00Z")
    back = {name for name in GOES if name.endswith("gone")}
    assert f"gone is back as experiment {site.made['gone']}" in said
    assert site.rows() - rows == back
    assert site.files() - files == back & site.made_with_files
    assert keys <= site.keys()
    assert site.rows_of_gone() == site.gone
    read = f"""
import mlflow
run = mlflow.get_run({site.made["run-of-gone"]!r})
(input,) = run.inputs.dataset_inputs
print(run.data.params, run.data.metrics, input.dataset.name, input.tags[0].value, mlflow.artifacts.load_text(run.info.artifact_uri + "/note.txt"))
"""
    assert (
        site.stack.client(read, version=site.mlflow)
        == "{'name': 'run-of-gone'} {'loss': 1.0} rows training run-of-gone"
    )
    assert "1 experiments" not in site.clean_up()
    again = f'python -c "$(cat operations/restore/rows.py)" 127.0.0.1 {site.database.info.port} gone bring'
    refused = Shell(site.stack).run(f"kubectl -n mlflow exec deploy/mlflow -- {again}").stdout
    assert f"experiment {site.made['gone']} is there, active" in refused
