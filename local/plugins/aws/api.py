# ruff: noqa: D102 - the docstrings of the methods, and the types of the tables, are in `Resource`; a token is a type's name
# boto3 and jmespath have no types of their own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The local AWS API, and the base of the resources that need little more than calls to it.

botocore has a model of every call's parameters. Inputs are translated with that model, and an unknown one is refused.
"""

import functools
import json
import threading
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import boto3
import jmespath
from botocore.exceptions import ClientError

from local.plugins.provider_base import (
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


def client(service: str) -> Any:
    """Return the client of a service. Endpoint, region and keys come from the environment."""
    # Threads may share a client, but must not create clients at the same time (boto3's guide on multithreading).
    with _creating_clients:
        return _new_client(service)


def call(service: str, operation: str, **parameters: Any) -> Any:
    """Call an operation, by its name in boto3, and return the answer."""
    return getattr(client(service), operation)(**parameters)


def unless_gone(service: str, operation: str, **parameters: Any) -> Any | None:
    """Call an operation and return the answer, or None if the API answers that the resource does not exist."""
    try:
        return call(service, operation, **parameters)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code.startswith(("404", "NoSuch")) or "NotFound" in code:
            return None
        raise


def members(service: str, operation: str) -> dict[str, Any]:
    """Return an operation's parameters: the name in lower case to the API's name and the botocore shape."""
    api = client(service).meta
    shape = api.service_model.operation_model(api.method_to_api_mapping[operation]).input_shape
    return {name.lower(): (name, member) for name, member in shape.members.items()}


def to_api(value: Plain, shape: Any) -> Any:
    """Return a value in the form of the API.

    Members of structures get the API's spelling (`SSEAlgorithm` for `sseAlgorithm`), and maps become lists of pairs.

    Raises:
        OperationError: the API has no such member.
    """
    if shape.type_name == "structure":
        spellings = {name.lower(): (name, member) for name, member in shape.members.items()}
        if unknown := sorted(key for key in value if key.lower() not in spellings):
            raise OperationError(
                f"{unknown[0]} is not a member of AWS's {shape.name}; remove it or correct its spelling"
            )
        pairs = ((*spellings[key.lower()], item) for key, item in value.items() if item is not None)
        return {name: to_api(item, member) for name, member, item in pairs}
    if shape.type_name == "list" and isinstance(value, Mapping):
        key = next(name for name in shape.member.members if name in {"Key", "Name"})
        return [{key: name, "Value": item} for name, item in value.items()]
    if shape.type_name == "list":
        return [to_api(item, shape.member) for item in value]
    return str(value) if shape.type_name == "string" else value


def as_written(written: Plain, actual: Plain) -> Plain:
    """Return the API's value in the form in which the program wrote the input.

    If the API does not report the value, return the input: there is nothing to compare.
    """
    document: bool = isinstance(written, str) and isinstance(actual, dict)
    if actual is None or written == actual or (document and json.loads(written) == actual):
        return written
    if isinstance(written, dict) and isinstance(actual, list):
        return {item.get("Key", item.get("Name")): item["Value"] for item in actual}
    if isinstance(written, dict):
        members_ = {name.lower(): item for name, item in actual.items()}
        return {key: as_written(item, members_.get(key.lower())) for key, item in written.items()}
    if isinstance(written, list):
        return _list_as_written(written, cast(list[Plain], actual))
    return json.dumps(actual) if document else actual


def _list_as_written(written: list[Plain], actual: list[Plain]) -> list[Plain]:
    if all(isinstance(item, str) for item in [*written, *actual]):
        return in_order_of(written, actual)
    if len(written) == len(actual):
        return [as_written(item, seen) for item, seen in zip(written, actual, strict=True)]
    return actual


_TAGGING = {
    "cloudwatch": ("tag_resource", "untag_resource", "ResourceARN"),
    "iam": ("tag_role", "untag_role", "RoleName"),
    "rds": ("add_tags_to_resource", "remove_tags_from_resource", "ResourceName"),
}
"""Service to the operations that set and remove tags, and the parameter that names the resource."""


def retag(service: str, target: str, old: Mapping[str, str], new: Mapping[str, str]) -> None:
    """Change the tags of a resource.

    Args:
        service: service of the resource.
        target: id of an EC2 resource, name of an IAM role, or ARN.
        old: tags so far.
        new: tags to set.
    """
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
    """A resource that one API call creates and another describes by its name. The name is also the resource's id."""

    service: ClassVar[str]
    """Name of the service in boto3."""
    calls: ClassVar[tuple[str, str, str, str]]
    """Operations that create, describe, change and delete the resource."""
    answer_path: ClassVar[str]
    """JMESPath of the resource in the answer of the describing operation."""
    key: ClassVar[str]
    """Parameter with the resource's name."""
    parameter_names: ClassVar[Mapping[str, str]] = {}
    """Input to parameter, where their names differ."""
    input_paths: ClassVar[Mapping[str, str]] = {}
    """Input to its JMESPath in the description, where that is not the parameter's name."""
    output_paths: ClassVar[Mapping[str, str]] = {"arn": "Arn"}
    """Output to its JMESPath in the description."""
    not_parameters: ClassVar[frozenset[str]] = frozenset()
    """Inputs that are not parameters of a call. The class handles them itself."""
    optional: ClassVar[frozenset[str]] = frozenset()
    """Inputs in `replace` that AWS fills where a program leaves them out. An import leaves them out, too."""
    imported: ClassVar[frozenset[str]] = frozenset()
    """Inputs outside `replace` that an import reads, because the program ignores later changes of them."""
    computed = frozenset({"arn"})

    def check(self, inputs: Properties) -> Properties:
        parameters = members(self.service, self.calls[0]) | members(self.service, self.calls[2])
        for name in inputs:
            if name not in self.not_parameters and self.parameter_names.get(name, name).lower() not in parameters:
                raise InvalidInput(name, f"the local stack's stand-in for {self.token} does not know this input")
        return inputs

    def parameters(self, operation: str, inputs: Properties) -> dict[str, Any]:
        """Return those inputs that are parameters of an operation, in the form of the API.

        Raises:
            OperationError: the API has no such member.
        """
        shapes = members(self.service, operation)
        result: dict[str, Any] = {}
        for name, value in inputs.items():
            parameter = self.parameter_names.get(name, name).lower()
            if name not in self.not_parameters and parameter in shapes:
                spelling, shape = shapes[parameter]
                result[spelling] = to_api(value, shape)
        return result

    def identify(self, resource_id: str) -> dict[str, Any]:
        """Return the parameters that name the resource when it is described or deleted."""
        return {self.key: resource_id}

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        parameters = self.parameters(self.calls[0], inputs)
        call(self.service, self.calls[0], **parameters)
        return parameters[self.key], self.outputs(parameters[self.key])

    def describe(self, resource_id: str) -> Any | None:
        """Return the API's description of the resource, or None if the resource does not exist."""
        answer = unless_gone(self.service, self.calls[1], **self.identify(resource_id))
        return None if answer is None else jmespath.search(self.answer_path, answer)

    def outputs(self, resource_id: str) -> Properties:
        """Return the properties of the description that are not inputs."""
        item = self.describe(resource_id)
        return {name: jmespath.search(path, item) for name, path in self.output_paths.items()}

    def read(self, resource_id: str, inputs: Properties, outputs: Properties) -> State | None:
        item = self.describe(resource_id)
        if item is None:
            return None
        described_members = {name.lower(): value for name, value in item.items()}

        def actual(name: str) -> Any:
            return (
                jmespath.search(self.input_paths[name], item)
                if name in self.input_paths
                else described_members.get(self.parameter_names.get(name, name).lower())
            )

        # Of an import, only what cannot be changed later is read. The next update writes the rest.
        wanted = inputs or dict.fromkeys(self.replace - self.optional | self.imported)
        described = {name: as_written(value, actual(name)) for name, value in wanted.items()}
        return State(resource_id, described, outputs | self.outputs(resource_id))

    def update(self, resource_id: str, old: Properties, inputs: Properties) -> Properties:
        if changed(old, inputs) - self.not_parameters - {"tags"}:
            call(self.service, self.calls[2], **self.parameters(self.calls[2], inputs))
        outputs = self.outputs(resource_id)
        if "tags" in changed(old, inputs):
            target = resource_id if self.service == "iam" else outputs["arn"]
            retag(self.service, target, old.get("tags", {}), inputs.get("tags", {}))
        return outputs

    def delete(self, resource_id: str, properties: Properties) -> None:
        unless_gone(self.service, self.calls[3], **self.identify(resource_id))
