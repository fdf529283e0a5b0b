"""Look up the nodes of an EKS cluster that no rule of a security group lets in."""

from collections.abc import Sequence

import pulumi
import pulumi_aws as aws


def nodes_outside(cluster_name: str, security_groups: Sequence[str]) -> list[str]:
    """Return the ids of the running nodes that carry none of the security groups. Where nodes cannot be listed, warn and return none.

    Nodes of managed node groups, of Karpenter and of EKS Auto Mode have the tag ``kubernetes.io/cluster/NAME``. EKS leaves out the cluster's
    security group where a launch template names groups of its own.

    Args:
        cluster_name: name of the cluster.
        security_groups: ids of the security groups.
    """
    ours: aws.ec2.GetInstancesFilterArgsDict = {"name": "tag-key", "values": [f"kubernetes.io/cluster/{cluster_name}"]}
    inside: aws.ec2.GetInstancesFilterArgsDict = {"name": "instance.group-id", "values": [*security_groups]}
    try:
        # Plain calls, not outputs: their error can be caught and explained.
        every, let_in = (_nodes(filters) for filters in ([ours], [ours, inside]))
    except Exception as error:
        pulumi.log.warn(
            f"the nodes of {cluster_name} cannot be listed ({error}), so nobody looked whether the database lets them in; the role that runs "
            "pulumi needs ec2:DescribeInstances: docs/iam.md"
        )
        return []
    return sorted(every - let_in)


def _nodes(filters: Sequence[aws.ec2.GetInstancesFilterArgsDict]) -> set[str]:
    return set(aws.ec2.get_instances(filters=[*filters], instance_state_names=["running"]).ids)
