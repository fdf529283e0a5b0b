# ruff: noqa: D102 - `Resource` describes the methods and types the tables; a token is a type's name
# boto3 and jmespath have no types of their own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The local account's API, and resources that are little more than calls to it.

botocore knows the parameters of every call, so inputs are translated by its model, and one that the API does not have is refused.
"""

import functools
import json
import threading
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import boto3
import jmespath
from botocore.exceptions import ClientError

from local.plugins.provider import (
    InvalidInput,
    OperationError,
    Plain,
    Properties,
    Resource,
    State,
    changed,
    in_order_of,
)

_creating_clients = threading.Lock()


@functools.cache
def _new_client(service: str) -> Any:
    return boto3.client(service)


def load_models() -> None:
    """Have what a client is made of read from disk, for those who will want one; they share this process's memory."""
    for service in ("ec2", "eks", "iam", "rds", "s3"):
        # Nobody uses this one: region, endpoint and keys are those of the caller's environment.
        boto3.client(service, "eu-west-1", aws_access_key_id="none", aws_secret_access_key="none")  # noqa: S106


def client(service: str) -> Any:
    """The client of a service; the environment says where the account is."""
    # A client can be used by many threads at once, but not created by them.
    with _creating_clients:
        return _new_client(service)


def call(service: str, operation: str, **parameters: Any) -> Any:
    """One API call by its name in boto3."""
    return getattr(client(service), operation)(**parameters)


def unless_gone(service: str, operation: str, **parameters: Any) -> Any | None:
    """The call's answer; None when the API says that there is no such thing."""
    try:
        return call(service, operation, **parameters)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code.startswith(("404", "NoSuch")) or "NotFound" in code:
            return None
        raise


def members(service: str, operation: str) -> dict[str, Any]:
    """An operation's parameters, by name in lower case."""
    api = client(service).meta
    shape = api.service_model.operation_model(api.method_to_api_mapping[operation]).input_shape
    return {name.lower(): (name, member) for name, member in shape.members.items()}


def to_api(value: Plain, shape: Any) -> Any:
    """A value as the API wants it: members in its spelling (`sseAlgorithm`: `SSEAlgorithm`), maps as lists of pairs."""
    if shape.type_name == "structure":
        known = {name.lower(): (name, member) for name, member in shape.members.items()}
        if strange := sorted(key for key in value if key.lower() not in known):
            raise OperationError(f"{strange[0]} is not in AWS's {shape.name}")
        pairs = ((*known[key.lower()], item) for key, item in value.items() if item is not None)
        return {name: to_api(item, member) for name, member, item in pairs}
    if shape.type_name == "list" and isinstance(value, Mapping):
        key = next(name for name in shape.member.members if name in {"Key", "Name"})
        return [{key: name, "Value": item} for name, item in value.items()]
    if shape.type_name == "list":
        return [to_api(item, shape.member) for item in value]
    return str(value) if shape.type_name == "string" else value


def as_written(written: Plain, actual: Plain) -> Plain:
    """What the API says, in the form the program wrote it in; what it does not say counts as being so."""
    document: bool = isinstance(written, str) and isinstance(actual, dict)
    if actual is None or written == actual or (document and json.loads(written) == actual):
        return written
    if isinstance(written, dict) and isinstance(actual, list):
        return {item.get("Key", item.get("Name")): item["Value"] for item in actual}
    if isinstance(written, dict):
        known = {name.lower(): item for name, item in actual.items()}
        return {key: as_written(item, known.get(key.lower())) for key, item in written.items()}
    if isinstance(written, list):
        return _list_as_written(written, cast(list[Plain], actual))
    return json.dumps(actual) if document else actual


def _list_as_written(written: list[Plain], actual: list[Plain]) -> list[Plain]:
    if all(isinstance(item, str) for item in [*written, *actual]):
        return in_order_of(written, actual)
    if len(written) == len(actual):
        return [as_written(item, seen) for item, seen in zip(written, actual, strict=True)]
    return actual


# The calls that set and remove tags, and the parameter that names the resource.
_TAGGING = {
    "cloudwatch": ("tag_resource", "untag_resource", "ResourceARN"),
    "iam": ("tag_role", "untag_role", "RoleName"),
    "rds": ("add_tags_to_resource", "remove_tags_from_resource", "ResourceName"),
}


def retag(service: str, target: str, old: Mapping[str, str], new: Mapping[str, str]) -> None:
    """Change the tags of a resource, named as its service names it: by id, by name or by ARN."""
    tags = [{"Key": key, "Value": value} for key, value in new.items()]
    removed = sorted(old.keys() - new.keys())
    if service == "ec2":
        call("ec2", "create_tags", Resources=[target], Tags=tags)
        if removed:
            call("ec2", "delete_tags", Resources=[target], Tags=[{"Key": key} for key in removed])
    else:
        add, remove, parameter = _TAGGING[service]
        call(service, add, **{parameter: target}, Tags=tags)
        if removed:
            call(service, remove, **{parameter: target}, TagKeys=removed)


class ApiResource(Resource):
    """A resource that the API makes and finds again by a name that is also its id."""

    service: ClassVar[str]
    calls: ClassVar[tuple[str, str, str, str]]
    """What creates, describes, changes and deletes it."""
    found: ClassVar[str]
    """Where the description is in the answer, as JMESPath."""
    key: ClassVar[str]
    """The parameter that names it."""
    written: ClassVar[Mapping[str, str]] = {}
    """Inputs that are parameters of another name."""
    seen: ClassVar[Mapping[str, str]] = {}
    """Inputs that the description has elsewhere, as JMESPath."""
    shown: ClassVar[Mapping[str, str]] = {"arn": "Arn"}
    """Outputs, as JMESPath."""
    own: ClassVar[frozenset[str]] = frozenset()
    """Inputs that are no parameters: the class does something with them."""
    computed = frozenset({"arn"})

    def check(self, inputs: Properties) -> Properties:
        known = members(self.service, self.calls[0]) | members(self.service, self.calls[2])
        for name in inputs:
            if name not in self.own and self.written.get(name, name).lower() not in known:
                raise InvalidInput(name, f"the local stack's stand-in for {self.token} does not know this input")
        return inputs

    def parameters(self, operation: str, inputs: Properties) -> dict[str, Any]:
        """Those inputs that are parameters of this operation, as it wants them."""
        known = members(self.service, operation)
        result: dict[str, Any] = {}
        for name, value in inputs.items():
            parameter = self.written.get(name, name).lower()
            if name not in self.own and parameter in known:
                spelling, shape = known[parameter]
                result[spelling] = to_api(value, shape)
        return result

    def identify(self, resource_id: str) -> dict[str, Any]:
        """The parameters that name it for describing and deleting."""
        return {self.key: resource_id}

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        parameters = self.parameters(self.calls[0], inputs)
        call(self.service, self.calls[0], **parameters)
        return parameters[self.key], self.outputs(parameters[self.key])

    def describe(self, resource_id: str) -> Any | None:
        """The API's description, None when it is gone."""
        answer = unless_gone(self.service, self.calls[1], **self.identify(resource_id))
        return None if answer is None else jmespath.search(self.found, answer)

    def outputs(self, resource_id: str) -> Properties:
        """What the description has beyond the inputs."""
        item = self.describe(resource_id)
        return {name: jmespath.search(path, item) for name, path in self.shown.items()}

    def read(self, resource_id: str, inputs: Properties, outputs: Properties) -> State | None:
        item = self.describe(resource_id)
        if item is None:
            return None
        known = {name.lower(): value for name, value in item.items()}

        def actual(name: str) -> Any:
            return (
                jmespath.search(self.seen[name], item)
                if name in self.seen
                else known.get(self.written.get(name, name).lower())
            )

        described = {name: as_written(value, actual(name)) for name, value in inputs.items()}
        return State(resource_id, described, outputs | self.outputs(resource_id))

    def update(self, resource_id: str, old: Properties, inputs: Properties) -> Properties:
        if changed(old, inputs) - self.own - {"tags"}:
            call(self.service, self.calls[2], **self.parameters(self.calls[2], inputs))
        outputs = self.outputs(resource_id)
        if "tags" in changed(old, inputs):
            target = resource_id if self.service == "iam" else outputs["arn"]
            retag(self.service, target, old.get("tags", {}), inputs.get("tags", {}))
        return outputs

    def delete(self, resource_id: str, properties: Properties) -> None:
        unless_gone(self.service, self.calls[3], **self.identify(resource_id))
