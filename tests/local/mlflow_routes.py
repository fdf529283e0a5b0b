# pyright: reportMissingImports=false
"""Print every route of an MLflow as JSON: [path, methods, framework]. It runs in that MLflow's virtualenv.

The routes are those of `mlflow server --app-name=basic-auth` under uvicorn, with Flask's routes inside FastAPI's. A pod
with 3.7.0 runs under gunicorn and has only some of them.
"""

import json
import os
import sys

from with_login import login_settings

with login_settings():
    os.environ |= {"_MLFLOW_SGI_NAME": "uvicorn", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    from mlflow.server import app as flask_app
    from mlflow.server.auth import create_app

    app = create_app()

listed = [(rule.rule, sorted(rule.methods), "flask") for rule in flask_app.url_map.iter_rules()]


def collect(routes, prefix=""):
    for route in routes:
        if hasattr(route, "original_router"):
            collect(route.original_router.routes, prefix + route.include_context.prefix)
        elif hasattr(route, "methods"):
            listed.append((prefix + route.path, sorted(route.methods), "fastapi"))
        elif getattr(route, "path", None) != "":
            # The route with the empty path is the mount point of Flask's routes, which are listed above.
            sys.exit(f"{route!r} is a kind of route that this script does not know")


collect(app.routes)
print(json.dumps(listed))
