"""The NetworkPolicies of the release's pods and of the clean-up's."""

from urllib.parse import urlsplit

import pulumi_kubernetes as kubernetes

from ..network_rules import dns, namespaces, networks, tcp
from .arguments import MlflowReleaseArgs
from .names import CLEAN_UP_LABELS, CONTAINER_PORT, METRICS_PORT, POD_LABELS

POD_IDENTITY_AGENT = "169.254.170.23/32"
"""Address of the EKS Pod Identity agent on every node."""


def network_policy(args: MlflowReleaseArgs) -> kubernetes.networking.v1.NetworkPolicySpecArgsDict:
    """Allow connections from the ingress controller, and to what the settings need: database, DNS, S3, gateway, directory, identity providers."""
    egress = _storage(args)
    if args.login.ldap is not None:
        directory = urlsplit(args.login.ldap.uri)
        # The directory can be in the cluster or outside, so the rule names no peer.
        egress.append({"ports": tcp(directory.port or (636 if directory.scheme == "ldaps" else 389))})
    if args.login.oidc is not None:
        # The same holds for identity providers.
        egress.append({"ports": [port for number in args.login.oidc.ports for port in tcp(number)]})
    ingress: list[kubernetes.networking.v1.NetworkPolicyIngressRuleArgsDict] = [
        {
            "from_": namespaces(args.site.ingress_namespace, *args.site.client_namespaces),
            "ports": tcp(CONTAINER_PORT),
        }
    ]
    if args.metrics is not None:
        ingress.append({"from_": namespaces(args.metrics.namespace), "ports": tcp(METRICS_PORT)})
    return {
        "pod_selector": {"match_labels": POD_LABELS},
        "policy_types": ["Ingress", "Egress"],
        "ingress": ingress,
        "egress": egress,
    }


def clean_up_policy(args: MlflowReleaseArgs) -> kubernetes.networking.v1.NetworkPolicySpecArgsDict:
    """Allow the clean-up's pod to reach database, DNS and S3, and nobody to reach it."""
    return {
        "pod_selector": {"match_labels": CLEAN_UP_LABELS},
        "policy_types": ["Ingress", "Egress"],
        "ingress": [],
        "egress": _storage(args),
    }


def _storage(args: MlflowReleaseArgs) -> list[kubernetes.networking.v1.NetworkPolicyEgressRuleArgsDict]:
    egress: list[kubernetes.networking.v1.NetworkPolicyEgressRuleArgsDict] = [dns(args.cluster)]
    database: kubernetes.networking.v1.NetworkPolicyEgressRuleArgsDict = {"ports": tcp(args.database.port)}
    if args.database.networks:
        database["to"] = networks(*args.database.networks.values())
    egress.append(database)
    if args.bucket is not None or args.gateway:
        # S3, STS with IRSA, and providers of models. The VPC's own networks stay in, because an interface endpoint of S3 or STS has an
        # address there. With Amazon's VPC CNI an excepted network is blocked for the database's rule too
        # (amazon-network-policy-controller-k8s#146).
        world: kubernetes.networking.v1.NetworkPolicyPeerArgsDict = {
            "ip_block": {"cidr": "0.0.0.0/0", "except_": ["169.254.0.0/16"]}
        }
        egress.append({"to": [world], "ports": tcp(443)})
    if args.bucket is not None:
        egress.append({"to": networks(POD_IDENTITY_AGENT), "ports": tcp(80)})
    return egress
