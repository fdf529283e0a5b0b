"""Checks of what the database needs in the account: the key, the topic, the quotas, and the account's plan."""

import json
from typing import Any

from operations.checks import MissingError, NotedError, skip
from operations.doctor.subject import Subject

MANAGED_KEY = "alias/aws/sns"
"""AWS's own key for topics. No policy of it can be changed, so CloudWatch and RDS may not use it."""
PUBLISHERS = ("cloudwatch.amazonaws.com", "events.rds.amazonaws.com")
"""Services that publish to the topic."""


def key(subject: Subject) -> str:
    """Look whether RDS can use the KMS key."""
    subject.needs_instance()
    arn = subject.settings.postgres.kms_key_arn
    if arn is None:
        return skip("the account's own key, aws/rds")
    found = subject.aws("kms", "describe-key", "--key-id", arn)["KeyMetadata"]
    if not found["Enabled"]:
        raise MissingError(f"it is {found.get('KeyState', 'Disabled')}; `aws kms enable-key --key-id {found['KeyId']}`")
    use = found.get("KeySpec", "SYMMETRIC_DEFAULT"), found.get("KeyUsage", "ENCRYPT_DECRYPT")
    if use != ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"):
        raise MissingError(
            f"it is {use[0]} for {use[1]}, and RDS takes SYMMETRIC_DEFAULT for ENCRYPT_DECRYPT; name another"
        )
    return arn


def topic(subject: Subject) -> str:
    """Look whether alarms and events reach the topic."""
    subject.needs_instance()
    arn = subject.settings.postgres.alarm_topic_arn
    if arn is None:
        return skip("postgres.alarmTopicArn is not set: no alarms, so nobody is notified when the database fails")
    found: dict[str, str] = subject.aws("sns", "get-topic-attributes", "--topic-arn", arn).get("Attributes", {})
    if found.get("FifoTopic") == "true":
        raise MissingError("it is a FIFO topic, to which RDS does not publish; name a standard one")
    used = found.get("KmsMasterKeyId")
    if used and used.endswith(MANAGED_KEY):
        raise MissingError(
            f"it is encrypted with {MANAGED_KEY}, which CloudWatch and RDS may not use, so it stays silent; "
            "encrypt it with a key of your own, or not at all"
        )
    return _usable_by_publishers(subject, used) if used else arn


def _usable_by_publishers(subject: Subject, used: str) -> str:
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": list(PUBLISHERS)},
        "Action": ["kms:Decrypt", "kms:GenerateDataKey*"],
        "Resource": "*",
    }
    needed = f"the policy of its key {used} needs this statement:\n{json.dumps(statement)}"
    try:
        answer = subject.aws("kms", "get-key-policy", "--key-id", used, "--policy-name", "default")
    except MissingError:
        raise NotedError(f"not known whether it stays silent: {needed}") from None
    policy: dict[str, Any] = json.loads(answer["Policy"])
    missing = [service for service in PUBLISHERS if service not in json.dumps(policy)]
    if missing:
        raise MissingError(f"it stays silent, because its key does not let in {' and '.join(missing)}; {needed}")
    return f"encrypted with {used}, which CloudWatch and RDS may use"


def quotas(subject: Subject) -> str:
    """Look whether the account has room for what the stack takes of RDS."""
    subject.needs_instance()
    takes = {"DBInstances": 1, "DBParameterGroups": 1, "DBSubnetGroups": 1}
    if subject.settings.postgres.snapshot_before_upgrade:
        takes["ManualSnapshots"] = 1
    if subject.settings.postgres.alarm_topic_arn:
        takes["EventSubscriptions"] = 2
    answer = subject.aws("rds", "describe-account-attributes")["AccountQuotas"]
    found = {each["AccountQuotaName"]: (each["Used"], each["Max"]) for each in answer}
    full = [
        f"{name}: {used} of {most} are in use, and this stack takes {takes[name]}"
        for name, (used, most) in found.items()
        if used + takes.get(name, 0) > most and name in takes
    ]
    if full:
        raise MissingError(
            f"{'; '.join(full)}; ask for more in Service Quotas, or delete some. A stack that is up already is counted"
        )
    return ", ".join(f"{name} {found[name][0]} of {found[name][1]}" for name in takes if name in found)


def plan(subject: Subject) -> str:
    """Look whether the account is on AWS's free plan, in which RDS refuses some settings."""
    subject.needs_instance()
    days, size = subject.settings.postgres.backup_retention_days, subject.settings.postgres.instance_class
    try:
        # The service is in this region only.
        answer = subject.aws("freetier", "get-account-plan-state", "--region", "us-east-1")
    except MissingError as error:
        if "credentials" in str(error):
            raise
        return skip(f"not known: {error}")
    if answer.get("accountPlanType") != "FREE":
        return "paid"
    raise NotedError(
        f"free: RDS has refused long backups and large classes there (FreeTierRestrictionError), and this stack has {days} days and {size}; "
        "upgrade the account's plan, or set postgres.backupRetentionDays to 1"
    )
