# moto is typed inside, but not for strict use from outside.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportPrivateImportUsage=false
"""AWS's rules that moto lacks: what it refuses, what it defers to the maintenance window, and what it keeps.

`install` puts each rule in front of moto's own code. The account's API then answers with AWS's error codes.
"""

import functools
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import ec2_backends
from moto.ec2.models.security_groups import SecurityGroup, SecurityGroupBackend, SecurityGroupRule
from moto.iam.exceptions import ValidationError
from moto.iam.models import IAMBackend
from moto.kms.models import kms_backends
from moto.logs.models import logs_backends
from moto.rds.exceptions import RDSClientError
from moto.rds.models import RDSBackend, rds_backends
from moto.sns.models import sns_backends

from local.aws_account.offers import INSTANCE_CLASS, latest

_WAITING = {
    "allocated_storage": "AllocatedStorage",
    "db_instance_class": "DBInstanceClass",
    "engine_version": "EngineVersion",
    "iops": "Iops",
    "multi_az": "MultiAZ",
    "storage_throughput": "StorageThroughput",
    "storage_type": "StorageType",
}
"""Properties of an instance that wait for the maintenance window unless the request says otherwise, to their names in the API."""
_STRIPED = 400
"""GiB of gp3 storage from which RDS wants at least 12,000 operations a second."""
_TAG = re.compile(r"[\w\s.:/=+@-]*")
"""Text of a key or value of a tag, as IAM and RDS take it."""


def install() -> None:
    """Put the rules into moto. Install them once in a process."""
    _before(RDSBackend, "create_db_instance", _check_new_instance)
    _around(RDSBackend, "create_db_instance", _complete_instance)
    _around(RDSBackend, "modify_db_instance", _modify_instance)
    _before(RDSBackend, "delete_db_parameter_group", _group_is_free)
    _before(RDSBackend, "delete_subnet_group", _subnets_are_free)
    _before(RDSBackend, "create_event_subscription", _topic_exists)
    _before(RDSBackend, "add_tags_to_resource", _check_tags_of_instance)
    _before(IAMBackend, "tag_role", _check_tags_of_role)
    _before(IAMBackend, "create_role", _check_tags_of_role)
    _before(SecurityGroup, "add_ingress_rule", _rule_is_new)
    _before(SecurityGroupBackend, "delete_security_group", _group_has_no_user)


def _before(backend: type[Any], name: str, rule: Callable[..., object]) -> None:
    def ruled(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        rule(*args, **kwargs)
        return original(*args, **kwargs)

    _around(backend, name, ruled)


def _around(backend: type[Any], name: str, rule: Callable[..., Any]) -> None:
    original = getattr(backend, name)

    @functools.wraps(original)
    def ruled(*args: Any, **kwargs: Any) -> Any:
        return rule(original, *args, **kwargs)

    setattr(backend, name, ruled)


def _refuse(code: str, message: str) -> None:
    raise RDSClientError(code, message)


def _check_new_instance(backend: RDSBackend, wanted: Mapping[str, Any]) -> None:
    name = wanted.get("master_username", "")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,15}", name):
        _refuse("InvalidParameterValue", f"The parameter MasterUsername is not a valid identifier: {name}")
    if name.lower() in {"admin", "user", "select", "rdsadmin", "table", "public"}:
        _refuse(
            "InvalidParameterValue", f"MasterUsername {name} cannot be used as it is a reserved word used by the engine"
        )
    _check_shape(wanted)
    _check_tags_of_instance(backend, "", wanted.get("tags") or [])


def _check_shape(wanted: Mapping[str, Any]) -> None:
    if not INSTANCE_CLASS.fullmatch(wanted.get("db_instance_class") or "db.t3.micro"):
        _refuse(
            "InvalidParameterCombination",
            f"RDS does not support creating a DB instance with the following combination: DBInstanceClass={wanted['db_instance_class']}",
        )
    if latest(wanted.get("engine_version") or "17") is None:
        _refuse("InvalidParameterCombination", f"Cannot find version {wanted['engine_version']} for postgres")
    storage, operations = int(wanted.get("allocated_storage") or 0), int(wanted.get("iops") or 0)
    if wanted.get("storage_type") == "gp3" and operations and (storage >= _STRIPED) != (operations >= 12000):
        _refuse(
            "InvalidParameterCombination",
            f"Invalid iops value for engine name postgres and storage type gp3: {operations}",
        )


def _complete_instance(original: Callable[..., Any], backend: RDSBackend, wanted: dict[str, Any]) -> Any:
    """Make the instance as AWS describes it afterwards."""
    key = wanted.get("kms_key_id")
    instance = original(backend, {**wanted, "engine_version": latest(wanted.get("engine_version") or "17")})
    if instance.storage_encrypted:
        instance.kms_key_id = _key_arn(backend, key)
    digest = hashlib.sha256(instance.db_instance_identifier.encode()).hexdigest()
    instance.dbi_resource_id = f"db-{digest[:26].upper()}"
    instance.pending_modified_values, instance.waiting_group = {}, None
    _make_log_groups(backend, instance)
    return instance


def _key_arn(backend: RDSBackend, key: str | None) -> str:
    """Return the ARN of a key that was named by its id, its ARN or an alias, as AWS does."""
    place = f"arn:aws:kms:{backend.region_name}:{DEFAULT_ACCOUNT_ID}"
    if key is None:
        return f"{place}:key/{'0' * 8}-0000-0000-0000-{'0' * 12}"
    if "alias/" not in key:
        return key
    alias = f"alias/{key.rpartition('alias/')[2]}"
    found = kms_backends[DEFAULT_ACCOUNT_ID][backend.region_name].get_key_id_from_alias(alias)
    if found is None:
        _refuse("KMSKeyNotAccessibleFault", f"The specified KMS key {key} does not exist")
    return f"{place}:key/{found}"


def _make_log_groups(backend: RDSBackend, instance: Any) -> None:
    """Make the log groups that are not there. They outlive the instance."""
    logs = logs_backends[DEFAULT_ACCOUNT_ID][backend.region_name]
    for log in instance.enabled_cloudwatch_logs_exports:
        name = f"/aws/rds/instance/{instance.db_instance_identifier}/{log}"
        if name not in logs.groups:
            logs.create_log_group(name, {})


def _modify_instance(
    original: Callable[..., Any], backend: RDSBackend, db_instance_identifier: str, db_kwargs: dict[str, Any]
) -> Any:
    """Keep what interrupts the instance for the maintenance window, unless the request applies it, and all that waits, at once."""
    instance: Any = backend.describe_db_instances(db_instance_identifier)[0]
    wanted = dict(db_kwargs)
    if wanted.get("engine_version"):
        wanted["engine_version"] = latest(wanted["engine_version"]) or wanted["engine_version"]
        _check_version(instance, wanted)
    if wanted.get("allocated_storage"):
        wanted["allocated_storage"] = _storage(instance, int(wanted["allocated_storage"]))
    _check_shape({**{name: getattr(instance, name, None) for name in ("allocated_storage", "storage_type")}, **wanted})
    # The API does not show a group that waits together with the version that it is for.
    group = wanted.get("db_parameter_group_name") or instance.waiting_group
    if group and not _fits(backend, group, instance.engine_version):
        instance.waiting_group = group
        wanted.pop("db_parameter_group_name", None)
    pending: dict[str, Any] = dict(instance.pending_modified_values)
    for name, title in _WAITING.items():
        if wanted.get(name) is not None:
            pending.pop(title, None)
            if wanted[name] != getattr(instance, name, None):
                pending[title] = wanted[name]
            del wanted[name]
    if wanted.get("apply_immediately"):
        wanted |= {name: pending[title] for name, title in _WAITING.items() if title in pending}
        pending = {}
        if instance.waiting_group:
            wanted["db_parameter_group_name"], instance.waiting_group = instance.waiting_group, None
    changed = original(backend, db_instance_identifier, wanted)
    changed.pending_modified_values = pending
    _make_log_groups(backend, changed)
    return changed


def _fits(backend: RDSBackend, group: str, version: str) -> bool:
    return (
        group not in backend.db_parameter_groups
        or backend.db_parameter_groups[group].family == f"postgres{version.partition('.')[0]}"
    )


def _check_version(instance: Any, wanted: Mapping[str, Any]) -> None:
    before, after = (
        int(str(version).partition(".")[0]) for version in (instance.engine_version, wanted["engine_version"])
    )
    if after < before:
        _refuse(
            "InvalidParameterCombination",
            f"Cannot upgrade postgres from {instance.engine_version} to {wanted['engine_version']}",
        )
    if after > before and not wanted.get("allow_major_version_upgrade"):
        _refuse(
            "InvalidParameterCombination",
            "The AllowMajorVersionUpgrade flag must be present when upgrading to a new major version.",
        )


def _storage(instance: Any, wanted: int) -> int:
    """Return the storage that AWS makes of a wish: never less, and at least a tenth more."""
    has = int(instance.allocated_storage)
    if wanted < has:
        _refuse(
            "InvalidParameterCombination",
            f"Invalid storage size. Requested {wanted} GiB is less than the {has} GiB allocated.",
        )
    return wanted if wanted == has else max(wanted, -(-has * 11 // 10))


def _group_is_free(backend: RDSBackend, name: str) -> None:
    for instance in backend.databases.values():
        if instance.db_parameter_group_name == name:
            _refuse(
                "InvalidDBParameterGroupState",
                f"One or more database instances are still members of this parameter group {name}, so the group cannot be deleted",
            )


def _subnets_are_free(backend: RDSBackend, subnet_name: str) -> None:
    for instance in backend.databases.values():
        if instance.db_subnet_group and instance.db_subnet_group.name == subnet_name:
            _refuse(
                "InvalidDBSubnetGroupStateFault",
                f"Cannot delete the subnet group {subnet_name} because an instance is in it",
            )


def _topic_exists(backend: RDSBackend, wanted: Mapping[str, Any]) -> None:
    topic = wanted.get("sns_topic_arn") or ""
    if topic not in sns_backends[DEFAULT_ACCOUNT_ID][backend.region_name].topics:
        _refuse("SNSTopicArnNotFound", f"The SNS topic {topic} does not exist")


def _check_tags_of_instance(_backend: RDSBackend, _arn: str, tags: list[Mapping[str, str]]) -> None:
    for text in _wrong_texts(tags):
        _refuse("InvalidParameterValue", f"The tag {text} has characters that are not allowed, or a reserved beginning")


def _check_tags_of_role(_backend: IAMBackend, *args: Any, **kwargs: Any) -> None:
    tags: list[Any] = next((each for each in (*args, *kwargs.values()) if isinstance(each, list)), [])
    for text in _wrong_texts(tags):
        raise ValidationError(
            f"Value {text} at 'tags' failed to satisfy constraint: Member must satisfy regular expression pattern"
        )


def _wrong_texts(tags: list[Mapping[str, str]]) -> list[str]:
    texts = [text for tag in tags for text in (tag["Key"], tag.get("Value", ""))]
    return [text for text in texts if not _TAG.fullmatch(text) or len(text) > 256 or text.lower().startswith("rds:")]


def _rule_is_new(group: SecurityGroup, rule: SecurityGroupRule) -> None:
    """Refuse a second rule for a security group that is let in already, whatever its description says."""
    for other in group.ingress_rules:
        same_ports = (other.ip_protocol, other.from_port, other.to_port) == (
            rule.ip_protocol,
            rule.from_port,
            rule.to_port,
        )
        source = rule.source_group.get("GroupId")
        if same_ports and source and source == other.source_group.get("GroupId"):
            raise EC2ClientError(
                "InvalidPermission.Duplicate",
                f'the specified rule "peer: {source}, from port: {rule.from_port}" already exists',
            )


def _group_has_no_user(_backend: Any, name: str = "", group_id: str = "") -> None:
    backends: Mapping[str, Any] = ec2_backends[DEFAULT_ACCOUNT_ID]
    for region, backend in backends.items():
        users = [
            instance.db_instance_identifier
            for instance in rds_backends[DEFAULT_ACCOUNT_ID][region].databases.values()
            if (group_id or name) in instance.vpc_security_group_ids
        ]
        naming: list[str] = [
            group.id
            for groups in backend.groups.values()
            for group in groups.values()
            if group.id != group_id
            for rule in group.ingress_rules
            if group_id == rule.source_group.get("GroupId")
        ]
        if users or naming:
            raise EC2ClientError("DependencyViolation", f"resource {group_id} has a dependent object")
