"""Write MLflow's answers in one pass, which makes a search a third faster.

MLflow encodes each answer with an indent, reads that back, merges the large numbers in, and encodes with an indent once more. With an indent
Python's encoder in C is not used. That takes two fifths of a search. Here the same merged dict is encoded once, without an indent.

It runs in MLflow's pod, where `authorization.py` installs it before the first request is answered.
"""
# The virtualenv of this checkout has none of these packages.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

import hashlib
import inspect
import json
from typing import Any

from google.protobuf.json_format import MessageToDict
from mlflow.server import auth, handlers
from mlflow.utils import proto_json_utils

MEASURED = "f343f89481adf2667c0c96affb1213f928698b24cc9293d774840d2c71bd8e12"
"""Hash of the source of MLflow's function, of 3.7.0 and 3.15.1. Another one is left alone: MLflow 3.17.2 does better by itself."""


def message_to_json(message: Any) -> str:
    """Return an answer as JSON, with the same content as MLflow's function."""
    answer = MessageToDict(message, preserving_proto_field_name=True)
    large_numbers = proto_json_utils._mark_int64_fields(message)
    return json.dumps(proto_json_utils._merge_json_dicts(large_numbers, answer))


def install() -> None:
    """Replace MLflow's function where it is used, if it is the one that was compared."""
    source = inspect.getsource(proto_json_utils.message_to_json)
    if hashlib.sha256(source.encode()).hexdigest() == MEASURED:
        for module in (handlers, auth):
            module.message_to_json = message_to_json
