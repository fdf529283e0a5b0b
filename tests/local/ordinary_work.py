# pyright: reportMissingImports=false
"""The work of a person without special rights, with MLflow's client. It runs in the virtualenv of an MLflow."""

import mlflow
from mlflow import MlflowClient
from mlflow.genai import datasets


class Echo(mlflow.pyfunc.PythonModel):
    """A model that answers what it is asked."""

    def predict(self, context: object, model_input: list[str]) -> list[str]:
        """Return the input."""
        return model_input


def is_good(outputs: str) -> bool:
    """Judge an answer."""
    return bool(outputs)


client = MlflowClient()
home = mlflow.set_experiment("ordinary work").experiment_id

with mlflow.start_run() as run:
    mlflow.log_param("depth", 3)
    mlflow.log_metrics({"loss": 0.5, "accuracy": 0.9})
    mlflow.log_text("hello", "folder/note.txt")
    mlflow.log_table({"column": [1]}, "table.json")
    with mlflow.start_run(nested=True) as inner:
        pass
assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/folder/note.txt") == "hello"
assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"folder", "table.json"}
client.delete_run(inner.info.run_id)
client.restore_run(inner.info.run_id)

with mlflow.start_run() as training:
    info = mlflow.pyfunc.log_model(
        name="model", python_model=Echo(), registered_model_name="ordinary-model", pip_requirements=[]
    )
assert mlflow.pyfunc.load_model("models:/ordinary-model/1").predict(["a"]) == ["a"]
mlflow.register_model(f"runs:/{training.info.run_id}/model", "ordinary-model")
mlflow.register_model(f"models:/{info.model_id}", "ordinary-model")
client.copy_model_version("models:/ordinary-model/1", "ordinary-copy")
client.set_registered_model_alias("ordinary-model", "best", "2")
assert mlflow.pyfunc.load_model("models:/ordinary-model@best").predict(["a"]) == ["a"]
client.set_model_version_tag("ordinary-model", "1", "key", "value")
client.update_model_version("ordinary-model", "1", description="the first one")
with mlflow.start_run():
    mlflow.log_metric("accuracy", 0.5, model_id=info.model_id)
mlflow.set_logged_model_tags(info.model_id, {"key": "value"})
mlflow.delete_logged_model_tag(info.model_id, "key")

with mlflow.start_span("outer") as span:
    span.set_inputs({"question": "why"})
mlflow.flush_trace_async_logging()
trace = mlflow.get_trace(mlflow.get_last_active_trace_id())
assert [one.name for one in trace.data.spans] == ["outer"]
mlflow.set_trace_tag(trace.info.trace_id, "key", "value")
mlflow.log_feedback(trace_id=trace.info.trace_id, name="good", value=True)
assert len(mlflow.search_traces(return_type="list")) == 1
client.delete_traces(home, trace_ids=[trace.info.trace_id])

mlflow.genai.register_prompt("ordinary-prompt", "hello {{name}}")
assert mlflow.genai.load_prompt("prompts:/ordinary-prompt/1").template == "hello {{name}}"

dataset = datasets.create_dataset(name="ordinary-dataset", experiment_id=[home])
dataset.merge_records([{"inputs": {"question": "why"}, "expectations": {"answer": "because"}}])
assert len(dataset.to_df()) == 1
assert len(datasets.search_datasets(experiment_ids=[home])) == 1
mlflow.genai.evaluate(
    data=[{"inputs": {"question": "why"}, "outputs": "because"}], scorers=[mlflow.genai.scorer(is_good)]
)
datasets.delete_dataset(dataset_id=dataset.dataset_id)

assert len(mlflow.search_runs(experiment_ids=[home])) >= 4
assert [one.name for one in mlflow.search_experiments()] == ["ordinary work"]
assert {one.name for one in client.search_registered_models()} >= {"ordinary-model", "ordinary-copy"}
assert len(client.search_model_versions("name='ordinary-model'")) == 3
assert mlflow.search_logged_models(experiment_ids=[home], output_format="list")
client.delete_registered_model("ordinary-copy")
client.delete_experiment(home)
print("all of it")
