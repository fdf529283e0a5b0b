"""A victim with one object of every kind, and strangers who call every route of MLflow with the names of those objects.

What may not happen is looked for from outside: a word of the victim's in an answer, a row of the database that is gone,
changed, or new and about the victim.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from tests.local.sites import Connection, Login

Ask = Callable[[str, str, Login | None, Mapping[str, object] | bytes | None, Mapping[str, str]], tuple[int, bytes]]
"""Sends a method, a path, a login, a body and headers. Returns status and body."""
Rows = Callable[[], frozenset[tuple[str, str]]]
"""Returns every row of the database: its table, and its columns as JSON."""

VICTIM: Login = "victim", "a-password-of-the-victim"
STRANGER: Login = "stranger", "a-password-of-the-stranger"
READER: Login = "reader", "a-password-of-the-reader"
SECRET = "canary"
"""Word in everything that belongs to the victim. It is in no request of a stranger."""
API = ("/api/3.0/mlflow", "/api/2.0/mlflow")


@dataclass(frozen=True)
class Victim:
    """Objects of the victim, by the names that requests use."""

    names: Mapping[str, str]
    """Parameter to value: experiment_id, run_id, trace_id, ..."""

    def bag(self) -> dict[str, object]:
        """Return every parameter that names an object, in each of its spellings, with plausible other parameters."""
        one = dict[str, object](self.names)
        lists = {f"{name}s": [value] for name, value in self.names.items() if name.endswith("_id")}
        run, trace, experiment = self.names["run_id"], self.names.get("trace_id", "none"), self.names["experiment_id"]
        location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}
        return {
            **_PLAUSIBLE,
            **one,
            **lists,
            "run_uuid": run,
            "source_run_id": run,
            "request_id": trace,
            "request_ids": [trace],
            "item_ids": [trace],
            "item_id": trace,
            "locations": [location],
            "trace": {"trace_info": {"trace_id": trace, "trace_location": location, "state": "OK"}},
            "source": f"mlflow-artifacts:/{experiment}/{run}/artifacts",
            "models": [{"model_id": self.names.get("model_id", "none"), "step": 1}],
            "path": "note.txt",
        }


_PLAUSIBLE: Mapping[str, object] = {
    "key": "written",
    "value": "written",
    "timestamp": 1,
    "step": 0,
    "new_name": "renamed",
    "description": "written",
    "version": "1",
    "alias": "written",
    "stage": "Production",
    "status": "FINISHED",
    "max_results": 100,
    "max_timestamp_millis": 9_999_999_999_999,
    "permission": "MANAGE",
    "username": STRANGER[0],
    "metric_key": "loss",
    "start_step": 0,
    "end_step": 10,
    "metrics": [{"key": "loss", "value": 9, "timestamp": 1, "step": 5}],
    "metric_name": "trace_count",
    "aggregations": [{"aggregation_type": "COUNT"}],
    "view_type": "TRACES",
    "filter_string1": "status = 'OK'",
    "filter_string2": "status = 'ERROR'",
    "model_json": '{"run_id": "x", "artifact_path": "m", "flavors": {}, "utc_time_created": "2026-01-01 00:00:00"}',
    "records": '[{"inputs": {"question": "written"}}]',
    "serialized_scorer": "{}",
    "assessment": {"assessment_name": "written", "source": {"source_type": "HUMAN"}, "feedback": {"value": True}},
    "update_mask": "rationale",
    "type": "FEEDBACK",
    "resource_type": "experiment",
    "num_parts": 1,
    "query": '{ test(inputString: "x") { output } }',
}
TAGS: tuple[object, ...] = ([{"key": "written", "value": "written"}], '{"written": "written"}')
"""Forms that routes want for `tags`."""


def asker(connection: Connection) -> Ask:
    """Return the function of a connection that sends requests."""

    def ask(
        method: str,
        path: str,
        login: Login | None,
        body: Mapping[str, object] | bytes | None,
        headers: Mapping[str, str],
    ) -> tuple[int, bytes]:
        return connection.ask(method, path, login, body, **headers)

    return ask


def make_victim(ask: Ask, admin: Login, experiment: str) -> Victim:
    """Make the users, and an experiment of the victim with one object of each kind that this MLflow knows."""

    def post(path: str, body: Mapping[str, object], login: Login = VICTIM) -> dict[str, Any]:
        answers = list[str]()
        for prefix in API:
            status, text = ask("POST", f"{prefix}/{path}", login, body, {})
            if status == 200:
                return json.loads(text or b"{}")
            answers.append(f"{status} {text[:300]!r}")
        # An older MLflow has no such route, and the stack's settings can turn the gateway off.
        absent = ("404", '403 \'{"error_code":"PERMISSION_DENIED","message":"The gateway is off.')
        assert all(answer.replace(" b'", " '").startswith(absent) for answer in answers), f"{path}: {answers}"
        return {}

    for name, password in (VICTIM, STRANGER, READER):
        ask("POST", "/api/2.0/mlflow/users/create", admin, {"username": name, "password": password}, {})
    said = f"{SECRET}-of-{experiment}"
    tags = [{"key": "said", "value": said}]
    names = dict[str, str]()
    names["experiment_id"] = post("experiments/create", {"name": experiment, "tags": tags})["experiment_id"]
    home = names["experiment_id"]
    names["run_id"] = post("runs/create", {"experiment_id": home, "run_name": said})["run"]["info"]["run_id"]
    run = names["run_id"]
    metrics = [{"key": "loss", "value": 0.25, "timestamp": 1, "step": 1}]
    post("runs/log-batch", {"run_id": run, "metrics": metrics, "params": [{"key": "p", "value": said}], "tags": tags})
    names["artifact_path"] = f"{home}/{run}/artifacts/note.txt"
    status, text = ask(
        "PUT", f"/api/2.0/mlflow-artifacts/artifacts/{names['artifact_path']}", VICTIM, said.encode(), {}
    )
    assert status == 200, text
    location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": home}}
    # The id of a trace is the client's to choose.
    info = {
        "trace_id": f"tr-{run}",
        "trace_location": location,
        "request_time": "2026-01-01T00:00:00Z",
        "state": "OK",
        "request_preview": said,
        "response_preview": said,
    }
    if post("traces", {"trace": {"trace_info": info}}):
        names["trace_id"] = info["trace_id"]
        spans = json.dumps({"spans": [], "said": said}).encode()
        ask(
            "PUT",
            f"/api/2.0/mlflow-artifacts/artifacts/{home}/traces/{info['trace_id']}/artifacts/traces.json",
            VICTIM,
            spans,
            {},
        )
        assessment = {
            "assessment_name": said,
            "source": {"source_type": "HUMAN", "source_id": "x"},
            "feedback": {"value": said},
        }
        made = post(f"traces/{info['trace_id']}/assessments", {"assessment": assessment})
        if made:
            names["assessment_id"] = made["assessment"]["assessment_id"]
    model = post("logged-models", {"experiment_id": home, "name": "logged", "source_run_id": run, "tags": tags})
    if model:
        names["model_id"] = model["model"]["info"]["model_id"]
        where = f"{home}/models/{names['model_id']}/artifacts/MLmodel"
        ask("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{where}", VICTIM, said.encode(), {})
    names["name"] = f"model-of-{experiment}"
    post("registered-models/create", {"name": names["name"], "description": said, "tags": tags})
    source = f"mlflow-artifacts:/{home}/{run}/artifacts"
    post("model-versions/create", {"name": names["name"], "source": source, "run_id": run, "description": said})
    post("registered-models/alias", {"name": names["name"], "alias": "written", "version": "1"})
    dataset = post("datasets/create", {"name": said, "experiment_ids": [home], "tags": json.dumps({"said": said})})
    if dataset:
        names["dataset_id"] = dataset["dataset"]["dataset_id"]
        post(f"datasets/{names['dataset_id']}/records", {"records": json.dumps([{"inputs": {"q": said}}])})
    issue = post("issues", {"experiment_id": home, "name": said, "description": said, "status": "pending"})
    if issue:
        names["issue_id"] = issue["issue"]["issue_id"]
    queue = post("review-queues/create", {"experiment_id": home, "name": said, "queue_type": "CUSTOM"})
    if queue:
        names["queue_id"] = queue["review_queue"]["queue_id"]
    hook = {
        "name": said,
        "url": "https://192.88.99.1/hook",
        "events": [{"entity": "MODEL_VERSION", "action": "CREATED"}],
    }
    webhook = post("webhooks", hook, admin)
    if webhook:
        names["webhook_id"] = webhook["webhook"]["webhook_id"]
    secret = {"secret_name": said, "secret_value": {"api_key": said}, "provider": "openai"}
    made = post("gateway/secrets/create", secret, admin)
    if made:
        names["secret_id"] = made["secret"]["secret_id"]
        definition = {"name": said, "secret_id": names["secret_id"], "provider": "openai", "model_name": "gpt-x"}
        made = post("gateway/model-definitions/create", definition, admin)
        names["model_definition_id"] = made["model_definition"]["model_definition_id"]
        config = {"model_definition_id": names["model_definition_id"], "linkage_type": "PRIMARY", "weight": 1}
        made = post("gateway/endpoints/create", {"name": f"endpoint-{run[:8]}", "model_configs": [config]}, admin)
        names["endpoint_id"] = made["endpoint"]["endpoint_id"]
        names["endpoint_name"] = f"endpoint-{run[:8]}"
    role = post("roles/create", {"name": said, "description": said, "workspace": "default"}, admin)
    if role:
        names["role_id"] = str(role["role"]["id"])
    return Victim(names)


@dataclass(frozen=True)
class Call:
    """A request of a stranger."""

    method: str
    path: str
    """Path and query."""
    body: Mapping[str, object] | bytes | None
    headers: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.method} {self.path.partition('?')[0]}"


def calls(routes: Iterable[tuple[str, Iterable[str], str]], victim: Victim) -> Iterator[Call]:
    """Yield the requests for every route and method, first those that only read."""
    listed = [(route, method) for route, methods, _ in routes for method in methods if method != "OPTIONS"]
    order = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    for route, method in sorted(listed, key=lambda one: (order.index(one[1]), one[0])):
        path = re.sub(r"<(?:\w+:)?(\w+)>|\{(\w+)(?::\w+)?\}", lambda found: _fill(found, victim), route)
        for tags in TAGS:
            bag = victim.bag() | {"tags": tags}
            if "mlflow-artifacts/artifacts" in route:
                bag["path"] = victim.names["artifact_path"].rpartition("/")[0]
            headers = {
                "X-MLflow-Experiment-Id": victim.names["experiment_id"],
                "X-MLflow-Run-Id": victim.names["run_id"],
            }
            query = urlencode({name: value for name, value in bag.items() if not isinstance(value, dict)}, doseq=True)
            file = method == "PUT" or route.endswith("upload-artifact")
            if method in {"GET", "HEAD"} or file:
                yield Call(method, f"{path}?{query}", b"overwritten" if file else None, headers)
                break
            yield Call(method, f"{path}?{query}" if method == "DELETE" else path, bag, headers)


def _fill(found: re.Match[str], victim: Victim) -> str:
    name = found[1] or found[2]
    known = {"request_id": victim.names.get("trace_id"), "key": "said", "tag_key": "said", "workspace_name": "default"}
    value = known.get(name) or victim.names.get(name) or victim.names.get(f"{name}_name", "none-such")
    return quote(value)


@dataclass(frozen=True)
class Finding:
    """A thing that a stranger got or did."""

    call: str
    what: str

    def __str__(self) -> str:
        return f"{self.call}: {self.what}"


def walk(
    ask: Ask,
    rows: Rows,
    routes: Iterable[tuple[str, Iterable[str], str]],
    who: Login | None,
    victims: Iterable[Victim],
    secret: str,
) -> tuple[list[Finding], dict[str, int]]:
    """Call every route, and return what was found and the calls with their status.

    Args:
        ask: sends a request.
        rows: reads the database.
        routes: path, methods and framework of every route.
        who: the stranger, or None for nobody.
        victims: whose objects the calls name.
        secret: text that the stranger may not see.
    """
    found, statuses = list[Finding](), dict[str, int]()
    routes = list(routes)
    for victim in victims:
        before = rows()
        for call in calls(routes, victim):
            status, body = ask(call.method, call.path, who, call.body, call.headers)
            statuses[str(call)] = min(status, statuses.get(str(call), 999))
            if secret.encode() in body:
                found.append(Finding(str(call), f"{status}, the answer has {secret!r} in it"))
            if status < 400:
                after = rows()
                found += [Finding(str(call), what) for what in differences(before, after, victim)]
                before = after
    return found, statuses


def differences(before: frozenset[tuple[str, str]], after: frozenset[tuple[str, str]], victim: Victim) -> Iterator[str]:
    """Yield what is gone or changed, and what is new and names an object of the victim."""
    for table, row in sorted(before - after):
        yield f"a row of {table} gone or changed: {row[:150]}"
    ids = [value for name, value in victim.names.items() if name.endswith("_id") and len(value) > 8]
    ids.append(f'"experiment_id": {victim.names["experiment_id"]}')
    for table, row in sorted(after - before):
        if any(re.search(rf"{re.escape(one)}(?!\w)", row) for one in ids):
            yield f"a row of {table} new: {row[:150]}"
