"""Checks of the database through AWS: its state, its network, its backups, what waits, and the alarms."""

from datetime import UTC, datetime, timedelta
from typing import Any

from operations.aws_cli import moment
from operations.checks import MissingError, NotedError, skip
from operations.verify.subject import Subject

RULE = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
GROUP = "aws:ec2/securityGroup:SecurityGroup"
ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"
WORKING = ("available", "backing-up", "configuring", "storage-optimization", "storage-config-upgrade")
"""Beginnings of the states in which the instance answers."""
OLDEST_BACKUP = timedelta(days=1)


def state(subject: Subject) -> str:
    """Look whether the instance is available, in the version of the stack."""
    subject.needs_instance()
    found = subject.described
    status: str = found["DBInstanceStatus"]
    if not status.startswith(WORKING):
        raise MissingError(f"it is {status}; wait until it is available, or see docs/stuck-states.md")
    version: str = found["EngineVersion"]
    waits: dict[str, str] = found.get("PendingModifiedValues") or {}
    if waits.get("EngineVersion", version).partition(".")[0] != subject.settings.postgres.engine_version:
        raise MissingError(
            f"PostgreSQL {version} runs, and the stack has {subject.settings.postgres.engine_version}; see what waits (below)"
        )
    return f"{status}, PostgreSQL {version}, {found['DBInstanceClass']}"


def network(subject: Subject) -> str:
    """Look whether the database is reachable from inside only: no public address, and no source but the stack's."""
    found = subject.instance
    if found.get("PubliclyAccessible"):
        raise MissingError("it has a public address; `pulumi up --refresh` takes it away")
    own = {group["id"] for group in subject.resources.get(GROUP, [])}
    groups = [each["VpcSecurityGroupId"] for each in found["VpcSecurityGroups"]]
    if foreign := sorted(set(groups) - own):
        raise MissingError(f"{', '.join(foreign)} is on it too, which is not the stack's; take it off")
    known = {rule.get("cidrIpv4") or rule.get("referencedSecurityGroupId") for rule in subject.resources.get(RULE, [])}
    answer = subject.aws("ec2", "describe-security-groups", "--group-ids", *groups)
    sources = {
        source for group in answer["SecurityGroups"] for rule in group["IpPermissions"] for source in _sources(rule)
    }
    if more := sorted(sources - known):
        raise MissingError(f"it lets in {', '.join(more)} too, which is not in postgres.allowFrom; remove that rule")
    return f"private, lets in {', '.join(sorted(sources)) or 'nobody'}"


def _sources(rule: dict[str, Any]) -> list[str]:
    return [
        *(each["CidrIp"] for each in rule.get("IpRanges", [])),
        *(each["CidrIpv6"] for each in rule.get("Ipv6Ranges", [])),
        *(each["GroupId"] for each in rule.get("UserIdGroupPairs", [])),
        *(each["PrefixListId"] for each in rule.get("PrefixListIds", [])),
    ]


def backup(subject: Subject) -> str:
    """Look whether the database can be restored to a time within the last day."""
    found = subject.instance
    now = datetime.now(UTC)
    if not found["BackupRetentionPeriod"]:
        raise MissingError("backups are off; `pulumi up --refresh` turns them on")
    last, made = found.get("LatestRestorableTime"), found.get("InstanceCreateTime")
    if last is None:
        if made is not None and now - moment(made) < OLDEST_BACKUP:
            return skip("none yet: the instance is younger than a day")
        raise MissingError("there is none; look at the events of the instance in RDS")
    age = now - moment(last)
    if age > OLDEST_BACKUP:
        raise MissingError(f"the newest is {age.days} day(s) old; look at the events of the instance in RDS")
    return f"to {max(age, timedelta(0)).seconds // 60} minutes ago, for {found['BackupRetentionPeriod']} days"


def pending(subject: Subject) -> str:
    """Look whether a change waits for the maintenance window, or for a restart."""
    found = subject.instance
    waiting: dict[str, Any] = found.get("PendingModifiedValues") or {}
    changes = [f"{name} {_short(value)}" for name, value in waiting.items() if value not in (None, {}, [])]
    restarts = [
        f"parameters of {group['DBParameterGroupName']}"
        for group in found.get("DBParameterGroups", [])
        if group.get("ParameterApplyStatus") not in {None, "in-sync", "applying"}
    ]
    if changes:
        window = found.get("PreferredMaintenanceWindow", "unknown")
        raise NotedError(
            f"{', '.join(changes)}: waits for the maintenance window, {window} UTC; until then the old value is in force (docs/stuck-states.md)"
        )
    if restarts:
        raise MissingError(f"{', '.join(restarts)}: wait for a restart; `aws rds reboot-db-instance` when nobody works")
    return "nothing"


def _short(value: Any) -> str:
    # The password is masked by AWS, and shown to nobody here all the same.
    return str(value) if isinstance(value, (str, int, bool)) and "*" not in str(value) else "changed"


def alarms(subject: Subject) -> str:
    """Look whether an alarm of the stack fires, or is gone."""
    subject.needs_instance()
    names = [str(alarm["name"]) for alarm in subject.resources.get(ALARM, [])]
    if not names:
        return skip("this stack has none (postgres.alarmTopicArn is not set)")
    found = subject.aws("cloudwatch", "describe-alarms", "--alarm-names", *names)["MetricAlarms"]
    if gone := sorted(set(names) - {alarm["AlarmName"] for alarm in found}):
        raise MissingError(f"{', '.join(gone)} is gone; `pulumi up --refresh` makes it again")
    firing = [
        f"{alarm['AlarmName']}: {alarm.get('StateReason', '')}" for alarm in found if alarm["StateValue"] == "ALARM"
    ]
    if firing:
        raise MissingError("\n".join(firing))
    waiting = sum(alarm["StateValue"] == "INSUFFICIENT_DATA" for alarm in found)
    return f"{len(found)}, none fires" + (f", {waiting} without data yet" if waiting else "")
