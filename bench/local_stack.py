"""What `make up` costs: cold, against the sum of what cannot be avoided; warm, against MLflow's own start."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.clock import seconds
from local import paths, tools
from local.__main__ import MLFLOW
from local.stack import ROOT, LocalStack

PARTS = {
    "the CLI": "tools.pulumi_bin()",
    "PostgreSQL": "tools.postgres_data()",
    "HAProxy": "tools.haproxy_bin()",
    f"MLflow {MLFLOW}": f"tools.mlflow_python({MLFLOW!r})",
}
"""What has to be installed, one after the other."""
_MIGRATE = 'from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore\nSqlAlchemyStore("{uri}")'


@dataclass(frozen=True)
class Cold:
    """A first `make up` on a machine with nothing, in seconds."""

    up: float
    parts: Mapping[str, float]

    @property
    def ratio(self) -> float:
        """Of the whole to the sum of its parts."""
        return self.up / sum(self.parts.values())


def cold(say: Callable[[str], None], server: float) -> Cold:
    """Bring a clean clone up with empty caches, then install each thing alone with empty caches.

    Args:
        say: where to tell what is going on.
        server: seconds of MLflow's own start, which a first `make up` cannot avoid either.
    """
    with tempfile.TemporaryDirectory(prefix="mlflow-eks-bench-", dir=_place()) as folder:
        say("a first make up with nothing cached")
        home = Path(folder)
        # The database's user must be able to pass.
        home.chmod(0o755)
        checkout = home / "checkout"
        subprocess.run(["git", "clone", "--quiet", ROOT, checkout], check=True)
        whole = _make(checkout, home / "first", "up")
        _make(checkout, home / "first", "down")
        shutil.rmtree(checkout / ".venv")
        say("each part alone, with nothing cached")
        parts = {"the Python packages": _make(checkout, home / "second", ".venv/.complete")}
        for name, call in PARTS.items():
            say(f"{name} alone")
            parts[name] = seconds(
                lambda call=call: subprocess.run(
                    [checkout / ".venv" / "bin" / "python", "-c", f"from local import tools; {call}"],
                    cwd=checkout,
                    env=_environment(home / "second"),
                    check=True,
                )
            )
        return Cold(whole, parts | {"MLflow's migration and start": server})


def warm(stack: LocalStack) -> float:
    """Seconds of `make up` with the tools there and no stack."""
    return seconds(stack.up)


def server_start(stack: LocalStack) -> float:
    """Seconds that MLflow takes to make its tables in an empty database and to answer, without anything around it."""
    python = tools.mlflow_python(MLFLOW)
    with stack.rdsadmin() as server:
        server.execute("CREATE DATABASE bench_start")
        info = server.info
        variables = {
            "PATH": f"{python.parent}:{os.defpath}",
            "HOME": str(stack.folder),
            "PGHOST": str(info.host),
            "PGPORT": str(info.port),
            "PGUSER": info.user,
            "PGPASSWORD": info.password,
            "PGDATABASE": "bench_start",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        try:
            return seconds(lambda: _start_once(python, variables))
        finally:
            server.execute("DROP DATABASE bench_start WITH (FORCE)")


def _start_once(python: Path, variables: Mapping[str, str]) -> None:
    uri, port = "postgresql+psycopg2://", 23999
    subprocess.run([python, "-c", _MIGRATE.format(uri=uri)], env=variables, check=True, capture_output=True)
    command = [python, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", f"--backend-store-uri={uri}"]
    with subprocess.Popen(
        [*command, "--workers=1"], env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", server)
        finally:
            server.terminate()


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310  -- the one we started
                return
        except OSError as error:
            if server.poll() is not None:
                raise RuntimeError("MLflow ended instead of answering") from error
            time.sleep(0.05)


def _make(checkout: Path, home: Path, target: str) -> float:
    return seconds(
        lambda: subprocess.run(
            ["make", target, f"PYTHON={sys.executable}"],
            cwd=checkout,
            env=_environment(home),
            check=True,
            stdout=subprocess.DEVNULL,
        )
    )


def _environment(home: Path) -> dict[str, str]:
    home.mkdir(exist_ok=True)
    return os.environ | {
        "MLFLOW_EKS_HOME": str(home / "mlflow-eks"),
        "MLFLOW_EKS_STACK_DIR": str(home / "mlflow-eks" / "stacks" / "bench"),
        "MLFLOW_EKS_HTTP_PORT": "18980",
        "MLFLOW_EKS_HTTPS_PORT": "18943",
        "UV_CACHE_DIR": str(home / "uv"),
        "npm_config_cache": str(home / "npm"),
        "PIP_CACHE_DIR": str(home / "pip"),
    }


def _place() -> Path:
    paths.make_traversable(paths.home())
    return paths.home()
