# pyright: reportMissingImports=false
"""Settings of an MLflow server with a login, for scripts that run in an MLflow's virtualenv."""

import contextlib
import os
import tempfile
from collections.abc import Generator
from pathlib import Path


@contextlib.contextmanager
def login_settings() -> Generator[None]:
    """Provide the settings that `mlflow.server.auth` reads when it is imported. Import it within the block."""
    with tempfile.TemporaryDirectory() as folder:
        ini = Path(folder, "basic_auth.ini")
        ini.write_text(
            "[mlflow]\n"
            "default_permission = NO_PERMISSIONS\n"
            f"database_uri = sqlite:///{folder}/auth.db\n"
            "admin_username = admin\n"
            "admin_password = nobody-logs-in-here\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        os.environ |= {"MLFLOW_AUTH_CONFIG_PATH": str(ini), "MLFLOW_FLASK_SERVER_SECRET_KEY": "nothing-is-signed-here"}
        yield
