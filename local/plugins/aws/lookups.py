# boto3 and jmespath have no types of their own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The functions with which the program looks up existing resources of the account."""

import jmespath

from local.plugins.aws import database_server
from local.plugins.aws.api import call
from local.plugins.provider_base import Function, OperationError, Properties


def get_cluster(arguments: Properties) -> Properties:
    """Return an EKS cluster by its name."""
    cluster = call("eks", "describe_cluster", name=arguments["name"])["cluster"]
    authority = jmespath.search("certificateAuthority.data", cluster) or ""
    issuer = jmespath.search("identity.oidc.issuer", cluster) or ""
    return {
        "id": cluster["name"],
        "name": cluster["name"],
        "arn": cluster["arn"],
        "endpoint": cluster["endpoint"],
        "version": cluster["version"],
        "status": cluster["status"],
        "roleArn": cluster["roleArn"],
        "vpcConfig": cluster["resourcesVpcConfig"],
        "kubernetesNetworkConfigs": [cluster["kubernetesNetworkConfig"]],
        "identities": [{"oidcs": [{"issuer": issuer}]}],
        "certificateAuthorities": [{"data": authority}],
        "tags": cluster.get("tags", {}),
    }


def get_vpc(arguments: Properties) -> Properties:
    """Return a VPC by its id."""
    vpc = call("ec2", "describe_vpcs", VpcIds=[arguments["id"]])["Vpcs"][0]
    networks = [
        {
            "associationId": each["AssociationId"],
            "cidrBlock": each["CidrBlock"],
            "state": each["CidrBlockState"]["State"],
        }
        for each in vpc["CidrBlockAssociationSet"]
    ]
    return {
        "id": vpc["VpcId"],
        "cidrBlock": vpc["CidrBlock"],
        "cidrBlockAssociations": networks,
        "ownerId": vpc.get("OwnerId"),
    }


def get_subnet(arguments: Properties) -> Properties:
    """Return a subnet by its id."""
    subnet = call("ec2", "describe_subnets", SubnetIds=[arguments["id"]])["Subnets"][0]
    return {
        "id": subnet["SubnetId"],
        "vpcId": subnet["VpcId"],
        "availabilityZone": subnet["AvailabilityZone"],
        "cidrBlock": subnet["CidrBlock"],
        "mapPublicIpOnLaunch": subnet["MapPublicIpOnLaunch"],
    }


def get_route_tables(arguments: Properties) -> Properties:
    """Return the ids of a VPC's route tables."""
    filters = [{"Name": "vpc-id", "Values": [arguments["vpcId"]]}]
    tables = call("ec2", "describe_route_tables", Filters=filters)["RouteTables"]
    return {"id": arguments["vpcId"], "vpcId": arguments["vpcId"], "ids": [table["RouteTableId"] for table in tables]}


def get_route_table(arguments: Properties) -> Properties:
    """Return a route table by its id."""
    table = call("ec2", "describe_route_tables", RouteTableIds=[arguments["routeTableId"]])["RouteTables"][0]
    return {
        "id": table["RouteTableId"],
        "routeTableId": table["RouteTableId"],
        "vpcId": table["VpcId"],
        "associations": [
            {
                "main": association["Main"],
                "routeTableAssociationId": association["RouteTableAssociationId"],
                "routeTableId": association["RouteTableId"],
                "subnetId": association.get("SubnetId", ""),
                "gatewayId": association.get("GatewayId", ""),
            }
            for association in table["Associations"]
        ],
        "routes": [
            {"cidrBlock": route.get("DestinationCidrBlock", ""), "gatewayId": route.get("GatewayId", "")}
            # The real provider leaves out the local route, which every table has.
            for route in table["Routes"]
            if route.get("GatewayId") != "local"
        ],
    }


def get_subnets(arguments: Properties) -> Properties:
    """Return the ids of the subnets that match the filters."""
    filters = [{"Name": wanted["name"], "Values": wanted["values"]} for wanted in arguments.get("filters") or []]
    subnets = call("ec2", "describe_subnets", Filters=filters)["Subnets"]
    return {"id": "eu-west-1", "ids": sorted(subnet["SubnetId"] for subnet in subnets)}


def get_engine_version(arguments: Properties) -> Properties:
    """Return the newest minor version of PostgreSQL. moto lacks this call, and the local stack has only one version.

    Raises:
        OperationError: another engine or version is requested.
    """
    major = database_server.VERSION.partition(".")[0]
    if arguments["engine"] != "postgres" or arguments.get("version") not in {major, database_server.VERSION}:
        raise OperationError(f"no RDS engine versions match the criteria; the local stack has only postgres {major}")
    return {
        "id": database_server.VERSION,
        "engine": "postgres",
        "version": database_server.VERSION,
        "versionActual": database_server.VERSION,
        "parameterGroupFamily": f"postgres{major}",
        "status": "available",
    }


def get_zone(arguments: Properties) -> Properties:
    """Return a hosted zone by its name.

    Raises:
        OperationError: there is no such zone.
    """
    name = arguments["name"].rstrip(".")
    for zone in call("route53", "list_hosted_zones_by_name", DNSName=name)["HostedZones"]:
        if zone["Name"].rstrip(".") == name:
            zone_id = zone["Id"].removeprefix("/hostedzone/")
            return {"id": zone_id, "zoneId": zone_id, "name": name, "privateZone": zone["Config"]["PrivateZone"]}
    raise OperationError(f"no matching Route 53 Hosted Zone found: {name}")


def get_hosted_zone_id(arguments: Properties) -> Properties:
    """Return the id of the hosted zone of the region's network load balancers, for alias records."""
    return {"id": "Z2IFOLAFXWLO4F", "loadBalancerType": arguments.get("loadBalancerType")}


FUNCTIONS: dict[str, Function] = {
    "aws:ec2/getRouteTable:getRouteTable": get_route_table,
    "aws:ec2/getRouteTables:getRouteTables": get_route_tables,
    "aws:ec2/getSubnet:getSubnet": get_subnet,
    "aws:ec2/getSubnets:getSubnets": get_subnets,
    "aws:ec2/getVpc:getVpc": get_vpc,
    "aws:eks/getCluster:getCluster": get_cluster,
    "aws:lb/getHostedZoneId:getHostedZoneId": get_hosted_zone_id,
    "aws:rds/getEngineVersion:getEngineVersion": get_engine_version,
    "aws:route53/getZone:getZone": get_zone,
}
"""Name of a function, as the engine asks for it, to the function."""
