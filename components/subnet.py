"""What is looked up about the subnets that a database may live in."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws


@dataclass(frozen=True)
class Subnet:
    """A subnet and what decides whether a database may live in it."""

    id: str
    vpc_id: str
    availability_zone: str
    internet_gateway: str | None
    """The internet gateway that its route table (its own, or the VPC's main one) leads to; None for a private subnet."""


def look_up_subnets(
    subnet_ids: pulumi.Input[Sequence[str]], vpc_id: pulumi.Input[str], opts: pulumi.InvokeOutputOptions | None = None
) -> pulumi.Output[list[Subnet]]:
    """Read subnets and the route tables of their VPC, all at the same time.

    Args:
        subnet_ids: the subnets, in any VPC.
        vpc_id: the VPC whose route tables decide what is private.
        opts: the provider to ask.
    """

    def read_subnets(ids: Sequence[str]) -> pulumi.Output[list[aws.ec2.GetSubnetResult]]:
        return pulumi.Output.all(*[aws.ec2.get_subnet_output(id=subnet_id, opts=opts) for subnet_id in ids])

    def read_tables(tables: aws.ec2.GetRouteTablesResult) -> pulumi.Output[list[aws.ec2.GetRouteTableResult]]:
        return pulumi.Output.all(
            *[aws.ec2.get_route_table_output(route_table_id=table, opts=opts) for table in tables.ids]
        )

    subnets = pulumi.Output.from_input(subnet_ids).apply(read_subnets)
    tables = aws.ec2.get_route_tables_output(vpc_id=vpc_id, opts=opts).apply(read_tables)
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
            vpc_id=subnet.vpc_id,
            availability_zone=subnet.availability_zone,
            internet_gateway=own.get(subnet.id, main),
        )
        for subnet in subnets
    ]
