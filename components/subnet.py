"""What is looked up about the subnets that a database may live in."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws


@dataclass(frozen=True)
class Subnet:
    """A subnet and what decides whether a database may live in it."""

    id: str
    availability_zone: str
    internet_gateway: str | None
    """The internet gateway that its route table (its own, or the VPC's main one) leads to; None for a private subnet."""


def look_up_subnets(subnet_ids: Sequence[str], vpc_id: str) -> pulumi.Output[list[Subnet]]:
    """Read subnets of a VPC and its route tables, at the same time where they do not depend on each other.

    Args:
        subnet_ids: the subnets. One that is not in the VPC is refused, by name.
        vpc_id: the VPC.
    """

    def read_subnets(in_vpc: Sequence[str]) -> pulumi.Output[list[aws.ec2.GetSubnetResult]]:
        strangers = [subnet_id for subnet_id in subnet_ids if subnet_id not in in_vpc]
        if strangers:
            raise pulumi.RunError(
                f"postgres.subnetIds: {', '.join(strangers)} not in {vpc_id}, the cluster's VPC; "
                f"its subnets are {', '.join(sorted(in_vpc)) or 'none'}"
            )
        return pulumi.Output.all(*[aws.ec2.get_subnet_output(id=subnet_id) for subnet_id in subnet_ids])

    def read_tables(table_ids: Sequence[str]) -> pulumi.Output[list[aws.ec2.GetRouteTableResult]]:
        return pulumi.Output.all(*[aws.ec2.get_route_table_output(route_table_id=table_id) for table_id in table_ids])

    subnets = aws.ec2.get_subnets_output(filters=[{"name": "vpc-id", "values": [vpc_id]}]).ids.apply(read_subnets)
    tables = aws.ec2.get_route_tables_output(vpc_id=vpc_id).ids.apply(read_tables)
    return pulumi.Output.all(subnets, tables).apply(lambda found: _join(*found))


def _join(subnets: Sequence[aws.ec2.GetSubnetResult], tables: Sequence[aws.ec2.GetRouteTableResult]) -> list[Subnet]:
    main: str | None = None
    own: dict[str, str | None] = {}
    for table in tables:
        gateway = next(
            (route.gateway_id for route in table.routes if (route.gateway_id or "").startswith("igw-")), None
        )
        for association in table.associations:
            if association.main:
                main = gateway
            elif association.subnet_id:
                own[association.subnet_id] = gateway
    return [
        Subnet(
            id=subnet.id,
            availability_zone=subnet.availability_zone,
            internet_gateway=own.get(subnet.id, main),
        )
        for subnet in subnets
    ]
