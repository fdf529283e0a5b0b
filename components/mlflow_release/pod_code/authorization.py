"""Authorization of our own, before MLflow's: a request may name only what its sender may use.

MLflow looks for a check by path and method, and lets a request pass where it finds none. Here a route without a rule in
`request_rules.py` is refused, and every object is asked for that a request names, wherever in the request the name is.
MLflow's own checks follow. docs/security.md lists what was tried.

It runs in MLflow's pod, where the login modules decorate their function with `authorized`.
"""
# The virtualenv of this checkout has none of these packages.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

import functools
import gc
import json
import logging
import os
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import answers
import json_answers
import outgoing
import transfers
from cachetools import TTLCache
from flask import Response, g, has_request_context, make_response, request
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, PERMISSION_DENIED
from mlflow.server import auth
from mlflow.server.graphql.graphql_schema_extensions import schema
from mlflow.server.security_utils import get_allowed_origins_from_env, should_block_cors_request
from mlflow.store.tracking.dbmodels import models
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from request_rules import ENDPOINTS, FILTERED, GATEWAY, MLFLOWS, OWN, PUBLIC, READ_ONLY, route
from werkzeug.datastructures import Authorization

KINDS = {
    "experimentid": "experiment",
    "xmlflowexperimentid": "experiment",
    "runid": "run",
    "runuuid": "run",
    "sourcerunid": "run",
    "xmlflowrunid": "run",
    "traceid": "trace",
    "requestid": "trace",
    "modelid": "logged model",
    "issueid": "issue",
    "datasetid": "dataset",
    "artifactpath": "artifact",
}
"""Parameter, as `plain` writes it, to the kind of object that it names."""
TABLES = {
    "run": ("SqlRun", "run_uuid"),
    "trace": ("SqlTraceInfo", "request_id"),
    "logged model": ("SqlLoggedModel", "model_id"),
    "issue": ("SqlIssue", "issue_id"),
}
"""Kind of object to its table and the column of its id. Each such object is in one experiment."""
HEADERS = ("x-mlflow-experiment-id", "x-mlflow-run-id")
"""Headers that name objects."""
LOCATION_TAGS = {"mlflowartifactlocation", "mlflowtracespanslocation"}
"""Tags that tell the server where the content of a trace is, as `plain` writes them."""
SOURCES = {
    "artifact": re.compile(r"mlflow-artifacts:/+(\d+/.+)"),
    "run": re.compile(r"runs:/+([^/]+)(?:/.*)?"),
    "logged model": re.compile(r"models:/+(m-[^/]+)(?:/.*)?"),
    "model": re.compile(r"models:/+([^/@]+)(?:/\d+|@[^/]+)"),
}
"""Kind of object to the form of the sources that lead to it."""
PERMISSIONS = {"read": "READ", "update": "EDIT", "delete": "MANAGE"}
"""Allowed action to the permission that contains it."""

GATEWAY_IS_ON = os.environ.get("MLFLOW_ENABLE_AI_GATEWAY") == "true"
"""MLflow's own switch, which versions before 3.17 do not read."""
REMEMBERED = {"get_user", "get_experiment_permission", "get_role_permission_for_resource", "list_grants"}
"""Questions to the store of users that MLflow repeats in a request."""

_logger = logging.getLogger(__name__)
_runs = TTLCache[str, str](10_000, 3600)
"""Run to its experiment, which never changes."""
_runs_lock = threading.Lock()


class _RefusedError(Exception):
    """The sender may not send this request. The text is for the sender."""


def authorized(authenticate: Callable[[], Authorization | Response]) -> Callable[[], Authorization | Response]:
    """Return a login function that also decides whether the person may send this request.

    MLflow calls the function several times in a request. It decides once.
    """

    @functools.wraps(authenticate)
    def decide() -> Authorization | Response:
        if "login" not in g:
            login = authenticate()
            if isinstance(login, Authorization):
                if "sender" not in g:
                    g.sender = auth.store.get_user(login.username)
                login = _refusal() or login
            g.login = login
        return g.login

    return decide


def _refusal() -> Response | None:
    try:
        asked = _route()
        answers.check_path()
        if asked == "GET graphql":
            raise MlflowException("GraphQL takes POST.", INVALID_PARAMETER_VALUE)
        if asked == "POST experiments/create":
            _check_location(asked)
        if asked and GATEWAY.match(asked):
            _check_gateway()
        if not g.sender.is_admin:
            _check(asked)
    except _RefusedError as refused:
        _logger.warning("%r may not %s %s: %s", g.sender.username, request.method, request.path, refused)
        response = make_response({"error_code": "PERMISSION_DENIED", "message": str(refused)})
        response.status_code = 403
        return response
    return None


def _check_gateway() -> None:
    """Raise an error if nobody may send the current request, which is about the gateway."""
    if not GATEWAY_IS_ON:
        raise _RefusedError("The gateway is off. The setting mlflow.gateway of the stack turns it on.")
    # MLflow checks the origin below /api and /ajax-api only.
    origin, allowed = request.headers.get("Origin", ""), get_allowed_origins_from_env()
    if should_block_cors_request(origin, request.method, allowed):
        raise _RefusedError(f"Pages of {origin} may not call the gateway.")


def _check_location(asked: str) -> None:
    """Raise an error if a new experiment is to keep its artifacts anywhere but in its own folder, by which people may use them."""
    if any(name == "artifactlocation" and value for name, value in _parameters(asked)):
        raise MlflowException(
            "This server keeps the artifacts of each experiment in a folder of its own. Please leave artifact_location out.",
            INVALID_PARAMETER_VALUE,
        )


def _check(asked: str | None) -> None:
    """Raise an error if the person may not send the current request."""
    if asked is None or asked in PUBLIC:
        return
    given = list(_parameters(asked))
    if "/traces" in request.path and any(LOCATION_TAGS & {name, plain(value)} for name, value in given):
        raise _RefusedError("Only the server sets the tags that say where a trace is kept.")
    if asked in FILTERED and request.method != "HEAD":
        return
    if asked in OWN:
        named = _named(given)
        if not named:
            raise _RefusedError("The request has to name the experiment that it is about.")
        _require(named, OWN[asked], READ_ONLY.get(asked, set()))
    elif asked in MLFLOWS:
        if asked == "POST model-versions/create":
            _check_source(given)
        _ask_mlflow()
    # MLflow calls its checks of these afterwards. That of an endpoint asks for the permission USE.
    elif asked != "mcp-servers" and not ENDPOINTS.fullmatch(asked):
        raise _RefusedError("Only an administrator may do this.")


def _route() -> str | None:
    """Return the route of the current request, as `request_rules.py` writes it; None if MLflow has no such route."""
    if request.url_rule is not None:
        return route(request.method, request.url_rule.rule)
    # MLflow asks for FastAPI's routes in a request context of Flask's. Some of them are no routes of Flask.
    find = getattr(auth, "_find_fastapi_validator", None)
    if find is None or find(request.path, request.method) is None:
        return None
    if auth.is_mcp_server_api_path(request.path):
        return "mcp-servers"
    return route(request.method, request.path)


def plain(name: object) -> str:
    """Return a name in small letters without punctuation, as protobuf and query strings allow several ways to write one."""
    return re.sub(r"[\W_]", "", str(name)).lower()


def _parameters(asked: str) -> Iterator[tuple[str, object]]:
    """Yield every parameter of the current request with its value, wherever it is and however often."""
    yield from _flat("", request.view_args or {})
    for name, values in request.args.lists():
        yield from _flat(name, values)
        if asked == "GET mlflow-artifacts/artifacts" and name == "path":
            yield from _flat("artifact_path", values)
    for name in HEADERS:
        yield from _flat(name, request.headers.getlist(name))
    if request.method == "PUT" or asked == "POST upload-artifact":
        # The body is a file.
        return
    body = request.get_json(force=True, silent=True)
    # Old clients send JSON in a JSON string, and MLflow reads it.
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except ValueError:
            raise MlflowException("The body is not JSON.", INVALID_PARAMETER_VALUE) from None
    yield from _flat("", body)


def _flat(name: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(key, inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _flat(name, inner)
    elif value is not None:
        short = plain(name)
        yield (short.removesuffix("s") if short.endswith(("ids", "uuids")) else short), value


def _named(given: Iterable[tuple[str, object]]) -> list[tuple[str, str, object]]:
    """Return those of the parameters that name an object: name, kind and value."""
    return [(name, KINDS[name], value) for name, value in given if name in KINDS]


def _require(named: Iterable[tuple[str, str, object]], action: str, read_only: set[str]) -> None:
    """Raise an error unless the person may do the action with every named object, and read those of some parameters."""
    ids = defaultdict[tuple[str, str], set[str]](set)
    for name, kind, value in named:
        ids["read" if name in read_only else action, kind].add(str(value))
    asked = set[tuple[str, str]]()
    for (needed, kind), values in ids.items():
        asked |= {(needed, experiment) for experiment in _experiments_of(kind, values)}
    for needed, experiment in sorted(asked):
        if not getattr(_experiment_permission(experiment), f"can_{needed}"):
            raise _RefusedError(f"This needs the permission {PERMISSIONS[needed]} on experiment {experiment}.")


def _experiments_of(kind: str, values: set[str]) -> set[str]:
    """Return the experiments of some objects. An object that is not there is in none: MLflow says so itself.

    Raises:
        _RefusedError: an object is in no experiment.
        MlflowException: a value cannot be the id of an experiment.
    """
    if kind == "artifact":
        values, kind = {value.partition("/")[0] for value in values}, "experiment"
        if not all(value.isdecimal() for value in values):
            raise _RefusedError("Only an administrator may use artifacts outside the folders of experiments.")
    if kind == "experiment":
        for value in values:
            if not re.fullmatch(r"[0-9]{1,18}", value):
                raise MlflowException(f"{value!r} is not the id of an experiment.", INVALID_PARAMETER_VALUE)
        return values
    if kind == "run":
        with _runs_lock:
            known = {value: _runs[value] for value in values if value in _runs}
        unknown = dict(_rows(kind, values - known.keys()))
        with _runs_lock:
            _runs.update(unknown)
        return {*known.values(), *unknown.values()}
    if kind == "dataset":
        store = auth._get_tracking_store()
        experiments = {value: store.get_dataset_experiment_ids(value) for value in values}
        if not all(experiments.values()):
            raise _RefusedError("Only an administrator may use a dataset that is in no experiment.")
        return {str(experiment) for found in experiments.values() for experiment in found}
    return {experiment for _, experiment in _rows(kind, values)}


def _rows(kind: str, values: set[str]) -> list[tuple[str, str]]:
    """Return the id and the experiment of those of the objects that are there."""
    if not values:
        return []
    table, column = TABLES[kind]
    rows = getattr(models, table)
    with auth._get_tracking_store().ManagedSessionMaker() as session:
        ids = getattr(rows, column)
        found = session.query(ids, rows.experiment_id).filter(ids.in_(values))
        return [(value, str(experiment)) for value, experiment in found]


def _experiment_permission(experiment: str) -> Any:
    user = g.sender.username
    if hasattr(auth, "_get_experiment_permission"):
        return auth._get_experiment_permission(experiment, user)
    return auth._get_permission_from_store_or_default(
        lambda: auth.store.get_experiment_permission(experiment, user).permission
    )


def _may_read_model(name: str) -> bool:
    user = g.sender.username
    if hasattr(auth, "_role_based_read_predicate"):
        return any(auth._role_based_read_predicate(user, kind)(name) for kind in ("registered_model", "prompt"))
    return auth._get_permission_from_store_or_default(
        lambda: auth.store.get_registered_model_permission(name, user).permission
    ).can_read


def _check_source(given: Iterable[tuple[str, object]]) -> None:
    """Raise an error unless the person may read what a new version of a model is made from."""
    named = _named(given)
    for source in (str(value) for name, value in given if name == "source"):
        if ":" not in source and "/" not in source:
            # A prompt's text is in its tags, and its source is a word.
            continue
        found = {kind: match[1] for kind, form in SOURCES.items() if (match := form.fullmatch(source))}
        if not found or re.search(r"[%?#\\]|/\.\.?(/|$)", source):
            raise _RefusedError(
                f"The source {source!r} does not lead to a run, a logged model or a model of this server."
            )
        for kind, value in found.items():
            if kind != "model":
                named.append(("source", kind, value))
            elif not _may_read_model(value):
                raise _RefusedError(f"This needs the permission READ on the model {value!r}.")
    _require(named, "read", set())


def _ask_mlflow() -> None:
    """Raise an error unless MLflow has a check for this route. MLflow calls it afterwards, but not for HEAD."""
    method, request.method = request.method, "GET" if request.method == "HEAD" else request.method
    try:
        check = auth._find_validator(request)
        if check is None or (method == "HEAD" and not check()):
            raise _RefusedError("Only an administrator may do this.")
    finally:
        request.method = method


class _GraphQLCheck:
    """Checks of GraphQL's fields. MLflow 3.7.0 has none."""

    def resolve(self, following: Callable[..., Any], root: object, info: Any, **arguments: Any) -> Any:
        """Return the value of a field. The names are those that graphene gives.

        Raises:
            MlflowException: the person may not read what the field's input names.
        """
        if g.sender.is_admin:
            return following(root, info, **arguments)
        # MLflow itself leaves out of the experiments that are searched those that the person may not read.
        if "input" in arguments and info.field_name != "mlflowSearchRuns":
            given = _flat("", dict(vars(arguments["input"])))
            try:
                _require(_named(given), "read", set())
            except _RefusedError as refused:
                raise MlflowException(str(refused), PERMISSION_DENIED) from None
        found = following(root, info, **arguments)
        if info.field_name == "modelVersions":
            return [version for version in found or () if _may_read_model(version.name)]
        return found


def _without_foreign_versions(response: Response) -> None:
    """Take the versions of models that the person may not read out of a search. MLflow 3.7.0 does not."""
    found = response.get_json()
    versions = found.get("model_versions", [])
    if not g.sender.is_admin:
        found["model_versions"] = [version for version in versions if _may_read_model(version["name"])]
        response.set_data(json.dumps(found))


def _log_spans(store: SqlAlchemyStore, location: str, spans: list[Any], *rest: Any, **named: Any) -> Any:
    """Store spans, but not in a trace that is in another experiment. Its id is in the body, which no check reads."""
    if _experiments_of("trace", {span.trace_id for span in spans}) - {str(location)}:
        raise MlflowException("A trace with this id is in another experiment.", PERMISSION_DENIED)
    return _plain_log_spans(store, location, spans, *rest, **named)


class _RememberingStore:
    """MLflow's store of users, with the answers to `REMEMBERED` kept until the request's end or its next other call.

    MLflow and this module ask for the same user up to six times in a request, each time in the database.
    """

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not has_request_context():
            return found
        if name not in REMEMBERED:
            g.pop("answers", None)
            return found

        def ask(*question: Any, **named: Any) -> Any:
            answers = g.setdefault("answers", {})
            key = f"{name} {question!r} {sorted(named.items())!r}"
            if key not in answers:
                answers[key] = found(*question, **named)
            return answers[key]

        return ask


_plain_execute, _plain_log_spans = schema.execute, SqlAlchemyStore.log_spans


def _execute(*query: Any, middleware: Iterable[object] | None = None, **named: Any) -> Any:
    return _plain_execute(*query, middleware=[_GraphQLCheck(), *(middleware or ())], **named)


# What is imported stays as long as the process does. Python's collector looks at all of it again and again, which takes a seventh of a search.
gc.freeze()
gc.set_threshold(10_000)
answers.install()
json_answers.install()
transfers.install()
# MLflow 3.7.0 runs under gunicorn, without FastAPI.
if hasattr(auth, "add_fastapi_permission_middleware"):
    import short_ways

    short_ways.install()
outgoing.guard_webhooks()
if GATEWAY_IS_ON:
    outgoing.guard_gateway()
auth.store = _RememberingStore(auth.store)
schema.execute, SqlAlchemyStore.log_spans = _execute, _log_spans
if not hasattr(auth, "filter_search_model_versions"):
    for prefix in ("/api/2.0", "/ajax-api/2.0"):
        auth.AFTER_REQUEST_HANDLERS[f"{prefix}/mlflow/model-versions/search", "GET"] = _without_foreign_versions
