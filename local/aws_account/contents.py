# boto3 has no types of its own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The resources that exist in the local stack's AWS account before this program runs."""

import json
from typing import Any

import boto3

from local import aws_account


def fill(endpoint: str) -> None:
    """Create what the program expects: an EKS cluster in a VPC with two private subnets and a public one."""
    ec2: Any = boto3.client("ec2", endpoint_url=endpoint, region_name=aws_account.REGION)
    iam: Any = boto3.client("iam", endpoint_url=endpoint, region_name=aws_account.REGION)
    eks: Any = boto3.client("eks", endpoint_url=endpoint, region_name=aws_account.REGION)

    def tags(kind: str, name: str) -> list[dict[str, Any]]:
        return [{"ResourceType": kind, "Tags": [{"Key": "Name", "Value": name}]}]

    vpc = ec2.create_vpc(CidrBlock=aws_account.VPC_CIDR, TagSpecifications=tags("vpc", aws_account.CLUSTER))["Vpc"][
        "VpcId"
    ]
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})

    def subnets(kind: str, by_zone: dict[str, str]) -> list[str]:
        table = ec2.create_route_table(
            VpcId=vpc, TagSpecifications=tags("route-table", f"{aws_account.CLUSTER}-{kind}")
        )
        table_id = table["RouteTable"]["RouteTableId"]
        if kind == "public":
            gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
            ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
            ec2.create_route(RouteTableId=table_id, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
        ids: list[str] = []
        for zone, cidr in by_zone.items():
            tag = tags("subnet", f"{aws_account.CLUSTER}-{kind}-{zone}")
            subnet = ec2.create_subnet(VpcId=vpc, CidrBlock=cidr, AvailabilityZone=zone, TagSpecifications=tag)
            ids.append(subnet["Subnet"]["SubnetId"])
            ec2.associate_route_table(RouteTableId=table_id, SubnetId=ids[-1])
        return ids

    in_cluster = subnets("private", aws_account.PRIVATE_SUBNETS) + subnets("public", aws_account.PUBLIC_SUBNETS)
    ec2.create_security_group(
        VpcId=vpc, GroupName=aws_account.CLUSTER_SECURITY_GROUP, Description="EKS created security group"
    )
    trust = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"Service": "eks.amazonaws.com"}, "Action": "sts:AssumeRole"}],
    }
    role = iam.create_role(RoleName=f"{aws_account.CLUSTER}-cluster", AssumeRolePolicyDocument=json.dumps(trust))[
        "Role"
    ]["Arn"]
    network = {"subnetIds": in_cluster, "endpointPublicAccess": True, "endpointPrivateAccess": True}
    eks.create_cluster(
        name=aws_account.CLUSTER,
        version=aws_account.KUBERNETES_VERSION,
        roleArn=role,
        resourcesVpcConfig=network,
        kubernetesNetworkConfig={"serviceIpv4Cidr": "172.20.0.0/16", "ipFamily": "ipv4"},
    )
