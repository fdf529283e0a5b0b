# pyright: reportMissingImports=false
"""Use MLflow with the client of this interpreter, which can be an old one, and print what works as JSON.

`yes`: it works. `no`: the server refuses it, or another answer comes than expected. `-`: the client has no such function.

This file runs in the virtual environments of old clients, so it imports nothing else of this repository.
"""

import json
import os
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
from mlflow.tracking import MlflowClient

FEATURES: dict[str, Callable[[], None]] = {}
NAME = f"{mlflow.__version__}-{uuid.uuid4().hex[:8]}"
"""Beginning of the names of all that this client makes."""


def feature(text: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def add(function: Callable[[], None]) -> Callable[[], None]:
        FEATURES[text] = function
        return function

    return add


class Echo(mlflow.pyfunc.PythonModel):
    """A model that returns its input."""

    def predict(self, context, model_input, params=None):
        return model_input


def expect(found: object, wanted: object) -> None:
    if found != wanted:
        raise RuntimeError(f"{found!r} instead of {wanted!r}")


def log_model() -> str:
    """Log a model in a run of its own, and return its URI."""
    # With a name in place of `artifact_path`, clients of version 2 and older cannot do it.
    with mlflow.start_run():
        return mlflow.pyfunc.log_model(
            artifact_path="model", python_model=Echo(), pip_requirements=["mlflow"]
        ).model_uri


@feature("log in by environment variables")
def log_in() -> None:
    MlflowClient().get_experiment("0")
    password = os.environ.pop("MLFLOW_TRACKING_PASSWORD")
    try:
        MlflowClient().get_experiment("0")
    except Exception:
        # Each version has another one.
        return
    finally:
        os.environ["MLFLOW_TRACKING_PASSWORD"] = password
    raise RuntimeError("the client needs no password")


@feature("log parameters, metrics and tags")
def log() -> None:
    with mlflow.start_run() as run:
        mlflow.log_params({"depth": 3})
        mlflow.log_metrics({"loss": 0.5}, step=1)
        mlflow.set_tags({"team": "churn"})
    data = MlflowClient().get_run(run.info.run_id).data
    expect((data.params, data.metrics, data.tags["team"]), ({"depth": "3"}, {"loss": 0.5}, "churn"))


@feature("upload and download artifacts")
def artifacts() -> None:
    with tempfile.TemporaryDirectory() as folder, mlflow.start_run() as run:
        Path(folder, "a.txt").write_text("content")
        mlflow.log_artifact(f"{folder}/a.txt", "deep")
        expect([file.path for file in MlflowClient().list_artifacts(run.info.run_id, "deep")], ["deep/a.txt"])
        got = mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/deep/a.txt", dst_path=f"{folder}/got")
        expect(Path(got).read_text(), "content")


@feature("search experiments and runs")
def search() -> None:
    (experiment,) = MlflowClient().search_experiments(filter_string=f"name = '{NAME}'")
    with mlflow.start_run(tags={"found": NAME}):
        pass
    found = MlflowClient().search_runs([experiment.experiment_id], f"tags.found = '{NAME}'")
    expect(len(found), 1)


@feature("log a model and load it")
def model() -> None:
    expect(mlflow.pyfunc.load_model(log_model()).predict(["a"]), ["a"])


@feature("register a model")
def register() -> None:
    uri = log_model()
    client = MlflowClient()
    client.create_registered_model(f"{NAME}-registered")
    version = mlflow.register_model(uri, f"{NAME}-registered").version
    expect(str(version), "1")
    client.transition_model_version_stage(f"{NAME}-registered", "1", "Production")
    expect(mlflow.pyfunc.load_model(f"models:/{NAME}-registered/1").predict(["a"]), ["a"])


@feature("aliases of models")
def aliases() -> None:
    client = MlflowClient()
    set_alias = client.set_registered_model_alias
    client.create_registered_model(f"{NAME}-alias")
    mlflow.register_model(log_model(), f"{NAME}-alias")
    set_alias(f"{NAME}-alias", "champion", "1")
    expect(mlflow.pyfunc.load_model(f"models:/{NAME}-alias@champion").predict(["a"]), ["a"])


@feature("datasets of a run")
def datasets() -> None:
    log_input, data = mlflow.log_input, mlflow.data.from_numpy(np.array([1, 2]))
    with mlflow.start_run() as run:
        log_input(data, context="training")
    expect(len(MlflowClient().get_run(run.info.run_id).inputs.dataset_inputs), 1)


@feature("traces")
def traces() -> None:
    @mlflow.trace
    def add(a: int, b: int) -> int:
        return a + b

    add(1, 2)
    flush = getattr(mlflow, "flush_trace_async_logging", None)
    if flush:
        flush()
    experiment = mlflow.get_experiment_by_name(NAME)
    (trace,) = MlflowClient().search_traces([experiment.experiment_id])
    expect([span.name for span in trace.data.spans], ["add"])


@feature("prompts")
def prompts() -> None:
    registry = getattr(mlflow, "genai", mlflow)
    registry.register_prompt(f"{NAME}-prompt", "Say {{word}}")
    expect(registry.load_prompt(f"prompts:/{NAME}-prompt/1").format(word="yes"), "Say yes")


@feature("logged models")
def logged_models() -> None:
    client = MlflowClient()
    create = client.create_logged_model
    made = create(mlflow.get_experiment_by_name(NAME).experiment_id, name="logged")
    expect(client.get_logged_model(made.model_id).name, "logged")


@feature("evaluation datasets")
def evaluation() -> None:
    create_dataset, get_dataset = mlflow.genai.create_dataset, mlflow.genai.get_dataset
    made = create_dataset(name=f"{NAME}-set", experiment_id=[mlflow.get_experiment_by_name(NAME).experiment_id])
    made.merge_records([{"inputs": {"question": "a"}, "expectations": {"answer": "b"}}])
    expect(len(get_dataset(dataset_id=made.dataset_id).to_df()), 1)


def main() -> None:
    mlflow.set_experiment(NAME)
    found: dict[str, str] = {}
    for text, use in FEATURES.items():
        try:
            use()
        except (AttributeError, ImportError) as error:
            found[text] = "-"
            print(f"{text}: {error}", file=sys.stderr)
        except Exception as error:
            found[text] = "no"
            print(f"{text}: {type(error).__name__}: {str(error)[:300]}", file=sys.stderr)
        else:
            found[text] = "yes"
    print(json.dumps(found))


if __name__ == "__main__":
    main()
