"""The section `postgres`."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from settings.problem import Problem
from settings.reserved_words import RESERVED_WORDS
from settings.section import Section, yaml_key
from settings.value_types import (
    ForeignPassword,
    Host,
    Identifier,
    MajorVersion,
    Network,
    Password,
    arn,
    everybody,
    kms_key,
    matching,
)
from settings.weekly_window import DAILY, DAY, SHORTEST, WEEKLY, minutes, overlap

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
"""Names that RDS gives to no role of ours, beside PostgreSQL's reserved words."""
MOST_SOURCES = 60
"""Largest number of rules that AWS takes in a security group."""


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
    """Networks and security groups that may connect to the database. The list replaces the default, so write ``cluster: true`` too."""

    cluster: bool = False
    """True for the cluster's security group, in addition to what the list names. Its id need not be known."""
    cidrs: list[Network] = Field(default=[], examples=[["10.1.0.0/16"]])
    """IPv4 networks."""
    security_groups: list[Annotated[str, matching(r"sg-[0-9a-f]+", "write a security group's id, sg-…")]] = Field(
        default=[], examples=[["sg-0123456789abcdef0"]]
    )
    """Ids of security groups."""

    def problems(self) -> list[Problem]:
        """Reject an empty list, a long one, and 0.0.0.0/0."""
        if not self.cidrs and not self.security_groups and not self.cluster:
            return [
                Problem("", "is empty; list `cidrs` or `securityGroups`, or write `cluster` (the default) or `vpc`")
            ]
        sources = len({*self.cidrs, *self.security_groups}) + self.cluster
        if sources > MOST_SOURCES:
            return [
                Problem(
                    "",
                    f"has {sources} sources and AWS takes {MOST_SOURCES} rules in a security group; write larger networks, or a group that "
                    "the sources share",
                )
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
    """Ids of the instance's subnets: private ones, in two zones or more. Default: the cluster's private subnets at the first ``up``. Later
    changes of the cluster's subnets do not reach the instance, because RDS refuses to give up a subnet in use."""
    allow_from: Annotated[
        Annotated[Literal["cluster", "vpc"], Tag("name")] | Annotated[AllowFrom, Tag("list")],
        Discriminator(lambda value: "name" if isinstance(value, str) else "list"),
    ] = "cluster"
    """Sources of connections: ``cluster`` (the cluster's security group), ``vpc`` (the whole VPC), or a list. Nodes with a launch template of
    their own often lack the cluster's group: ``docs/reaching-the-database.md``."""
    engine_version: MajorVersion = "17"
    """Major version of PostgreSQL. AWS does minor upgrades by itself, so a minor version here would become an impossible downgrade. Another
    major version needs ``allowMajorUpgrade``."""
    allow_major_upgrade: bool = False
    """True to let ``engineVersion`` upgrade an instance that exists, which cannot be taken back: ``docs/upgrade-postgresql.md``."""
    instance_class: Annotated[str, matching(r"db\.[a-z0-9]+\.[a-z0-9]+", "write a class such as db.t3.micro")] = (
        "db.t3.micro"
    )
    """Instance class. ``docs/sizing.md`` says how many people each class carries."""
    allocated_storage: int = Field(default=20, ge=20, le=65536)
    """Storage at the start, in GiB. AWS rounds growth of less than 10 % up to 10 %. What is there may be more, since RDS enlarges it, and
    is never made smaller. From 400 GiB on, ``gp3`` has 12,000 operations a second and 500 MiB/s at no further price."""
    max_allocated_storage: int = Field(default=100, ge=0, le=65536)
    """Limit in GiB up to which RDS enlarges the storage by itself. 0 turns that off, and needs an ``allocatedStorage`` of at least what is
    there."""
    storage_type: Literal["gp2", "gp3"] = "gp3"
    """EBS volume type."""
    multi_az: bool = False
    """True for a standby in a second zone: about twice the price, and a failover of a minute or two instead of an outage."""
    backup_retention_days: int = Field(default=7, ge=1, le=35)
    """Days of point-in-time recovery. 0 would turn backups off and is refused."""
    backup_window: Annotated[str, matching(DAILY, "write a time of every day in UTC, for example {example}")] | None = (
        Field(default=None, examples=["01:00-01:30"])
    )
    """Time of the daily backup in UTC, half an hour at least. Default: AWS chooses one."""
    maintenance_window: (
        Annotated[str, matching(WEEKLY, "write a time of every week in UTC and lower case, for example {example}")]
        | None
    ) = Field(default=None, examples=["sun:03:00-sun:04:00"])
    """Time of maintenance in UTC, half an hour at least and a day at most. Changes that interrupt the database wait for it, see
    ``applyImmediately``. Default: AWS chooses one."""
    apply_immediately: bool | None = Field(default=None, examples=[True])
    """True to change class, version, storage and Multi-AZ at once, false to wait for the maintenance window. With true, AWS also carries out
    what waits already. Default: false with ``protect``, true without."""
    snapshot_before_upgrade: bool = True
    """True to take a snapshot before ``up`` changes MLflow's version, and at the first ``up``. With ``protect`` older
    ones stay. False is the word that none is needed: an upgrade is minutes faster, and its way back is a moment of the last
    ``backupRetentionDays`` days."""
    log_retention_days: Literal[1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1827, 3653] = 30
    """Days for which CloudWatch keeps the instance's logs."""
    monitoring_interval: Literal[0, 1, 5, 10, 15, 30, 60] = 60
    """Seconds between two points of enhanced monitoring. 0 turns it off."""
    master_username: Annotated[Identifier, matching(r".{1,16}", "write 16 characters at most")] = "postgres"
    """Name of the master role, which is not a superuser on RDS. It cannot be changed later."""
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
    """SNS topic for alarms (CPU, memory, storage, connections, the end of an ACM certificate) and RDS events. Without a topic there are no
    alarms."""
    kms_key_arn: Annotated[str, kms_key] | None = None
    """KMS key for storage and Performance Insights. Default: the account's key ``aws/rds``. It cannot be changed later: a database moves to
    another key through a copied snapshot (``docs/backup-and-restore.md``)."""

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
        if self.master_username in RESERVED_BY_RDS | RESERVED_WORDS or self.master_username.startswith("pg_"):
            found.append(
                Problem(
                    "masterUsername",
                    f"is {self.master_username!r}, a reserved name; write another, for example postgres",
                )
            )
        found += self._windows()
        if self.existing:
            found += [
                Problem(
                    yaml_key(type(self), name), "is for an instance that this program creates; drop it or `existing`"
                )
                for name in sorted(self.model_fields_set - {"existing"})
            ]
        return found

    def _windows(self) -> list[Problem]:
        found = [
            Problem(key, f"is {window}, {length} minutes; RDS wants {SHORTEST} at least and a day at most")
            for key, window in (("backupWindow", self.backup_window), ("maintenanceWindow", self.maintenance_window))
            if window and not SHORTEST <= (length := minutes(window)[1]) <= DAY
        ]
        if found or not self.backup_window or not self.maintenance_window:
            return found
        if overlap(self.maintenance_window, self.backup_window):
            sentence = f"is {self.maintenance_window} and backupWindow is {self.backup_window}; RDS takes no two that overlap: move one"
            found.append(Problem("maintenanceWindow", sentence, based_on=["backupWindow"]))
        return found
