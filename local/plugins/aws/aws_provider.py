# botocore has no types of its own.
# pyright: reportMissingTypeStubs=false
"""The package `aws`, with every resource type and function of its stand-in."""

from importlib.metadata import version

from botocore.exceptions import BotoCoreError, ClientError

from local.plugins.aws import cloudwatch, ec2, iam, rds, route53, s3
from local.plugins.aws.lookups import FUNCTIONS
from local.plugins.provider_base import Provider
from local.supervisor.spec import SupervisorError
from local.tools import ToolError


class Aws(Provider):
    """The package `aws`."""

    package = "aws"
    version = version("pulumi-aws")
    errors = (BotoCoreError, ClientError, SupervisorError, ToolError)

    def __init__(self) -> None:
        resources = [
            cloudwatch.LogGroup(),
            cloudwatch.MetricAlarm(),
            ec2.SecurityGroup(),
            ec2.SecurityGroupIngressRule(),
            iam.PodIdentityAssociation(),
            iam.Role(),
            iam.RolePolicy(),
            iam.RolePolicyAttachment(),
            rds.EventSubscription(),
            rds.Instance(),
            rds.ParameterGroup(),
            rds.Snapshot(),
            rds.SubnetGroup(),
            route53.Record(),
            s3.Bucket(),
            s3.BucketLifecycleConfiguration(),
            s3.BucketOwnershipControls(),
            s3.BucketPolicy(),
            s3.BucketPublicAccessBlock(),
            s3.BucketServerSideEncryptionConfiguration(),
            s3.BucketVersioning(),
        ]
        super().__init__(resources, FUNCTIONS)
