# pyright: reportMissingImports=false
"""Fill every answer of an MLflow with values, and compare what our function and MLflow's own write. It runs in that MLflow's virtualenv.

It prints the number of messages, how many of them ours reads in one pass, and whether it is in use.
"""

import json
import sys

sys.path.insert(0, sys.argv[1])

import json_answers
from google.protobuf.descriptor import FieldDescriptor
from mlflow.server import auth, handlers
from mlflow.utils import proto_json_utils

ORIGINAL = proto_json_utils.message_to_json
DEPTH = 4
FLOATS = {FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT}
UNSIGNED = {
    FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_FIXED64,
    FieldDescriptor.TYPE_UINT32,
    FieldDescriptor.TYPE_FIXED32,
}
VALUES = {
    FieldDescriptor.CPPTYPE_BOOL: [True, False],
    FieldDescriptor.CPPTYPE_DOUBLE: [1.5, float("nan"), float("inf"), 0.1 + 0.2],
    FieldDescriptor.CPPTYPE_FLOAT: [0.25],
    FieldDescriptor.CPPTYPE_INT32: [-7, 0],
    FieldDescriptor.CPPTYPE_INT64: [2**53 + 1, -(2**62)],
    FieldDescriptor.CPPTYPE_UINT32: [7],
    FieldDescriptor.CPPTYPE_UINT64: [2**63 + 1],
    FieldDescriptor.CPPTYPE_STRING: ["text", 'quotes " and \\', "ä€𝄞", ""],
}


def values_of(field):
    if field.type == FieldDescriptor.TYPE_BYTES:
        return [b"\x00\xff"]
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return [value.number for value in field.enum_type.values][:2]
    return VALUES[field.cpp_type]


def fill(message, depth=0):
    if message.DESCRIPTOR.full_name in {"google.protobuf.Timestamp", "google.protobuf.Duration"}:
        message.seconds, message.nanos = 1_700_000_000, 12_000_000
        return
    if message.DESCRIPTOR.full_name == "google.protobuf.Value":
        message.number_value = 1.5
        return
    for field in message.DESCRIPTOR.fields:
        is_map = field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type.GetOptions().map_entry
        repeated = getattr(field, "is_repeated", None)
        if repeated is None:
            repeated = field.label == FieldDescriptor.LABEL_REPEATED
        if is_map:
            key, value = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
            entries = getattr(message, field.name)
            for one in values_of(key):
                if value.type == FieldDescriptor.TYPE_MESSAGE:
                    if depth < DEPTH:
                        fill(entries[one], depth + 1)
                else:
                    entries[one] = values_of(value)[0]
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            if depth < DEPTH:
                if repeated:
                    for _ in range(2):
                        fill(getattr(message, field.name).add(), depth + 1)
                else:
                    getattr(message, field.name).SetInParent()
                    fill(getattr(message, field.name), depth + 1)
        elif repeated:
            getattr(message, field.name).extend(values_of(field))
        else:
            setattr(message, field.name, values_of(field)[depth % len(values_of(field))])


seen = read_here = 0
for _, request, _ in handlers.get_endpoints(lambda request_class: request_class):
    answer = getattr(request, "Response", None)
    if answer is None:
        continue
    for full in (True, False):
        message = answer()
        if full:
            fill(message)
        ours, theirs = json_answers.message_to_json(message), ORIGINAL(message)
        assert json.loads(ours) == json.loads(theirs), (request, ours, theirs)
    seen += 1
    read_here += json_answers._is_read_here(answer.DESCRIPTOR)
json_answers.install()
in_use = handlers.message_to_json is json_answers.message_to_json
assert in_use == (auth.message_to_json is json_answers.message_to_json)
print(json.dumps([seen, read_here, in_use]))
