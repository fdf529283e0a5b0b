"""State bucket, key, identity provider and roles of a stack. Each is made once; a second run only puts right what differs."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from operations.checks import MissingError
from operations.iam import policies
from operations.iam.policies import GITHUB, Place, Policy
from settings import PROJECT

AUDIENCE = "sts.amazonaws.com"
"""Audience of the tokens with which the workflows log in."""
HOUR = 3600
SESSION_OF_UP = 10800
"""Seconds that a session of the deploying role may last: longer than the job of up.yml, and what that job asks for."""
MOST_VERSIONS = 5
"""Versions of a managed policy that IAM keeps."""
ABSENT = ("NoSuchEntity", "NotFound", "Not Found", "(404)", "NoSuchBucket")
"""Words of AWS for a thing that is not there."""

Call = Callable[..., Any]
"""A call of the ``aws`` command, which returns the answer's JSON."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Names:
    """Names of what the account gets for a stack."""

    bucket: str
    """Bucket of the state."""
    key_alias: str
    """Alias of the key that encrypts the state's secrets."""
    deploy_role: str
    preview_role: str

    @classmethod
    def of(cls, stack: str, account: str, region: str, bucket: str | None = None) -> "Names":
        """Return the names for a stack. None as bucket: one with the account's number, because bucket names are unique in the world."""
        return cls(
            bucket=bucket or f"{PROJECT}-state-{stack}-{account}-{region}",
            key_alias=f"alias/{PROJECT}-{stack}",
            deploy_role=f"{PROJECT}-{stack}",
            preview_role=f"{PROJECT}-{stack}-preview",
        )


@dataclass(frozen=True)
class Account:
    """An AWS account, in which an administrator makes the parts of a stack."""

    aws: Call
    say: Say
    """Function that gets a sentence about each thing that was made or changed."""
    path: str = "/"
    """Path of the roles and policies."""
    boundary: str | None = None
    """ARN of the permissions boundary of the roles. None: they have none."""

    def make(self, place: Place, names: Names) -> dict[str, str]:
        """Make everything, and return the ARNs of the two roles by the environment of each, and the ARN of the key.

        Args:
            place: account, region, repository and stack. Its bucket and key are filled in here.
            names: names of the parts.

        Raises:
            MissingError: AWS refused a call.
        """
        self._bucket(place, names.bucket)
        key = self._key(place, names.key_alias)
        place = replace(place, state_bucket=names.bucket, state_key=key)
        self._identity_provider(place)
        reading, deploying = policies.preview(place), policies.deploy(place)
        preview = self._role(
            names.preview_role, policies.trust(place, f"{place.stack}-preview", f"{place.stack}-plan"), HOUR
        )
        deploy = self._role(names.deploy_role, policies.trust(place, place.stack), SESSION_OF_UP)
        documents = {
            **{f"{names.deploy_role}-preview-{number}": policy for number, policy in enumerate(reading, 1)},
            **{f"{names.deploy_role}-deploy-{number}": policy for number, policy in enumerate(deploying, 1)},
        }
        arns = {name: self._policy(place, name, policy) for name, policy in documents.items()}
        read_only = [arns[f"{names.deploy_role}-preview-{number}"] for number in range(1, len(reading) + 1)]
        self._attach(names.preview_role, read_only)
        self._attach(names.deploy_role, list(arns.values()))
        return {"preview": preview, "deploy": deploy, "key": key}

    def _bucket(self, place: Place, name: str) -> None:
        if self._asked("s3api", "head-bucket", "--bucket", name) is None:
            # The oldest region is the only one that must not be named.
            where = {} if place.region == "us-east-1" else {"LocationConstraint": place.region}
            options = ["--create-bucket-configuration", json.dumps(where)] if where else []
            self.aws("s3api", "create-bucket", "--bucket", name, *options)
            self.say(f"made the bucket {name}")
        settings: Mapping[str, tuple[str, Any]] = {
            "bucket-versioning": ("--versioning-configuration", {"Status": "Enabled"}),
            "public-access-block": (
                "--public-access-block-configuration",
                dict.fromkeys(
                    ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
                ),
            ),
            # The secrets in the state are encrypted with the stack's key in addition.
            "bucket-encryption": (
                "--server-side-encryption-configuration",
                {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]},
            ),
            "bucket-policy": ("--policy", _tls_only(place, name)),
        }
        for what, (option, value) in settings.items():
            self.aws("s3api", f"put-{what}", "--bucket", name, option, json.dumps(value))

    def _key(self, place: Place, alias: str) -> str:
        found = self._asked("kms", "describe-key", "--key-id", alias)
        if found is None:
            tags = [{"TagKey": "Project", "TagValue": PROJECT}, {"TagKey": "Stack", "TagValue": place.stack}]
            described = f"Secrets of the Pulumi stack {place.stack} of {PROJECT}"
            found = self.aws("kms", "create-key", "--description", described, "--tags", json.dumps(tags))
            self.aws("kms", "create-alias", "--alias-name", alias, "--target-key-id", found["KeyMetadata"]["KeyId"])
            self.say(f"made the key {alias}")
        key: Mapping[str, str] = found["KeyMetadata"]
        if not self.aws("kms", "get-key-rotation-status", "--key-id", key["KeyId"])["KeyRotationEnabled"]:
            self.aws("kms", "enable-key-rotation", "--key-id", key["KeyId"])
            self.say(f"switched on the yearly rotation of {alias}")
        return key["Arn"]

    def _identity_provider(self, place: Place) -> None:
        arn = f"arn:{place.partition}:iam::{place.account}:oidc-provider/{GITHUB}"
        found = self._asked("iam", "get-open-id-connect-provider", "--open-id-connect-provider-arn", arn)
        if found is None:
            made = ["--url", f"https://{GITHUB}", "--client-id-list", AUDIENCE]
            self.aws("iam", "create-open-id-connect-provider", *made)
            self.say(f"made the identity provider {GITHUB}")
        elif AUDIENCE not in found.get("ClientIDList", []):
            which = ["--open-id-connect-provider-arn", arn, "--client-id", AUDIENCE]
            self.aws("iam", "add-client-id-to-open-id-connect-provider", *which)
            self.say(f"added the audience {AUDIENCE} to the identity provider {GITHUB}")

    def _role(self, name: str, trust: Policy, session: int) -> str:
        found = self._asked("iam", "get-role", "--role-name", name)
        bound = ["--permissions-boundary", self.boundary] if self.boundary else []
        if found is None:
            options = ["--path", self.path, "--max-session-duration", str(session), *bound]
            document = ["--assume-role-policy-document", json.dumps(trust)]
            found = self.aws("iam", "create-role", "--role-name", name, *document, *options)
            self.say(f"made the role {name}")
            return found["Role"]["Arn"]
        role: Mapping[str, Any] = found["Role"]
        if role["AssumeRolePolicyDocument"] != trust:
            self.aws(*("iam", "update-assume-role-policy", "--role-name", name, "--policy-document", json.dumps(trust)))
            self.say(f"changed who may take the role {name}")
        if role.get("MaxSessionDuration", HOUR) != session:
            self.aws("iam", "update-role", "--role-name", name, "--max-session-duration", str(session))
            self.say(f"changed the longest session of {name} to {session} s")
        if self.boundary and role.get("PermissionsBoundary", {}).get("PermissionsBoundaryArn") != self.boundary:
            self.aws("iam", "put-role-permissions-boundary", "--role-name", name, *bound)
            self.say(f"gave the role {name} its permissions boundary")
        return role["Arn"]

    def _policy(self, place: Place, name: str, document: Policy) -> str:
        arn = f"arn:{place.partition}:iam::{place.account}:policy{self.path}{name}"
        found = self._asked("iam", "get-policy", "--policy-arn", arn)
        if found is None:
            options = ["--path", self.path, "--policy-document", json.dumps(document)]
            self.aws("iam", "create-policy", "--policy-name", name, *options)
            self.say(f"made the policy {name}")
            return arn
        version = found["Policy"]["DefaultVersionId"]
        current = self.aws("iam", "get-policy-version", "--policy-arn", arn, "--version-id", version)
        if current["PolicyVersion"]["Document"] != document:
            versions: list[dict[str, Any]] = self.aws("iam", "list-policy-versions", "--policy-arn", arn)["Versions"]
            if len(versions) >= MOST_VERSIONS:
                oldest = min(
                    (each for each in versions if not each["IsDefaultVersion"]),
                    key=lambda each: int(each["VersionId"].removeprefix("v")),
                )
                self.aws("iam", "delete-policy-version", "--policy-arn", arn, "--version-id", oldest["VersionId"])
            options = ["--policy-document", json.dumps(document), "--set-as-default"]
            self.aws("iam", "create-policy-version", "--policy-arn", arn, *options)
            self.say(f"changed the policy {name}")
        return arn

    def _attach(self, role: str, arns: Sequence[str]) -> None:
        answer = self.aws("iam", "list-attached-role-policies", "--role-name", role)
        attached: set[str] = {each["PolicyArn"] for each in answer["AttachedPolicies"]}
        for arn in arns:
            if arn not in attached:
                self.aws("iam", "attach-role-policy", "--role-name", role, "--policy-arn", arn)
                self.say(f"attached {arn.rpartition('/')[2]} to {role}")
        # Rights that somebody added by hand would make the two roles alike.
        for arn in sorted(attached.difference(arns)):
            self.aws("iam", "detach-role-policy", "--role-name", role, "--policy-arn", arn)
            self.say(f"detached {arn.rpartition('/')[2]} from {role}")

    def _asked(self, *call: str) -> Any | None:
        """Return the answer to a question, or None if there is no such thing."""
        try:
            return self.aws(*call)
        except MissingError as error:
            if any(word in str(error) for word in ABSENT):
                return None
            raise


def _tls_only(place: Place, bucket: str) -> Policy:
    arn = f"arn:{place.partition}:s3:::{bucket}"
    statement = {
        "Sid": "TlsOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [arn, f"{arn}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    return {"Version": "2012-10-17", "Statement": [statement]}
