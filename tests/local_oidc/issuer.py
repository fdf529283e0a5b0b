"""An identity provider for tests: it logs in whoever it is told to, and signs whatever it is asked to.

A real one, Keycloak, has a tier of its own. This one also sends what no provider would.
"""

import base64
import contextlib
import hashlib
import json
import secrets
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from tests.local_ldap.servers import Certificates

CLIENT, SECRET = "mlflow", "a-client-secret"
AUDIENCE = "mlflow-api"


@dataclass
class Issuer:
    """A provider on a loopback port, over TLS."""

    certificates: Certificates
    people: dict[str, dict[str, Any]]
    """Login to what the provider knows about the person."""
    person: str = ""
    """Login of the person who logs in next."""
    key: RSAKey | ECKey = field(default_factory=lambda: RSAKey.generate_key(2048))
    kid: str = "first"
    changes: dict[str, Any] = field(default_factory=dict[str, Any])
    """Claims of the next ID tokens that are other than they should be."""
    refuses_refresh: bool = False
    hangs: threading.Event = field(default_factory=threading.Event)
    """Set while the provider answers nobody."""
    fetches: int = 0
    """Times that the keys were fetched."""
    hints: list[str] = field(default_factory=list[str])
    """ID tokens with which sessions ended."""
    port: int = 0
    _codes: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    _refreshes: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/realms/ml"

    def rotate(self) -> None:
        """Sign with another key from now on, and publish no other one."""
        self.key, self.kid = RSAKey.generate_key(2048), secrets.token_hex(4)

    def sign(self, claims: Mapping[str, Any], **header: Any) -> str:
        known = {"alg": "RS256" if isinstance(self.key, RSAKey) else "ES256", "kid": self.kid}
        return jwt.encode({**known, **header}, dict(claims), self.key)

    def claims(self, login: str, **changes: Any) -> dict[str, Any]:
        """Return the claims of an access token for programs. A claim that is None is left out."""
        now = int(time.time())
        standard = {"iss": self.url, "aud": AUDIENCE, "iat": now, "exp": now + 300}
        return {key: value for key, value in {**standard, **self.people[login], **changes}.items() if value is not None}

    def token(self, login: str, **changes: Any) -> str:
        return self.sign(self.claims(login, **changes))

    @contextlib.contextmanager
    def serving(self) -> Iterator["Issuer"]:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.wait()
                path, query = urlsplit(self.path).path, dict(parse_qs(urlsplit(self.path).query))
                asked = {name: values[0] for name, values in query.items()}
                match path.removeprefix("/realms/ml"):
                    case "/.well-known/openid-configuration":
                        self.answer(200, issuer.document())
                    case "/keys":
                        issuer.fetches += 1
                        self.answer(
                            200, {"keys": [{**issuer.key.as_dict(private=False), "kid": issuer.kid, "use": "sig"}]}
                        )
                    case "/authorize":
                        self.go(issuer.authorize(asked))
                    case "/logout":
                        issuer.hints.append(asked["id_token_hint"])
                        self.go(asked["post_logout_redirect_uri"])
                    case _:
                        self.answer(404, {})

            def do_POST(self) -> None:
                issuer.wait()
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                login = base64.b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode()
                asked = {name: values[0] for name, values in parse_qs(body).items()}
                if [unquote(part) for part in login.split(":")] != [CLIENT, SECRET]:
                    self.answer(401, {"error": "invalid_client"})
                else:
                    self.answer(*issuer.exchange(asked))

            def answer(self, status: int, body: Mapping[str, Any]) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def go(self, address: str) -> None:
                self.send_response(302)
                self.send_header("Location", address)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the base class
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificates.certificate, self.certificates.key)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.daemon_threads = True
        self.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            self.hangs.clear()
            server.shutdown()
            server.server_close()

    def wait(self) -> None:
        while self.hangs.is_set():
            time.sleep(0.1)

    def document(self) -> dict[str, Any]:
        names = {
            "authorization_endpoint": "authorize",
            "token_endpoint": "token",
            "jwks_uri": "keys",
            "end_session_endpoint": "logout",
        }
        return {"issuer": self.url, **{name: f"{self.url}/{path}" for name, path in names.items()}}

    def authorize(self, asked: Mapping[str, str]) -> str:
        code = secrets.token_hex(8)
        self._codes[code] = {**asked, "person": self.person}
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"

    def exchange(self, asked: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        if asked["grant_type"] == "refresh_token":
            person = self._refreshes.pop(asked["refresh_token"], "")
            begun: Mapping[str, str] = {}
            valid = bool(person) and not self.refuses_refresh
        else:
            begun = self._codes.pop(asked["code"], {})
            person = begun.get("person", "")
            challenge = base64.urlsafe_b64encode(hashlib.sha256(asked["code_verifier"].encode()).digest())
            valid = (
                begun.get("code_challenge") == challenge.decode().rstrip("=")
                and begun["redirect_uri"] == asked["redirect_uri"]
            )
        if not valid:
            return 400, {"error": "invalid_grant"}
        refresh = secrets.token_hex(8)
        self._refreshes[refresh] = person
        nonce = {"nonce": begun["nonce"]} if begun else {}
        id_token = self.token(person, **{"aud": CLIENT, **nonce, **self.changes})
        return 200, {"id_token": id_token, "access_token": "opaque", "refresh_token": refresh, "token_type": "Bearer"}
