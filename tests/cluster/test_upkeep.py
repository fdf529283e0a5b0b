"""The metrics that Prometheus reads, and the clean-up of old data, on a cluster by its name, with a bucket and two pods of MLflow.

Prometheus and its operator need not run. Without the operator's CustomResourceDefinitions the tests of the metrics skip.
"""

import base64
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from components.site_alerts import SiteAlertsArgs
from components.site_alerts.alerts import backends, main_backend
from local.http_load import report
from tests.cluster.account import Account, reaches_the_account
from tests.cluster.real_cluster import ClusterStack

pytestmark = pytest.mark.cluster

SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
NAMESPACE = "cluster-test-monitoring"
"""Namespace whose pods may read the metrics."""
KINDS = ("servicemonitors.monitoring.coreos.com", "prometheusrules.monitoring.coreos.com")
DELETED = """
import mlflow

mlflow.set_experiment("clean-up")
kept = []
for name in ("stays", "goes"):
    with mlflow.start_run(run_name=name) as run:
        mlflow.log_metric("loss", 0.5)
        mlflow.log_text(name, "note.txt")
    mlflow.MlflowClient().delete_run(run.info.run_id)
    kept.append(run.info.run_id)
print(*kept)
"""

READ = """
import sys
import urllib.request

with urllib.request.urlopen(sys.argv[1], timeout=10) as answer:
    print(answer.read().decode())
"""


@pytest.fixture(scope="module")
def site(on_eks: ClusterStack, aws: Account) -> ClusterStack:
    on_eks.up()
    reaches_the_account(on_eks, aws, "deployment/mlflow", "mlflow")
    on_eks.kubectl("-n", "mlflow", "rollout", "status", "deployment", "mlflow", "--timeout=300s")
    # HAProxy checks a new server every two seconds, and wants two answers.
    time.sleep(10)
    return on_eks


def test_a_pass_counts_in_a_dry_run_and_then_takes_what_was_deleted_long_ago(site: ClusterStack, aws: Account) -> None:
    counts = site.up(retention__deletedDays=30, retention__dryRun=True)
    assert set(counts) == {"created", "unchanged"}
    assert site.changes() == {}
    stays, goes = site.client(DELETED).split()
    # 31 days, in milliseconds.
    with site.connect("mlflow", *_database_login(site)) as database:
        aged = "UPDATE runs SET deleted_time = deleted_time - 2678400000 WHERE run_uuid = %s"
        assert database.execute(aged, [goes]).rowcount == 1

    assert "clean-up: dry run, would take: 1 runs" in _pass(site, aws)
    assert _bucket_has(aws, goes)

    counts = site.up(retention__dryRun=False)
    assert counts["updated"] == 1
    log = _pass(site, aws)
    report("a pass of the clean-up on the cluster", log.splitlines()[-1])
    assert "clean-up: 1 runs" in log
    assert site.get(f"/api/2.0/mlflow/runs/get?run_id={goes}", login=site.login()).status == 404
    assert site.get(f"/api/2.0/mlflow/runs/get?run_id={stays}", login=site.login()).status == 200
    assert not _bucket_has(aws, goes)
    assert _bucket_has(aws, stays)
    assert "clean-up: nothing" in _pass(site, aws)


def test_the_cluster_takes_what_prometheus_and_grafana_need(site: ClusterStack) -> None:
    missing = [kind for kind in KINDS if not site.kubectl("get", "crd", kind, "-o", "name", "--ignore-not-found")]
    if missing:
        pytest.skip(f"the cluster does not know {' and '.join(missing)}: apply the Prometheus operator's definitions")
    counts = site.up(
        monitoring__enabled=True, monitoring__namespace=NAMESPACE, monitoring__labels__release="prometheus"
    )
    report("monitoring on the cluster", str(counts))
    assert "replaced" not in counts
    assert site.changes() == {}
    (rule,) = site.objects(KINDS[1], "mlflow")
    alerts = {one["alert"] for group in rule["spec"]["groups"] for one in group["rules"] if "alert" in one}
    assert {"MlflowNotSeen", "MlflowDown", "MlflowCleanUp"} <= alerts
    (dashboard,) = site.objects("configmap", "mlflow", "grafana_dashboard=1")
    assert json.loads(*dashboard["data"].values())["panels"]
    for monitored in (rule, *site.objects(KINDS[0], "mlflow"), *site.objects(KINDS[0], "haproxy")):
        assert monitored["metadata"]["labels"]["release"] == "prometheus"


@pytest.fixture(scope="module")
def monitored(site: ClusterStack) -> Iterator[ClusterStack]:
    """The site, if its metrics are on, and a pod in the namespace of Prometheus and in another."""
    if not site.objects("service", "mlflow", "app.kubernetes.io/name=mlflow-metrics"):
        pytest.skip("monitoring is off, because the cluster does not know the operator's objects")
    containers = site.objects("pod", "mlflow", "app.kubernetes.io/name=mlflow")[0]["spec"]["containers"]
    image = next(one["image"] for one in containers if one["name"] == "metrics")
    site.kubectl("create", "namespace", NAMESPACE)
    for namespace in (NAMESPACE, "default"):
        sleep = ("--command", "--", "sleep", "3600")
        site.kubectl("-n", namespace, "run", "reader", f"--image={image}", "--restart=Never", *sleep)
        site.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod/reader", "--timeout=120s")
    yield site
    site.kubectl("-n", "default", "delete", "pod", "reader", "--now")
    site.kubectl("delete", "namespace", NAMESPACE)


def test_prometheus_finds_every_pod_and_the_metrics_that_the_alerts_ask_for(monitored: ClusterStack) -> None:
    for _ in range(20):
        assert monitored.get(SEARCH, login=monitored.login()).status == 200
    pods = [_read(monitored, NAMESPACE, url) for url in _targets(monitored, "mlflow")]
    assert len(pods) == 2
    assert all("mlflow_http_request_duration_seconds_bucket" in text for text in pods)
    controllers = [_read(monitored, NAMESPACE, url) for url in _targets(monitored, "haproxy")]
    assert len(controllers) == 3
    args = SiteAlertsArgs(namespace="mlflow")
    for text in controllers:
        found = re.findall(r'^haproxy_backend_active_servers\{proxy="([^"]+)"\} (\d+)', text, re.MULTILINE)
        servers = {proxy: int(number) for proxy, number in found if re.fullmatch(backends(args), proxy)}
        assert servers[main_backend(args)] == 2
        assert len(servers) == len(monitored.objects("ingress", "mlflow"))
        for metric in ("http_responses_total", "current_queue", "queue_time_average_seconds"):
            assert f'haproxy_backend_{metric}{{proxy="{main_backend(args)}"' in text


def test_a_pod_of_another_namespace_does_not_read_the_metrics(monitored: ClusterStack) -> None:
    metrics = [*_targets(monitored, "mlflow"), *_targets(monitored, "haproxy")]
    server = re.sub(r":\d+/metrics", ":5000/health", metrics[0])
    if _read(monitored, "default", server):
        pytest.skip("the cluster's network plugin does not enforce NetworkPolicies")
    assert all(_read(monitored, NAMESPACE, url) for url in metrics)
    assert [url for url in metrics if _read(monitored, "default", url)] == []


def test_destroy_leaves_nothing(site: ClusterStack) -> None:
    assert set(site.destroy()) == {"deleted"}
    assert site.state() == []


def _database_login(site: ClusterStack) -> tuple[str, str]:
    (secret,) = [
        one for one in site.objects("secret", "mlflow") if one["metadata"]["name"] == "postgres-database-secret"
    ]
    data = secret["data"]
    return base64.b64decode(data["username"]).decode(), base64.b64decode(data["password"]).decode()


def _pass(site: ClusterStack, aws: Account) -> str:
    """Make a pass as docs/retention.md says, and return its log."""
    job = "clean-up-now"
    # An `up` takes away what it has not set.
    reaches_the_account(site, aws, "cronjob/mlflow-clean-up", "clean-up")
    site.kubectl("-n", "mlflow", "create", "job", job, "--from=cronjob/mlflow-clean-up")
    try:
        status = _status(site, job)
        deadline = time.monotonic() + 240
        while not (status.get("succeeded") or status.get("failed")) and time.monotonic() < deadline:
            time.sleep(2)
            status = _status(site, job)
        log = site.kubectl("-n", "mlflow", "logs", f"job/{job}")
        assert status.get("succeeded"), log
        return log
    finally:
        site.kubectl("-n", "mlflow", "delete", "job", job)


def _status(site: ClusterStack, job: str) -> dict[str, Any]:
    return json.loads(site.kubectl("-n", "mlflow", "get", "job", job, "-o", "json")).get("status", {})


def _bucket_has(aws: Account, run: str) -> bool:
    s3: Any = boto3.client(
        "s3",
        endpoint_url=aws.pods["AWS_ENDPOINT_URL"],
        region_name=aws.pods["AWS_REGION"],
        aws_access_key_id=aws.pods["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=aws.pods["AWS_SECRET_ACCESS_KEY"],
    )
    buckets = [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    keys = [found["Key"] for bucket in buckets for found in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
    return any(run in key.split("/") for key in keys)


def _targets(site: ClusterStack, namespace: str) -> list[str]:
    """Return the addresses that Prometheus would read, as its operator finds them by a namespace's ServiceMonitor."""
    (monitor,) = site.objects(KINDS[0], namespace)
    (endpoint,) = monitor["spec"]["endpoints"]
    labels = monitor["spec"]["selector"]["matchLabels"]
    (service,) = site.objects("service", namespace, ",".join(f"{name}={value}" for name, value in labels.items()))
    slices = site.objects("endpointslice", namespace, f"kubernetes.io/service-name={service['metadata']['name']}")
    return [
        f"http://{address}:{port['port']}{endpoint.get('path', '/metrics')}"
        for each in slices
        for port in each["ports"]
        if port["name"] == endpoint["port"]
        for one in each["endpoints"]
        for address in one["addresses"]
    ]


def _read(site: ClusterStack, namespace: str, url: str) -> str:
    """Read an address from the pod in a namespace. Empty: no answer."""
    return site.kubectl("-n", namespace, "exec", "reader", "--", "python", "-c", READ, url, ok=False)
