"""SiteAlerts: alerts and a dashboard for the cluster's Prometheus."""

from .arguments import SiteAlertsArgs
from .component import SiteAlerts

__all__ = ["SiteAlerts", "SiteAlertsArgs"]
