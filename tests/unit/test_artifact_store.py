"""ArtifactStore: a bucket that only the pods can use, and a role that can use only the bucket."""

import json
from typing import Any

import pulumi
import pytest

from components.artifact_store import ArtifactStore, ArtifactStoreArgs
from tests.unit.harness import MINIMAL, Account, Deployment, changed, deploy, refused

ARN = "arn:aws:s3:::artifacts-bucket-1234567"
ISSUER = "oidc.eks.eu-west-1.amazonaws.com/id/0123"


@pytest.fixture(scope="module")
def irsa() -> Deployment:
    config = changed(
        MINIMAL,
        {"artifacts.identity": "irsa", "artifacts.bucket": "team-artifacts", "mlflow.namespace": "tracking"},
    )
    return deploy(config)


def statements(deployment: Deployment, name: str, key: str) -> list[dict[str, Any]]:
    return json.loads(deployment.named(name)[key])["Statement"]


def allowed(deployment: Deployment) -> list[dict[str, Any]]:
    """Return the statements that let the pods do something."""
    return [each for each in statements(deployment, "artifacts-policy", "policy") if each["Effect"] == "Allow"]


def test_the_bucket_is_private(dev: Deployment) -> None:
    block = dev.named("artifacts-bucket-private")
    assert block["bucket"] == "artifacts-bucket-1234567"
    for switch in ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets"):
        assert block[switch] is True
    assert dev.named("artifacts-bucket-no-acls")["rule"] == {"objectOwnership": "BucketOwnerEnforced"}


def test_the_bucket_is_encrypted_and_keeps_versions(dev: Deployment) -> None:
    (rule,) = dev.named("artifacts-bucket-encryption")["rules"]
    assert rule["applyServerSideEncryptionByDefault"]["sseAlgorithm"] == "aws:kms"
    # Without a bucket key each object is a call to KMS, which costs money and is throttled.
    assert rule["bucketKeyEnabled"] is True
    assert dev.named("artifacts-bucket-versions")["versioningConfiguration"] == {"status": "Enabled"}


def test_old_versions_and_broken_uploads_go_away_by_themselves(dev: Deployment) -> None:
    lifecycle = dev.named("artifacts-bucket-lifecycle")
    (rule,) = lifecycle["rules"]
    assert rule["status"] == "Enabled"
    assert rule["noncurrentVersionExpiration"] == {"noncurrentDays": 30}
    assert rule["abortIncompleteMultipartUpload"]["daysAfterInitiation"] <= 7
    # Current versions are never deleted.
    assert "expiration" not in rule
    assert "artifacts-bucket-versions" in lifecycle.depends_on


def test_the_bucket_is_reached_over_tls_only(dev: Deployment) -> None:
    (statement,) = statements(dev, "artifacts-bucket-tls-only", "policy")
    assert (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", "s3:*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert statement["Resource"] == [ARN, f"{ARN}/*"]
    # S3 answers 409 to two changes of a bucket's access at the same time.
    assert "artifacts-bucket-private" in dev.named("artifacts-bucket-tls-only").depends_on


def test_a_protected_stack_keeps_its_artifacts(prod: Deployment) -> None:
    assert prod.named("artifacts-bucket").protect
    assert prod.named("artifacts-bucket")["forceDestroy"] is False


def test_a_stack_that_is_not_protected_leaves_no_bucket_behind(dev: Deployment) -> None:
    assert not dev.named("artifacts-bucket").protect
    assert dev.named("artifacts-bucket")["forceDestroy"] is True


@pytest.mark.parametrize(("stack", "arn"), [("dev", ARN), ("irsa", "arn:aws:s3:::team-artifacts")])
def test_the_pods_may_use_the_bucket_and_nothing_else(request: pytest.FixtureRequest, stack: str, arn: str) -> None:
    deployment: Deployment = request.getfixturevalue(stack)
    for statement in allowed(deployment):
        assert statement["Resource"] in {arn, f"{arn}/*"}
        for action in statement["Action"]:
            assert action.startswith("s3:")
            assert "*" not in action
            assert not action.startswith(("s3:PutBucket", "s3:DeleteBucket")), "could undo all of the above"
    assert deployment.named("artifacts-policy")["role"] == "artifacts-role"
    policies = [
        resource.name for resource in deployment.resources if "olicy" in resource.type and "iam" in resource.type
    ]
    assert {name for name in policies if name.startswith("artifacts")} == {"artifacts-policy"}


def test_the_pods_may_do_what_mlflow_does_with_artifacts(dev: Deployment) -> None:
    actions = {action for statement in allowed(dev) for action in statement["Action"]}
    assert {"s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject"} <= actions


def denied(deployment: Deployment, action: str, **facts: str | int) -> bool:
    """Return True if a statement of the pods' policy denies an action on an object under some facts about the request."""

    def holds(operator: str, key: str, value: str) -> bool:
        fact = facts.get(key.partition(":")[2])
        if operator == "NumericGreaterThan":
            return fact is not None and int(fact) > int(value)
        return fact == value

    return any(
        statement["Effect"] == "Deny"
        and (
            action not in statement["NotAction"]
            if "NotAction" in statement
            else statement["Action"] in ("s3:*", action)
        )
        and all(holds(operator, *pair) for operator, pairs in statement["Condition"].items() for pair in pairs.items())
        for statement in statements(deployment, "artifacts-policy", "policy")
    )


SIGNED: dict[str, str | int] = {"authType": "REST-QUERY-STRING", "SecureTransport": "true", "signatureAge": 1000}
"""Facts about a request by an address that a pod has signed a second ago."""


@pytest.mark.parametrize("bucket", [None, "team-artifacts"])
def test_no_signed_address_works_where_files_pass_through_the_pods(bucket: str | None) -> None:
    deployment = deploy(changed(MINIMAL, {"artifacts.bucket": bucket} if bucket else {}))
    for action in ("s3:GetObject", "s3:PutObject", "s3:ListBucket", "s3:DeleteObject"):
        assert denied(deployment, action, **SIGNED)
        assert not denied(deployment, action, authType="REST-HEADER", signatureAge=1000), "a pod's own request"


@pytest.mark.parametrize("bucket", [None, "team-artifacts"])
def test_signed_addresses_transfer_files_over_tls_for_as_long_as_mlflow_signs_them(bucket: str | None) -> None:
    deployment = deploy(
        changed(MINIMAL, {"artifacts.transfers": "direct"} | ({"artifacts.bucket": bucket} if bucket else {}))
    )
    for action, seconds in {"s3:GetObject": 300, "s3:PutObject": 3600}.items():
        assert not denied(deployment, action, **{**SIGNED, "signatureAge": seconds * 1000})
        assert denied(deployment, action, **{**SIGNED, "signatureAge": seconds * 1000 + 1})
        assert denied(deployment, action, **{**SIGNED, "SecureTransport": "false"})
        assert not denied(deployment, action, authType="REST-HEADER", signatureAge=7_200_000), "a pod's own request"
    for action in ("s3:ListBucket", "s3:DeleteObject", "s3:AbortMultipartUpload"):
        assert denied(deployment, action, **SIGNED)
    (limits,) = {
        json.dumps(each["Resource"])
        for each in statements(deployment, "artifacts-policy", "policy")
        if each["Effect"] == "Deny"
    }
    arn = f"arn:aws:s3:::{bucket}" if bucket else ARN
    assert json.loads(limits) == [arn, f"{arn}/*"]


@pytest.mark.parametrize("transfers", ["direct", "proxied"])
def test_the_pods_are_told_which_way_files_take(transfers: str) -> None:
    environment = deploy(changed(MINIMAL, {"artifacts.transfers": transfers})).environment
    assert environment["ARTIFACT_TRANSFERS"] == transfers
    # Signed for the host of the bucket's region.
    assert (environment.get("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE") == "virtual") == (transfers == "direct")


def test_pod_identity_gives_the_role_to_the_charts_service_account_only(dev: Deployment) -> None:
    identity = dev.named("artifacts-identity")
    account = dev.values["serviceAccount"]["name"]
    assert identity["clusterName"] == "my-dev-cluster"
    assert (identity["namespace"], identity["serviceAccount"]) == ("mlflow", account)
    assert identity["roleArn"].endswith("role/artifacts-role")
    (trust,) = statements(dev, "artifacts-role", "assumeRolePolicy")
    assert trust["Principal"] == {"Service": "pods.eks.amazonaws.com"}
    assert trust["Action"] == ["sts:AssumeRole", "sts:TagSession"]
    assert trust["Condition"] == {
        "StringEquals": {
            "aws:SourceAccount": "123456789012",
            "aws:RequestTag/kubernetes-namespace": "mlflow",
            "aws:RequestTag/kubernetes-service-account": account,
        },
        "ArnLike": {"aws:SourceArn": "arn:aws:eks:*:123456789012:cluster/my-dev-cluster"},
    }
    # Only IRSA needs an annotation.
    assert "annotations" not in dev.values["serviceAccount"]


def test_irsa_gives_the_role_to_the_charts_service_account_only(irsa: Deployment) -> None:
    (trust,) = statements(irsa, "artifacts-role", "assumeRolePolicy")
    assert trust["Principal"] == {"Federated": f"arn:aws:iam::123456789012:oidc-provider/{ISSUER}"}
    assert trust["Action"] == "sts:AssumeRoleWithWebIdentity"
    account = irsa.values["serviceAccount"]
    assert trust["Condition"] == {
        "StringEquals": {
            f"{ISSUER}:aud": "sts.amazonaws.com",
            f"{ISSUER}:sub": f"system:serviceaccount:tracking:{account['name']}",
        }
    }
    assert account["annotations"] == {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/artifacts-role"}
    assert not irsa.of_type("aws:eks/podIdentityAssociation:PodIdentityAssociation")


def test_a_bucket_that_exists_is_used_as_it_is(irsa: Deployment) -> None:
    assert not [resource for resource in irsa.resources if resource.type.startswith("aws:s3/")]
    assert irsa.values["artifactRoot"]["s3"]["bucket"] == "team-artifacts"


KEY = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"


def test_a_bucket_with_a_key_of_the_owners_lets_the_pods_use_that_key() -> None:
    config = changed(MINIMAL, {"artifacts": {"bucket": "team-artifacts", "kmsKeyArn": KEY}})
    keys = [each for each in statements(deploy(config), "artifacts-policy", "policy") if each["Resource"] == KEY]
    # Without GenerateDataKey nothing can be written, without Decrypt nothing can be read or uploaded in parts.
    assert [set(each["Action"]) for each in keys] == [{"kms:Decrypt", "kms:GenerateDataKey"}]


def test_a_bucket_of_ours_is_encrypted_with_the_key_of_the_settings(dev: Deployment) -> None:
    own = deploy(changed(MINIMAL, {"artifacts.kmsKeyArn": KEY}))
    (rule,) = own.named("artifacts-bucket-encryption")["rules"]
    assert rule["applyServerSideEncryptionByDefault"]["kmsMasterKeyId"] == KEY
    (rule,) = dev.named("artifacts-bucket-encryption")["rules"]
    assert rule["applyServerSideEncryptionByDefault"]["kmsMasterKeyId"] is None


def test_a_key_that_a_client_brings_and_may_lose_is_blocked(dev: Deployment) -> None:
    (rule,) = dev.named("artifacts-bucket-encryption")["rules"]
    assert rule["blockedEncryptionTypes"] == ["SSE-C"]


def test_a_refresh_leaves_to_other_resources_what_they_set(dev: Deployment) -> None:
    ignored = set(dev.named("artifacts-bucket").ignore_changes)
    assert {"lifecycleRules", "policy", "serverSideEncryptionConfiguration", "versioning"} == ignored


def test_a_bucket_that_does_not_exist_is_named_with_how_to_look() -> None:
    config = changed(MINIMAL, {"artifacts.bucket": "team-artefacts"})
    refusal = refused(config, account=Account(missing_buckets=["team-artefacts"]))
    assert isinstance(refusal.error, pulumi.RunError)
    assert "the bucket team-artefacts cannot be read" in refusal.message
    assert "aws s3api head-bucket --bucket team-artefacts" in refusal.message


def test_a_bucket_in_another_region_is_used_there() -> None:
    config = changed(MINIMAL, {"artifacts.bucket": "team-artifacts"})
    assert deploy(config, account=Account(bucket_region="us-east-1")).environment["AWS_DEFAULT_REGION"] == "us-east-1"


def test_pods_roll_when_their_identity_is_another(dev: Deployment) -> None:
    # A pod gets credentials when it is created.
    assert dev.values["podAnnotations"]["checksum/identity"] == "a-1"


def test_no_pod_starts_before_it_may_use_the_bucket(dev: Deployment, irsa: Deployment) -> None:
    # A pod that starts before its identity exists never gets the identity. It must be restarted.
    assert {"artifacts-bucket", "artifacts-policy", "artifacts-identity"} <= set(dev.named("mlflow-release").depends_on)
    assert {"artifacts-role", "artifacts-policy"} <= set(irsa.named("mlflow-release").depends_on)


def test_pods_roll_when_the_way_to_their_identity_changes(dev: Deployment, irsa: Deployment) -> None:
    # Both stacks have the same passwords and the same login, so only the identity differs.
    assert dev.values["podAnnotations"] != irsa.values["podAnnotations"]


@pytest.mark.parametrize("role", ["artifacts-role", "postgres-monitoring"])
def test_each_role_has_the_boundary_and_the_path_of_the_settings(role: str, dev: Deployment) -> None:
    boundary = "arn:aws:iam::123456789012:policy/boundary"
    inputs = (
        deploy(changed(MINIMAL, {"iam": {"permissionsBoundary": boundary, "path": "/platform/"}})).named(role).inputs
    )
    assert (inputs["permissionsBoundary"], inputs["path"]) == (boundary, "/platform/")
    # Without the settings a role has the inputs that it had before them.
    assert not {"permissionsBoundary", "path"} & dev.named(role).inputs.keys()


@pytest.fixture(scope="module")
def china() -> Deployment:
    return deploy(MINIMAL, account=Account(partition="aws-cn"), preview=True)


def test_the_role_is_for_the_partition_that_the_cluster_is_in(china: Deployment) -> None:
    (trust,) = statements(china, "artifacts-role", "assumeRolePolicy")
    assert trust["Condition"]["ArnLike"]["aws:SourceArn"].startswith("arn:aws-cn:eks:")


def test_the_policy_of_enhanced_monitoring_is_the_partitions(china: Deployment) -> None:
    assert china.named("postgres-monitoring-policy")["policyArn"].startswith("arn:aws-cn:iam::aws:policy/")


def test_a_store_can_use_the_bucket_that_another_one_creates() -> None:
    def program() -> None:
        def store(team: str, bucket: pulumi.Output[str] | None) -> ArtifactStore:
            args = ArtifactStoreArgs(
                cluster_name="my-cluster",
                account_id="123456789012",
                partition="aws",
                oidc_issuer=ISSUER,
                namespace=team,
                service_account="mlflow",
                bucket=bucket,
            )
            return ArtifactStore(team, args)

        store("blue", store("red", None).bucket)

    deployment = deploy({}, program=program)
    assert [bucket.name for bucket in deployment.of_type("aws:s3/bucket:Bucket")] == ["red-bucket"]
    granted = [each for each in statements(deployment, "blue-policy", "policy") if each["Effect"] == "Allow"]
    in_bucket = {statement["Resource"] for statement in granted}
    assert in_bucket == {"arn:aws:s3:::red-bucket-1234567", "arn:aws:s3:::red-bucket-1234567/*"}
