"""Requests for every route of MLflow, made from what the routes take, with values of which some are wrong."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from hypothesis import strategies as st

TEXTS = (
    "none-such",
    "",
    " ",
    "a\x00b",
    "\ud800",
    "x" * 6000,
    "9" * 30,
    "-1",
    "0",
    "nan",
    "null",
    "[]",
    "{}",
    '{"a": 1',
    "%00",
    "per%cent",
    "../../etc/passwd",
    "/etc/passwd",
    "a//b",
    "a/./b",
    "é漢😀",
    "'; DROP TABLE runs; --",
    "runs:/none-such/model",
    "models:/none-such@alias",
    "s3://another-store/x",
    "file:///etc",
    "mlflow-artifacts://a.host/x",
    "http://[::1",
    "metrics.`a` > 1",
    "params.a = 'b' AND",
    "attributes.start_time > 99999999999999999999",
    "tag.a IN ('b'",
    "metrics.a DESC",
    "YWJj",
    "2026-01-01T00:00:00Z",
)
"""Texts of which some are wrong in each place."""
IN_PATHS = TEXTS[:22]
INTEGERS = (0, 1, -1, 2, 1000, 2**31, 2**63 - 1, -(2**63), 2**63, 2**70, 10**400, 1.5, "12", "x", "1e400")
FLOATS = (0.5, -0.0, 1e308, 1e-320, math.nan, math.inf, -math.inf, 2**70, "NaN", "Infinity", "x", None)
OF_ANOTHER_TYPE = (None, True, 7, 1.5, "text", [], {}, [None], [[]], {"a": {"b": None}}, [{"a": "b"}])
BODIES = (b"", b"null", b"[]", b"1", b'"x"', b"{", b"[" * 20_000, b'{"a":' * 5000)
CONTENT_TYPES = ("text/plain", "application/x-protobuf", "multipart/form-data; boundary=x", "x")


@dataclass(frozen=True)
class Request:
    """A generated request."""

    method: str
    path: str
    """Path and query."""
    body: bytes | None
    headers: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.method} {self.path[:300]} {dict(self.headers)} {(self.body or b'')[:500]!r}"


def requests(method: str, route: str, fields: object, known: Mapping[str, object]) -> st.SearchStrategy[Request]:
    """Return requests for a route.

    Args:
        method: HTTP method.
        route: path with parameters as `<name>` or `{name}`.
        fields: what the route takes, as `mlflow_messages.py` prints it; None if it is not known.
        known: plausible values by field, with which some requests get far.
    """
    contents = _values(fields or dict.fromkeys(known, "text"), "", known)

    @st.composite
    def request(draw: st.DrawFn) -> Request:
        def fill(found: re.Match[str]) -> str:
            usual = known.get(found[1] or found[2])
            text = draw(st.sampled_from(IN_PATHS) if usual is None else st.just(str(usual)) | st.sampled_from(IN_PATHS))
            return quote(text.encode("utf-8", "surrogatepass"), safe=draw(st.sampled_from(("", "/"))))

        path = re.sub(r"<(?:\w+:)?(\w+)>|\{(\w+)(?::\w+)?\}", fill, route)
        content, headers = draw(contents), dict[str, str]()
        if route.endswith("/v1/traces"):
            headers["X-MLflow-Experiment-Id"] = draw(
                st.sampled_from((str(known["experiment_id"]), "none-such", "999999", "-1"))
            )
        if method in {"GET", "HEAD"} or (method == "DELETE" and draw(st.booleans())):
            flat = {
                key: [_text(one) for one in value] if isinstance(value, list) else _text(value)
                for key, value in (content.items() if isinstance(content, dict) else ())
            }
            query = urlencode(flat, doseq=True, errors="surrogatepass")
            return Request(method, f"{path}?{query}" if query else path, None, headers)
        headers["Content-Type"] = "application/json"
        body = json.dumps(content).encode()
        match draw(st.integers(0, 19)):
            case 0:
                body = draw(st.binary(max_size=60))
            case 1:
                body = body[: len(body) // 2]
            case 2:
                body = json.dumps(body.decode()).encode()
            case 3:
                headers["Content-Type"] = draw(st.sampled_from(CONTENT_TYPES))
            case 4:
                body = draw(st.sampled_from(BODIES))
            case _:
                pass
        return Request(method, path, body, headers)

    return request()


def _values(shape: Any, name: str, known: Mapping[str, object]) -> st.SearchStrategy[Any]:
    usual = known.get(name)
    right: st.SearchStrategy[Any]
    match shape:
        case ["*", inner]:
            one = known.get(name.removesuffix("s"))
            plausible = usual if isinstance(usual, list) else [one]
            right = st.lists(_values(inner, name.removesuffix("s"), known), max_size=3)
            right = right if usual is None and one is None else st.just(plausible) | right
        case list():
            right = st.sampled_from([*shape, "NONE_SUCH", 0, 99])
        case dict():
            fields = {key: _values(inner, key, known) for key, inner in shape.items()}
            right = st.fixed_dictionaries({}, optional=fields) if fields else st.sampled_from(({}, {"a": "b"}))
        case "bool":
            right = st.booleans()
        case "int" | "float":
            right = st.sampled_from(INTEGERS if shape == "int" else FLOATS)
            right = right if usual is None else st.just(usual) | right
        case _:
            right = st.sampled_from(TEXTS) | st.text(max_size=20)
            right = right if usual is None else st.one_of(st.just(usual), st.just(usual), st.sampled_from(TEXTS))
    return st.one_of(right, right, right, right, st.sampled_from(OF_ANOTHER_TYPE))


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
