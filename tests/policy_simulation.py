"""IAM policies, asked about the calls that the local stack's account has received."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from local import aws_account
from local.stack import LocalStack
from local.supervisor.client import Supervisor
from operations.iam.policies import Policy, deploy, preview
from operations.iam.write_page import EXAMPLE

PLACE = replace(EXAMPLE, cluster="mlflow-local", host="localhost", stack="local", owner="acme")

_LOGGED = re.compile(r"\] (?P<service>\w+) (?P<action>\w+|[A-Z]+ \S+) (?P<status>\d{3})$", re.MULTILINE)
"""A line of the account's log: the service, then an action or a method with a path, then the status."""

_BY_PATH = {
    # Calls whose action is in no header, and the permission that they need. The first pattern that matches counts.
    "s3": {
        r"\w+ /[^/?]+/.+": "",  # an object of the pods
        r"HEAD .*": "ListBucket",
        r"GET \S+\?acl": "GetBucketAcl",
        r"GET \S+\?location": "GetBucketLocation",
        r"(PUT|DELETE) \S+\?encryption": "PutEncryptionConfiguration",
        r"GET \S+\?encryption": "GetEncryptionConfiguration",
        r"(PUT|DELETE) \S+\?lifecycle": "PutLifecycleConfiguration",
        r"GET \S+\?lifecycle": "GetLifecycleConfiguration",
        r"(PUT|DELETE) \S+\?ownershipControls": "PutBucketOwnershipControls",
        r"GET \S+\?ownershipControls": "GetBucketOwnershipControls",
        r"PUT \S+\?policy": "PutBucketPolicy",
        r"GET \S+\?policy": "GetBucketPolicy",
        r"DELETE \S+\?policy": "DeleteBucketPolicy",
        r"(PUT|DELETE) \S+\?publicAccessBlock": "PutBucketPublicAccessBlock",
        r"GET \S+\?publicAccessBlock": "GetBucketPublicAccessBlock",
        r"(PUT|DELETE) \S+\?tagging": "PutBucketTagging",
        r"GET \S+\?tagging": "GetBucketTagging",
        r"PUT \S+\?versioning": "PutBucketVersioning",
        r"GET \S+\?versioning": "GetBucketVersioning",
        r"GET \S+\?versions.*": "ListBucketVersions",
        r"POST \S+\?delete": "DeleteObject",
        r"GET /[^/?]+/?(\?list-type.*)?": "ListBucket",
        r"PUT /[^/?]+/?": "CreateBucket",
        r"DELETE /[^/?]+/?": "DeleteBucket",
    },
    "eks": {r"GET /clusters/[^/]+": "DescribeCluster"},
    "route53": {
        r"GET /2013-04-01/hostedzonesbyname.*": "ListHostedZonesByName",
        r"GET /2013-04-01/hostedzone": "ListHostedZones",
        r"GET /2013-04-01/hostedzone/[^/]+": "GetHostedZone",
        r"POST /2013-04-01/hostedzone/[^/]+/rrset/?": "ChangeResourceRecordSets",
        r"GET /2013-04-01/hostedzone/[^/]+/rrset.*": "ListResourceRecordSets",
    },
    "monitoring": {r"POST /service/\w+/operation/(\w+)": r"\1"},
}
_NAMES = {"monitoring": "cloudwatch"}
"""Name of a service in signatures to its name in policies, where these differ."""


class UnknownRequestError(Exception):
    """A line of the log names no action, and no pattern here does."""


def asked_during(command: Callable[[], object], stack: LocalStack) -> set[str]:
    """Run a command of a stack whose account exists, and return the permissions for what the account was asked meanwhile.

    Raises:
        UnknownRequestError: a request has no permission here.
    """
    log = Supervisor(stack.folder).log(aws_account.PROCESS)
    before = log.stat().st_size
    command()
    return actions_in(log.read_bytes()[before:].decode())


def actions_in(log: str) -> set[str]:
    """Return the permissions for the requests in an account's log.

    Raises:
        UnknownRequestError: a request has no permission here.
    """
    return {permission for match in _LOGGED.finditer(log) if (permission := _permission(match))}


def _permission(request: re.Match[str]) -> str:
    service, action = request["service"], request["action"]
    if " " in action:
        for pattern, name in _BY_PATH.get(service, {}).items():
            if match := re.fullmatch(pattern, action):
                action = match.expand(name)
                break
        else:
            raise UnknownRequestError(f"{service} {action}: add it to _BY_PATH in tests/policy_simulation.py")
    return f"{_NAMES.get(service, service)}:{action}" if action else ""


def not_allowed(policies: Sequence[Policy], actions: set[str]) -> list[str]:
    """Return the actions that no statement of the policies allows."""
    return sorted(action for action in actions if not any(_matches(each, action) for each in _patterns(policies)))


def _patterns(policies: Sequence[Policy]) -> Iterator[str]:
    statements: list[dict[str, Any]] = [statement for policy in policies for statement in policy["Statement"]]
    yield from (name for statement in statements if statement["Effect"] == "Allow" for name in statement["Action"])


def _matches(pattern: str, action: str) -> bool:
    # IAM compares actions without case.
    return fnmatchcase(action.lower(), pattern.lower())


PREVIEW = preview(PLACE)
"""Policies of a role that previews."""
UP = [*PREVIEW, *deploy(PLACE)]
"""Policies of a role that deploys."""
