"""SiteAlerts: each alert fires on its fault, and on no other, in a real Prometheus's test of rules."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from components.site_alerts import SiteAlertsArgs
from components.site_alerts.alerts import alerts, rule_spec
from components.site_alerts.dashboard import dashboard, panels
from tests import ROOT
from tests.prometheus import needs_prometheus, promtool
from tests.unit.harness import MINIMAL, changed, deploy

ARGS = SiteAlertsArgs(namespace="mlflow", certificate="mlflow-tls", clean_up="mlflow-clean-up")
RULE = "kubernetes:monitoring.coreos.com/v1:PrometheusRule"
MONITORED = changed(
    MINIMAL, {"monitoring": {"enabled": True, "labels": {"release": "kube-prometheus-stack"}, "namespace": "metrics"}}
)
SITE = 'proxy="mlflow_svc_mlflow_http",namespace="haproxy"'
CALLS = 'mlflow_http_request_duration_seconds_bucket{namespace="mlflow",method="POST",status="200"'
DAY = 86400

HEALTHY: Mapping[str, str] = {
    f"haproxy_backend_active_servers{{{SITE}}}": "2x240",
    f'haproxy_backend_http_responses_total{{{SITE},code="2xx"}}': "0+300x240",
    f'haproxy_backend_http_responses_total{{{SITE},code="5xx"}}': "0x240",
    f"haproxy_backend_current_queue{{{SITE}}}": "0x240",
    f"haproxy_backend_current_sessions{{{SITE}}}": "2x240",
    'mlflow_http_request_total{namespace="mlflow",method="POST",status="200"}': "0+300x240",
    f'{CALLS},le="2.5"}}': "0+300x240",
    f'{CALLS},le="+Inf"}}': "0+300x240",
    'certmanager_certificate_renewal_timestamp_seconds{name="mlflow-tls"}': f"{30 * DAY}x240",
    'kube_cronjob_status_last_successful_time{namespace="mlflow",cronjob="mlflow-clean-up"}': "0x240",
    'kube_cronjob_created{namespace="mlflow",cronjob="mlflow-clean-up"}': "0x240",
}
"""Series of a healthy site, a sample each 30 seconds for two hours."""
SERVING = f"haproxy_backend_active_servers{{{SITE}}}"
ERRORS = f'haproxy_backend_http_responses_total{{{SITE},code="5xx"}}'
ANSWERED = 'mlflow_http_request_total{namespace="mlflow",method="POST",status="200"}'
REFUSED = 'mlflow_http_request_total{namespace="mlflow",method="POST",status="401"}'
AT_WORK = f"haproxy_backend_current_sessions{{{SITE}}}"
QUEUE = f"haproxy_backend_current_queue{{{SITE}}}"
IN_TIME = f'{CALLS},le="2.5"}}'
CERTIFICATE = 'certmanager_certificate_renewal_timestamp_seconds{name="mlflow-tls"}'
CLEANED = 'kube_cronjob_status_last_successful_time{namespace="mlflow",cronjob="mlflow-clean-up"}'
CREATED = 'kube_cronjob_created{namespace="mlflow",cronjob="mlflow-clean-up"}'

FAULTS: Mapping[str, tuple[Mapping[str, str | None], Mapping[str, str | None]]] = {
    "MlflowNotSeen": (
        {each: "2x119 stale" for each in HEALTHY if each.startswith("haproxy")},
        # A restart of the only controller that Prometheus knows takes a minute.
        {SERVING: "2x120 stale _x2 2x120", QUEUE: "0x120 stale _x2 0x120"},
    ),
    "MlflowDown": ({SERVING: "2x120 0x120", ERRORS: "0x120 0+300x120"}, {SERVING: "2x120 1x120"}),
    # A third of the requests fail from then on, or one in a hundred all the time.
    # The other one is also an hour of history with a database that was away for half a minute.
    "MlflowErrors": ({ERRORS: "0x120 0+150x120"}, {ERRORS: "0x120 300x120"}),
    "MlflowErrorBudget": ({ERRORS: "0+3x240"}, {ERRORS: "0+1x240"}),
    "MlflowSlow": ({IN_TIME: "0+300x120 36000+270x120"}, {IN_TIME: "0+290x240"}),
    # With many clients some wait for a place, and then fail. At night one search may be long.
    "MlflowStuck": (
        {ANSWERED: "0+300x120 36000x120", REFUSED: "0+1x240", ERRORS: "0x120 0+60x120", QUEUE: "0x120 20x120"},
        {ANSWERED: "36000x240", AT_WORK: "1x240"},
    ),
    "MlflowPlacesFull": ({QUEUE: "0x120 3x120"}, {QUEUE: "0x120 30x3 0x2 30x3 0x2 30x3 0x2 30x3 0x100"}),
    "MlflowCertificate": ({CERTIFICATE: f"{-DAY}x240"}, {CERTIFICATE: f"{-DAY // 2}x240"}),
    "MlflowCleanUp": ({CLEANED: f"{-3 * DAY}x240"}, {CLEANED: f"{-2 * DAY}x240"}),
}
"""Alert to the series of its fault, and to those of something similar that is no fault. The time of a test begins at 0, and a fault after an hour."""


def samples(changes: Mapping[str, str | None]) -> list[dict[str, str]]:
    merged = {**HEALTHY, **changes}
    return [{"series": name, "values": values} for name, values in merged.items() if values]


def firing(
    folder: Path, args: SiteAlertsArgs, changes: Mapping[str, str | None], expected: Mapping[str, set[str]]
) -> None:
    """Look which alerts fire at some times.

    Raises:
        AssertionError: others do.
    """
    (folder / "rules.json").write_text(json.dumps(rule_spec(args)))
    question = 'count by (alertname) (ALERTS{alertstate="firing"})'
    answers = {
        at: [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(names)]
        for at, names in expected.items()
    }
    case = {
        "interval": "30s",
        "input_series": samples(changes),
        "promql_expr_test": [
            {"expr": question, "eval_time": at, "exp_samples": samples} for at, samples in answers.items()
        ],
    }
    test = {"rule_files": ["rules.json"], "evaluation_interval": "30s", "tests": [case]}
    (folder / "test.json").write_text(json.dumps(test))
    promtool("test", "rules", folder / "test.json")


@needs_prometheus
def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    (tmp_path / "rules.json").write_text(json.dumps(rule_spec(ARGS)))
    promtool("check", "rules", "--lint-fatal", tmp_path / "rules.json")


@needs_prometheus
@pytest.mark.parametrize("alert", FAULTS)
def test_five_minutes_after_its_fault_an_alert_fires_and_no_other(tmp_path: Path, alert: str) -> None:
    # The fault is there from 1 h on, or from the first sample. The slow ones wait on purpose.
    at = "70m30s" if alert in {"MlflowErrorBudget", "MlflowCertificate", "MlflowCleanUp"} else "65m"
    firing(tmp_path, ARGS, FAULTS[alert][0], {at: {alert}})


@needs_prometheus
@pytest.mark.parametrize("alert", FAULTS)
def test_something_similar_fires_nothing(tmp_path: Path, alert: str) -> None:
    firing(tmp_path, ARGS, FAULTS[alert][1], {key: set() for key in ("62m", "65m", "75m")})


@needs_prometheus
def test_a_healthy_site_fires_nothing(tmp_path: Path) -> None:
    firing(tmp_path, ARGS, {}, {key: set() for key in ("1m", "5m", "80m")})


@needs_prometheus
def test_an_outage_of_two_hours_does_not_fire_the_alert_on_a_slow_loss_too(tmp_path: Path) -> None:
    firing(tmp_path, ARGS, {ERRORS: "0+150x240"}, {"119m": {"MlflowErrors"}})
    firing(tmp_path, ARGS, {SERVING: "0x240", ERRORS: "0+300x240"}, {"119m": {"MlflowDown"}})


@needs_prometheus
def test_the_errors_of_an_outage_fire_nothing_when_the_outage_is_over(tmp_path: Path) -> None:
    over = {SERVING: "2x120 0x20 2x100", ERRORS: "0x120 0+300x20 6000x100"}
    firing(tmp_path, ARGS, over, {"68m": {"MlflowDown"}, **{key: set() for key in ("72m", "75m", "85m")}})
    hung = {ANSWERED: "0+300x120 36000x20 36000+300x100", ERRORS: "0x120 0+60x20 1200x100", QUEUE: "0x120 20x20 0x100"}
    firing(tmp_path, ARGS, hung, {"68m": {"MlflowStuck"}, **{key: set() for key in ("72m", "75m", "85m")}})


@needs_prometheus
def test_a_clean_up_that_never_succeeded_is_told_after_three_days(tmp_path: Path) -> None:
    firing(tmp_path, ARGS, {CLEANED: None, CREATED: f"{-3 * DAY}x240"}, {"70m30s": {"MlflowCleanUp"}})
    firing(tmp_path, ARGS, {CLEANED: None}, {"70m30s": set()})


@needs_prometheus
def test_a_site_of_another_namespace_has_alerts_of_its_own(tmp_path: Path) -> None:
    other = SiteAlertsArgs(namespace="tracking", site_namespace="tracking")
    # The series are those of the site in `mlflow`, so this Prometheus sees nothing of the other one.
    firing(tmp_path, other, {}, {"5m": {"MlflowNotSeen"}})


def test_every_alert_has_a_fault_here_and_names_its_section() -> None:
    assert [alert.name for alert in alerts(ARGS)] == list(FAULTS)
    page = (ROOT / "docs" / "alerts.md").read_text()
    sections = re.findall(r"^## (Mlflow\w+)$", page, re.MULTILINE)
    assert sections == list(FAULTS)
    for group in rule_spec(ARGS)["groups"]:
        for rule in group["rules"]:
            if name := rule.get("alert"):
                assert rule["annotations"]["runbook_url"] == f"docs/alerts.md#{name.lower()}"
                assert rule["labels"]["severity"] in {"critical", "warning"}
                assert len(rule["annotations"]) == 3


@needs_prometheus
def test_prometheus_takes_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": query}
        for number, query in enumerate(query for panel in panels(ARGS) for query in panel.queries.values())
    ]
    (tmp_path / "panels.json").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", tmp_path / "panels.json")


def test_the_dashboard_asks_the_source_that_the_reader_chooses() -> None:
    page: Any = json.loads(dashboard(ARGS))
    assert {target["datasource"]["uid"] for panel in page["panels"] for target in panel["targets"]} == {"${source}"}
    places = [tuple(panel["gridPos"].values()) for panel in page["panels"]]
    assert len(set(places)) == len(places)


def test_a_prometheus_that_selects_by_a_label_finds_the_rule_and_both_monitors() -> None:
    deployment = deploy(MONITORED, secrets=["mlflow", "postgres"])
    wanted = {"release": "kube-prometheus-stack"}
    assert deployment.named("alerts-rule")["metadata"]["labels"] == wanted
    assert deployment.named("mlflow-service-monitor")["metadata"]["labels"].items() >= wanted.items()
    controller = deployment.named("ingress-release")["values"]["controller"]
    assert controller["serviceMonitor"] == {"enabled": True, "extraLabels": wanted}
    assert deployment.named("alerts-dashboard")["metadata"]["labels"] == {"grafana_dashboard": "1"}


def test_the_metrics_are_for_prometheus_alone_and_on_a_port_that_no_ingress_serves() -> None:
    deployment = deploy(MONITORED, secrets=["mlflow", "postgres"])
    of_prometheus = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "metrics"}}}]
    for policy, port in (("mlflow-network-policy", 9464), ("ingress-network-policy", 1024)):
        rules = deployment.named(policy)["spec"]["ingress"]
        assert [rule["from"] for rule in rules if {"protocol": "TCP", "port": port} in rule["ports"]] == [of_prometheus]
        # And Prometheus may open no other port.
        assert [rule["ports"] for rule in rules if rule.get("from") == of_prometheus] == [
            [{"protocol": "TCP", "port": port}]
        ]
    service = deployment.named("mlflow-metrics-service")
    assert service["spec"]["ports"] == [{"name": "metrics", "port": 9464, "targetPort": 9464}]
    ingresses = deployment.of_type("kubernetes:networking.k8s.io/v1:Ingress")
    served = {
        path["backend"]["service"]["name"]
        for ingress in ingresses
        for rule in ingress["spec"]["rules"]
        for path in rule["http"]["paths"]
    }
    assert ingresses
    assert service["metadata"]["name"] not in served


def test_the_monitor_finds_the_service_of_the_metrics_and_none_of_the_sites() -> None:
    deployment = deploy(MONITORED, secrets=["mlflow", "postgres"])
    wanted = deployment.named("mlflow-service-monitor")["spec"]["selector"]["matchLabels"].items()
    chosen = [
        service["metadata"]["name"]
        for service in deployment.of_type("kubernetes:core/v1:Service")
        if not service.read and wanted <= service["metadata"].get("labels", {}).items()
    ]
    assert chosen == ["mlflow-metrics"]
    # The chart labels its own Service with the release's labels.
    assert not wanted <= {"app.kubernetes.io/name": "mlflow", "app.kubernetes.io/instance": "mlflow"}.items()


def test_the_workers_files_are_where_the_metrics_container_reads_them() -> None:
    values = deploy(MONITORED, secrets=["mlflow", "postgres"]).named("mlflow-release")["values"]
    (container,) = values["extraContainers"]
    (mount,) = container["volumeMounts"]
    assert values["extraArgs"]["exposePrometheus"] == mount["mountPath"]
    assert {"name": mount["name"], "mountPath": mount["mountPath"]} in values["extraVolumeMounts"]
    assert container["env"] == [{"name": "PROMETHEUS_MULTIPROC_DIR", "value": mount["mountPath"]}]
    assert container["image"] == values["initContainers"][0]["image"]


def test_without_monitoring_there_is_no_object_of_the_prometheus_operator() -> None:
    deployment = deploy(MINIMAL, secrets=["mlflow", "postgres"])
    assert not [each for each in deployment.resources if "monitoring.coreos.com" in each.type]
    assert "extraContainers" not in deployment.named("mlflow-release")["values"]


def test_an_alert_on_the_certificate_needs_cert_manager() -> None:
    def names(config: Mapping[str, Any]) -> list[str]:
        (rule,) = deploy(config, secrets=["mlflow", "postgres"]).of_type(RULE)
        return [each["alert"] for each in rule["spec"]["groups"][0]["rules"] if "alert" in each]

    assert "MlflowCertificate" not in names(MONITORED)
    assert "MlflowCertificate" in names(changed(MONITORED, {"ingress": {"clusterIssuer": "letsencrypt"}}))
