"""The stand-in for the cluster. Objects are files; pods and the ingress controller are processes of the supervisor.

`objects.py` stands in for the API server, `pods.py` for the kubelet, `ingress.py` for the ingress controller, `helm.py`
for Helm.
"""


class ClusterError(Exception):
    """Kubernetes or Helm would refuse this, or a pod failed."""
