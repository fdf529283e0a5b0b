# pyright: reportMissingImports=false
"""Print what the routes of an MLflow take as JSON: "METHOD path" to the fields. It runs in that MLflow's virtualenv.

A field is the name of a type, the list of an enumeration's values, another object of fields, or `["*", field]` for many. The
routes are those that have a message of protobuf.
"""

import json

from google.protobuf.descriptor import FieldDescriptor
from mlflow.server import handlers

DEPTH = 3
"""Levels of messages in messages. Below, a message has no fields here, because some contain themselves."""
TYPES = {
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_DOUBLE: "float",
    FieldDescriptor.TYPE_FLOAT: "float",
    FieldDescriptor.TYPE_INT32: "int",
    FieldDescriptor.TYPE_INT64: "int",
}


def fields(descriptor, depth=0):
    shapes = {}
    for field in descriptor.fields:
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            shape = fields(field.message_type, depth + 1) if depth < DEPTH else {}
        elif field.type == FieldDescriptor.TYPE_ENUM:
            shape = [value.name for value in field.enum_type.values]
        else:
            shape = TYPES.get(field.type, "text")
        repeated = getattr(field, "is_repeated", None)
        if repeated is None:
            repeated = field.label == FieldDescriptor.LABEL_REPEATED
        shapes[field.name] = ["*", shape] if repeated else shape
    return shapes


found = {}
for path, message, methods in handlers.get_endpoints(lambda request_class: request_class):
    if hasattr(message, "DESCRIPTOR"):
        found |= {f"{method} {path}": fields(message.DESCRIPTOR) for method in methods}
print(json.dumps(found))
