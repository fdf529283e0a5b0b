"""Makes the IAM policies of a stack from the table of calls: ``make iam-policies STACK=dev …`` (docs/iam.md)."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from operations import stack_file
from settings import PROJECT

CALLS: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "calls.yaml").read_text())
"""The table, as in calls.yaml."""
LIMIT = 6144
"""Characters of a managed policy, white space not counted (IAM User Guide, quotas)."""
GITHUB = "token.actions.githubusercontent.com"
"""Issuer of GitHub's tokens."""

Policy = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """The account, cluster and stack that the policies are for."""

    account: str
    region: str
    cluster: str
    """Name of the EKS cluster."""
    host: str
    """Host of the site, whose record is the only one that may be changed."""
    stack: str
    state_bucket: str
    """Bucket of Pulumi's state."""
    state_key: str
    """ARN of the KMS key of Pulumi's secrets."""
    owner: str
    """GitHub's owner of the repository."""
    repository: str
    """Name of the repository."""
    ids: tuple[str, str] | None = None
    """Numbers of the owner and of the repository. None for a repository whose subject has names only."""
    role_path: str = "/"
    """The setting ``iam.path``."""
    boundary: str | None = None
    """The setting ``iam.permissionsBoundary``."""
    database_key: str | None = None
    """The setting ``postgres.kmsKeyArn``."""
    bucket: str | None = None
    """The setting ``artifacts.bucket``. None: the program creates a bucket."""

    @property
    def partition(self) -> str:
        """AWS partition of the region."""
        return {"cn": "aws-cn", "us-gov": "aws-us-gov"}.get(self.region.rpartition("-")[0].rpartition("-")[0], "aws")

    def subject(self, environment: str) -> str:
        """Return GitHub's subject of the jobs of an environment."""
        owner, repository = self.owner, self.repository
        if self.ids:
            owner, repository = f"{owner}@{self.ids[0]}", f"{repository}@{self.ids[1]}"
        return f"repo:{owner}/{repository}:environment:{environment}"


@dataclass(frozen=True)
class Scope:
    """The resources of a statement, and its condition."""

    resources: Sequence[str]
    condition: Mapping[str, Mapping[str, Any]] | None = None


def scopes(place: Place) -> dict[str, Scope]:
    """Return the scopes that the table names. One that the place does not need is missing."""

    def arn(service: str, *resources: str) -> list[str]:
        return [f"arn:{place.partition}:{service}:{place.region}:{place.account}:{each}" for each in resources]

    def role(name: str) -> str:
        return f"arn:{place.partition}:iam::{place.account}:role{place.role_path}{name}"

    def iam_policy(name: str) -> str:
        return f"arn:{place.partition}:iam::aws:policy/{name}"

    roles = [role("artifacts-role-*"), role("postgres-monitoring-*")]
    bounded = {"StringEquals": {"iam:PermissionsBoundary": place.boundary}} if place.boundary else None
    bucket = f"arn:{place.partition}:s3:::artifacts-bucket-*"
    state = f"arn:{place.partition}:s3:::{place.state_bucket}"
    tags_of_stack = {"Project": PROJECT, "Stack": place.stack}
    found: dict[str, Scope | None] = {
        "anything": Scope(["*"]),
        "cluster": Scope(
            arn(
                "eks",
                f"cluster/{place.cluster}",
                f"podidentityassociation/{place.cluster}/*",
                f"addon/{place.cluster}/*/*",
                f"fargateprofile/{place.cluster}/*/*",
            )
        ),
        # EC2 chooses the ids of groups and rules, so the stack's tags tell them from others.
        "vpc": Scope(arn("ec2", "vpc/*")),
        "new_security_group": Scope(arn("ec2", "security-group/*"), _tagged("aws:RequestTag", tags_of_stack)),
        "tags_of_a_new_security_group": Scope(
            arn("ec2", "security-group/*"), {"StringEquals": {"ec2:CreateAction": "CreateSecurityGroup"}}
        ),
        "tags_of_a_new_rule": Scope(arn("ec2", "security-group-rule/*"), _tagged("aws:RequestTag", tags_of_stack)),
        "security_group": Scope(
            arn("ec2", "security-group/*", "security-group-rule/*"), _tagged("aws:ResourceTag", tags_of_stack)
        ),
        # The group of options is AWS's own, and the instance uses it.
        "rds": Scope(
            arn(
                "rds",
                *("db:postgres-*", "es:postgres-*", "og:default:*", "pg:postgres-*", "subgrp:postgres-*"),
                *("snapshot:postgres-before-*", "snapshot:postgres-final-*"),
            )
        ),
        "instance": Scope(arn("rds", "db:postgres-*"), _tagged("aws:ResourceTag", tags_of_stack)),
        "alarm": Scope(arn("cloudwatch", "alarm:postgres-alarms-*", "alarm:ingress-certificate-*")),
        "log_group": Scope(arn("logs", "log-group:/aws/rds/instance/postgres-*")),
        "topic": Scope(arn("sns", "*")),
        "certificate": Scope(arn("acm", "certificate/*")),
        "key": Scope(arn("kms", "key/*")),
        "bucket": Scope([bucket]),
        "data": Scope([bucket, f"{bucket}/*"]),
        "named_bucket": Scope([f"arn:{place.partition}:s3:::{place.bucket}"]) if place.bucket else None,
        "role": Scope(roles),
        "bounded_role": Scope(roles, bounded),
        # A role that must have a boundary keeps it.
        "unbounded_role": None if place.boundary else Scope(roles),
        "monitoring_policy": Scope(
            [roles[1]],
            {
                **(bounded or {}),
                "ArnEquals": {"iam:PolicyARN": iam_policy("service-role/AmazonRDSEnhancedMonitoringRole")},
            },
        ),
        "monitoring_role": Scope([roles[1]], _passed_to("monitoring.rds.amazonaws.com")),
        "artifacts_role": Scope([roles[0]], _passed_to("pods.eks.amazonaws.com")),
        "rds_service_role": Scope(
            [
                f"arn:{place.partition}:iam::{place.account}:role/aws-service-role/rds.amazonaws.com/AWSServiceRoleForRDS"
            ],
            {"StringEquals": {"iam:AWSServiceName": "rds.amazonaws.com"}},
        ),
        "database_key": Scope([key], {"StringEquals": {"kms:ViaService": f"rds.{place.region}.amazonaws.com"}})
        if (key := place.database_key)
        else None,
        "zone": Scope([f"arn:{place.partition}:route53:::hostedzone/*"]),
        "record": Scope(
            [f"arn:{place.partition}:route53:::hostedzone/*"],
            {
                "ForAllValues:StringEquals": {
                    "route53:ChangeResourceRecordSetsNormalizedRecordNames": [place.host.lower()]
                }
            },
        ),
        "change": Scope([f"arn:{place.partition}:route53:::change/*"]),
        "state_bucket": Scope([state]),
        "state_of_the_stack": Scope([f"{state}/.pulumi/{path}" for path in state_paths(place.stack)]),
        "state_key": Scope([place.state_key]),
    }
    return {name: scope for name, scope in found.items() if scope}


def state_paths(stack: str) -> list[str]:
    """Return the files of a stack in Pulumi's state, as patterns below ``.pulumi/``."""
    return [
        "meta.yaml",
        f"stacks/{PROJECT}/{stack}.*",
        f"history/{PROJECT}/{stack}/*",
        f"backups/{PROJECT}/{stack}/*",
        f"locks/organization/{PROJECT}/{stack}/*",
    ]


def _tagged(key: str, tags: Mapping[str, str]) -> dict[str, dict[str, str]]:
    return {"StringEquals": {f"{key}/{name}": value for name, value in tags.items()}}


def _passed_to(service: str) -> dict[str, dict[str, str]]:
    return {"StringEquals": {"iam:PassedToService": service}}


def rows() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Return the rows of the table with their names."""
    for part in ("resources", "lookups", "others"):
        yield from CALLS[part].items()


def preview(place: Place) -> list[Policy]:
    """Return the policies of previews and refreshes, which only read."""
    return _policies("read", scopes(place))


def deploy(place: Place) -> list[Policy]:
    """Return the policies that a role needs for `up` and `destroy` in addition to those of previews."""
    return _policies("deploy", scopes(place))


def size(policy: Policy) -> int:
    """Return the number of characters that count for the limit."""
    return len(json.dumps(policy, separators=(",", ":")))


def _policies(what: str, allowed: Mapping[str, Scope]) -> list[Policy]:
    actions: dict[str, set[str]] = {}
    for _, row in rows():
        for scope, names in row.get(what, {}).items():
            actions.setdefault(scope, set()).update(names)
    statements = [
        {
            "Sid": name.title().replace("_", ""),
            "Effect": "Allow",
            "Action": sorted(actions[name]),
            "Resource": list(scope.resources),
            **({"Condition": scope.condition} if scope.condition else {}),
        }
        for name, scope in allowed.items()
        if name in actions
    ]
    policies = [_document([])]
    for statement in statements:
        longer = _document([*policies[-1]["Statement"], statement])
        if size(longer) > LIMIT:
            policies.append(_document([statement]))
        else:
            policies[-1] = longer
    return policies


def _document(statements: Sequence[Mapping[str, Any]]) -> Policy:
    return {"Version": "2012-10-17", "Statement": [*statements]}


def trust(place: Place, *environments: str) -> Policy:
    """Return the trust policy of a role that only jobs of these environments of the repository may take."""
    subjects = [place.subject(environment) for environment in environments]
    statement = {
        "Effect": "Allow",
        "Principal": {"Federated": f"arn:{place.partition}:iam::{place.account}:oidc-provider/{GITHUB}"},
        "Action": "sts:AssumeRoleWithWebIdentity",
        "Condition": {
            "StringEquals": {
                f"{GITHUB}:aud": "sts.amazonaws.com",
                f"{GITHUB}:sub": subjects if len(subjects) > 1 else subjects[0],
            }
        },
    }
    return _document([statement])


def documents(place: Place) -> dict[str, Policy]:
    """Return the policies of a stack by the names of their files."""
    return {
        **{f"preview-{number}": policy for number, policy in enumerate(preview(place), 1)},
        **{f"deploy-{number}": policy for number, policy in enumerate(deploy(place), 1)},
        "trust-preview": trust(place, f"{place.stack}-preview", f"{place.stack}-plan"),
        "trust-deploy": trust(place, place.stack),
    }


def main() -> None:
    """Write the policies of a stack into a folder.

    Raises:
        SystemExit: the stack's file is missing or wrong, or an argument is.
    """
    parser = argparse.ArgumentParser(prog="make iam-policies", description=__doc__)
    parser.add_argument("stack")
    parser.add_argument("--account", required=True, help="number of the AWS account")
    parser.add_argument("--owner", required=True, help="GitHub's owner of the repository")
    parser.add_argument("--repository", required=True, help="name of the repository")
    parser.add_argument("--ids", nargs=2, help="numbers of the owner and of the repository")
    parser.add_argument("--state-bucket", required=True, help="bucket of Pulumi's state")
    parser.add_argument("--state-key", required=True, help="ARN of the KMS key of Pulumi's secrets")
    parser.add_argument("--folder", type=Path, help="default: artifacts/iam-STACK")
    given = parser.parse_args()
    settings = stack_file.read(given.stack)
    region = stack_file.config(given.stack).get("aws:region")
    if settings.cluster.name is None or region is None:
        parser.error(
            f"Pulumi.{given.stack}.yaml needs mlflow-eks:cluster.name and aws:region; without them there is no AWS"
        )
    place = Place(
        account=given.account,
        region=region,
        cluster=settings.cluster.name,
        host=settings.mlflow.host,
        stack=given.stack,
        state_bucket=given.state_bucket,
        state_key=given.state_key,
        owner=given.owner,
        repository=given.repository,
        ids=tuple(given.ids) if given.ids else None,
        role_path=settings.iam.path,
        boundary=settings.iam.permissions_boundary,
        database_key=settings.postgres.kms_key_arn,
        bucket=settings.artifacts.bucket,
    )
    folder: Path = given.folder or stack_file.ROOT / "artifacts" / f"iam-{given.stack}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, policy in documents(place).items():
        file = folder / f"{name}.json"
        file.write_text(json.dumps(policy, indent=2) + "\n")
        print(file)


if __name__ == "__main__":
    main()
