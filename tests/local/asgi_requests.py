# pyright: reportMissingImports=false
"""Send requests to an MLflow's FastAPI without a server, first MLflow's way and then ours. It runs in that MLflow's virtualenv.

It prints what the answers were and what our way did.
"""

import asyncio
import json
import threading
from collections import Counter
from contextvars import ContextVar

import short_ways
from flask import Flask, Response, send_file, stream_with_context
from mlflow.server import auth, fastapi_app

MIB = 2**20
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
flask, closed, threads, first_is_sent, word = Flask("made up"), Counter(), set(), threading.Event(), ContextVar("word")
read = Counter()
"""Bytes that were read of the large files, by the size of their blocks."""


def answer(name, content, status=200, length=None):
    made = Response(content, status)
    if length:
        made.content_length = length
    return counted(name, made)


def counted(name, made):
    def count():
        closed.update([name])
        threads.add(threading.current_thread().name)

    made.call_on_close(count)
    return made


@flask.route(f"{ROUTE}<name>", methods=["GET", "POST"])
def case(name):
    if name == "broken":
        raise ValueError("broken")
    if name in ("8192", str(MIB)):
        return answer(name, large(int(name)), length=4 * MIB)
    if name == "live":
        return answer(name, stream_with_context(live()))
    return answer(name, {"small": '{"a": 1}', "nothing": ""}.get(name, b""), 204 if name == "nothing" else 201)


@flask.route("/static-files/file")
def stored_file():
    return counted("file", send_file(str(short_ways.__file__), mimetype="text/plain"))


@flask.route("/ajax-api/3.0/mlflow/traces/<one>")
def trace(one):
    return answer("trace", one)


def large(block):
    for _ in range(4 * MIB // block):
        read[block] += block
        yield b"x" * block


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

    async def counting(middleware, scope, *rest):
        passed.update([scope["path"]])
        await plain(middleware, scope, *rest)

    short_ways._plain_call = counting
    short_ways.install()
    app, ours = await answers()

    # As if MLflow had a check of FastAPI's for a path that is Flask's today.
    find, through = auth._find_fastapi_validator, dict(passed)
    auth._find_fastapi_validator = lambda path, method: find("/v1/traces", "POST")
    status, *_ = await ask(app, "GET", f"{ROUTE}small")
    checked = status, passed[f"{ROUTE}small"] - through[f"{ROUTE}small"]
    auth._find_fastapi_validator = find

    ahead = {}
    for block in (8192, MIB):
        seen = []

        async def slow(block=block, seen=seen):
            await asyncio.sleep(0.05)
            seen.append(read[block])

        status, _, body = await ask(app, "GET", f"{ROUTE}{block}", taken=slow)
        assert (status, len(body)) == (200, 4 * MIB)
        ahead[block] = seen[:2]

    async def gone():
        raise ConnectionResetError

    try:
        await ask(app, "GET", f"{ROUTE}{MIB}", taken=gone)
    except ConnectionResetError:
        closed.update(["gone"])
    *routers, _ = fastapi_app.app.routes
    fastapis = [route.path for router in routers for route in router.effective_candidates()]
    short_ways._plain_inputs = lambda store, session, runs: "asked"
    inputs = {}
    for call in ("create", "get"):
        with flask.test_request_context(f"{ROUTE}runs/{call}"):
            inputs[call] = short_ways._inputs(None, None, run_uuids=["a"])
    said = {
        "different": {case: [theirs[case], ours[case]] for case in theirs if theirs[case] != ours[case]},
        "statuses": {case: given[0] for case, given in ours.items()},
        "live": ours[f"GET {ROUTE}live"][2],
        "closed": dict(closed),
        "threads": sorted(threads),
        "passed": through,
        "checked": checked,
        "ahead": ahead,
        "fastapis": len(fastapis),
        "on a short way": [path for path in fastapis if path.startswith(short_ways.FLASKS)],
        "inputs": inputs,
    }
    print(json.dumps(said))


asyncio.run(main())
