"""Metrics of MLflow's workers, on a port of their own that no login guards and no Ingress serves.

MLflow serves them at `/metrics` of the site too, where they are for administrators. A container in each pod reads the same files, so that
Prometheus needs no account, and the NetworkPolicy can let Prometheus in to this port alone.
"""

from collections.abc import Mapping
from typing import Any

import pulumi_kubernetes as kubernetes

from .arguments import MetricsArgs
from .names import METRICS_PORT, POD_LABELS, RELEASE
from .pod_security import CONTAINER_SECURITY

FOLDER = "/metrics"
"""Folder of the workers' files in the pod."""
VOLUME = "metrics"
"""Name of the volume with that folder."""
SERVICE = f"{RELEASE}-metrics"
"""Name of the Service that a ServiceMonitor selects."""
LABELS: Mapping[str, str] = {"app.kubernetes.io/name": SERVICE, "app.kubernetes.io/instance": RELEASE}
"""Labels of that Service."""
# Adds up the files of all workers, those that have ended too, so a counter never falls.
_SERVER = """\
import sys
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector
registry = CollectorRegistry()
MultiProcessCollector(registry)
start_http_server(int(sys.argv[2]), sys.argv[1], registry)[1].join()
"""


def container(image: str) -> dict[str, Any]:
    """Return the container that serves the metrics of the pod's workers. It takes 25 MiB.

    Args:
        image: image of MLflow, which has the library.
    """
    return {
        "name": "metrics",
        "image": image,
        "command": ["python"],
        "args": ["-c", _SERVER, "0.0.0.0", str(METRICS_PORT)],  # noqa: S104  (in the pod; the NetworkPolicy guards it)
        "env": [{"name": "PROMETHEUS_MULTIPROC_DIR", "value": FOLDER}],
        "ports": [{"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"}],
        # An autoscaler adds up the requests of all containers, and needs each.
        "resources": {
            "requests": {"cpu": "10m", "memory": "48Mi", "ephemeral-storage": "10Mi"},
            "limits": {"memory": "128Mi", "ephemeral-storage": "50Mi"},
        },
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [{"name": VOLUME, "mountPath": FOLDER, "readOnly": True}],
    }


def service_spec() -> kubernetes.core.v1.ServiceSpecArgsDict:
    """Return the spec of the Service."""
    port: kubernetes.core.v1.ServicePortArgsDict = {
        "name": "metrics",
        "port": METRICS_PORT,
        "target_port": METRICS_PORT,
    }
    return {"selector": POD_LABELS, "ports": [port]}


def monitor_spec() -> dict[str, Any]:
    """Return the spec of the ServiceMonitor."""
    return {
        "selector": {"matchLabels": {**LABELS}},
        "endpoints": [{"port": "metrics"}],
    }


def monitor_labels(args: MetricsArgs) -> dict[str, str]:
    """Return the labels of the ServiceMonitor."""
    return {**LABELS, **args.labels}
