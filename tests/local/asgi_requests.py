# pyright: reportMissingImports=false
"""Send requests to an MLflow's FastAPI without a server, first MLflow's way and then ours. It runs in that MLflow's virtualenv.

It prints what the answers were and what our way did.
"""

import asyncio
import json
import os
import sys
import tempfile
import threading
from collections import Counter
from contextvars import ContextVar

sys.path.insert(0, sys.argv[1])
os.environ["MLFLOW_FLASK_SERVER_SECRET_KEY"] = "not secret"

import short_ways
from flask import Flask, Response, send_file, stream_with_context
from mlflow.server import app as mlflows_flask
from mlflow.server import auth, fastapi_app
from starlette.routing import Match

BLOCK, BLOCKS = b"x" * 8192, 512
ROUTE = "/api/2.0/mlflow/"
CASES = [
    (method, f"{ROUTE}{name}") for method in ("GET", "HEAD", "POST") for name in ("small", "nothing", "empty", "broken")
] + [
    ("GET", f"{ROUTE}live"),
    ("GET", "/static-files/file"),
    ("HEAD", "/static-files/file"),
    ("GET", "/ajax-api/3.0/mlflow/traces/1"),
    ("GET", "/ajax-api/3.0/mlflow/unknown"),
    ("OPTIONS", f"{ROUTE}small"),
    ("POST", "/v1/traces"),
    ("GET", "/gateway/some/mlflow/invocations"),
    ("GET", "/api/2.0/mlflow-artifacts/artifacts/1/a.txt"),
    ("GET", "/ajax-api/3.0/jobs/1"),
]
flask, closed, read, first_is_sent, word = Flask("made up"), Counter(), Counter(), threading.Event(), ContextVar("word")
with tempfile.NamedTemporaryFile(delete=False) as file:
    file.write(BLOCK * 40)


def answer(name, content, status=200, length=None):
    made = Response(content, status)
    if length:
        made.content_length = length
    made.call_on_close(lambda: closed.update([name]))
    return made


@flask.route(f"{ROUTE}<name>", methods=["GET", "POST"])
def case(name):
    if name == "broken":
        raise ValueError("broken")
    if name == "large":
        return answer(name, large(), length=len(BLOCK) * BLOCKS)
    if name == "live":
        return answer(name, stream_with_context(live()))
    return answer(name, {"small": '{"a": 1}', "nothing": ""}.get(name, b""), 204 if name == "nothing" else 201)


@flask.route("/static-files/file")
def stored_file():
    return send_file(file.name, mimetype="text/plain")


@flask.route("/ajax-api/3.0/mlflow/traces/<one>")
def trace(one):
    return answer("trace", one)


def large():
    for _ in range(BLOCKS):
        read.update(["large"])
        yield BLOCK


def live():
    token = word.set("one")
    yield b"one"
    yield b", in time" if first_is_sent.wait(5) else b", too late"
    word.reset(token)


async def ask(app, method, path, headers=(), taken=None):
    """Return status, headers and body of an answer. `taken` is called with each piece before the next one may come."""
    start, pieces, unasked = {}, [], True

    async def receive():
        nonlocal unasked
        if unasked:
            unasked = False
            return {"type": "http.request", "body": b"{}", "more_body": False}
        return await asyncio.Event().wait()

    async def send(message):
        if message["type"] == "http.response.start":
            start.update(message)
            return
        pieces.append(message.get("body", b""))
        if pieces[-1] == b"one":
            first_is_sent.set()
        if taken:
            await taken()

    scope = {
        "type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "scheme": "http", "server": ("localhost", 80), "client": ("127.0.0.1", 1),
        "headers": [(b"host", b"localhost"), (b"content-length", b"2"), *headers],
    }  # fmt: skip
    first_is_sent.clear()
    await app(scope, receive, send)
    headers = sorted(f"{name} {value}" for name, value in start["headers"] if name != b"date")
    return start["status"], headers, b"".join(pieces).decode()


async def answers():
    app = fastapi_app.create_fastapi_app(flask)
    auth.add_fastapi_permission_middleware(app)
    found = {f"{method} {path}": await ask(app, method, path) for method, path in CASES}
    found["workspace"] = await ask(app, "GET", f"{ROUTE}small", [(b"x-mlflow-workspace", b"other")])
    found["wrong host"] = await ask(app, "GET", f"{ROUTE}small", [(b"host", b"elsewhere.example.com")])
    found["another site"] = await ask(app, "POST", f"{ROUTE}small", [(b"origin", b"https://elsewhere.example.com")])
    return app, found


async def main():
    _, theirs = await answers()
    closed.clear()
    plain, passed = short_ways._plain_call, Counter()

    async def counted(middleware, scope, *rest):
        passed.update([scope["path"]])
        await plain(middleware, scope, *rest)

    short_ways._plain_call = counted
    short_ways.install()
    app, ours = await answers()

    ahead = []

    async def slow():
        await asyncio.sleep(0.05)
        ahead.append(read["large"])

    status, _, body = await ask(app, "GET", f"{ROUTE}large", taken=slow)
    *fastapis, everything_else = fastapi_app.app.routes
    assert everything_else.path == ""
    assert len(fastapis) > 4
    scopes = [
        {"type": "http", "method": method, "path": rule.rule, "root_path": "", "headers": []}
        for rule in mlflows_flask.url_map.iter_rules()
        for method in rule.methods
        if rule.rule.startswith(short_ways.FLASKS)
    ]
    with mlflows_flask.test_request_context(f"{ROUTE}runs/create"):
        of_a_new_run = short_ways._inputs(None, None, run_uuids=["a"])
    print(
        json.dumps(
            {
                "different": {case: [theirs[case], ours[case]] for case in theirs if theirs[case] != ours[case]},
                "statuses": {case: given[0] for case, given in ours.items()},
                "live": ours[f"GET {ROUTE}live"][2],
                "closed": dict(closed),
                "passed": dict(passed),
                "large": [status, len(body) == len(BLOCK) * BLOCKS],
                "ahead": ahead[:2],
                "routes": len(scopes),
                "fastapis": [
                    [scope["method"], scope["path"]]
                    for scope in scopes
                    if any(route.matches(dict(scope))[0] != Match.NONE for route in fastapis)
                ],
                "of_a_new_run": of_a_new_run,
            }
        )
    )


asyncio.run(main())
