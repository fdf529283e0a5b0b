"""PrivatePostgres: an RDS PostgreSQL in private subnets, reachable only from the named sources."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
import pulumi_aws as aws
import pulumi_random as random

from .lookups.subnets import Subnet

PORT = 5432
LOGS = ("postgresql", "upgrade")
"""Logs of the instance that go to CloudWatch."""
STRIPED_GIB = 400
"""GiB of gp3 storage from which RDS takes at least 12,000 operations a second and 500 MiB/s for PostgreSQL."""
FIXED = ("identifier", "engine", "username", "kmsKeyId", "performanceInsightsKmsKeyId", "storageEncrypted")
"""Inputs that only another instance could have otherwise. A later change is ignored, because it would replace the data by nothing."""


@dataclass(frozen=True)
class PrivatePostgresArgs:
    """Arguments of `PrivatePostgres`."""

    account_id: pulumi.Input[str]
    """AWS account of the instance."""
    partition: pulumi.Input[str]
    """AWS partition: ``aws``, ``aws-cn`` or ``aws-us-gov``."""
    vpc_id: pulumi.Input[str]
    """VPC of the instance."""
    subnets: pulumi.Input[Sequence[Subnet]]
    """Private subnets of that VPC, in two zones or more. A subnet with a route to an internet gateway is refused."""
    engine_version: str
    """Major version of PostgreSQL, for example ``17``. The region must offer it."""
    instance_class: str
    """Instance class, for example ``db.t3.micro``."""
    allow_cidrs: Mapping[str, pulumi.Input[str]] = field(default_factory=dict[str, pulumi.Input[str]])
    """IPv4 networks that may connect. The label of a network is part of a resource's name and must not change."""
    allow_security_groups: Mapping[str, pulumi.Input[str]] = field(default_factory=dict[str, pulumi.Input[str]])
    """Ids of security groups that may connect. The label of a group is part of a resource's name and must not change."""
    allocated_storage: int = 20
    """Storage at the start in GiB, default 20."""
    max_allocated_storage: pulumi.Input[int] = 100
    """Limit in GiB up to which RDS enlarges the storage by itself, default 100. 0 turns that off."""
    storage_type: str = "gp3"
    """EBS volume type, default ``gp3``."""
    multi_az: pulumi.Input[bool] = False
    """True for a standby in a second zone, default false."""
    backup_retention_days: pulumi.Input[int] = 7
    """Days of point-in-time recovery, default 7."""
    backup_window: pulumi.Input[str] | None = None
    """Time of the daily backup in UTC, for example ``01:00-01:30``. None: AWS chooses one."""
    maintenance_window: pulumi.Input[str] | None = None
    """Time of maintenance in UTC and lower case, for example ``sun:03:00-sun:04:00``. None: AWS chooses one."""
    apply_immediately: bool = False
    """True to change class, version, storage and Multi-AZ at once, with an interruption. False (default) waits for the maintenance
    window, and leaves the parameter group behind when the component goes."""
    allow_major_upgrade: bool = False
    """True to let another `engine_version` upgrade the instance, which cannot be taken back. Default false."""
    log_retention_days: pulumi.Input[int] = 30
    """Days for which CloudWatch keeps the instance's logs, default 30."""
    follow_subnets: bool = False
    """True to change the subnet group with `subnets`. False (default) leaves it as it was at first: RDS refuses to give up a subnet in use."""
    identifier: str | None = None
    """Identifier of an instance that the stack has already. None: a generated one."""
    storage_there: int = 0
    """Storage in GiB that the instance has already, grown or not. 0 (default) before there is one."""
    monitoring_interval: int = 60
    """Seconds between two points of enhanced monitoring, default 60. 0 turns it off."""
    master_username: pulumi.Input[str] = "postgres"
    """Name of the master role, default ``postgres``."""
    master_password: pulumi.Input[str] | None = None
    """Password of the master role, a secret. Generated when absent."""
    kms_key_arn: pulumi.Input[str] | None = None
    """KMS key for storage and Performance Insights. None: the account's key ``aws/rds``."""
    alarm_topic_arn: pulumi.Input[str] | None = None
    """SNS topic for RDS events. None: no event subscription."""
    snapshot_before: str | None = None
    """Version of MLflow before which a snapshot is taken, for example ``3.15.1``. None: no snapshot."""
    protect: bool = True
    """True (default) for deletion protection, Pulumi's protect, and a final snapshot."""
    permissions_boundary: pulumi.Input[str] | None = None
    """ARN of the policy that limits the monitoring role. None: no limit beyond AWS's own policy for monitoring."""
    role_path: pulumi.Input[str] | None = None
    """IAM path of the monitoring role, for example ``/platform/``. None: ``/``."""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    """Tags of every resource."""


class PrivatePostgres(pulumi.ComponentResource):
    """Subnet group, security group, parameter group, log groups and the instance.

    Private, encrypted and TLS-only are not arguments: every instance is all three. No argument replaces an instance, because its data
    would stay behind: what only another instance can have (the master's name, the key) counts at its creation.

    Raises:
        pulumi.RunError: the subnets are public or in one zone, or the region does not offer the engine version or the class.
    """

    identifier: pulumi.Output[str]
    """Identifier of the instance."""
    address: pulumi.Output[str]
    """Host name of the instance, without a port."""
    port: pulumi.Output[int]
    """TCP port."""
    master_username: pulumi.Output[str]
    """Name of the master role, which is not a superuser on RDS."""
    master_password: pulumi.Output[str]
    """Password of the master role, a secret."""
    snapshot: pulumi.Resource | None
    """The snapshot before an upgrade, for which MLflow's release must wait. None without one."""

    def __init__(self, name: str, args: PrivatePostgresArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mlflow-eks:index:PrivatePostgres", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        tags = {**args.tags}

        subnets = pulumi.Output.from_input(args.subnets).apply(_check_subnets)
        subnet_group = aws.rds.SubnetGroup(
            f"{name}-subnets",
            description="Private subnets of MLflow's database",
            subnet_ids=subnets.apply(lambda checked: [subnet.id for subnet in checked]),
            tags=tags,
            opts=pulumi.ResourceOptions.merge(
                child, pulumi.ResourceOptions(ignore_changes=[] if args.follow_subnets else ["subnetIds"])
            ),
        )

        security_group = aws.ec2.SecurityGroup(
            f"{name}-sg",
            description="Who may connect to the database of MLflow",
            vpc_id=args.vpc_id,
            tags=tags,
            opts=child,
        )
        sources = {label: {"cidr_ipv4": cidr} for label, cidr in args.allow_cidrs.items()}
        sources |= {
            label: {"referenced_security_group_id": group} for label, group in args.allow_security_groups.items()
        }
        for label, source in sources.items():
            aws.vpc.SecurityGroupIngressRule(
                f"{name}-from-{label}",
                security_group_id=security_group.id,
                description=f"PostgreSQL from {label}",
                ip_protocol="tcp",
                from_port=PORT,
                to_port=PORT,
                tags=tags,
                opts=child,
                **source,
            )

        engine = _offered_engine(args.engine_version, self)
        parameter_group = aws.rds.ParameterGroup(
            f"{name}-parameters",
            description="TLS only, no statement logged",
            family=engine.parameter_group_family,
            parameters=[
                # 1 is RDS's default, and AWS then answers with this way of applying it, whichever was written.
                {"name": "rds.force_ssl", "value": "1", "apply_method": "pending-reboot"},
                # A logged CREATE or ALTER ROLE … PASSWORD shows the password, in the log of DDL, of errors and of slow statements alike.
                # Performance Insights shows slow statements without their values.
                {"name": "log_statement", "value": "none"},
                {"name": "log_min_error_statement", "value": "panic"},
                {"name": "log_min_duration_statement", "value": "-1"},
            ],
            tags=tags,
            opts=pulumi.ResourceOptions.merge(
                child,
                pulumi.ResourceOptions(
                    # Another description is another group, and an instance adopts another group only at a restart.
                    ignore_changes=["description"],
                    # An upgrade that waits for the maintenance window keeps the old group in use, and RDS refuses to delete it.
                    retain_on_delete=not args.apply_immediately,
                ),
            ),
        )

        password = (
            args.master_password or random.RandomPassword(f"{name}-master", length=32, special=False, opts=child).result
        )
        snapshot = random.RandomId(
            f"{name}-final-snapshot",
            byte_length=4,
            # Only another instance has another master or key. A new suffix keeps the old one's final snapshot from being overwritten.
            keepers={
                "username": args.master_username,
                "kms_key": "" if args.kms_key_arn is None else args.kms_key_arn,
            },
            opts=child,
        )
        # The log groups need the identifier before the instance exists, so the provider cannot generate it.
        suffix = random.RandomId(f"{name}-identifier", byte_length=4, opts=child)
        identifier = args.identifier or pulumi.Output.format("{0}-{1}", name, suffix.hex)
        # Without these groups RDS makes them itself, and its own are kept for ever.
        log_groups = [
            aws.cloudwatch.LogGroup(
                f"{name}-log-{log}",
                name=pulumi.Output.format("/aws/rds/instance/{0}/{1}", identifier, log),
                retention_in_days=args.log_retention_days,
                tags=tags,
                opts=pulumi.ResourceOptions.merge(child, pulumi.ResourceOptions(ignore_changes=["name"])),
            )
            for log in LOGS
        ]
        _check_class(engine.version, args, self)
        # Of gp3 volumes from this size on RDS stripes four, which includes this much.
        striped = args.storage_type == "gp3" and max(args.allocated_storage, args.storage_there) >= STRIPED_GIB
        instance = aws.rds.Instance(
            f"{name}-instance",
            identifier=identifier,
            engine="postgres",
            engine_version=args.engine_version,
            instance_class=args.instance_class,
            allocated_storage=args.allocated_storage,
            max_allocated_storage=args.max_allocated_storage,
            storage_type=args.storage_type,
            iops=12000 if striped else None,
            storage_throughput=500 if striped else None,
            storage_encrypted=True,
            kms_key_id=args.kms_key_arn,
            username=args.master_username,
            password=pulumi.Output.secret(password),
            port=PORT,
            db_subnet_group_name=subnet_group.name,
            vpc_security_group_ids=[security_group.id],
            parameter_group_name=parameter_group.name,
            publicly_accessible=False,
            # Named, because an account may have another default, such as one that expires.
            ca_cert_identifier="rds-ca-rsa2048-g1",
            iam_database_authentication_enabled=True,
            multi_az=args.multi_az,
            backup_retention_period=args.backup_retention_days,
            backup_window=args.backup_window,
            maintenance_window=args.maintenance_window,
            copy_tags_to_snapshot=True,
            auto_minor_version_upgrade=True,
            allow_major_version_upgrade=args.allow_major_upgrade,
            apply_immediately=args.apply_immediately,
            enabled_cloudwatch_logs_exports=[*LOGS],
            database_insights_mode="standard",
            performance_insights_enabled=True,
            performance_insights_kms_key_id=args.kms_key_arn,
            monitoring_interval=args.monitoring_interval,
            monitoring_role_arn=_monitoring_role(f"{name}-monitoring", args, child)
            if args.monitoring_interval
            else None,
            deletion_protection=args.protect,
            skip_final_snapshot=not args.protect,
            final_snapshot_identifier=pulumi.Output.format("{0}-final-{1}", name, snapshot.hex)
            if args.protect
            else None,
            delete_automated_backups=not args.protect,
            tags=tags,
            opts=pulumi.ResourceOptions(
                parent=self,
                protect=args.protect,
                depends_on=log_groups,
                ignore_changes=[*FIXED],
                # An instance takes 10 to 20 minutes; a Multi-AZ conversion or a major upgrade well over an hour.
                custom_timeouts=pulumi.CustomTimeouts(create="60m", update="120m", delete="60m"),
            ),
        )
        if args.alarm_topic_arn is not None:
            aws.rds.EventSubscription(
                f"{name}-events",
                sns_topic=args.alarm_topic_arn,
                source_type="db-instance",
                source_ids=[instance.identifier],
                event_categories=[
                    "availability",
                    "configuration change",
                    "deletion",
                    "failover",
                    "failure",
                    "low storage",
                    "maintenance",
                    "recovery",
                ],
                tags=tags,
                opts=child,
            )
            aws.rds.EventSubscription(
                f"{name}-parameter-events",
                sns_topic=args.alarm_topic_arn,
                source_type="db-parameter-group",
                source_ids=[parameter_group.name],
                event_categories=["configuration change"],
                tags=tags,
                opts=child,
            )

        self.snapshot = _snapshot(name, args.snapshot_before, instance, args, child) if args.snapshot_before else None
        self.identifier = instance.identifier
        self.address = instance.address
        self.port = instance.port
        self.master_username = instance.username
        self.master_password = pulumi.Output.secret(password)
        self.register_outputs({"identifier": self.identifier, "address": self.address, "port": self.port})


def _check_subnets(subnets: Sequence[Subnet]) -> Sequence[Subnet]:
    """Refuse subnets in which RDS fails, or in which one mistake exposes the instance to the internet."""
    problems = [
        f"{subnet.id} is public: its route table leads to {subnet.internet_gateway}; name subnets without a route to an internet gateway"
        for subnet in subnets
        if subnet.internet_gateway
    ]
    zones: dict[str, list[str]] = defaultdict(list)
    for subnet in subnets:
        zones[subnet.availability_zone].append(subnet.id)
    if len(zones) < 2:
        where = "; ".join(f"{', '.join(ids)} in {zone}" for zone, ids in zones.items()) or "none found"
        problems.append(f"RDS needs private subnets in two zones at least ({where}); name them or add one to the VPC")
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise pulumi.RunError(f"subnets of the database are not suitable:\n{lines}")
    return subnets


def _offered_engine(version: str, parent: pulumi.Resource) -> aws.rds.GetEngineVersionResult:
    """Return the newest minor version of a major version, which the region must know."""
    try:
        # A plain call, not an output: its error can be caught and explained. All versions: one that AWS offers no more to new instances
        # still runs in old ones.
        return aws.rds.get_engine_version(
            engine="postgres",
            version=version,
            latest=True,
            include_all=True,
            opts=pulumi.InvokeOptions(parent=parent),
        )
    except Exception as error:
        raise pulumi.RunError(
            f"engine version {version} of PostgreSQL is not offered in this region ({error}); write a major version that "
            "`aws rds describe-db-engine-versions --engine postgres` lists"
        ) from None


def _check_class(version: str, args: PrivatePostgresArgs, parent: pulumi.Resource) -> None:
    """Refuse a class that the region does not offer for this version and storage, before anything is created."""
    try:
        aws.rds.get_orderable_db_instance(
            engine="postgres",
            engine_version=version,
            instance_class=args.instance_class,
            storage_type=args.storage_type,
            vpc=True,
            opts=pulumi.InvokeOptions(parent=parent),
        )
    except Exception as error:
        # More than one offer is an offer.
        if "multiple" not in str(error):
            raise pulumi.RunError(
                f"{args.instance_class} with {args.storage_type} is not offered for PostgreSQL {version} in this region ({error}); write a class "
                f"that `aws rds describe-orderable-db-instance-options --engine postgres --engine-version {version}` lists"
            ) from None


def _snapshot(
    name: str, version: str, instance: aws.rds.Instance, args: PrivatePostgresArgs, opts: pulumi.ResourceOptions
) -> aws.rds.Snapshot:
    """Return a snapshot that is taken when the version changes, and at no other time.

    The first `up` takes one of an empty database: if it came with the second `up`, that would change something without a cause.
    """
    before = re.sub(r"[^a-z0-9]+", "-", version.lower()).strip("-")
    # A second upgrade to the same version, after a way back, needs another name. So does the upgrade of a restored instance.
    suffix = random.RandomId(
        f"{name}-upgrade-snapshot-suffix",
        byte_length=4,
        keepers={"mlflow": before, "instance": instance.resource_id},
        opts=opts,
    )
    return aws.rds.Snapshot(
        f"{name}-upgrade-snapshot",
        db_instance_identifier=instance.identifier,
        db_snapshot_identifier=pulumi.Output.format("{0}-before-mlflow-{1}-{2}", name, before, suffix.hex),
        tags={**args.tags},
        opts=pulumi.ResourceOptions.merge(
            opts,
            pulumi.ResourceOptions(
                # The snapshot of the next version replaces it. An attempt to go back would delete the very one that the way back needs.
                retain_on_delete=args.protect,
                # The provider gives up after 20 minutes.
                custom_timeouts=pulumi.CustomTimeouts(create="120m"),
            ),
        ),
    )


def _monitoring_role(name: str, args: PrivatePostgresArgs, opts: pulumi.ResourceOptions) -> pulumi.Output[str]:
    def trust(account_id: str) -> str:
        statement = {
            "Effect": "Allow",
            "Principal": {"Service": "monitoring.rds.amazonaws.com"},
            "Action": "sts:AssumeRole",
            # The service acts for every account; only instances of this account are meant.
            "Condition": {"StringEquals": {"aws:SourceAccount": account_id}},
        }
        return json.dumps({"Version": "2012-10-17", "Statement": [statement]}, sort_keys=True)

    role = aws.iam.Role(
        name,
        assume_role_policy=pulumi.Output.from_input(args.account_id).apply(trust),
        permissions_boundary=args.permissions_boundary,
        path=args.role_path,
        tags={**args.tags},
        opts=opts,
    )
    policy = aws.iam.RolePolicyAttachment(
        f"{name}-policy",
        role=role.name,
        policy_arn=pulumi.Output.format(
            "arn:{0}:iam::aws:policy/service-role/AmazonRDSEnhancedMonitoringRole", args.partition
        ),
        opts=opts,
    )
    # RDS refuses a role without the policy.
    return pulumi.Output.all(role.arn, policy.id).apply(lambda known: str(known[0]))
