"""The Grafana dashboard of a site."""

import json
from dataclasses import dataclass
from typing import Any

from .alerts import ALLOWED, SLOW, backends, main_backend, site
from .arguments import SiteAlertsArgs


@dataclass(frozen=True)
class Panel:
    """A chart of the dashboard, half as wide as the page."""

    title: str
    """Title of the chart."""
    unit: str
    """Unit of the values, as Grafana calls it."""
    queries: dict[str, str]
    """Legend to query, in PromQL."""


def panels(args: SiteAlertsArgs) -> list[Panel]:
    """Return the charts, in the order in which they answer questions after an alert."""
    ours = site(args)
    of_all, main = f'proxy=~"{backends(args)}"', f'proxy="{main_backend(args)}"'
    calls = f'mlflow_http_request_duration_seconds_bucket{{namespace="{args.site_namespace}",method!="PUT"}}'

    def quantile(share: float) -> str:
        return f"histogram_quantile({share}, sum by (le) (rate({calls}[5m])))"

    def by_backend(metric: str, how: str = "sum") -> str:
        return f"{how} by (proxy) ({metric}{{{of_all}}})"

    return [
        Panel("Pods of MLflow that take requests", "short", {"pods": f"mlflow:pods:serving{ours}"}),
        Panel(
            "Errors, share of all requests",
            "percentunit",
            {
                "5 minutes": f"mlflow:errors:rate5m{ours} / mlflow:requests:rate5m{ours}",
                "1 hour": f"mlflow:errors:rate1h{ours} / mlflow:requests:rate1h{ours}",
                "6 hours": f"mlflow:errors:rate6h{ours} / mlflow:requests:rate6h{ours}",
                "allowed": f"{ALLOWED} + 0 * mlflow:pods:serving{ours}",
            },
        ),
        Panel(
            "Requests by status",
            "reqps",
            {"{{code}}": f"sum by (code) (rate(haproxy_backend_http_responses_total{{{of_all}}}[5m]))"},
        ),
        Panel(
            "Time of a call in MLflow, uploads left out",
            "s",
            {f"{100 * share:g} of 100": quantile(share) for share in (0.5, 0.95, 0.99)},
        ),
        Panel(
            f"Calls of more than {SLOW} s, share",
            "percentunit",
            {"share": f"mlflow:slow_calls:rate5m{ours} / mlflow:calls:rate5m{ours}"},
        ),
        Panel("Requests that wait for a place", "short", {"{{proxy}}": by_backend("haproxy_backend_current_queue")}),
        Panel(
            "Mean wait for a place, of the last 1,024 requests",
            "s",
            {"{{proxy}}": by_backend("haproxy_backend_queue_time_average_seconds", "max")},
        ),
        Panel("Requests at work", "short", {"{{proxy}}": by_backend("haproxy_backend_current_sessions")}),
        Panel(
            "Bytes",
            "Bps",
            {
                "from clients": f"sum(rate(haproxy_backend_bytes_in_total{{{of_all}}}[5m]))",
                "to clients": f"sum(rate(haproxy_backend_bytes_out_total{{{of_all}}}[5m]))",
            },
        ),
        Panel(
            "Requests that HAProxy sent again",
            "reqps",
            {
                "to the same pod": f"sum(rate(haproxy_backend_retry_warnings_total{{{main}}}[5m]))",
                "to another pod": f"sum(rate(haproxy_backend_redispatch_warnings_total{{{main}}}[5m]))",
            },
        ),
    ]


def dashboard(args: SiteAlertsArgs) -> str:
    """Return the dashboard as Grafana imports it."""
    source = {"type": "prometheus", "uid": "${source}"}
    charts: list[dict[str, Any]] = [
        {
            "id": number + 1,
            "type": "timeseries",
            "title": panel.title,
            "datasource": source,
            "gridPos": {"x": 12 * (number % 2), "y": 8 * (number // 2), "w": 12, "h": 8},
            "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
            "targets": [
                {"refId": chr(ord("A") + place), "datasource": source, "expr": query, "legendFormat": legend}
                for place, (legend, query) in enumerate(panel.queries.items())
            ],
        }
        for number, panel in enumerate(panels(args))
    ]
    page = {
        "uid": f"mlflow-eks-{args.site_namespace}"[:40],
        "title": f"MLflow ({args.site_namespace})",
        "tags": ["mlflow-eks"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "1m",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "panels": charts,
    }
    return json.dumps(page, indent=1)
