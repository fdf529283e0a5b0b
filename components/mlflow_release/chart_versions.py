"""The versions of community-charts/mlflow that the component supports."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ChartVersion:
    """A version of the chart, and what the MLflow in its image needs."""

    mlflow: str
    """Version of MLflow in the chart's image."""
    gunicorn: bool
    """True if the server must run under gunicorn instead of uvicorn, the chart's default. Under uvicorn MLflow 3.7.0 answers
    POST /v1/traces and the jobs API without a login. Under gunicorn it does not have these two routes."""
    pod_security: Literal["baseline", "restricted"]
    """Strictest level of the Pod Security Standards that admits the chart's pods. An init container of 1.8.1 has no security context."""


CHART_VERSIONS = {
    "1.11.5": ChartVersion("3.15.1", gunicorn=False, pod_security="restricted"),
    "1.8.1": ChartVersion("3.7.0", gunicorn=True, pod_security="baseline"),
}
"""Chart version to what it runs, the default first."""
