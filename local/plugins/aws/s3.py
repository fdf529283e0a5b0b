# ruff: noqa: D102, S105 - the docstrings of the methods, and the types of the tables, are in `Resource`; a token is a type's name
# boto3 and jmespath have no types of their own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""S3: buckets, and the settings of a bucket that are resources."""

from typing import ClassVar

import jmespath

from local.plugins.aws.api import as_written, call, client, members, to_api, unless_gone
from local.plugins.provider_base import InvalidInput, Plain, Properties, Resource, State


class Bucket(Resource):
    """A bucket. With `forceDestroy`, a deletion first empties it."""

    token = "aws:s3/bucket:Bucket"
    supported = frozenset({"bucket", "forceDestroy", "tags"})
    replace = frozenset({"bucket"})
    computed = frozenset({"arn", "bucketDomainName", "bucketRegionalDomainName", "region"})
    autoname = "bucket"

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        name = inputs["bucket"]
        place = {"LocationConstraint": client("s3").meta.region_name}
        call("s3", "create_bucket", Bucket=name, CreateBucketConfiguration=place)
        return name, self.update(name, {}, inputs)

    def read(self, resource_id: str, inputs: Properties, outputs: Properties) -> State | None:
        if unless_gone("s3", "head_bucket", Bucket=resource_id) is None:
            return None
        return State(resource_id, inputs | {"bucket": resource_id}, self._outputs(resource_id))

    def update(self, resource_id: str, old: Properties, inputs: Properties) -> Properties:
        tags = [{"Key": key, "Value": value} for key, value in inputs.get("tags", {}).items()]
        call("s3", "put_bucket_tagging", Bucket=resource_id, Tagging={"TagSet": tags})
        return self._outputs(resource_id)

    def delete(self, resource_id: str, properties: Properties) -> None:
        if properties.get("forceDestroy"):
            for page in client("s3").get_paginator("list_object_versions").paginate(Bucket=resource_id):
                markers = page.get("DeleteMarkers", [])
                if markers:
                    # moto 5.2.5 fails at a delete marker while versions are suspended, as they are by now.
                    on = {"Status": "Enabled"}
                    call("s3", "put_bucket_versioning", Bucket=resource_id, VersioningConfiguration=on)
                # moto cannot delete an object whose last version is a delete marker, so the markers go first.
                versions = markers + page.get("Versions", [])
                objects = [{"Key": item["Key"], "VersionId": item["VersionId"]} for item in versions]
                if objects:
                    call("s3", "delete_objects", Bucket=resource_id, Delete={"Objects": objects})
        unless_gone("s3", "delete_bucket", Bucket=resource_id)

    @staticmethod
    def _outputs(name: str) -> Properties:
        region = client("s3").meta.region_name
        return {
            "arn": f"arn:aws:s3:::{name}",
            "bucketDomainName": f"{name}.s3.amazonaws.com",
            "bucketRegionalDomainName": f"{name}.s3.{region}.amazonaws.com",
            "region": region,
        }


class BucketSetting(Resource):
    """The base of a bucket's settings. Each is a resource with one value in the API."""

    replace = frozenset({"bucket"})
    inputs: ClassVar[tuple[str, ...]]
    """Inputs in addition to `bucket`."""
    name: ClassVar[str]
    """Name in the API's operations: put_NAME, get_NAME, delete_NAME."""
    parameter: ClassVar[str]
    """Parameter of put_NAME for the value."""
    answer_path: ClassVar[str]
    """JMESPath of the inputs in the answer of get_NAME."""

    def check(self, inputs: Properties) -> Properties:
        if unknown := sorted(inputs.keys() - {"bucket", *self.inputs}):
            raise InvalidInput(unknown[0], f"the local stack's stand-in for {self.token} does not know this input")
        return inputs

    def value(self, inputs: Properties) -> Plain:
        """Return the parameter's value."""
        return {name: inputs[name] for name in self.inputs if name in inputs}

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        parameter, shape = members("s3", f"put_{self.name}")[self.parameter.lower()]
        call("s3", f"put_{self.name}", Bucket=inputs["bucket"], **{parameter: to_api(self.value(inputs), shape)})
        return inputs["bucket"], {}

    def read(self, resource_id: str, inputs: Properties, outputs: Properties) -> State | None:
        answer = unless_gone("s3", f"get_{self.name}", Bucket=resource_id)
        actual = None if answer is None else jmespath.search(self.answer_path, answer)
        if not actual:
            return None
        wanted = {name: value for name, value in inputs.items() if name != "bucket"}
        return State(resource_id, {"bucket": resource_id} | as_written(wanted, actual))

    def update(self, resource_id: str, old: Properties, inputs: Properties) -> Properties:
        return self.create(inputs)[1]

    def delete(self, resource_id: str, properties: Properties) -> None:
        unless_gone("s3", f"delete_{self.name}", Bucket=resource_id)


class BucketPublicAccessBlock(BucketSetting):
    """The block of public access."""

    token = "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock"
    inputs = ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")
    name = "public_access_block"
    parameter = "PublicAccessBlockConfiguration"
    answer_path = parameter


class BucketOwnershipControls(BucketSetting):
    """The ownership of objects that other accounts upload."""

    token = "aws:s3/bucketOwnershipControls:BucketOwnershipControls"
    inputs = ("rule",)
    name = "bucket_ownership_controls"
    parameter = "OwnershipControls"
    answer_path = "OwnershipControls.{rule: Rules[0]}"

    def value(self, inputs: Properties) -> Plain:
        return {"rules": [inputs["rule"]]}


class BucketServerSideEncryptionConfiguration(BucketSetting):
    """The default encryption of objects."""

    token = "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration"
    inputs = ("rules",)
    name = "bucket_encryption"
    parameter = "ServerSideEncryptionConfiguration"
    answer_path = parameter

    def value(self, inputs: Properties) -> Plain:
        """Return the rules. The API has the blocked types one level deeper; moto forgets them."""
        rules = (
            {**rule, "blockedEncryptionTypes": {"encryptionType": rule["blockedEncryptionTypes"]}}
            if "blockedEncryptionTypes" in rule
            else rule
            for rule in inputs["rules"]
        )
        return {"rules": [*rules]}


class BucketVersioning(BucketSetting):
    """The versioning of objects. S3 can suspend it and not remove it."""

    token = "aws:s3/bucketVersioning:BucketVersioning"
    inputs = ("versioningConfiguration",)
    name = "bucket_versioning"
    parameter = "VersioningConfiguration"
    answer_path = "Status && {versioningConfiguration: {Status: Status}}"

    def value(self, inputs: Properties) -> Plain:
        return inputs["versioningConfiguration"]

    def delete(self, resource_id: str, properties: Properties) -> None:
        unless_gone("s3", "put_bucket_versioning", Bucket=resource_id, VersioningConfiguration={"Status": "Suspended"})


class BucketLifecycleConfiguration(BucketSetting):
    """The rules for deleting objects and versions after some days."""

    token = "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration"
    inputs = ("rules",)
    name = "bucket_lifecycle_configuration"
    parameter = "LifecycleConfiguration"
    answer_path = "@"

    def delete(self, resource_id: str, properties: Properties) -> None:
        unless_gone("s3", "delete_bucket_lifecycle", Bucket=resource_id)


class BucketPolicy(BucketSetting):
    """The bucket policy."""

    token = "aws:s3/bucketPolicy:BucketPolicy"
    inputs = ("policy",)
    name = "bucket_policy"
    parameter = "Policy"
    answer_path = "{policy: Policy}"

    def value(self, inputs: Properties) -> Plain:
        return inputs["policy"]
