"""The versions of community-charts/mlflow that the component supports."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ChartVersion:
    """A version of the chart, and what the MLflow in its image needs."""

    mlflow: str
    """Version of MLflow in the chart's image."""
    gunicorn: bool
    """True if the server must run under gunicorn instead of uvicorn, the chart's default. Under uvicorn MLflow 3.7.0 answers
    POST /v1/traces and the jobs API without a login. Under gunicorn it does not have these two routes."""
    has_login_cache: bool
    """True if MLflow remembers checked passwords itself. MLflow 3.7.0 hashes the password of every request, more than once."""


CHART_VERSIONS = {
    "1.11.5": ChartVersion("3.15.1", gunicorn=False, has_login_cache=True),
    "1.8.1": ChartVersion("3.7.0", gunicorn=True, has_login_cache=False),
}
"""Chart version to what it runs, the default first."""
