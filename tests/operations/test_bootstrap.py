"""`make bootstrap`, on moto's account and a stand-in for GitHub's API."""

# boto3 has no types of its own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from moto import mock_aws

from local.aws_account import command as aws_command
from local.aws_account.command import CommandError, run
from operations import stack_file
from operations.bootstrap.__main__ import bootstrap, parser
from operations.checks import MissingError
from operations.deployments.github import GitHub, RefusedError
from operations.iam import policies
from tests import ROOT
from tests.github_server import REPOSITORY, TOKEN, GitHubServer, serving_github

kept_client = cache(boto3.client)
"""A client takes a fifth of a second to make, and a run calls AWS forty times."""
ENDPOINTS = {"iam": "https://iam.amazonaws.com", "s3api": "https://s3.eu-west-1.amazonaws.com"}
BUCKET = "mlflow-eks-state-dev-123456789012-eu-west-1"


def aws(*arguments: str) -> Any:
    """Send a call as the AWS CLI does: an option that the CLI does not know is refused."""
    service = arguments[0]
    try:
        return json.loads(run(ENDPOINTS.get(service, f"https://{service}.eu-west-1.amazonaws.com"), arguments))
    except CommandError as error:
        raise MissingError(str(error)) from None


@cache
def client(service: str) -> Any:
    return boto3.client(service, region_name="eu-west-1")


@dataclass
class Bootstrap:
    """The command on a copy of the stacks' files."""

    folder: Path
    said: list[str] = field(default_factory=list)

    def run(self, stack: str, *options: str, github: GitHubServer | None = None) -> list[str]:
        """Run the command and return what it made or changed."""
        before = len(self.said)
        given = parser().parse_args([stack, "--owner", "acme", "--repository", "mlflow-eks", *options])
        api = GitHub(github.url, REPOSITORY, TOKEN) if github else None
        bootstrap(given, aws, api, self.said.append)
        words = ("made", "changed", "attached", "detached", "switched", "added", "gave")
        return [line for line in self.said[before:] if line.startswith(words)]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bootstrap]:
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "moto")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "moto")
    for stack in ("dev", "prod"):
        (tmp_path / f"Pulumi.{stack}.yaml").write_text((ROOT / f"Pulumi.{stack}.yaml").read_text())
    monkeypatch.setattr(stack_file, "ROOT", tmp_path)
    monkeypatch.setattr(aws_command, "boto3", SimpleNamespace(client=kept_client))
    with mock_aws():
        yield Bootstrap(tmp_path)


def commit(command: Bootstrap, stack: str) -> None:
    """Do what `pulumi stack init` does to the stack's file."""
    file = command.folder / f"Pulumi.{stack}.yaml"
    file.write_text(f"secretsprovider: awskms://alias/mlflow-eks-{stack}?region=eu-west-1\n{file.read_text()}")


def test_the_state_is_private_versioned_encrypted_and_reached_over_tls_only(command: Bootstrap) -> None:
    command.run("dev")
    s3 = client("s3")
    assert s3.get_bucket_versioning(Bucket=BUCKET)["Status"] == "Enabled"
    assert set(s3.get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"].values()) == {True}
    (rule,) = s3.get_bucket_encryption(Bucket=BUCKET)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    (statement,) = json.loads(s3.get_bucket_policy(Bucket=BUCKET)["Policy"])["Statement"]
    assert (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", "s3:*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert s3.get_bucket_location(Bucket=BUCKET)["LocationConstraint"] == "eu-west-1"


def test_the_key_of_a_stack_is_its_own_and_is_rotated(command: Bootstrap) -> None:
    command.run("dev")
    command.run("prod", "--reviewers", "ada")
    kms = client("kms")
    keys = {stack: kms.describe_key(KeyId=f"alias/mlflow-eks-{stack}")["KeyMetadata"] for stack in ("dev", "prod")}
    assert keys["dev"]["Arn"] != keys["prod"]["Arn"]
    for key in keys.values():
        assert kms.get_key_rotation_status(KeyId=key["KeyId"])["KeyRotationEnabled"]


def documents_of(role: str) -> str:
    iam = client("iam")
    found: list[Any] = []
    for each in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
        version = iam.get_policy(PolicyArn=each["PolicyArn"])["Policy"]["DefaultVersionId"]
        found.append(
            iam.get_policy_version(PolicyArn=each["PolicyArn"], VersionId=version)["PolicyVersion"]["Document"]
        )
    return json.dumps(found)


def test_the_roles_of_dev_reach_neither_state_nor_key_of_prod(command: Bootstrap) -> None:
    command.run("dev")
    command.run("prod", "--reviewers", "ada")
    key = client("kms").describe_key(KeyId="alias/mlflow-eks-prod")["KeyMetadata"]["Arn"]
    for role in ("mlflow-eks-dev", "mlflow-eks-dev-preview"):
        documents = documents_of(role)
        assert BUCKET in documents
        assert "mlflow-eks-state-prod" not in documents
        assert key not in documents
    assert "rds:CreateDBInstance" in documents_of("mlflow-eks-dev")
    assert "rds:CreateDBInstance" not in documents_of("mlflow-eks-dev-preview")


def test_each_role_is_taken_by_named_environments_and_lasts_as_long_as_its_job(command: Bootstrap) -> None:
    command.run("dev", "--ids", "1", "2")
    roles = {
        name: client("iam").get_role(RoleName=name)["Role"] for name in ("mlflow-eks-dev", "mlflow-eks-dev-preview")
    }
    subject = "repo:acme@1/mlflow-eks@2:environment"
    for name, session, subjects in [
        ("mlflow-eks-dev", 10800, f"{subject}:dev"),
        ("mlflow-eks-dev-preview", 3600, [f"{subject}:dev-preview", f"{subject}:dev-plan"]),
    ]:
        assert roles[name]["MaxSessionDuration"] == session
        (statement,) = roles[name]["AssumeRolePolicyDocument"]["Statement"]
        assert statement["Condition"] == {
            "StringEquals": {f"{policies.GITHUB}:aud": "sts.amazonaws.com", f"{policies.GITHUB}:sub": subjects}
        }
    (provider,) = client("iam").list_open_id_connect_providers()["OpenIDConnectProviderList"]
    found = client("iam").get_open_id_connect_provider(OpenIDConnectProviderArn=provider["Arn"])
    assert found["ClientIDList"] == ["sts.amazonaws.com"]


def test_a_second_run_makes_nothing(command: Bootstrap) -> None:
    assert len(command.run("dev")) > 8
    assert command.run("dev") == []


def test_what_somebody_changed_is_put_right(command: Bootstrap) -> None:
    command.run("dev")
    iam = client("iam")
    trust = iam.get_role(RoleName="mlflow-eks-dev")["Role"]["AssumeRolePolicyDocument"]
    wider = json.dumps(trust).replace("StringEquals", "StringLike").replace("environment:dev", "*")
    iam.update_assume_role_policy(RoleName="mlflow-eks-dev", PolicyDocument=wider)
    statement = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    everything = iam.create_policy(PolicyName="everything", PolicyDocument=document)["Policy"]["Arn"]
    iam.attach_role_policy(RoleName="mlflow-eks-dev-preview", PolicyArn=everything)
    kms = client("kms")
    kms.disable_key_rotation(KeyId=kms.describe_key(KeyId="alias/mlflow-eks-dev")["KeyMetadata"]["KeyId"])
    assert command.run("dev") == [
        "switched on the yearly rotation of alias/mlflow-eks-dev",
        "changed who may take the role mlflow-eks-dev",
        "detached everything from mlflow-eks-dev-preview",
    ]


def test_a_policy_follows_the_stack_however_often_it_changes(command: Bootstrap) -> None:
    command.run("dev")
    file = command.folder / "Pulumi.dev.yaml"
    for number in range(6):
        file.write_text(
            file.read_text()
            .replace("mlflow.dev", f"mlflow{number}.dev")
            .replace(f"mlflow{number - 1}", f"mlflow{number}")
        )
        assert any(line.startswith("changed the policy mlflow-eks-dev-deploy") for line in command.run("dev"))
    assert "mlflow5.dev.example.com" in documents_of("mlflow-eks-dev")


def test_the_roles_get_the_path_and_the_boundary_of_the_organisation(command: Bootstrap) -> None:
    boundary = "arn:aws:iam::123456789012:policy/boundary"
    command.run("dev", "--role-path", "/ci/", "--role-boundary", boundary)
    role = client("iam").get_role(RoleName="mlflow-eks-dev")["Role"]
    assert role["Arn"] == "arn:aws:iam::123456789012:role/ci/mlflow-eks-dev"
    assert role["PermissionsBoundary"]["PermissionsBoundaryArn"] == boundary
    assert command.run("dev", "--role-path", "/ci/", "--role-boundary", boundary) == []


def test_without_a_token_a_person_learns_what_to_set(command: Bootstrap) -> None:
    command.run("prod", "--reviewers", "ada")
    said = "\n".join(command.said)
    assert "Environment prod-preview: required reviewers (ada)\n" in said
    assert "Environment prod-plan: deployments from the branch main only\n" in said
    assert "PULUMI_BACKEND_URL = s3://mlflow-eks-state-prod-123456789012-eu-west-1" in said
    assert "pulumi stack init prod --secrets-provider 'awskms://alias/mlflow-eks-prod?region=eu-west-1'" in said
    assert "arn:aws:iam::123456789012:role/mlflow-eks-prod-preview" in said


def test_with_a_token_the_environments_are_set(command: Bootstrap) -> None:
    commit(command, "dev")
    commit(command, "prod")
    with serving_github() as github:
        for stack in ("dev", "prod"):
            command.run(stack, "--reviewers", "ada", "bob", github=github)
        reviewers = [{"type": "User", "id": 11}, {"type": "User", "id": 12}]
        assert github.environments == {
            "dev-preview": {"reviewers": None, "branches": []},
            "dev-plan": {"reviewers": None, "branches": ["main"]},
            "dev": {"reviewers": reviewers, "branches": ["main"]},
            # Data of a protected stack: a branch's code sees its secrets after a person has read that code.
            "prod-preview": {"reviewers": reviewers, "branches": []},
            "prod-plan": {"reviewers": None, "branches": ["main"]},
            "prod": {"reviewers": reviewers, "branches": ["main"]},
        }
        assert github.variables["actions/variables/STACKS"] == '["dev", "prod"]'
        role = "arn:aws:iam::123456789012:role/mlflow-eks-dev"
        assert github.variables["environments/dev/variables/AWS_ROLE_ARN"] == role
        assert github.variables["environments/dev-plan/variables/AWS_ROLE_ARN"] == f"{role}-preview"
        before = dict(github.variables)
        command.run("dev", "--reviewers", "ada", "bob", github=github)
        assert github.variables == before


def test_a_stack_whose_file_is_not_committed_is_not_switched_on(command: Bootstrap) -> None:
    with serving_github() as github:
        command.run("dev", "--reviewers", "ada", github=github)
        assert "actions/variables/STACKS" not in github.variables
    assert "commit Pulumi.dev.yaml, and run this command again" in command.said[-1]


def test_a_guard_that_github_leaves_out_is_no_guard(command: Bootstrap) -> None:
    with serving_github() as github:
        github.without_reviewers = True
        with pytest.raises(RefusedError, match="prod-preview without required reviewers"):
            command.run("prod", "--reviewers", "ada", github=github)
        with pytest.raises(RefusedError, match="404 to GET /users/nobody"):
            command.run("prod", "--reviewers", "nobody", github=github)


def test_a_refusal_of_aws_is_no_absence(command: Bootstrap, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*arguments: str) -> Any:
        if arguments[1] == "get-role":
            raise MissingError("An error occurred (AccessDenied) when calling the GetRole operation")
        return aws(*arguments)

    given = parser().parse_args(["dev", "--owner", "acme", "--repository", "mlflow-eks"])
    with pytest.raises(MissingError, match="AccessDenied"):
        bootstrap(given, refusing, None, lambda _: None)
