"""Take the detours out of MLflow's way from uvicorn to a handler of Flask, which cost half as much as the handlers themselves.

- Three middlewares are for FastAPI's routes. Each passes every other request on through two tasks and a queue of its own.
- The thread of a handler hands each piece of an answer over to the event loop and waits. Here it hands over a small answer as a whole, and
  a file in pieces of 256 KiB at least, none before the client has taken the one before. MLflow's has a file in memory until a slow client has it.
- A run that was just created is asked for its inputs, of which it has none.

It runs in MLflow's pod, where `authorization.py` installs it before the first request is answered.
"""
# The virtualenv of this checkout has none of these packages.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

import contextvars
from collections.abc import Callable, Generator
from typing import Any

from anyio import CancelScope, to_thread
from flask import has_request_context, request
from mlflow.server import auth, fastapi_app
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.wsgi import build_environ

FLASKS = (
    "/api/2.0/mlflow/",
    "/ajax-api/2.0/mlflow/",
    "/api/3.0/mlflow/traces",
    "/ajax-api/3.0/mlflow/traces",
    "/static-files/",
)
"""Beginnings of the paths that FastAPI has no route for."""
MIDDLEWARES = {"fastapi_permission_middleware", "gateway_timing_middleware", "workspace_context_middleware"}
"""Middlewares of MLflow's that do nothing with a request of `FLASKS` that has no `WORKSPACE`."""
WORKSPACE = b"x-mlflow-workspace"
"""Header that one of the middlewares refuses."""
PIECE = 256 * 1024
"""Bytes of a file that are read in one go, at least."""

_plain_call, _plain_inputs = BaseHTTPMiddleware.__call__, SqlAlchemyStore._get_run_inputs


async def _call(middleware: BaseHTTPMiddleware, scope: Any, receive: Any, send: Any) -> None:
    """Call a middleware, or what follows it if it has nothing to do."""
    if scope["type"] == "http" and middleware.dispatch_func.__name__ in MIDDLEWARES and _is_flasks(scope):
        await middleware.app(scope, receive, send)
    else:
        await _plain_call(middleware, scope, receive, send)


def _is_flasks(scope: Any) -> bool:
    path = scope["path"]
    return (
        path.startswith(FLASKS)
        and all(name != WORKSPACE for name, _ in scope["headers"])
        # A later MLflow can have routes of FastAPI's among them. Those that it checks are left to it.
        and auth._find_fastapi_validator(path, scope["method"]) is None
    )


async def _answer(responder: Any, receive: Any, send: Any) -> None:
    """Call Flask in a thread, and send its answer."""
    body, more = [], True
    while more:
        message = await receive()
        body.append(message.get("body", b""))
        more = message.get("more_body", False)
    environ = build_environ(responder.scope, b"".join(body))
    body.clear()
    # What the generator of an answer sets in its context, it takes back in the same.
    context = contextvars.copy_context()
    start, piece, following = await to_thread.run_sync(context.run, _begin, responder.app, environ)
    try:
        await send(start)
        while following is not None and piece is not None:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            piece = await to_thread.run_sync(context.run, next, following, None)
        await send({"type": "http.response.body", "body": piece or b""})
    except BaseException:
        # The server stops, or the answer broke off. What it leaves behind is cleaned up where it was begun.
        if following is not None:
            with CancelScope(shield=True):
                await to_thread.run_sync(context.run, following.close)
        raise


def _begin(app: Callable[..., Any], environ: Any) -> tuple[dict[str, Any], bytes | None, Generator[bytes] | None]:
    """Return ASGI's message for the beginning of an answer, the first piece of it if there is one, and the others unless it is the whole."""
    start: dict[str, Any] = {"type": "http.response.start"}

    def start_response(status: str, headers: list[tuple[str, str]], error: Any = None) -> None:
        if error:
            raise error[1].with_traceback(error[2])
        start["status"] = int(status.split(" ", 1)[0])
        start["headers"] = [
            (name.strip().lower().encode("ascii"), value.strip().encode("ascii")) for name, value in headers
        ]

    answer = app(environ, start_response)
    length = dict(start["headers"]).get(b"content-length")
    # A block of an answer without a length is sent when it is there: somebody may wait for it.
    following = _pieces(answer, PIECE if length else 0)
    piece = next(following, None)
    if piece is None or length == b"%d" % len(piece):
        following.close()
        return start, piece, None
    return start, piece, following


def _pieces(answer: Any, size: int) -> Generator[bytes]:
    """Yield the blocks of an answer, so many at a time that they have a size at least, and close it."""
    piece = bytearray()
    try:
        for block in answer:
            piece += block
            if len(piece) >= size:
                yield bytes(piece)
                piece.clear()
        if piece:
            yield bytes(piece)
    finally:
        if hasattr(answer, "close"):
            answer.close()


def _inputs(store: SqlAlchemyStore, session: Any, run_uuids: list[str]) -> Any:
    """Return the inputs of runs."""
    is_new = has_request_context() and request.path.endswith("/mlflow/runs/create")
    return [[] for _ in run_uuids] if is_new else _plain_inputs(store, session, run_uuids)


def install() -> None:
    """Replace what Starlette and MLflow do."""
    BaseHTTPMiddleware.__call__ = _call
    fastapi_app._EfficientWSGIResponder.__call__ = _answer
    SqlAlchemyStore._get_run_inputs = _inputs
