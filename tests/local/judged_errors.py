# pyright: reportMissingImports=false, reportMissingModuleSource=false
"""Print what `answers.py` makes of errors as JSON: the error to MLflow's name of the code. It runs in an MLflow's virtualenv."""

import json

from botocore.exceptions import ClientError, EndpointConnectionError
from mlflow.protos.databricks_pb2 import ErrorCode
from psycopg2 import errors
from sqlalchemy import exc
from with_login import login_settings

with login_settings():
    import answers


def of_server(state: str) -> Exception:
    """Return SQLAlchemy's error for an error of PostgreSQL's with this SQLSTATE."""

    class WithState(errors.lookup(state)):
        pgcode = state

    return exc.DBAPIError("SELECT 1", {}, WithState("no matter"))


judged = {state: of_server(state) for state in (
    "08006", "22003", "22P02", "23502", "23503", "23505", "25006", "40001", "40P01", "42501", "42883", "42P01", "53100",
    "53300", "54000", "55P03", "57014", "57P01", "57P03",
)}  # fmt: skip
judged |= {
    code: ClientError({"Error": {"Code": code, "Message": "no matter"}}, "GetObject")
    for code in (
        "NoSuchKey",
        "404",
        "NoSuchUpload",
        "KeyTooLongError",
        "InvalidPart",
        "SlowDown",
        "503",
        "AccessDenied",
        "NoSuchBucket",
    )
}
judged |= {
    "lost connection": exc.OperationalError("SELECT 1", {}, Exception("server closed the connection")),
    "no free connection": exc.TimeoutError("QueuePool limit"),
    "wrong type for the driver": exc.ProgrammingError("SELECT 1", {}, Exception("can't adapt type 'dict'")),
    "store away": EndpointConnectionError(endpoint_url="https://store.example"),
    "store away, as text": Exception("failures: {'a': EndpointConnectionError('no matter')}"),
    "absent, as text": Exception("failures: An error occurred (404) when calling the HeadObject operation: Not Found"),
    "full disk": OSError(28, "No space left on device"),
    "long name": OSError(36, "File name too long"),
    "folder": IsADirectoryError("a"),
    "of nobody knows what": RuntimeError("no matter"),
}
print(json.dumps({name: ErrorCode.Name(answers.verdict(error).code) for name, error in judged.items()}))
