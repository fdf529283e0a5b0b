"""Arguments of `SiteAlerts`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pulumi


@dataclass(frozen=True)
class SiteAlertsArgs:
    """The site to watch, and the Prometheus that watches it."""

    namespace: pulumi.Input[str]
    """Namespace of the objects, once it is there."""
    site_namespace: str = "mlflow"
    """Namespace of MLflow, by which the metrics are selected. Default ``mlflow``."""
    service: str = "mlflow"
    """Name of MLflow's Service, with which the names of its further Services begin. Default ``mlflow``."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Labels of the PrometheusRule, by which a Prometheus selects it. Default: none."""
    runbook_url: str = "docs/alerts.md"
    """Address of the page with a section for each alert."""
    certificate: str | None = None
    """Name of cert-manager's Certificate. None: no alert on it."""
    clean_up: str | None = None
    """Name of the CronJob that deletes old data every day. None: no alert on it."""
