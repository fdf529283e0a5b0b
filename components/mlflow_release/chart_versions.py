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


CHART_VERSIONS = {
    "1.11.5": ChartVersion("3.15.1", gunicorn=False),
    "1.8.1": ChartVersion("3.7.0", gunicorn=True),
}
"""Chart version to what it runs, the default first."""
