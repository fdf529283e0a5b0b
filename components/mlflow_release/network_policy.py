"""The NetworkPolicy of the release's pods."""

from urllib.parse import urlsplit

import pulumi
import pulumi_kubernetes as kubernetes

from .arguments import MlflowReleaseArgs
from .names import CONTAINER_PORT, POD_LABELS


def network_policy(args: MlflowReleaseArgs) -> kubernetes.networking.v1.NetworkPolicySpecArgsDict:
    """Allow connections from the ingress controller, and to the database, DNS, S3 with its credentials, and the directory."""

    def tcp(port: pulumi.Input[int]) -> kubernetes.networking.v1.NetworkPolicyPortArgsDict:
        return {"protocol": "TCP", "port": port}

    def networks(*cidrs: pulumi.Input[str]) -> list[kubernetes.networking.v1.NetworkPolicyPeerArgsDict]:
        return [{"ip_block": {"cidr": cidr}} for cidr in cidrs]

    egress: list[kubernetes.networking.v1.NetworkPolicyEgressRuleArgsDict] = [
        {"ports": [{"protocol": "UDP", "port": 53}, tcp(53)]},
        {"to": networks(*args.database.networks.values()), "ports": [tcp(args.database.port)]},
    ]
    if args.bucket is not None:
        egress.append({"to": networks("0.0.0.0/0"), "ports": [tcp(443)]})
        # The Pod Identity agent, which listens on the node.
        egress.append({"to": networks("169.254.170.23/32"), "ports": [tcp(80)]})
    if args.login.ldap is not None:
        directory = urlsplit(args.login.ldap.uri)
        port = directory.port or (636 if directory.scheme == "ldaps" else 389)
        egress.append({"to": networks("0.0.0.0/0"), "ports": [tcp(port)]})
    controller = {"kubernetes.io/metadata.name": args.site.ingress_namespace}
    return {
        "pod_selector": {"match_labels": POD_LABELS},
        "policy_types": ["Ingress", "Egress"],
        "ingress": [{"from_": [{"namespace_selector": {"match_labels": controller}}], "ports": [tcp(CONTAINER_PORT)]}],
        "egress": egress,
    }
