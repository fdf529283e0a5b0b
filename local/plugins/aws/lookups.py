# boto3 and jmespath have no types of their own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The functions with which the program looks up existing resources of the account."""

from typing import Any

import jmespath

from local.aws_account import offers
from local.plugins.aws.api import call, client
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
        "computeConfigs": [{"enabled": bool(jmespath.search("computeConfig.enabled", cluster))}],
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
    subnets = call("ec2", "describe_subnets", Filters=_filters(arguments))["Subnets"]
    return {"id": "eu-west-1", "ids": sorted(subnet["SubnetId"] for subnet in subnets)}


def get_engine_version(arguments: Properties) -> Properties:
    """Return the newest minor version of PostgreSQL. moto lacks this call.

    Raises:
        OperationError: another engine or version is requested.
    """
    version = offers.latest(arguments.get("version", ""))
    if arguments["engine"] != "postgres" or version is None:
        raise OperationError(
            f"no RDS engine versions match the criteria; the local account has only postgres {' and '.join(offers.VERSIONS)}"
        )
    return {
        "id": version,
        "engine": "postgres",
        "version": version,
        "versionActual": version,
        "parameterGroupFamily": f"postgres{version.partition('.')[0]}",
        "status": "available",
    }


def get_orderable_db_instance(arguments: Properties) -> Properties:
    """Return an instance class that the account offers. moto knows none of PostgreSQL's.

    Raises:
        OperationError: it does not offer the class.
    """
    if not offers.INSTANCE_CLASS.fullmatch(arguments["instanceClass"]):
        raise OperationError("no RDS DB Instance Classes found matching criteria")
    return {"id": arguments["instanceClass"], **arguments}


def get_database_instances(arguments: Properties) -> Properties:
    """Return the identifiers of the instances that have all of the tags."""
    wanted = arguments.get("tags") or {}
    found = [
        instance
        for instance in call("rds", "describe_db_instances")["DBInstances"]
        if wanted.items() <= {tag["Key"]: tag["Value"] for tag in instance["TagList"]}.items()
    ]
    return {
        "id": client("rds").meta.region_name,
        "instanceIdentifiers": [instance["DBInstanceIdentifier"] for instance in found],
        "instanceArns": [instance["DBInstanceArn"] for instance in found],
    }


def get_database_instance(arguments: Properties) -> Properties:
    """Return an RDS instance by its identifier."""
    (found,) = call("rds", "describe_db_instances", DBInstanceIdentifier=arguments["dbInstanceIdentifier"])[
        "DBInstances"
    ]
    return {
        "id": found["DBInstanceIdentifier"],
        "allocatedStorage": found["AllocatedStorage"],
        "dbInstanceClass": found["DBInstanceClass"],
        "dbInstanceIdentifier": found["DBInstanceIdentifier"],
        "engineVersion": found["EngineVersion"],
        "kmsKeyId": found.get("KmsKeyId", ""),
        "masterUsername": found["MasterUsername"],
        "multiAz": found["MultiAZ"],
        "preferredMaintenanceWindow": found["PreferredMaintenanceWindow"],
        "storageType": found["StorageType"],
    }


def get_availability_zones(arguments: Properties) -> Properties:
    """Return the names of the zones that match the filters."""
    zones = call("ec2", "describe_availability_zones", Filters=_filters(arguments))["AvailabilityZones"]
    return {"id": client("ec2").meta.region_name, "names": sorted(zone["ZoneName"] for zone in zones)}


def get_instances(arguments: Properties) -> Properties:
    """Return the ids of the EC2 instances that match the filters."""
    states = {"Name": "instance-state-name", "Values": arguments.get("instanceStateNames") or ["running"]}
    found = call("ec2", "describe_instances", Filters=[*_filters(arguments), states])
    ids = [instance["InstanceId"] for group in found["Reservations"] for instance in group["Instances"]]
    return {"id": client("ec2").meta.region_name, "ids": sorted(ids)}


def get_bucket(arguments: Properties) -> Properties:
    """Return a bucket by its name."""
    call("s3", "head_bucket", Bucket=arguments["bucket"])
    place = call("s3", "get_bucket_location", Bucket=arguments["bucket"])["LocationConstraint"]
    return {"id": arguments["bucket"], "bucket": arguments["bucket"], "bucketRegion": place or "us-east-1"}


def get_zone(arguments: Properties) -> Properties:
    """Return the public hosted zone of a name, or the private one of a VPC.

    Raises:
        OperationError: there is no such zone.
    """
    name, private = arguments["name"].rstrip("."), bool(arguments.get("privateZone"))
    for zone in call("route53", "list_hosted_zones_by_name", DNSName=name)["HostedZones"]:
        if zone["Name"].rstrip(".") == name and zone["Config"]["PrivateZone"] == private:
            zone_id = zone["Id"].removeprefix("/hostedzone/")
            vpcs = {each["VPCId"] for each in call("route53", "get_hosted_zone", Id=zone_id).get("VPCs", [])}
            if not private or arguments.get("vpcId") in {None, *vpcs}:
                return {"id": zone_id, "zoneId": zone_id, "name": name, "privateZone": private}
    raise OperationError(f"no matching Route 53 Hosted Zone found: {name}")


def _filters(arguments: Properties) -> list[dict[str, Any]]:
    return [{"Name": wanted["name"], "Values": wanted["values"]} for wanted in arguments.get("filters") or []]


def get_hosted_zone_id(arguments: Properties) -> Properties:
    """Return the id of the hosted zone of the region's network load balancers, for alias records."""
    return {"id": "Z2IFOLAFXWLO4F", "loadBalancerType": arguments.get("loadBalancerType")}


FUNCTIONS: dict[str, Function] = {
    "aws:ec2/getInstances:getInstances": get_instances,
    "aws:index/getAvailabilityZones:getAvailabilityZones": get_availability_zones,
    "aws:rds/getInstance:getInstance": get_database_instance,
    "aws:rds/getInstances:getInstances": get_database_instances,
    "aws:rds/getOrderableDbInstance:getOrderableDbInstance": get_orderable_db_instance,
    "aws:s3/getBucket:getBucket": get_bucket,
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
