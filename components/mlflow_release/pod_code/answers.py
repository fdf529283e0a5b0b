"""Answers to what goes wrong: as the caller's fault, as what passes by itself, or as the server's.

MLflow answers most of it with 500, which clients repeat for minutes, or with 400 and the SQL statement, on which they give
up even if the database was only away. Here 400 and 404 are the caller's, 503 passes by itself, and 500 is the server's and
in its log. No answer has SQL or the bucket's name in it.

It runs in MLflow's pod, where `authorization.py` installs it before the first request is answered.
"""
# The virtualenv of this checkout has none of these packages.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

import errno
import functools
import logging
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote

from botocore.exceptions import BotoCoreError, HTTPClientError, ParamValidationError
from botocore.exceptions import ConnectionError as StoreConnectionError
from flask import Flask, Response, g, has_request_context, make_response, request
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    DEADLINE_EXCEEDED,
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    INVALID_STATE,
    NOT_IMPLEMENTED,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
)
from mlflow.server import ARTIFACTS_DESTINATION_ENV_VAR, auth
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from sqlalchemy import exc
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import Request
from starlette.responses import Response as AsgiResponse

COLLISIONS = ("40", "23505")
"""SQLSTATEs, or their beginnings, of two writers who met. The second one finds the work of the first."""
WRONG_TYPES = (TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)
"""Exceptions of code that reads a value as if it had another type."""
TRIES = 5
"""Times that a handler is called when writers meet, with up to 0.2 s in between."""

_S3_ERROR = re.compile(r"An error occurred \((\w+)\) when calling the \w+ operation")
_UNREACHABLE = re.compile(
    r"\b(?:EndpointConnection|ConnectTimeout|ReadTimeout|ConnectionClosed|ProxyConnection)Error\b"
)
_SQL = re.compile(r"[\s.]*(?:Error: )?\((?:psycopg2|sqlalchemy|builtins)\..*", re.DOTALL)
_GAVE_UP = re.compile(r"\b(?:retries|attempts)\b")
_NOT_OFFERED = re.compile(r"is not supported for the current artifact repository")
_SERVERS = re.compile(
    r"database schema|[Dd]atabase migration|configured \w+ store|Bad data in database|Expected only 1|Found multiple"
)

_logger = logging.getLogger(__name__)


class _Verdict(NamedTuple):
    """Judgement of an error."""

    code: int
    """MLflow's error code."""
    text: str
    """Sentence for the caller."""


_FAILED = _Verdict(INTERNAL_ERROR, "The server failed. Its log has the reason.")
_OTHER_FORM = _Verdict(INVALID_PARAMETER_VALUE, "The request has another form than this route wants.")
_NO_ARTIFACT = _Verdict(RESOURCE_DOES_NOT_EXIST, "There is no artifact with this path.")
_DATABASE_LATER = _Verdict(TEMPORARILY_UNAVAILABLE, "The database cannot do this now. Please try again.")
_STORE_LATER = _Verdict(TEMPORARILY_UNAVAILABLE, "The artifact store cannot do this now. Please try again.")
_STORE_REFUSES = _Verdict(INTERNAL_ERROR, "The artifact store refuses this server. The server's log has the reason.")

_NUL = "A text of the request contains the character NUL, which cannot be stored."

STATES = {
    # Connections, a standby, locks, resources, a shutdown.
    "08|25006|40|53|55|57|58": _DATABASE_LATER,
    "23503": _Verdict(RESOURCE_DOES_NOT_EXIST, "The request names something that is not there."),
    "23505": _Verdict(INVALID_PARAMETER_VALUE, "The request says something twice, or what is there already."),
    # Of 42, the types only: the statements are MLflow's, and the values are the caller's.
    "21|22|23|42804|42846|42883|42P18|54": _Verdict(
        INVALID_PARAMETER_VALUE,
        "The database cannot hold a value of the request: it is too large, too long, missing or of another type.",
    ),
}
"""Beginnings of PostgreSQL's SQLSTATEs, as a pattern, to what they mean. Any other is the server's fault."""
S3_CODES = {
    "404|NoSuchKey|NoSuchUpload|NoSuchVersion": _NO_ARTIFACT,
    "400|EntityToo.*|Invalid(?:Argument|Part|PartOrder|Range|URI)|KeyTooLongError|MalformedXML": _Verdict(
        INVALID_PARAMETER_VALUE, "The artifact store refuses the name, the size or the parts of this file."
    ),
    "5..|InternalError|OperationAborted|RequestTime.*|ServiceUnavailable|SlowDown|Throttling.*": _STORE_LATER,
}
"""Error codes of S3, as a pattern, to what they mean. Any other is the server's fault."""


def install() -> None:
    """Replace MLflow's answers to errors by those of this module, for both of its frameworks."""
    app = auth.app
    app.handle_exception = functools.partial(_answer, app)
    # MLflow 3.15 calls the handlers of six routes once more after the request, with an argument that they do not take.
    for key in [key for key, after in auth.AFTER_REQUEST_HANDLERS.items() if after in app.view_functions.values()]:
        del auth.AFTER_REQUEST_HANDLERS[key]
    for name, view in app.view_functions.items():
        app.view_functions[name] = _repeated(view)
    ServerErrorMiddleware.error_response = _answer_asgi
    MlflowException.__init__ = _judged_init
    ArtifactRepository._is_directory = _no_directory


def check_path() -> None:
    """Raise an error if the current request's path or query has the character NUL, which no artifact's name can have.

    Raises:
        MlflowException: it has, also if it is written so that only a second decoding shows it.
    """
    if "\0" in unquote(request.full_path):
        raise MlflowException(_NUL, INVALID_PARAMETER_VALUE)


def verdict(error: BaseException) -> _Verdict:
    """Return whose fault an exception is, and what to say."""
    for inner in _chain(error):
        found = _of_database(inner) or _of_store(inner) or _of_file(inner)
        if found:
            return found
    for inner in _chain(error):
        if isinstance(inner, UnicodeError):
            return _Verdict(INVALID_PARAMETER_VALUE, "A text of the request is no valid Unicode.")
        if isinstance(inner, ValueError):
            text = f"A value of the request is wrong: {str(inner)[:200]}"
            return _Verdict(INVALID_PARAMETER_VALUE, _NUL if "NUL" in text else text)
        if isinstance(inner, WRONG_TYPES) and _says_something():
            return _OTHER_FORM
    return _FAILED


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those that it comes from."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = (
            getattr(error, "orig", None)
            or error.__cause__
            or (None if error.__suppress_context__ else error.__context__)
        )


def _says_something() -> bool:
    """Return False for a question without parameters, which cannot be wrong."""
    return not has_request_context() or request.method not in ("GET", "HEAD") or bool(request.view_args or request.args)


def _of_database(error: BaseException) -> _Verdict | None:
    if state := getattr(error, "pgcode", None):
        if state.startswith(COLLISIONS) and has_request_context():
            g.collided = True
        return next((found for states, found in STATES.items() if re.match(states, state)), _FAILED)
    if isinstance(error, exc.DBAPIError) and not getattr(getattr(error, "orig", None), "pgcode", None):
        # The server said nothing: the connection was lost, or the driver cannot send the value.
        return _DATABASE_LATER if isinstance(error, (exc.OperationalError, exc.InterfaceError)) else _OTHER_FORM
    if isinstance(error, (exc.TimeoutError, exc.DisconnectionError)):
        return _DATABASE_LATER
    return _OTHER_FORM if isinstance(error, exc.SQLAlchemyError) and not isinstance(error, exc.StatementError) else None


def _of_store(error: BaseException) -> _Verdict | None:
    # MLflow and boto3 pass errors of S3 on as a text.
    text = str(error)
    if found := _S3_ERROR.search(text):
        return next((meant for codes, meant in S3_CODES.items() if re.fullmatch(codes, found[1])), _STORE_REFUSES)
    if isinstance(error, (HTTPClientError, StoreConnectionError)) or _UNREACHABLE.search(text):
        return _STORE_LATER
    if isinstance(error, ParamValidationError):
        return _OTHER_FORM
    return _STORE_REFUSES if isinstance(error, BotoCoreError) else None


def _of_file(error: BaseException) -> _Verdict | None:
    if isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError)):
        return _NO_ARTIFACT
    if not isinstance(error, OSError):
        return None
    if error.errno == errno.ENAMETOOLONG:
        return _Verdict(INVALID_PARAMETER_VALUE, "The name of a file is too long.")
    passing = isinstance(error, (ConnectionError, TimeoutError)) or error.errno in (errno.ENOSPC, errno.EMFILE)
    return _Verdict(TEMPORARILY_UNAVAILABLE, "The server cannot do this now. Please try again.") if passing else _FAILED


_plain_init, _plain_is_directory = MlflowException.__init__, ArtifactRepository._is_directory


@functools.wraps(_plain_init)
def _judged_init(
    self: MlflowException, message: Any, error_code: int = INTERNAL_ERROR, *rest: Any, **named: Any
) -> None:
    judged = _judged(message, error_code)
    _plain_init(self, judged.text, judged.code, *rest, **named)


def _judged(message: object, code: int) -> _Verdict:
    """Return code and text of an exception of MLflow's, which may have another exception as its message."""
    if isinstance(message, Exception):
        judged = verdict(message)
        if judged.code == INTERNAL_ERROR or judged is _OTHER_FORM:
            _logger.error("an error that MLflow does not expect", exc_info=message)
        return judged
    text, handled = str(message), sys.exc_info()[1]
    judged = verdict(handled) if handled else _of_store(Exception(text))
    if judged and (judged.code == TEMPORARILY_UNAVAILABLE or _S3_ERROR.search(text)):
        return judged
    if code in (DEADLINE_EXCEEDED, TEMPORARILY_UNAVAILABLE) or (code == INTERNAL_ERROR and _GAVE_UP.search(text)):
        return _Verdict(TEMPORARILY_UNAVAILABLE, _plain(text))
    if code == NOT_IMPLEMENTED and _NOT_OFFERED.search(text):
        # On 404, and on this text, a client that asked for a signed address sends the file through the server.
        code = RESOURCE_DOES_NOT_EXIST
    if code in (INTERNAL_ERROR, INVALID_STATE, NOT_IMPLEMENTED) and not _SERVERS.search(text):
        # MLflow leaves the code out where it means that the request is wrong.
        code = judged.code if handled and judged else INVALID_PARAMETER_VALUE
    return _Verdict(code, _plain(text))


def _plain(text: str) -> str:
    """Return a text of MLflow's without SQL and the place of the artifacts."""
    return _SQL.sub(".", text).replace(os.environ.get(ARTIFACTS_DESTINATION_ENV_VAR) or "\0", "mlflow-artifacts:")


def _no_directory(repository: ArtifactRepository, path: str) -> bool:
    # The server sends single files. MLflow would fetch every file of the folder before it sees that it cannot send that.
    if _plain_is_directory(repository, path):
        raise IsADirectoryError(path)
    return False


def _known(error: Exception) -> MlflowException:
    return error if isinstance(error, MlflowException) else MlflowException(error)


def _answer(app: Flask, error: Exception) -> Response:
    """Answer an exception that no handler of MLflow's caught, in Flask."""
    known = _known(error)
    response = make_response(known.serialize_as_json(), known.get_http_status_code())
    response.mimetype = "application/json"
    return app.finalize_request(response, from_error_handler=True)


def _answer_asgi(_: ServerErrorMiddleware, __: Request, error: Exception) -> AsgiResponse:
    """Answer an exception that no handler of MLflow's caught, in FastAPI."""
    known = _known(error)
    return AsgiResponse(known.serialize_as_json(), known.get_http_status_code(), media_type="application/json")


def _repeated(view: Callable[..., Any]) -> Callable[..., Any]:
    """Return a handler that is called again when two writers met, as the ranks of a training do. MLflow gives up.

    A feature that is off is 404, where MLflow says 503 or 501: clients would ask for it again and again.
    """

    @functools.wraps(view)
    def call(*given: Any, **named: Any) -> Any:
        for left in reversed(range(TRIES)):
            g.collided = False
            answer = view(*given, **named)
            status = getattr(answer, "status_code", 200)
            if not (left and g.collided and status in (400, 503)):
                break
            time.sleep(random.random() / 5)  # noqa: S311 - no secret
        if status in (501, 503) and not answer.is_json:
            answer.status_code = 404
        return answer

    return call
