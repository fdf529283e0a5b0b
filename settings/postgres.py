"""The section `postgres`."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from settings.problem import Problem
from settings.section import Section, yaml_key
from settings.value_types import (
    UUID,
    ForeignPassword,
    Host,
    Identifier,
    MajorVersion,
    Network,
    Password,
    arn,
    everybody,
    matching,
)

RESERVED_BY_RDS = {
    "rdsadmin",
    "rds_superuser",
    "rds_iam",
    "rds_replication",
    "rds_password",
    "admin",
    "public",
    "none",
}
"""Names that RDS gives to no role of ours."""


class ExistingPostgres(Section):
    """A PostgreSQL server that exists. The program creates roles, a database and a schema on it and changes nothing else."""

    host: Host = Field(examples=["postgres.example.com"])
    """Address at which the pods reach the server."""
    port: int = Field(default=5432, ge=1, le=65535)
    """TCP port."""
    admin_username: str = Field(default="postgres", min_length=1)
    """Role with CREATEDB and CREATEROLE. It need not be a superuser."""
    admin_password: ForeignPassword = Field(examples=["a-secret"])
    """Password of that role, a secret. Any characters."""


class AllowFrom(Section):
    """Networks and security groups that may connect to the database. The list replaces the default, so name the cluster's group too."""

    cidrs: list[Network] = Field(default=[], examples=[["10.1.0.0/16"]])
    """IPv4 networks."""
    security_groups: list[Annotated[str, matching(r"sg-[0-9a-f]+", "write a security group's id, sg-…")]] = Field(
        default=[], examples=[["sg-0123456789abcdef0"]]
    )
    """Ids of security groups."""

    def problems(self) -> list[Problem]:
        """Reject an empty list and 0.0.0.0/0."""
        if not self.cidrs and not self.security_groups:
            return [
                Problem("", "is empty; list `cidrs` or `securityGroups`, or write `cluster` (the default) or `vpc`")
            ]
        if everybody(self.cidrs):
            return [Problem("cidrs", "is every address; write networks such as 203.0.113.0/24")]
        return []


class Postgres(Section):
    """The private RDS instance."""

    existing: ExistingPostgres | None = None
    """A server that exists. With it, no instance is created."""
    subnet_ids: list[Annotated[str, matching(r"subnet-[0-9a-f]+", "write a subnet's id, subnet-…")]] = Field(
        default=[], examples=[["subnet-0123456789abcdef0", "subnet-0fedcba9876543210"]]
    )
    """Ids of the instance's subnets: private ones, in two zones or more. Default: the cluster's private subnets."""
    allow_from: Annotated[
        Annotated[Literal["cluster", "vpc"], Tag("name")] | Annotated[AllowFrom, Tag("list")],
        Discriminator(lambda value: "name" if isinstance(value, str) else "list"),
    ] = "cluster"
    """Sources of connections: ``cluster`` (the cluster's security group), ``vpc`` (the whole VPC), or a list."""
    engine_version: MajorVersion = "17"
    """Major version of PostgreSQL. AWS does minor upgrades by itself, so a minor version here would become an impossible downgrade."""
    instance_class: Annotated[str, matching(r"db\.[a-z0-9]+\.[a-z0-9]+", "write a class such as db.t3.micro")] = (
        "db.t3.micro"
    )
    """Instance class. ``docs/sizing.md`` says how many people each class carries."""
    allocated_storage: int = Field(default=20, ge=20, le=65536)
    """Storage at the start, in GiB."""
    max_allocated_storage: int = Field(default=100, ge=0, le=65536)
    """Limit in GiB up to which RDS enlarges the storage by itself. 0 turns that off."""
    storage_type: Literal["gp2", "gp3"] = "gp3"
    """EBS volume type."""
    multi_az: bool = False
    """True for a standby in a second zone: about twice the price, and a failover of a minute or two instead of an outage."""
    backup_retention_days: int = Field(default=7, ge=1, le=35)
    """Days of point-in-time recovery. 0 would turn backups off and is refused."""
    monitoring_interval: Literal[0, 1, 5, 10, 15, 30, 60] = 60
    """Seconds between two points of enhanced monitoring. 0 turns it off."""
    master_username: Identifier = "postgres"
    """Name of the master role, which is not a superuser on RDS."""
    master_password: Password | None = None
    """Password of the master role, a secret. Generated when absent."""
    alarm_topic_arn: (
        Annotated[
            str,
            arn(
                "sns",
                r"[A-Za-z0-9_-]{1,256}",
                "write an SNS topic's ARN, for example arn:aws:sns:eu-west-1:123456789012:alarms",
            ),
        ]
        | None
    ) = None
    """SNS topic for alarms (CPU, memory, storage, connections) and RDS events. Without a topic there are no alarms."""
    kms_key_arn: (
        # AWS answers with the key's ARN where an alias was given, and for this property a difference is a new database.
        Annotated[
            str,
            arn(
                "kms", rf"key/({UUID}|mrk-[0-9a-f]{{32}})", "write the key's own ARN, arn:aws:kms:…:key/…, not an alias"
            ),
        ]
        | None
    ) = None
    """KMS key for storage and Performance Insights. Default: the account's key ``aws/rds``."""

    def problems(self) -> list[Problem]:
        """Reject what RDS rejects, and settings that would have no effect."""
        found: list[Problem] = []
        if self.max_allocated_storage and self.max_allocated_storage * 10 < self.allocated_storage * 11:
            found.append(
                Problem(
                    "maxAllocatedStorage",
                    f"is {self.max_allocated_storage}; RDS wants at least 10 % more than allocatedStorage "
                    f"({self.allocated_storage}): write {-(-self.allocated_storage * 11 // 10)} or more, or 0 to turn growth off",
                    based_on=["allocatedStorage"],
                )
            )
        if self.subnet_ids and len(set(self.subnet_ids)) < 2:
            found.append(Problem("subnetIds", "names one subnet; RDS needs two at least, in different zones"))
        if self.master_username in RESERVED_BY_RDS or self.master_username.startswith("pg_"):
            found.append(
                Problem(
                    "masterUsername",
                    f"is {self.master_username!r}, a reserved name; write another, for example postgres",
                )
            )
        if self.existing:
            found += [
                Problem(
                    yaml_key(type(self), name), "is for an instance that this program creates; drop it or `existing`"
                )
                for name in sorted(self.model_fields_set - {"existing"})
            ]
        return found
