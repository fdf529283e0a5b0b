"""ArtifactStore: a bucket for artifacts, and an AWS role of the pods for this bucket and nothing else."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pulumi
import pulumi_aws as aws

KEEP_OLD_VERSIONS_DAYS = 30
"""Days for which an overwritten or deleted artifact can be restored."""

SIGNED_SECONDS = {"s3:GetObject": 300, "s3:PutObject": 3600}
"""Action that an address may be signed for, to the seconds after which S3 refuses the address: MLflow's own for each. The addresses of all
parts of an upload are signed when it begins."""


@dataclass(frozen=True)
class ArtifactStoreArgs:
    """Arguments of `ArtifactStore`."""

    cluster_name: str
    """Name of the EKS cluster."""
    account_id: pulumi.Input[str]
    """AWS account of the cluster."""
    partition: pulumi.Input[str]
    """AWS partition: ``aws``, ``aws-cn`` or ``aws-us-gov``."""
    oidc_issuer: pulumi.Input[str]
    """Issuer of the cluster's service account tokens, without ``https://``. Only IRSA needs it."""
    namespace: str
    """Namespace of the pods."""
    service_account: str
    """Service account of the pods."""
    identity: Literal["podIdentity", "irsa"] = "podIdentity"
    """Way in which the service account gets the role, default EKS Pod Identity."""
    bucket: pulumi.Input[str] | None = None
    """Name of a bucket that exists. A text is looked up, an output is taken as it comes. None: the component creates one."""
    kms_key_arn: pulumi.Input[str] | None = None
    """KMS key that the bucket is encrypted with. None: the account's key ``aws/s3``."""
    direct: bool = False
    """True if clients may transfer objects by addresses that the pods sign. Default false: S3 refuses such addresses."""
    protect: bool = True
    """True (default) to refuse the deletion of the bucket. False deletes it with everything in it."""
    permissions_boundary: pulumi.Input[str] | None = None
    """ARN of the policy that limits the role. None: no limit beyond the role's own policy."""
    role_path: pulumi.Input[str] | None = None
    """IAM path of the role, for example ``/platform/``. None: ``/``."""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    """Tags of every resource."""


class ArtifactStore(pulumi.ComponentResource):
    """A private, versioned, encrypted, TLS-only bucket that drops old versions and broken uploads, and the role for it.

    Raises:
        pulumi.RunError: the bucket that should exist does not, or is not this account's.
    """

    bucket: pulumi.Output[str]
    """Name of the bucket, once the pods may use it."""
    region: str | None
    """AWS region of a bucket that was looked up. None: the provider's."""
    role_arn: pulumi.Output[str]
    """ARN of the role, for the service account's annotation with IRSA."""
    identity: pulumi.Output[str]
    """Text that changes with the pods' identity: the role, or the association of EKS Pod Identity."""

    def __init__(self, name: str, args: ArtifactStoreArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mlflow-eks:index:ArtifactStore", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        tags = {**args.tags}

        bucket = args.bucket if args.bucket is not None else self._private_bucket(f"{name}-bucket", args, child)
        self.region = _region_of(args.bucket, self) if isinstance(args.bucket, str) else None
        bucket_arn = pulumi.Output.format("arn:{0}:s3:::{1}", args.partition, bucket)

        role = aws.iam.Role(
            f"{name}-role",
            description="MLflow's artifacts",
            assume_role_policy=pulumi.Output.all(args.account_id, args.partition, args.oidc_issuer).apply(
                lambda facts: json.dumps(_trust_policy(args, *facts), sort_keys=True)
            ),
            permissions_boundary=args.permissions_boundary,
            path=args.role_path,
            tags=tags,
            opts=child,
        )
        policy = aws.iam.RolePolicy(
            f"{name}-policy",
            role=role.name,
            policy=pulumi.Output.all(bucket_arn, args.kms_key_arn).apply(
                lambda arns: json.dumps(_role_policy(*arns, direct=args.direct), sort_keys=True)
            ),
            opts=child,
        )
        ready: list[pulumi.Output[Any]] = [policy.id]
        if args.identity == "podIdentity":
            association = aws.eks.PodIdentityAssociation(
                f"{name}-identity",
                cluster_name=args.cluster_name,
                namespace=args.namespace,
                service_account=args.service_account,
                role_arn=role.arn,
                tags=tags,
                opts=child,
            )
            ready.append(association.association_id)
        self.identity = ready[-1] if args.identity == "podIdentity" else role.arn

        # A pod that starts before its identity is bound has none until it is restarted.
        self.bucket = pulumi.Output.all(bucket, *ready).apply(lambda known: str(known[0]))
        self.role_arn = role.arn
        self.register_outputs({"bucket": self.bucket, "roleArn": self.role_arn})

    def _private_bucket(self, name: str, args: ArtifactStoreArgs, child: pulumi.ResourceOptions) -> pulumi.Output[str]:
        bucket = aws.s3.Bucket(
            name,
            force_destroy=not args.protect,
            tags={**args.tags},
            opts=pulumi.ResourceOptions(
                parent=self,
                protect=args.protect,
                # Resources of their own set these. A refresh finds them here too, and an `up` after it would take them away.
                ignore_changes=["lifecycleRules", "policy", "serverSideEncryptionConfiguration", "versioning"],
            ),
        )
        public_access = aws.s3.BucketPublicAccessBlock(
            f"{name}-private",
            bucket=bucket.id,
            block_public_acls=True,
            block_public_policy=True,
            ignore_public_acls=True,
            restrict_public_buckets=True,
            opts=child,
        )
        aws.s3.BucketOwnershipControls(
            f"{name}-no-acls", bucket=bucket.id, rule={"object_ownership": "BucketOwnerEnforced"}, opts=child
        )
        aws.s3.BucketServerSideEncryptionConfiguration(
            f"{name}-encryption",
            bucket=bucket.id,
            rules=[
                {
                    "apply_server_side_encryption_by_default": {
                        "sse_algorithm": "aws:kms",
                        "kms_master_key_id": args.kms_key_arn,
                    },
                    "bucket_key_enabled": True,
                    # S3's default for new buckets, which it reports: a key that a client sends and loses makes an artifact unreadable.
                    "blocked_encryption_types": ["SSE-C"],
                }
            ],
            opts=child,
        )
        versioning = aws.s3.BucketVersioning(
            f"{name}-versions", bucket=bucket.id, versioning_configuration={"status": "Enabled"}, opts=child
        )
        aws.s3.BucketLifecycleConfiguration(
            f"{name}-lifecycle",
            bucket=bucket.id,
            rules=[
                {
                    "id": "old-versions",
                    "status": "Enabled",
                    "filter": {"prefix": ""},
                    "noncurrent_version_expiration": {"noncurrent_days": KEEP_OLD_VERSIONS_DAYS},
                    "abort_incomplete_multipart_upload": {"days_after_initiation": 7},
                }
            ],
            # S3 refuses rules on versions of a bucket that has none yet.
            opts=pulumi.ResourceOptions.merge(child, pulumi.ResourceOptions(depends_on=[versioning])),
        )
        aws.s3.BucketPolicy(
            f"{name}-tls-only",
            bucket=bucket.id,
            policy=bucket.arn.apply(lambda arn: json.dumps(_tls_only(arn), sort_keys=True)),
            # S3 answers 409 to two changes of a bucket's access at the same time.
            opts=pulumi.ResourceOptions.merge(child, pulumi.ResourceOptions(depends_on=[public_access])),
        )
        return bucket.id


def _region_of(bucket: str, parent: pulumi.Resource) -> str:
    try:
        # A plain call, not an output: its error can be caught and explained.
        return aws.s3.get_bucket(bucket=bucket, opts=pulumi.InvokeOptions(parent=parent)).bucket_region
    except Exception as error:
        raise pulumi.RunError(
            f"the bucket {bucket} cannot be read ({error}); check its name, and that the role that runs pulumi may list it, with "
            f"`aws s3api head-bucket --bucket {bucket}`"
        ) from None


def _trust_policy(args: ArtifactStoreArgs, account_id: str, partition: str, oidc_issuer: str) -> dict[str, Any]:
    if args.identity == "podIdentity":
        statement = {
            "Effect": "Allow",
            "Principal": {"Service": "pods.eks.amazonaws.com"},
            "Action": ["sts:AssumeRole", "sts:TagSession"],
            "Condition": {
                "StringEquals": {
                    "aws:SourceAccount": account_id,
                    "aws:RequestTag/kubernetes-namespace": args.namespace,
                    "aws:RequestTag/kubernetes-service-account": args.service_account,
                },
                "ArnLike": {"aws:SourceArn": f"arn:{partition}:eks:*:{account_id}:cluster/{args.cluster_name}"},
            },
        }
    else:
        statement = {
            "Effect": "Allow",
            "Principal": {"Federated": f"arn:{partition}:iam::{account_id}:oidc-provider/{oidc_issuer}"},
            "Action": "sts:AssumeRoleWithWebIdentity",
            "Condition": {
                "StringEquals": {
                    f"{oidc_issuer}:aud": "sts.amazonaws.com",
                    f"{oidc_issuer}:sub": f"system:serviceaccount:{args.namespace}:{args.service_account}",
                }
            },
        }
    return {"Version": "2012-10-17", "Statement": [statement]}


def _role_policy(bucket_arn: str, kms_key_arn: str | None, *, direct: bool) -> dict[str, Any]:
    # Decrypt is for the parts of an upload, too. The account's own key aws/s3 lets in whoever may use the bucket.
    key = [{"Effect": "Allow", "Action": ["kms:Decrypt", "kms:GenerateDataKey"], "Resource": kms_key_arn}]
    return {
        "Version": "2012-10-17",
        "Statement": [
            *(key if kms_key_arn else []),
            {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:ListBucketMultipartUploads"], "Resource": bucket_arn},
            {
                "Effect": "Allow",
                "Action": [
                    "s3:GetObject",
                    "s3:PutObject",
                    "s3:DeleteObject",
                    "s3:AbortMultipartUpload",
                    "s3:ListMultipartUploadParts",
                ],
                "Resource": f"{bucket_arn}/*",
            },
            *_limits_of_signed_addresses(bucket_arn, direct=direct),
        ],
    }


def _limits_of_signed_addresses(bucket_arn: str, *, direct: bool) -> list[dict[str, Any]]:
    """Return statements about the addresses that the pods sign. S3 judges such a request as one of the role that signed it.

    They are in the role's policy, because a bucket that exists keeps the policy of its owner. The signature does not cover the scheme, so
    somebody who has an address could use it without TLS.
    """

    def deny(sid: str, conditions: dict[str, Any], **which: Any) -> dict[str, Any]:
        signed = {"StringEquals": {"s3:authType": "REST-QUERY-STRING"}}
        resources = [bucket_arn, f"{bucket_arn}/*"]
        return {"Sid": sid, "Effect": "Deny", "Resource": resources, **which, "Condition": signed | conditions}

    if not direct:
        return [deny("NoSignedAddresses", {}, Action="s3:*")]
    return [
        deny("SignedForTransfersOnly", {}, NotAction=list(SIGNED_SECONDS)),
        deny("SignedOverTlsOnly", {"Bool": {"aws:SecureTransport": "false"}}, Action="s3:*"),
        *(
            deny(
                f"Signed{action.removeprefix('s3:')}Ends",
                {"NumericGreaterThan": {"s3:signatureAge": str(seconds * 1000)}},
                Action=action,
            )
            for action, seconds in SIGNED_SECONDS.items()
        ),
    ]


def _tls_only(bucket_arn: str) -> dict[str, Any]:
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "TlsOnly",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": [bucket_arn, f"{bucket_arn}/*"],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        ],
    }
