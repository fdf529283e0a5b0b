"""The stand-in cluster: objects in files, pods and the ingress controller as processes of the machine.

`objects` is the API server's part, `pods` the kubelet's, `ingress` the controller's, `helm` what a release has them do.
"""


class ClusterError(Exception):
    """What Kubernetes or Helm would refuse, or what went wrong in the pods."""
