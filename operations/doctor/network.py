"""Checks of the network: who reaches the database, and what makes the load balancer in which subnets."""

import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from operations.checks import MissingError, NotedError, skip
from operations.doctor.subject import AUTO_MODE_LOAD_BALANCER, Subject
from settings.all_settings import AWS_LOAD_BALANCER_CONTROLLER

CLUSTER_TAG = "kubernetes.io/cluster/"
"""Beginning of the tag with which a cluster marks what is its own."""
FREE_ADDRESSES = 8
"""Addresses of a subnet that a load balancer needs."""


def nodes(subject: Subject) -> str:
    """Look whether `postgres.allowFrom` lets every node in, those of Karpenter and of Auto Mode too.

    Nodes of a launch template have the template's security groups only, without the cluster's.
    """
    subject.needs_instance()
    groups, networks = _sources(subject)
    instances = _instances(subject)
    if not instances:
        skip("no node runs, so there is nothing to compare with postgres.allowFrom")
    outside = [
        node
        for node in instances
        if not groups.intersection(_groups(node))
        and not any(IPv4Address(node.get("PrivateIpAddress", "0.0.0.0")) in network for network in networks)  # noqa: S104
    ]
    if not outside:
        return f"postgres.allowFrom lets all {len(instances)} in"
    tagged = _tagged_groups(subject)
    wanted: set[str] = set()
    for node in outside:
        own = _groups(node)
        wanted.update(wanted.intersection(own) or sorted(tagged.intersection(own) or own)[:1])
    listed = ", ".join(sorted(groups | wanted))
    examples = ", ".join(f"{node['InstanceId']} ({', '.join(_groups(node))})" for node in outside[:3])
    raise MissingError(
        f"postgres.allowFrom lets {len(outside)} of {len(instances)} nodes not in, so MLflow cannot reach the database: {examples}\n"
        f"write postgres.allowFrom: {{securityGroups: [{listed}]}}, unless pods have security groups of their own"
    )


def _sources(subject: Subject) -> tuple[set[str], list[IPv4Network]]:
    """Return the security groups and the networks that may connect to the database.

    Raises:
        SkippedError: the whole VPC may.
    """
    allowed = subject.settings.postgres.allow_from
    own = subject.cluster["resourcesVpcConfig"]["clusterSecurityGroupId"]
    if isinstance(allowed, str):
        return ({own}, []) if allowed == "cluster" else skip(f"postgres.allowFrom is {allowed}")
    also = {own} if allowed.cluster else set[str]()
    return also | {*allowed.security_groups}, [IPv4Network(cidr) for cidr in allowed.cidrs]


def _instances(subject: Subject) -> list[dict[str, Any]]:
    name = subject.cluster["name"]
    running = "Name=instance-state-name,Values=pending,running"
    found: dict[str, dict[str, Any]] = {}
    for tag in (f"Name=tag:eks:cluster-name,Values={name}", f"Name=tag-key,Values={CLUSTER_TAG}{name}"):
        for reservation in subject.aws("ec2", "describe-instances", "--filters", tag, running)["Reservations"]:
            found |= {node["InstanceId"]: node for node in reservation["Instances"]}
    return list(found.values())


def _groups(node: Mapping[str, Any]) -> list[str]:
    return [group["GroupId"] for group in node.get("SecurityGroups", [])]


def _tagged_groups(subject: Subject) -> set[str]:
    filters = f"Name=tag-key,Values={CLUSTER_TAG}{subject.cluster['name']}"
    return {
        group["GroupId"]
        for group in subject.aws("ec2", "describe-security-groups", "--filters", filters)["SecurityGroups"]
    }


def targets(subject: Subject) -> str:
    """Look for nodes with two security groups that have the cluster's tag, of which the controller takes one only."""
    if not subject.settings.ingress.install or subject.load_balancer_class != AWS_LOAD_BALANCER_CONTROLLER:
        skip("not a load balancer of the AWS Load Balancer Controller")
    tagged = _tagged_groups(subject)
    for node in _instances(subject):
        for interface in node.get("NetworkInterfaces", []):
            both = sorted(tagged.intersection(group["GroupId"] for group in interface.get("Groups", [])))
            if len(both) > 1:
                raise MissingError(
                    f"{node['InstanceId']} has {' and '.join(both)}, both with the tag {CLUSTER_TAG}{subject.cluster['name']}: "
                    "the controller then registers no target; take one of them off the nodes, or its tag"
                )
    return "no node has two security groups with the cluster's tag"


def controller(subject: Subject) -> str:
    """Look for the controller that makes the load balancer."""
    if not subject.settings.ingress.install:
        skip("this stack makes no load balancer")
    subject.needs_eks()
    wanted = subject.load_balancer_class
    if wanted == AUTO_MODE_LOAD_BALANCER:
        network = subject.cluster["kubernetesNetworkConfig"]
        if not subject.auto_mode or network.get("elasticLoadBalancing", {}).get("enabled") is False:
            raise MissingError(
                f"{wanted} is served by EKS Auto Mode, which is off in this cluster; "
                f"leave ingress.loadBalancerClass out for {AWS_LOAD_BALANCER_CONTROLLER}"
            )
        return f"EKS Auto Mode serves {wanted}"
    if wanted != AWS_LOAD_BALANCER_CONTROLLER:
        skip(f"not known which controller serves {wanted}")
    selector = ("-l", "app.kubernetes.io/name=aws-load-balancer-controller")
    found = subject.kubectl("get", "deployments", "--all-namespaces", *selector)["items"]
    if not found:
        other = (
            f", or leave ingress.loadBalancerClass out for {AUTO_MODE_LOAD_BALANCER} of this cluster in EKS Auto Mode"
        )
        raise MissingError(
            f"nothing serves {wanted}, so the Service would wait for ten minutes; "
            f"install the AWS Load Balancer Controller{other if subject.auto_mode else ''}"
        )
    name, namespace = found[0]["metadata"]["name"], found[0]["metadata"]["namespace"]
    if not found[0].get("status", {}).get("readyReplicas"):
        raise MissingError(f"no pod of it is ready; `kubectl -n {namespace} describe deployment {name}` says why")
    image: str = found[0]["spec"]["template"]["spec"]["containers"][0]["image"]
    return f"AWS Load Balancer Controller {image.rpartition(':')[2]} serves {wanted}"


def subnets(subject: Subject) -> str:
    """Look for subnets with the load balancer's tag, in two zones, with free addresses, and without the tag of another cluster."""
    if not subject.settings.ingress.install:
        skip("this stack makes no load balancer")
    role = "elb" if subject.settings.ingress.scheme == "internet-facing" else "internal-elb"
    tag, cluster = f"kubernetes.io/role/{role}", subject.cluster["name"]
    found = subject.aws("ec2", "describe-subnets", "--filters", f"Name=vpc-id,Values={subject.vpc}")["Subnets"]
    tagged = [subnet for subnet in found if tag in _tags(subnet)]
    kind = "public" if role == "elb" else "private"
    how = f"`aws ec2 create-tags --resources subnet-… --tags Key={tag},Value=1` for {kind} subnets in two zones"
    if not tagged:
        message = f"no subnet of {subject.vpc} has the tag {tag}; {how}"
        if subject.load_balancer_class == AUTO_MODE_LOAD_BALANCER:
            raise MissingError(f"{message}: EKS Auto Mode requires it")
        raise NotedError(f"{message}. From 2.12.1 on the controller looks at route tables instead")
    problems = [problem for subnet in tagged if (problem := _unfit(subnet, cluster))]
    zones = sorted({subnet["AvailabilityZone"] for subnet in tagged if not _unfit(subnet, cluster)})
    if not zones:
        raise MissingError(f"no subnet fits: {'; '.join(problems)}")
    if len(zones) == 1:
        also = f" ({'; '.join(problems)})" if problems else ""
        raise NotedError(f"a load balancer in {zones[0]} only is away with that zone{also}; {how}")
    return f"{kind} ones in {', '.join(zones)}"


def _tags(subnet: Mapping[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in subnet.get("Tags", [])}


def _unfit(subnet: Mapping[str, Any], cluster: str) -> str | None:
    clusters = [key.removeprefix(CLUSTER_TAG) for key in _tags(subnet) if key.startswith(CLUSTER_TAG)]
    if clusters and cluster not in clusters:
        return f"{subnet['SubnetId']} is tagged for the cluster {', '.join(clusters)}"
    if subnet["AvailableIpAddressCount"] < FREE_ADDRESSES:
        return f"{subnet['SubnetId']} has {subnet['AvailableIpAddressCount']} free addresses of {FREE_ADDRESSES} that are needed"
    return None


def gateway_endpoint(subject: Subject) -> str:
    """Look for a gateway endpoint for S3, without which artifacts go through the NAT gateway."""
    service = f"com.amazonaws.{subject.cluster['arn'].split(':')[3]}.s3"
    filters: Sequence[str] = (f"Name=vpc-id,Values={subject.vpc}", f"Name=service-name,Values={service}")
    found = subject.aws("ec2", "describe-vpc-endpoints", "--filters", *filters)["VpcEndpoints"]
    gateways = [each for each in found if re.fullmatch("gateway", each.get("VpcEndpointType", ""), re.IGNORECASE)]
    if gateways:
        return gateways[0]["VpcEndpointId"]
    raise NotedError(
        "artifacts go through the NAT gateway, which costs about 0.05 dollars a GiB; a gateway endpoint is free:\n"
        f"aws ec2 create-vpc-endpoint --vpc-id {subject.vpc} --service-name {service} --route-table-ids rtb-…"
    )
