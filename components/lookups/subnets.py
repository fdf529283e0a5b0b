"""Look up subnets, their zones and their routes to the internet. `private_postgres.py` decides which are suitable."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws


@dataclass(frozen=True)
class Subnet:
    """A subnet with its zone and its route to the internet."""

    id: str
    availability_zone: str
    internet_gateway: str | None
    """Internet gateway to which the subnet's route table (its own, or the VPC's main one) has a route. None for a private subnet."""
    is_in_region: bool = True
    """False in a Local Zone, a Wavelength Zone or on an Outpost, where RDS is not offered to everybody. Default true."""


def look_up_subnets(subnet_ids: Sequence[str], vpc_id: str) -> pulumi.Output[list[Subnet]]:
    """Read subnets of a VPC and the VPC's route tables, in parallel where possible.

    Args:
        subnet_ids: the subnets.
        vpc_id: the VPC.

    Raises:
        pulumi.RunError: a subnet is not in the VPC, or has no route table that this account can see.
    """

    def read_subnets(in_vpc: Sequence[str]) -> pulumi.Output[list[aws.ec2.GetSubnetResult]]:
        not_in_vpc = [subnet_id for subnet_id in subnet_ids if subnet_id not in in_vpc]
        if not_in_vpc:
            raise pulumi.RunError(
                f"subnets {', '.join(not_in_vpc)} are not in {vpc_id}, the cluster's VPC; "
                f"name subnets of that VPC: {', '.join(sorted(in_vpc)) or 'there are none'}"
            )
        return pulumi.Output.all(*[aws.ec2.get_subnet_output(id=subnet_id) for subnet_id in subnet_ids])

    def read_tables(table_ids: Sequence[str]) -> pulumi.Output[list[aws.ec2.GetRouteTableResult]]:
        return pulumi.Output.all(*[aws.ec2.get_route_table_output(route_table_id=table_id) for table_id in table_ids])

    subnets = aws.ec2.get_subnets_output(filters=[{"name": "vpc-id", "values": [vpc_id]}]).ids.apply(read_subnets)
    tables = aws.ec2.get_route_tables_output(vpc_id=vpc_id).ids.apply(read_tables)
    zones = aws.get_availability_zones_output(filters=[{"name": "zone-type", "values": ["availability-zone"]}]).names
    return pulumi.Output.all(subnets, tables, zones).apply(lambda found: _join(*found))


def _join(
    subnets: Sequence[aws.ec2.GetSubnetResult], tables: Sequence[aws.ec2.GetRouteTableResult], zones: Sequence[str]
) -> list[Subnet]:
    has_main = False
    main: str | None = None
    own: dict[str, str | None] = {}
    for table in tables:
        gateway = next(
            (route.gateway_id for route in table.routes if (route.gateway_id or "").startswith("igw-")), None
        )
        for association in table.associations:
            if association.main:
                has_main, main = True, gateway
            elif association.subnet_id:
                own[association.subnet_id] = gateway
    unseen = [subnet.id for subnet in subnets if subnet.id not in own and not has_main]
    if unseen:
        raise pulumi.RunError(
            f"the route tables of {', '.join(unseen)} cannot be read, so nobody knows whether these subnets are private; a subnet that another "
            "account shares needs ec2:DescribeRouteTables there: name subnets of this account in postgres.subnetIds"
        )
    return [
        Subnet(
            id=subnet.id,
            availability_zone=subnet.availability_zone,
            internet_gateway=own.get(subnet.id, main),
            is_in_region=subnet.availability_zone in zones and not subnet.outpost_arn,
        )
        for subnet in subnets
    ]
