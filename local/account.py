# boto3 has no types of its own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The AWS account of the local stack: what was in it before this program came, and how to reach it."""

import json
import os
import sys
from typing import Any

import boto3

from local import paths
from local.machine import Machine, ProcessSpec

REGION = "eu-west-1"
CLUSTER = "mlflow-local"
KUBERNETES_VERSION = "1.34"
PROCESS = "aws"
VPC_CIDR = "10.0.0.0/16"
PRIVATE_SUBNETS = {f"{REGION}a": "10.0.1.0/24", f"{REGION}b": "10.0.2.0/24"}
PUBLIC_SUBNETS = {f"{REGION}a": "10.0.101.0/24"}
CLUSTER_SECURITY_GROUP = f"eks-cluster-sg-{CLUSTER}"
ADDRESS = "127.0.0.1"


def start(machine: Machine, timeout: float = 60) -> str:
    """Have the machine run the account; return its endpoint, where the first calls wait until the account is complete."""
    port = machine.free_port(PROCESS)
    endpoint = f"http://{ADDRESS}:{port}"
    machine.put(
        ProcessSpec(
            name=PROCESS,
            argv=[sys.executable, "-m", "local.moto_server", str(port), str(machine.folder / "aws.journal")],
            env={
                "PATH": os.defpath,
                **credentials(endpoint),
                # Nobody starts a machine here.
                "MOTO_EC2_LOAD_DEFAULT_AMIS": "false",
            },
            cwd=str(paths.CHECKOUT),
            ready={"tcp": f"{ADDRESS}:{port}"},
        ),
        timeout,
    )
    return endpoint


def credentials(endpoint: str) -> dict[str, str]:
    """The environment of a client of this account; it replaces whatever AWS configuration the user has."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def seed(endpoint: str) -> None:
    """Make what the program expects to find: a VPC with two private zones and a public one, and an EKS cluster in it."""
    ec2: Any = boto3.client("ec2", endpoint_url=endpoint, region_name=REGION)
    iam: Any = boto3.client("iam", endpoint_url=endpoint, region_name=REGION)
    eks: Any = boto3.client("eks", endpoint_url=endpoint, region_name=REGION)

    def tags(kind: str, name: str) -> list[dict[str, Any]]:
        return [{"ResourceType": kind, "Tags": [{"Key": "Name", "Value": name}]}]

    vpc = ec2.create_vpc(CidrBlock=VPC_CIDR, TagSpecifications=tags("vpc", CLUSTER))["Vpc"]["VpcId"]
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})

    def subnets(kind: str, by_zone: dict[str, str]) -> list[str]:
        table = ec2.create_route_table(VpcId=vpc, TagSpecifications=tags("route-table", f"{CLUSTER}-{kind}"))
        table_id = table["RouteTable"]["RouteTableId"]
        if kind == "public":
            gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
            ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
            ec2.create_route(RouteTableId=table_id, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
        made: list[str] = []
        for zone, cidr in by_zone.items():
            tag = tags("subnet", f"{CLUSTER}-{kind}-{zone}")
            subnet = ec2.create_subnet(VpcId=vpc, CidrBlock=cidr, AvailabilityZone=zone, TagSpecifications=tag)
            made.append(subnet["Subnet"]["SubnetId"])
            ec2.associate_route_table(RouteTableId=table_id, SubnetId=made[-1])
        return made

    in_cluster = subnets("private", PRIVATE_SUBNETS) + subnets("public", PUBLIC_SUBNETS)
    ec2.create_security_group(VpcId=vpc, GroupName=CLUSTER_SECURITY_GROUP, Description="EKS created security group")
    trust = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"Service": "eks.amazonaws.com"}, "Action": "sts:AssumeRole"}],
    }
    role = iam.create_role(RoleName=f"{CLUSTER}-cluster", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    network = {"subnetIds": in_cluster, "endpointPublicAccess": True, "endpointPrivateAccess": True}
    eks.create_cluster(name=CLUSTER, version=KUBERNETES_VERSION, roleArn=role, resourcesVpcConfig=network)
