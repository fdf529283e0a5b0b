"""The section `monitoring`."""

from typing import Annotated

from pydantic import Field

from settings.labels import label_problems
from settings.problem import Problem
from settings.section import Section, yaml_key
from settings.value_types import DnsLabel, matching


class Monitoring(Section):
    """Metrics, alerts and a dashboard for the cluster's Prometheus."""

    enabled: bool = False
    """True for ServiceMonitors of HAProxy and MLflow, alerts (a PrometheusRule) and a Grafana dashboard (a ConfigMap). Needs the Prometheus
    operator. With ``ingress.install: false`` your Prometheus must read the controller's metrics already."""
    namespace: DnsLabel = "monitoring"
    """Namespace of Prometheus. Only pods of this namespace may read the metrics."""
    labels: dict[str, str] = Field(default={}, examples=[{"release": "kube-prometheus-stack"}])
    """Labels of the ServiceMonitors and the PrometheusRule, by which a Prometheus selects them. That of kube-prometheus-stack selects the label
    ``release`` with the name of its own release."""
    runbook_url: Annotated[
        str, matching(r"[^\s#\"{}]{1,500}", "write the address of docs/alerts.md, without an anchor and without braces")
    ] = Field(default="docs/alerts.md", examples=["https://git.example.com/ml/mlflow-eks/blob/main/docs/alerts.md"])
    """Address of docs/alerts.md as the receivers of an alert can open it. Each alert adds the anchor of its section."""

    def problems(self) -> list[Problem]:
        """Reject settings that would have no effect, and labels that Kubernetes would refuse."""
        found = [
            Problem(
                yaml_key(type(self), name),
                "is for monitoring, which is off; write enabled: true, or drop it",
                based_on=["enabled"],
            )
            for name in sorted(self.model_fields_set - {"enabled"})
            if not self.enabled
        ]
        return found + label_problems("labels", self.labels)
