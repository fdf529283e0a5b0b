"""Checks of the bucket that exists, and of the way to the bucket."""

from operations.checks import MissingError, NotedError, skip
from operations.doctor.subject import Subject, refusal_of

_OLD_NAMES = {None: "us-east-1", "EU": "eu-west-1"}
"""Names that S3 has for its two oldest regions."""


def bucket(subject: Subject) -> str:
    """Look whether a bucket that exists is this account's, and in which region it is."""
    name = subject.settings.artifacts.bucket
    if name is None:
        return skip("this stack creates its own")
    try:
        found = subject.aws("s3api", "get-bucket-location", "--bucket", name).get("LocationConstraint")
    except MissingError as error:
        if "NoSuchBucket" in str(error):
            raise MissingError(f"there is no bucket {name}; write its name, or drop artifacts.bucket") from None
        if "AccessDenied" in str(error):
            raise MissingError(
                f"{name} refuses this identity, so it may be another account's; name a bucket of this account"
            ) from None
        raise
    region = _OLD_NAMES.get(found, found)
    if subject.aws.region and region != subject.aws.region:
        raise NotedError(f"{name} is in {region}, so each artifact crosses regions, which costs and is slower")
    return f"{name} in {region}"


def transfers(subject: Subject) -> str:
    """Look whether this machine, as one of the clients, reaches S3 where clients transfer files straight to it."""
    subject.needs_eks()
    if subject.settings.artifacts.transfers == "proxied":
        return "through the pods, so clients need no route to S3"
    place = subject.cluster["arn"].split(":")
    host = f"s3.{place[3]}.amazonaws.com{'.cn' if place[1] == 'aws-cn' else ''}"
    if refusal := refusal_of(host, 443):
        raise NotedError(
            f"a client on this machine could read no file: {host} cannot be reached ({refusal}); give clients a route to S3, or write "
            "artifacts.transfers: proxied"
        )
    return f"straight to S3, which this machine reaches at {host}"
