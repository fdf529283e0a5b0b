"""The local account has the resources that the program expects, and keeps all data when its process is killed."""

import io
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from local import aws_account
from local.supervisor.client import Supervisor

Client = Callable[[str], Any]


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path)
    supervisor.start()
    yield supervisor
    supervisor.stop()


@pytest.fixture
def client(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> Client:
    for name, value in aws_account.credentials(aws_account.start(supervisor)).items():
        monkeypatch.setenv(name, value)
    return boto3.client


def kill(supervisor: Supervisor) -> None:
    process = supervisor.get(aws_account.PROCESS)
    assert process is not None
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    while (now := supervisor.get(aws_account.PROCESS)) is not None and now.pid == process.pid:
        pass
    aws_account.start(supervisor)


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
        "cluster": eks.describe_cluster(name=aws_account.CLUSTER)["cluster"]
        | {"createdAt": 0, "clientRequestToken": ""},
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
    cluster = client("eks").describe_cluster(name=aws_account.CLUSTER)["cluster"]
    network = cluster["resourcesVpcConfig"]
    assert cluster["version"] == aws_account.KUBERNETES_VERSION
    assert ec2.describe_vpcs(VpcIds=[network["vpcId"]])["Vpcs"][0]["CidrBlock"] == aws_account.VPC_CIDR
    assert ec2.describe_security_groups(GroupIds=[network["clusterSecurityGroupId"]])["SecurityGroups"]
    public: dict[str, bool] = {}
    for subnet in ec2.describe_subnets(SubnetIds=network["subnetIds"])["Subnets"]:
        of_subnet = [{"Name": "association.subnet-id", "Values": [subnet["SubnetId"]]}]
        (table,) = ec2.describe_route_tables(Filters=of_subnet)["RouteTables"]
        public[subnet["CidrBlock"]] = any(route.get("GatewayId", "").startswith("igw-") for route in table["Routes"])
    assert public == {"10.0.1.0/24": False, "10.0.2.0/24": False, "10.0.101.0/24": True}


def test_a_killed_account_comes_back_with_the_same_ids_and_objects(client: Client, supervisor: Supervisor) -> None:
    ec2, iam, rds, s3 = (client(service) for service in ("ec2", "iam", "rds", "s3"))
    content = os.urandom(9_000_000)
    s3.create_bucket(Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": aws_account.REGION})
    s3.put_object(Bucket="bucket", Key="ü/a b+c?d%2F", Body=b"small")
    s3.upload_fileobj(io.BytesIO(content), "bucket", "in parts")
    s3.put_object(Bucket="bucket", Key="gone", Body=b"")
    s3.delete_object(Bucket="bucket", Key="gone")
    vpc = ec2.describe_vpcs(Filters=[{"Name": "cidr", "Values": [aws_account.VPC_CIDR]}])["Vpcs"][0]["VpcId"]
    group = ec2.create_security_group(GroupName="postgres", Description="d", VpcId=vpc)["GroupId"]
    rule = {"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432, "IpRanges": [{"CidrIp": "10.0.0.0/16"}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
    iam.create_role(RoleName="role", AssumeRolePolicyDocument="{}")
    # A read that loads a service must not change the random numbers of the next request.
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
    kill(supervisor)
    assert everything(client) == before
    assert s3.get_object(Bucket="bucket", Key="in parts")["Body"].read() == content


def test_a_call_before_the_account_is_complete_waits_for_it(client: Client, supervisor: Supervisor) -> None:
    before = everything(client)
    supervisor.delete(aws_account.PROCESS)
    (supervisor.folder / "aws.journal").unlink()
    aws_account.start(supervisor)
    assert client("eks").describe_cluster(name=aws_account.CLUSTER)["cluster"]["status"] == "ACTIVE"
    assert everything(client) == before


def test_the_log_names_service_and_action(client: Client, supervisor: Supervisor) -> None:
    client("rds").describe_db_instances()
    client("s3").list_buckets()
    log = supervisor.log(aws_account.PROCESS).read_text()
    assert "rds DescribeDBInstances 200" in log
    assert "s3 GET / 200" in log


def test_half_a_line_at_the_end_of_the_journal_is_dropped(client: Client, supervisor: Supervisor) -> None:
    client("iam").create_role(RoleName="role", AssumeRolePolicyDocument="{}")
    before = everything(client)
    with (supervisor.folder / "aws.journal").open("a") as journal:
        journal.write('{"environ": {"REQUEST_METH')
    kill(supervisor)
    client("iam").create_role(RoleName="another", AssumeRolePolicyDocument="{}")
    client("iam").delete_role(RoleName="another")
    kill(supervisor)
    assert everything(client) == before


def test_an_account_that_was_killed_while_it_was_made_is_made_anew(client: Client, supervisor: Supervisor) -> None:
    before = everything(client)
    journal = supervisor.folder / "aws.journal"
    supervisor.delete(aws_account.PROCESS)
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:4]))
    aws_account.start(supervisor)
    assert everything(client) == before
