"""Look up an EKS cluster and its VPC."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

import pulumi
import pulumi_aws as aws

from .subnets import Subnet, look_up_subnets


@dataclass(frozen=True)
class EksCluster:
    """Properties of the EKS cluster that the components need."""

    name: str
    region: str
    account_id: str
    partition: str
    vpc_id: str
    vpc_cidrs: Sequence[str]
    """IPv4 networks of the cluster's VPC, the VPC's primary one first."""
    service_cidr: str
    """IPv4 network of the cluster's Services."""
    subnet_ids: Sequence[str]
    """Subnets of the cluster, public and private."""
    security_group_id: str
    """The cluster security group. EKS attaches it to nodes and pods by default."""
    oidc_issuer: str
    """Issuer of the service accounts' tokens, without ``https://``."""
    kubeconfig: str
    """Kubeconfig as JSON. It logs in with ``aws eks get-token``, so that no credential is stored."""
    auto_mode: bool = False
    """True with EKS Auto Mode, which makes nodes, load balancers and the pods' identities itself. Default false."""

    @property
    def dns_address(self) -> str:
        """Address of the cluster's DNS: the tenth of the Services' network, on nodes of EKS Auto Mode too."""
        return str(IPv4Network(self.service_cidr)[10])

    @property
    def api_networks(self) -> Sequence[str]:
        """Networks of the API server, as pods see it: the first address of the Services' network, and its interfaces in the VPC."""
        return [f"{IPv4Network(self.service_cidr)[1]}/32", *self.vpc_cidrs]

    def private_subnets(self) -> pulumi.Output[list[Subnet]]:
        """Return the cluster's subnets in the region's own zones that have no route to an internet gateway."""
        return look_up_subnets(self.subnet_ids, self.vpc_id).apply(
            lambda subnets: [subnet for subnet in subnets if subnet.internet_gateway is None and subnet.is_in_region]
        )


def look_up_eks_cluster(name: str) -> EksCluster:
    """Read a cluster and its VPC.

    Args:
        name: the cluster's name in the account and region of the AWS provider.

    Raises:
        pulumi.RunError: the cluster cannot be read, or its pods have IPv6 addresses.
    """
    try:
        # A plain call, not an output: its error can be caught and explained. All else waits for it anyway.
        cluster = aws.eks.get_cluster(name=name)
    except Exception as error:
        raise pulumi.RunError(
            f"EKS cluster {name} cannot be read ({error}); check the name, the region and your credentials "
            f"with `aws eks describe-cluster --name {name}`"
        ) from None
    network = cluster.kubernetes_network_configs[0]
    if network.ip_family == "ipv6":
        raise pulumi.RunError(
            f"EKS cluster {name} has ipFamily ipv6, and MLflow's chart listens on IPv4 only; name a cluster with ipFamily ipv4"
        )
    _, partition, _, region, account_id, *_ = cluster.arn.split(":")
    vpc = aws.ec2.get_vpc(id=cluster.vpc_config.vpc_id)
    others = {each.cidr_block for each in vpc.cidr_block_associations if each.state == "associated"} - {vpc.cidr_block}
    return EksCluster(
        name=name,
        region=region,
        account_id=account_id,
        partition=partition,
        vpc_id=cluster.vpc_config.vpc_id,
        vpc_cidrs=[vpc.cidr_block, *sorted(others)],
        service_cidr=network.service_ipv4_cidr,
        subnet_ids=cluster.vpc_config.subnet_ids,
        security_group_id=cluster.vpc_config.cluster_security_group_id,
        oidc_issuer=cluster.identities[0].oidcs[0].issuer.removeprefix("https://"),
        kubeconfig=kubeconfig(name, cluster.endpoint, cluster.certificate_authorities[0].data, region, _identity()),
        auto_mode=any(compute.enabled for compute in cluster.compute_configs),
    )


@dataclass(frozen=True)
class Identity:
    """The identity that the provider takes from the stack's configuration instead of the environment."""

    profile: str | None = None
    """Profile of AWS's configuration, ``aws:profile``."""
    role_arn: str | None = None
    """Role that is assumed, the one of ``aws:assumeRoles``."""


def _identity() -> Identity:
    config = pulumi.Config("aws")
    roles: list[dict[str, str]] = config.get_object("assumeRoles") or []
    beyond = sorted({key for role in roles for key in role} - {"roleArn", "sessionName", "duration"})
    if len(roles) > 1 or beyond:
        raise pulumi.RunError(
            f"aws:assumeRoles has {f'{len(roles)} roles' if len(roles) > 1 else ' and '.join(beyond)}, and `aws eks get-token`, which logs in "
            "to the cluster, assumes one role by its ARN alone; put the rest into a profile of AWS's configuration and name it in aws:profile"
        )
    return Identity(config.get("profile"), roles[0].get("roleArn") if roles else None)


def kubeconfig(
    name: str, endpoint: str, certificate_authority: str, region: str, identity: Identity = Identity()
) -> str:
    """Return a kubeconfig as JSON, which logs in with ``aws eks get-token`` as the identity that the provider has."""
    role = ["--role-arn", identity.role_arn] if identity.role_arn else []
    login: dict[str, Any] = {
        "apiVersion": "client.authentication.k8s.io/v1beta1",
        "command": "aws",
        "args": ["eks", "get-token", "--cluster-name", name, "--region", region, *role, "--output", "json"],
        "interactiveMode": "Never",
    }
    if identity.profile:
        login["env"] = [{"name": "AWS_PROFILE", "value": identity.profile}]
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": name, "cluster": {"server": endpoint, "certificate-authority-data": certificate_authority}}
            ],
            "users": [{"name": name, "user": {"exec": login}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "current-context": name,
        },
        sort_keys=True,
    )
