"""The local account has what the program expects to find, and keeps everything when its process is killed."""

import io
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from local import account
from local.machine import Machine

Client = Callable[[str], Any]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    machine.start()
    yield machine
    machine.stop()


@pytest.fixture
def client(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Client:
    for name, value in account.credentials(account.start(machine)).items():
        monkeypatch.setenv(name, value)
    return boto3.client


def kill(machine: Machine) -> None:
    process = machine.get(account.PROCESS)
    assert process is not None
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    while (now := machine.get(account.PROCESS)) is not None and now.pid == process.pid:
        pass
    account.start(machine)


def everything(client: Client) -> dict[str, Any]:
    ec2, eks, iam, rds, s3 = (client(service) for service in ("ec2", "eks", "iam", "rds", "s3"))
    return {
        "vpcs": sorted(vpc["VpcId"] for vpc in ec2.describe_vpcs()["Vpcs"]),
        "subnets": sorted(subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]),
        "route tables": sorted(str(table["Associations"]) for table in ec2.describe_route_tables()["RouteTables"]),
        "security groups": sorted(group["GroupId"] for group in ec2.describe_security_groups()["SecurityGroups"]),
        "rules": sorted(
            rule["SecurityGroupRuleId"] for rule in ec2.describe_security_group_rules()["SecurityGroupRules"]
        ),
        "cluster": eks.describe_cluster(name=account.CLUSTER)["cluster"] | {"createdAt": 0, "clientRequestToken": ""},
        "roles": sorted((role["Arn"], role["RoleId"]) for role in iam.list_roles()["Roles"]),
        "databases": [
            (db["DBInstanceIdentifier"], db["DbiResourceId"]) for db in rds.describe_db_instances()["DBInstances"]
        ],
        "objects": [
            (bucket["Name"], [item["Key"] for item in s3.list_objects_v2(Bucket=bucket["Name"]).get("Contents", [])])
            for bucket in s3.list_buckets()["Buckets"]
        ],
    }


def test_the_cluster_lies_in_private_subnets_of_two_zones_and_a_public_one(client: Client) -> None:
    ec2 = client("ec2")
    cluster = client("eks").describe_cluster(name=account.CLUSTER)["cluster"]
    network = cluster["resourcesVpcConfig"]
    assert cluster["version"] == account.KUBERNETES_VERSION
    assert ec2.describe_vpcs(VpcIds=[network["vpcId"]])["Vpcs"][0]["CidrBlock"] == account.VPC_CIDR
    assert ec2.describe_security_groups(GroupIds=[network["clusterSecurityGroupId"]])["SecurityGroups"]
    public: dict[str, bool] = {}
    for subnet in ec2.describe_subnets(SubnetIds=network["subnetIds"])["Subnets"]:
        of_subnet = [{"Name": "association.subnet-id", "Values": [subnet["SubnetId"]]}]
        (table,) = ec2.describe_route_tables(Filters=of_subnet)["RouteTables"]
        public[subnet["CidrBlock"]] = any(route.get("GatewayId", "").startswith("igw-") for route in table["Routes"])
    assert public == {"10.0.1.0/24": False, "10.0.2.0/24": False, "10.0.101.0/24": True}


def test_a_killed_account_comes_back_with_the_same_ids_and_objects(client: Client, machine: Machine) -> None:
    ec2, iam, rds, s3 = (client(service) for service in ("ec2", "iam", "rds", "s3"))
    content = os.urandom(9_000_000)
    s3.create_bucket(Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": account.REGION})
    s3.put_object(Bucket="bucket", Key="ü/a b+c?d%2F", Body=b"small")
    s3.upload_fileobj(io.BytesIO(content), "bucket", "in parts")
    s3.put_object(Bucket="bucket", Key="gone", Body=b"")
    s3.delete_object(Bucket="bucket", Key="gone")
    vpc = ec2.describe_vpcs(Filters=[{"Name": "cidr", "Values": [account.VPC_CIDR]}])["Vpcs"][0]["VpcId"]
    group = ec2.create_security_group(GroupName="postgres", Description="d", VpcId=vpc)["GroupId"]
    rule = {"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432, "IpRanges": [{"CidrIp": "10.0.0.0/16"}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
    iam.create_role(RoleName="role", AssumeRolePolicyDocument="{}")
    # A read that loads a service must not change what the next request makes of its random numbers.
    rds.describe_db_instances()
    rds.create_db_instance(
        DBInstanceIdentifier="db",
        Engine="postgres",
        DBInstanceClass="db.t3.micro",
        AllocatedStorage=20,
        MasterUsername="postgres",
        MasterUserPassword="not-a-secret",
        VpcSecurityGroupIds=[group],
    )
    before = everything(client)
    kill(machine)
    assert everything(client) == before
    assert s3.get_object(Bucket="bucket", Key="in parts")["Body"].read() == content


def test_a_call_before_the_account_is_complete_waits_for_it(client: Client, machine: Machine) -> None:
    before = everything(client)
    machine.delete(account.PROCESS)
    (machine.folder / "aws.journal").unlink()
    account.start(machine)
    assert client("eks").describe_cluster(name=account.CLUSTER)["cluster"]["status"] == "ACTIVE"
    assert everything(client) == before


def test_half_a_line_at_the_end_of_the_journal_is_dropped(client: Client, machine: Machine) -> None:
    client("iam").create_role(RoleName="role", AssumeRolePolicyDocument="{}")
    before = everything(client)
    with (machine.folder / "aws.journal").open("a") as journal:
        journal.write('{"environ": {"REQUEST_METH')
    kill(machine)
    client("iam").create_role(RoleName="another", AssumeRolePolicyDocument="{}")
    client("iam").delete_role(RoleName="another")
    kill(machine)
    assert everything(client) == before


def test_an_account_that_was_killed_while_it_was_made_is_made_anew(client: Client, machine: Machine) -> None:
    before = everything(client)
    journal = machine.folder / "aws.journal"
    machine.delete(account.PROCESS)
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:4]))
    account.start(machine)
    assert everything(client) == before
