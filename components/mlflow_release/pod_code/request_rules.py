"""Rules for every route of MLflow that a person who is no administrator may use. A route without a rule is refused.

A route is written as its method and its path, without the prefix (`/api/2.0/mlflow/`, `/ajax-api/3.0/mlflow/`, ...) and
with a star for each parameter. HEAD is looked up as GET.
"""

import re

PUBLIC = frozenset({"GET /", "GET version", "GET build/*"})
"""Routes that are the same for everybody who has a login."""

FILTERED = frozenset(
    {
        "GET experiments/search",
        "POST experiments/search",
        "POST runs/search",
        "POST logged-models/search",
        "GET registered-models/search",
        "GET model-versions/search",
        "POST graphql",
        "GET users/current",
        "GET users/current/permissions",
        "GET server-info",
        "GET ui-telemetry",
        "POST ui-telemetry",
        "POST experiments/create",
        "POST registered-models/create",
    }
)
"""Routes that name no object. Of what they find, each person gets what that person may read."""

MLFLOWS = frozenset(
    {
        "GET experiments/get-by-name",
        "GET registered-models/get",
        "GET registered-models/get-latest-versions",
        "POST registered-models/get-latest-versions",
        "GET registered-models/alias",
        "POST registered-models/alias",
        "DELETE registered-models/alias",
        "PATCH registered-models/update",
        "POST registered-models/rename",
        "DELETE registered-models/delete",
        "POST registered-models/set-tag",
        "DELETE registered-models/delete-tag",
        "GET model-versions/get",
        "GET model-versions/get-artifact",
        "GET model-versions/get-download-uri",
        "POST model-versions/create",
        "PATCH model-versions/update",
        "POST model-versions/transition-stage",
        "DELETE model-versions/delete",
        "POST model-versions/set-tag",
        "DELETE model-versions/delete-tag",
        "POST scorers/register",
        "GET scorers/list",
        "GET scorers/get",
        "GET scorers/versions",
        "DELETE scorers/delete",
        "GET scorers/online-configs",
        "POST review-queues/create",
        "GET review-queues/get",
        "GET review-queues/get-by-name",
        "POST review-queues/get-or-create-user",
        "GET review-queues/list",
        "POST review-queues/update",
        "POST review-queues/delete",
        "POST review-queues/items/add",
        "POST review-queues/items/remove",
        "GET review-queues/items/list",
        "POST review-queues/items/set-status",
        "POST label-schemas/create",
        "GET label-schemas/get",
        "GET label-schemas/get-by-name",
        "GET label-schemas/list",
        "PATCH label-schemas/update",
        "DELETE label-schemas/delete",
        "GET users/get",
        "PATCH users/update-password",
        "GET users/roles/list",
        "GET users/permissions/get",
        "GET users/permissions/list",
        "POST users/permissions/grant",
        "POST users/permissions/revoke",
        # Only MLflow 3.7.0 has the routes below.
        *(
            f"{method} {kind}/permissions/{action}"
            for kind in ("experiments", "registered-models", "scorers")
            for method, action in (("GET", "get"), ("POST", "create"), ("PATCH", "update"), ("DELETE", "delete"))
        ),
    }
)
"""Routes that pass if MLflow has a check of its own for them. It asks by the name of a model, or of a user."""

OWN = {
    **dict.fromkeys(
        (
            "GET experiments/get",
            "POST experiments/search-datasets",
            "GET runs/get",
            "GET artifacts/list",
            "POST artifacts/presigned-download-url",
            "GET get-artifact",
            "GET metrics/get-history",
            "GET metrics/get-history-bulk",
            "GET metrics/get-history-bulk-interval",
            "GET mlflow-artifacts/artifacts",
            "GET mlflow-artifacts/artifacts/*",
            "GET mlflow-artifacts/presigned/*",
            "GET logged-models/*",
            "GET logged-models/*/artifacts/directories",
            "GET logged-models/*/artifacts/files",
            "GET traces",
            "GET traces/*",
            "GET traces/*/info",
            "GET traces/get",
            "GET traces/batchGet",
            "POST traces/batchGetInfos",
            "POST traces/search",
            "POST traces/metrics",
            "POST traces/calculate-filter-correlation",
            "GET traces/*/assessments/*",
            "GET get-trace-artifact",
            "GET datasets/*",
            "GET datasets/*/records",
            "GET datasets/*/experiment-ids",
            "GET datasets/search",
            "POST datasets/search",
            "GET issues/*",
            "POST issues/search",
        ),
        "read",
    ),
    **dict.fromkeys(
        (
            "POST experiments/update",
            "POST experiments/set-experiment-tag",
            "POST experiments/delete-experiment-tag",
            "POST runs/create",
            "POST runs/create-promptlab-run",
            "POST runs/update",
            "POST runs/log-metric",
            "POST runs/log-parameter",
            "POST runs/log-batch",
            "POST runs/log-model",
            "POST runs/log-inputs",
            "POST runs/outputs",
            "POST runs/set-tag",
            "POST runs/delete-tag",
            "POST upload-artifact",
            "POST artifacts/presigned-upload-url",
            "PUT mlflow-artifacts/artifacts/*",
            "POST mlflow-artifacts/mpu/create/*",
            "POST mlflow-artifacts/mpu/complete/*",
            "POST mlflow-artifacts/mpu/abort/*",
            "POST logged-models",
            "PATCH logged-models/*",
            "POST logged-models/*/params",
            "PATCH logged-models/*/tags",
            "DELETE logged-models/*/tags/*",
            "POST v1/traces",
            "POST traces",
            "PATCH traces/*",
            "PATCH traces/*/tags",
            "DELETE traces/*/tags",
            "POST traces/link-to-run",
            "POST traces/link-prompts",
            "POST traces/*/assessments",
            "PATCH traces/*/assessments/*",
            "DELETE traces/*/assessments/*",
            "POST datasets/create",
            "POST datasets/*/records",
            "DELETE datasets/*/records",
            "POST datasets/*/add-experiments",
            "POST datasets/*/remove-experiments",
            "PATCH datasets/*/tags",
            "DELETE datasets/*/tags/*",
            "POST issues",
            "PATCH issues/*",
        ),
        "update",
    ),
    **dict.fromkeys(
        (
            "POST experiments/delete",
            "POST experiments/restore",
            "POST runs/delete",
            "POST runs/restore",
            "DELETE logged-models/*",
            "DELETE mlflow-artifacts/artifacts/*",
            "POST traces/delete-traces",
            "DELETE datasets/*",
        ),
        "delete",
    ),
}
"""Routes to what the person must be allowed to do with every object that the request names."""

READ_ONLY = {
    "POST runs/log-inputs": {"modelid"},
    "POST runs/outputs": {"modelid"},
    "POST traces/link-to-run": {"traceid"},
}
"""Routes to parameters for which it is enough that the person may read the object."""

GATEWAY = re.compile(r"[A-Z]+ gateway[/-]")
"""Beginning of the routes of the gateway, which are refused for everybody unless the stack's settings turn it on."""

ENDPOINTS = re.compile(
    r"POST gateway/(?:(?!proxy/)[^/]+/mlflow/invocations|mlflow/v1/chat/completions|anthropic/v1/messages"
    r"|openai/v1/(?:chat/completions|embeddings|responses)|gemini/v1beta/models/[^/]+)"
)
"""Routes that call an endpoint of the gateway, for whoever may use the endpoint. The route that passes any path on is not among them."""

_PREFIX = re.compile(r"^/(?:ajax-)?api/\d\.\d/?(?:mlflow/)?")
_PARAMETER = re.compile(r"<[^>]+>")


def route(method: str, rule: str) -> str:
    """Return the route of a method and a rule of Flask, as it is written in this file."""
    path = _PARAMETER.sub("*", _PREFIX.sub("", rule, count=1))
    return f"{'GET' if method == 'HEAD' else method} {path if path == '/' else path.removeprefix('/')}"
