"""Alerts for Prometheus, and the sums that they and the dashboard ask for.

Facts about HTTP are Prometheus's. Those about the RDS instance are CloudWatch's (`postgres_alarms.py`), so that one fault alarms once.
docs/alerts.md has a section for each alert.
"""

from dataclasses import dataclass
from typing import Any

from .arguments import SiteAlertsArgs

BURN = 14.4
"""Multiple of the errors that the target of 99.9 % allows, at which a month's errors are used up in two days."""
SLOW_BURN = 6
"""Multiple at which they are used up in five days."""
ALLOWED = 0.001
"""Share of requests that may fail, of docs/slo.md."""
FEWEST = 5
"""Errors within the shorter window below which there is no alert: at night one error is a large share."""
SLOW = 2.5
"""Seconds within which 95 of 100 calls are answered. One of the limits of MLflow's histogram."""


@dataclass(frozen=True)
class Alert:
    """An alert."""

    name: str
    """Name, which is the title of its section in docs/alerts.md, too."""
    severity: str
    """`critical`: people cannot work, wake somebody. `warning`: look at it today."""
    expression: str
    """Condition, in PromQL."""
    lasting: str
    """Duration of the condition before the alert fires."""
    summary: str
    """Sentence for the title of a message."""
    description: str
    """First thing to look at."""


def sums(args: SiteAlertsArgs) -> dict[str, str]:
    """Return the recording rules: name to expression. Each has the label `site`, the namespace of MLflow."""
    responses = f'haproxy_backend_http_responses_total{{proxy=~"{backends(args)}"'
    found = {"mlflow:pods:serving": f'max(haproxy_backend_active_servers{{proxy="{main_backend(args)}"}})'}
    for window in ("5m", "30m", "1h", "6h"):
        found |= {
            f"mlflow:requests:rate{window}": f"sum(rate({responses}}}[{window}]))",
            f"mlflow:errors:rate{window}": f'sum(rate({responses},code="5xx"}}[{window}]))',
        }
    at_work = f'sum(haproxy_backend_current_sessions{{proxy="{main_backend(args)}"}})'
    # MLflow's own count leaves out `/health`, which needs no database. The refusal of a login needs none either.
    answered = f'sum(rate(mlflow_http_request_total{{namespace="{args.site_namespace}",status!~"4.."}}[2m]))'
    # PUT is for files, whose size decides how long they take.
    calls = f'mlflow_http_request_duration_seconds_bucket{{namespace="{args.site_namespace}",method!="PUT"'
    return found | {
        "mlflow:calls:stuck": f"min_over_time(({at_work})[2m:30s]) * ({answered} == bool 0)",
        "mlflow:calls:rate5m": f'sum(rate({calls},le="+Inf"}}[5m]))',
        "mlflow:slow_calls:rate5m": f'mlflow:calls:rate5m{site(args)} - ignoring(site) sum(rate({calls},le="{SLOW}"}}[5m]))',
    }


def site(args: SiteAlertsArgs) -> str:
    """Return the selector of this site's sums."""
    return f'{{site="{args.site_namespace}"}}'


def main_backend(args: SiteAlertsArgs) -> str:
    """Return the controller's name of the backend for calls of the API."""
    return f"{args.site_namespace}_svc_{args.service}_http"


def backends(args: SiteAlertsArgs) -> str:
    """Return a regular expression for the controller's names of all backends of the site."""
    return f"{args.site_namespace}_svc_{args.service}(-files|-page|-static)?_http"


def alerts(args: SiteAlertsArgs) -> list[Alert]:
    """Return the alerts. Each fault makes one of them fire, so each leaves out what another one says."""
    ours = site(args)

    def burning(multiple: float, *windows: str) -> str:
        return " and ".join(
            f"mlflow:errors:rate{window}{ours} > {multiple * ALLOWED:.4f} * mlflow:requests:rate{window}{ours}"
            for window in windows
        )

    fast = burning(BURN, "5m", "1h")
    # The windows of five minutes still have the errors of such an outage.
    was_away = f"(min_over_time(mlflow:pods:serving{ours}[6m]) == 0 or max_over_time(mlflow:calls:stuck{ours}[6m]) > 1)"
    found = [
        Alert(
            "MlflowNotSeen",
            "critical",
            f'absent(haproxy_backend_active_servers{{proxy="{main_backend(args)}"}})',
            "2m",
            "HAProxy is down, or Prometheus does not reach it",
            "No pod of HAProxy reports a backend of the site. Look first at the pods of HAProxy, then at the targets of Prometheus.",
        ),
        Alert(
            "MlflowDown",
            "critical",
            f"mlflow:pods:serving{ours} == 0",
            "1m",
            "No pod of MLflow takes requests",
            "HAProxy has no pod of MLflow to send requests to, and answers 503. Look first at the pods of MLflow.",
        ),
        Alert(
            "MlflowErrors",
            "critical",
            f"({fast} and mlflow:errors:rate5m{ours} * 300 > {FEWEST}) unless {was_away}",
            "2m",
            "{{ $value | humanize }} requests a second fail",
            "Pods take requests, and more than 1.4 % of the answers are 5xx. Look first at the log of MLflow, then at the database.",
        ),
        Alert(
            "MlflowErrorBudget",
            "warning",
            f"({burning(SLOW_BURN, '30m', '6h')} and mlflow:errors:rate30m{ours} * 1800 > {FEWEST}) unless ({fast})",
            # The errors of an outage that is over leave the shorter window before.
            "1h",
            "{{ $value | humanize }} requests a second fail, for an hour",
            "More than 0.6 % of the answers are 5xx, which uses up a month's errors in five days. Look first at which part of the site fails.",
        ),
        Alert(
            "MlflowSlow",
            "warning",
            f"mlflow:slow_calls:rate5m{ours} / mlflow:calls:rate5m{ours} > 0.05 and mlflow:calls:rate5m{ours} > 0.1",
            "2m",
            f"{{{{ $value | humanizePercentage }}}} of the calls take more than {SLOW} s in MLflow",
            "Uploads are not counted, nor the time in HAProxy's queue. Look first at the database's CPU and its slow statements.",
        ),
        Alert(
            "MlflowStuck",
            "critical",
            # A single one may be a long search.
            f"mlflow:calls:stuck{ours} > 1",
            "30s",
            "{{ $value | humanize }} requests are in MLflow, and none is answered",
            "Pods take requests and do not answer them. Look first at whether the database hangs, or the network to it is cut.",
        ),
        Alert(
            "MlflowPlacesFull",
            "warning",
            f'min_over_time((sum(haproxy_backend_current_queue{{proxy="{main_backend(args)}"}}))[2m:30s]) > 0 unless on () mlflow:calls:stuck{ours} > 1',
            "1m",
            "Requests wait in HAProxy because every place in the pods is taken",
            "Look first at which client sends them, in HAProxy's log.",
        ),
    ]
    if args.certificate:
        found.append(
            Alert(
                "MlflowCertificate",
                "warning",
                f'max(time() - certmanager_certificate_renewal_timestamp_seconds{{name="{args.certificate}"}}) > 86400',
                "10m",
                "The certificate of the site should have been renewed a day ago",
                "Look first at the Certificate and its newest CertificateRequest.",
            )
        )
    if args.clean_up:
        job = f'{{namespace="{args.site_namespace}",cronjob="{args.clean_up}"}}'
        found.append(
            Alert(
                "MlflowCleanUp",
                "warning",
                f"max(time() - (kube_cronjob_status_last_successful_time{job} or kube_cronjob_created{job})) > 3 * 86400",
                "10m",
                "Old data was not cleaned up for three days",
                "Look first at the log of the newest Job of the CronJob.",
            )
        )
    return found


def rule_spec(args: SiteAlertsArgs) -> dict[str, Any]:
    """Return the spec of the PrometheusRule, which is also a file of rules for Prometheus."""
    label = {"site": args.site_namespace}
    recorded = [{"record": name, "expr": text, "labels": label} for name, text in sums(args).items()]
    alarming = [
        {
            "alert": each.name,
            "expr": each.expression,
            "for": each.lasting,
            "labels": {**label, "severity": each.severity},
            "annotations": {
                "summary": each.summary,
                "description": each.description,
                "runbook_url": f"{args.runbook_url}#{each.name.lower()}",
            },
        }
        for each in alerts(args)
    ]
    return {"groups": [{"name": f"mlflow-eks-{args.site_namespace}", "rules": [*recorded, *alarming]}]}
