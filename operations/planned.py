"""The AWS resources that `up` creates for a stack, reckoned from its settings without asking the engine.

`tests/operations/test_planned.py` compares them with those that the program registers.
"""

from collections import Counter

from settings.all_settings import Settings
from settings.max_connections import max_connections
from settings.postgres import AllowFrom

WORDS = {
    "aws:cloudwatch/logGroup:LogGroup": "log group",
    "aws:cloudwatch/metricAlarm:MetricAlarm": "CloudWatch alarm",
    "aws:ec2/securityGroup:SecurityGroup": "security group",
    "aws:eks/podIdentityAssociation:PodIdentityAssociation": "Pod Identity association",
    "aws:iam/role:Role": "IAM role",
    "aws:iam/rolePolicy:RolePolicy": "policy of a role",
    "aws:iam/rolePolicyAttachment:RolePolicyAttachment": "attached policy",
    "aws:rds/eventSubscription:EventSubscription": "RDS event subscription",
    "aws:rds/instance:Instance": "RDS instance",
    "aws:rds/parameterGroup:ParameterGroup": "parameter group",
    "aws:rds/snapshot:Snapshot": "snapshot",
    "aws:rds/subnetGroup:SubnetGroup": "subnet group",
    "aws:route53/record:Record": "DNS record",
    "aws:s3/bucket:Bucket": "bucket",
    "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": "setting of the bucket",
    "aws:s3/bucketOwnershipControls:BucketOwnershipControls": "setting of the bucket",
    "aws:s3/bucketPolicy:BucketPolicy": "setting of the bucket",
    "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": "setting of the bucket",
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": "setting of the bucket",
    "aws:s3/bucketVersioning:BucketVersioning": "setting of the bucket",
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": "security group rule",
}
"""Type of a resource to its name for a person."""


def aws_resources(settings: Settings) -> dict[str, int]:
    """Return the types of the AWS resources of a stack, each with its number.

    Args:
        settings: the stack's settings. With `allowFrom: vpc` the VPC is taken to have one network.
    """
    found = Counter[str]()
    if not settings.on_eks:
        return {}
    if not settings.postgres.existing:
        found.update(_of_the_instance(settings))
    found["aws:iam/role:Role"] += 1
    found["aws:iam/rolePolicy:RolePolicy"] += 1
    if settings.artifacts.identity == "podIdentity":
        found["aws:eks/podIdentityAssociation:PodIdentityAssociation"] += 1
    if settings.artifacts.bucket is None:
        found.update(kind for kind in WORDS if kind.startswith("aws:s3/"))
    if settings.ingress.certificate_arn and settings.postgres.alarm_topic_arn:
        found["aws:cloudwatch/metricAlarm:MetricAlarm"] += 1
    if settings.mlflow.dns_zone:
        found["aws:route53/record:Record"] += 1
    return dict(found)


def _of_the_instance(settings: Settings) -> Counter[str]:
    section = settings.postgres
    found = Counter(
        [
            "aws:ec2/securityGroup:SecurityGroup",
            "aws:rds/instance:Instance",
            "aws:rds/parameterGroup:ParameterGroup",
            "aws:rds/subnetGroup:SubnetGroup",
        ]
    )
    allowed = section.allow_from
    listed = isinstance(allowed, AllowFrom)
    sources = len({*allowed.cidrs, *allowed.security_groups}) + allowed.cluster if listed else 1
    found["aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"] = sources
    found["aws:cloudwatch/logGroup:LogGroup"] = 2
    if section.snapshot_before_upgrade:
        found["aws:rds/snapshot:Snapshot"] = 1
    if section.monitoring_interval:
        found.update(["aws:iam/role:Role", "aws:iam/rolePolicyAttachment:RolePolicyAttachment"])
    if section.alarm_topic_arn:
        found["aws:rds/eventSubscription:EventSubscription"] = 2
        # The alarm on connections needs to know how many the class has.
        found["aws:cloudwatch/metricAlarm:MetricAlarm"] = 3 if max_connections(section.instance_class) is None else 4
    return found
