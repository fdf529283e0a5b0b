"""SiteAlerts: alerts and a dashboard for the cluster's Prometheus."""

import pulumi
import pulumi_kubernetes as kubernetes

from .alerts import rule_spec
from .arguments import SiteAlertsArgs
from .dashboard import dashboard

NAME = "mlflow-eks"
"""Name of both objects."""


class SiteAlerts(pulumi.ComponentResource):
    """A PrometheusRule, and a ConfigMap with a dashboard that Grafana's sidecar loads. Needs the Prometheus operator."""

    def __init__(self, name: str, args: SiteAlertsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mlflow-eks:index:SiteAlerts", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        kubernetes.apiextensions.CustomResource(
            f"{name}-rule",
            api_version="monitoring.coreos.com/v1",
            kind="PrometheusRule",
            metadata={"name": NAME, "namespace": args.namespace, "labels": {**args.labels}},
            spec=rule_spec(args),
            opts=child,
        )
        kubernetes.core.v1.ConfigMap(
            f"{name}-dashboard",
            # The label that the sidecar of kube-prometheus-stack's Grafana looks for, in every namespace.
            metadata={"name": f"{NAME}-dashboard", "namespace": args.namespace, "labels": {"grafana_dashboard": "1"}},
            data={f"mlflow-{args.site_namespace}.json": dashboard(args)},
            opts=child,
        )
        self.register_outputs({})
