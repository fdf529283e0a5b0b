"""Parts of NetworkPolicies that several components use.

A CIDR is for addresses outside the cluster. Cilium does not apply it to pods and nodes. A rule without any peer holds for every
address in all engines.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
from pulumi_kubernetes.networking.v1 import (
    NetworkPolicyEgressRuleArgsDict,
    NetworkPolicyPeerArgsDict,
    NetworkPolicyPortArgsDict,
)

NODE_LOCAL_DNS = "169.254.20.10/32"
"""Address of Kubernetes's NodeLocal DNSCache on every node."""


@dataclass(frozen=True)
class ClusterAddresses:
    """Addresses of a cluster's own servers. Amazon's VPC CNI decides before a Service's address is translated, so it needs them."""

    dns: str
    """Address of the DNS Service."""
    api_server: Sequence[str]
    """Networks of the API server, port 443: its Service's, and its own."""


def tcp(*ports: pulumi.Input[int]) -> list[NetworkPolicyPortArgsDict]:
    """Return TCP ports."""
    return [{"protocol": "TCP", "port": port} for port in ports]


def networks(*cidrs: pulumi.Input[str]) -> list[NetworkPolicyPeerArgsDict]:
    """Return peers for addresses outside the cluster."""
    return [{"ip_block": {"cidr": cidr}} for cidr in cidrs]


def namespaces(*names: str) -> list[NetworkPolicyPeerArgsDict]:
    """Return peers for all pods of these namespaces."""
    return [{"namespace_selector": {"match_labels": {"kubernetes.io/metadata.name": name}}} for name in names]


def dns(cluster: ClusterAddresses | None) -> NetworkPolicyEgressRuleArgsDict:
    """Allow the cluster's resolvers and no other server: their pods, the cache on the node, and the address of their Service."""
    pods: list[NetworkPolicyPeerArgsDict] = [
        {**namespaces("kube-system")[0], "pod_selector": {"match_labels": {"k8s-app": app}}}
        for app in ("kube-dns", "node-local-dns")
    ]
    return {
        "to": [*pods, *networks(NODE_LOCAL_DNS, *([f"{cluster.dns}/32"] if cluster else []))],
        "ports": [{"protocol": "UDP", "port": 53}, *tcp(53)],
    }
