# boto3 has no types of its own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The ``aws`` command for the local account: ``python -m local aws rds describe-db-instances``.

A machine with a local stack need not have the AWS CLI. The calls, their options and their answers are those of boto3, which has them
from the same description as the CLI.
"""

import json
from collections.abc import Sequence
from typing import Any

import boto3
from botocore import xform_name
from botocore.exceptions import BotoCoreError, ClientError

from local import aws_account

_SERVICES = {"s3api": "s3"}
"""Names of services that boto3 has another name for."""
_GLOBAL = {"--output", "--profile", "--region"}
"""Options of every call. The account has one region and one identity, and the output is JSON."""


class CommandError(Exception):
    """The account refused a call, or there is none such. The message is for the person at the terminal."""


def run(endpoint: str, arguments: Sequence[str]) -> str:
    """Send a call to the account and return its answer as JSON.

    Args:
        endpoint: URL of the account's API.
        arguments: service, operation and options, as the AWS CLI takes them.

    Raises:
        CommandError: the account refused, or there is no such call or option.
    """
    service, operation, *options = arguments
    identity = aws_account.credentials(endpoint)
    client: Any = boto3.client(
        _SERVICES.get(service, service),
        endpoint_url=endpoint,
        region_name=aws_account.REGION,
        aws_access_key_id=identity["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=identity["AWS_SECRET_ACCESS_KEY"],
    )
    names = {method.replace("_", "-"): name for method, name in client.meta.method_to_api_mapping.items()}
    if operation not in names:
        raise CommandError(f"there is no call {service} {operation}")
    model = client.meta.service_model.operation_model(names[operation])
    members = model.input_shape.members if model.input_shape else {}
    known = {f"--{xform_name(name, '-')}": (name, shape.type_name) for name, shape in members.items()}
    parameters: dict[str, Any] = {}
    for option, values in _options(options):
        if option in _GLOBAL:
            continue
        flag = option.replace("--no-", "--", 1)
        if flag in known and known[flag][1] == "boolean":
            parameters[known[flag][0]] = flag == option
            continue
        if option in known and not values:
            raise CommandError(f"the option {option} of {service} {operation} needs a value")
        if option not in known:
            raise CommandError(f"{service} {operation} has no option {option}; it has {', '.join(sorted(known))}")
        name, kind = known[option]
        plain = kind == "list" and not values[0].startswith(("[", "{"))
        parameters[name] = values if plain else values[0] if kind in ("string", "timestamp") else json.loads(values[0])
    try:
        answer = getattr(client, operation.replace("-", "_"))(**parameters)
    except (ClientError, BotoCoreError) as error:
        raise CommandError(str(error)) from None
    answer.pop("ResponseMetadata", None)
    return json.dumps(answer, indent=4, default=lambda value: value.isoformat())


def _options(arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return each option with its values."""
    found: list[tuple[str, list[str]]] = []
    for argument in arguments:
        if argument.startswith("--"):
            found.append((argument, []))
        elif found:
            found[-1][1].append(argument)
    return found
