"""Security contexts, as the label ``restricted`` asks for them."""

POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 1001,
    "runAsGroup": 1001,
    "fsGroup": 1001,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""Security context of every pod with MLflow's image."""
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
"""Security context of a container that runs the image without the server. The chart gives the server's."""
