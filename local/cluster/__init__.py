"""The stand-in for the cluster. Objects are files; pods and the ingress controller are processes of the supervisor.

`releases.py` stands in for Helm: it starts what a chart describes, and it is the place to begin. `mlflow_pods.py` stands in
for the kubelet and runs MLflow's pods, `ingress_controller.py` runs HAProxy, `objects.py` stands in for the API server.
"""


class ClusterError(Exception):
    """Kubernetes or Helm would refuse this, or a pod failed."""
