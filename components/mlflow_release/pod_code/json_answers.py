"""Write MLflow's answers in one pass: 6 ms in place of 37 for fifty runs with ten metrics each.

MLflow encodes each answer with an indent, reads that back, merges the large numbers in, and encodes with an indent once more. With an indent
Python's encoder in C is not used. Here the message is read once, by fields that are looked up once for each type, and encoded once, without
an indent. Types that this does not read go MLflow's way, up to the encoder.

It runs in MLflow's pod, where `authorization.py` installs it before the first request is answered.
"""
# The virtualenv of this checkout has none of these packages.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

import functools
import hashlib
import inspect
import json
import math
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from mlflow.server import auth, handlers
from mlflow.utils import proto_json_utils

MEASURED = "f343f89481adf2667c0c96affb1213f928698b24cc9293d774840d2c71bd8e12"
"""Hash of the source of MLflow's function, of 3.7.0 and 3.15.1. Another one is left alone: MLflow 3.17.2 does better by itself."""


def message_to_json(message: Any) -> str:
    """Return an answer as JSON, with the same content as MLflow's function."""
    if _is_read_here(message.DESCRIPTOR):
        return json.dumps(_read(message))
    answer = MessageToDict(message, preserving_proto_field_name=True)
    large_numbers = proto_json_utils._mark_int64_fields(message)
    return json.dumps(proto_json_utils._merge_json_dicts(large_numbers, answer))


@functools.cache
def _is_read_here(message_type: Any) -> bool:
    """Return True if a type, and each that it contains, has no maps, no bytes, no short floats and nothing of protobuf's own types."""
    seen, left = set(), [message_type]
    while left:
        one = left.pop()
        if one.full_name.startswith("google.protobuf.") or one.GetOptions().map_entry:
            return False
        seen.add(one)
        for field in one.fields:
            if field.type in (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_FLOAT):
                return False
            if field.message_type is not None and field.message_type not in seen:
                left.append(field.message_type)
    return True


def _read(message: Any) -> dict[str, Any]:
    answer = {}
    for field, value in message.ListFields():
        name, convert, is_list = _reader(field)
        if is_list:
            answer[name] = [convert(one) for one in value] if convert else list(value)
        else:
            answer[name] = convert(value) if convert else value
    return answer


@functools.cache
def _reader(field: Any) -> tuple[str, Callable[[Any], Any] | None, bool]:
    """Return a field's name, what its values go through (None: nothing), and whether it has a list of them."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        convert = _read
    elif field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        convert = _number
    elif field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        convert = functools.partial(_word, field.enum_type.values_by_number)
    else:
        convert = None
    return field.name, convert, field.is_repeated


def _word(values: Any, number: int) -> int | str:
    """Return the name of an enum's value, or the number of one that has no name."""
    return values[number].name if number in values else number


def _number(value: float) -> float | str:
    """Return a number, or the word that protobuf has for one that JSON cannot have."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def install() -> None:
    """Replace MLflow's function where it is used, if it is the one that was compared and protobuf is of May 2025 (6.31) or later."""
    source = inspect.getsource(proto_json_utils.message_to_json)
    if hashlib.sha256(source.encode()).hexdigest() == MEASURED and hasattr(FieldDescriptor, "is_repeated"):
        for module in (handlers, auth):
            module.message_to_json = message_to_json
