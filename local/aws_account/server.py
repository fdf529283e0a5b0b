# moto is typed inside, but not for strict use from outside.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportPrivateImportUsage=false
"""moto as the API of the local account, on loopback, with a journal.

moto loses all data when it ends. So each request that changes something is written to a journal before it is carried
out, and a new moto carries out the journal again. A restarted account has the same buckets and ids.
"""

import base64
import gc
import json
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from moto.backends import SERVICE_NAMES, get_backend
from moto.core import DEFAULT_ACCOUNT_ID
from moto.iam.access_control import PermissionResult
from moto.moto_api._internal import mock_random
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.s3 import models as s3_models
from werkzeug.serving import make_server

from local import aws_account
from local.aws_account import contents, rules

_SEEDED = "seeded"
"""Journal entry after the requests that made the account. A journal without it is not complete."""
_SERVICES: tuple[SERVICE_NAMES, ...] = (
    "cloudwatch",
    "ec2",
    "eks",
    "iam",
    "kms",
    "logs",
    "rds",
    "route53",
    "s3",
    "sns",
    "sts",
)
_READS = re.compile(r"(Describe|Get|List|Head|BatchGet|Lookup)")
"""Beginnings of the names of actions that change nothing."""
_ACTION = "local.action"
"""Key of a request's environment with the action that the request names."""

Start = Callable[..., Any]
Application = Callable[[dict[str, Any], Start], Iterable[bytes]]


class Journal:
    """A WSGI application that keeps moto's data across restarts.

    It carries out one request at a time, so the order in the file is the order in which they happened. Each request has
    its own seed for random numbers, so carrying it out again makes the same ids.
    """

    def __init__(self, application: Application, file: Path) -> None:
        self.application = application
        self.file = file
        self.lock = threading.Lock()
        self.count = 0

    def __call__(self, environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        """Answer one request."""
        body = _body(environ)
        action = _action(environ, body)
        with self.lock:
            if environ["REQUEST_METHOD"] not in {"GET", "HEAD", "OPTIONS"} and not _READS.match(action):
                self.append({"environ": _serializable(environ), "body": base64.b64encode(body).decode()})
            environ[_ACTION] = action
            return self._carry_out(environ, body, start_response)

    def append(self, entry: object) -> None:
        """Append one entry to the file."""
        self.count += 1
        with self.file.open("a") as journal:
            journal.write(json.dumps(entry) + "\n")

    def replay(self) -> bool:
        """Carry out the entries of the file.

        Return False, and delete the file, if the account in it is not complete.
        """
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        # A killed process can leave half a line at the end. That request was never answered, so it is dropped.
        complete = [line for line in lines if line.endswith("}") or json.dumps(_SEEDED) == line]
        if json.dumps(_SEEDED) not in complete:
            self.file.unlink(missing_ok=True)
            return False
        if complete != lines:
            self.file.write_text("".join(f"{line}\n" for line in complete))
        for line in complete:
            self.count += 1
            entry = json.loads(line)
            if entry != _SEEDED:
                body = base64.b64decode(entry["body"])
                for _ in self._carry_out(entry["environ"], body, lambda *_: None):
                    pass
        return True

    def _carry_out(self, environ: dict[str, Any], body: bytes, start_response: Start) -> list[bytes]:
        mock_random.seed(self.count)
        rest = {"wsgi.input": BytesIO(body), "CONTENT_LENGTH": str(len(body)), "wsgi.errors": sys.stderr}
        # Collect the whole answer while the lock is held. moto has it in memory in any case.
        return list(self.application({**environ, **rest}, start_response))


def _body(environ: dict[str, Any]) -> bytes:
    stream = environ["wsgi.input"]
    # werkzeug has decoded a chunked body already, and the stream ends where the body ends.
    if environ.get("wsgi.input_terminated"):
        return cast(bytes, stream.read())
    return cast(bytes, stream.read(int(environ.get("CONTENT_LENGTH") or 0)))


def _serializable(environ: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value for key, value in environ.items() if isinstance(value, (str, bool, int)) or key == "wsgi.version"
    }


def _action(environ: dict[str, Any], body: bytes) -> str:
    """Return the action that a request names, or an empty text where method and path say it, as in S3 and EKS."""
    if target := environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]:
        return target
    action = re.search(rb"(?:^|&)Action=(\w+)", body[:4096])
    return action[1].decode() if action else ""


def _load_services() -> None:
    """Load moto's services, so that all ids depend on the journal alone.

    moto loads a service with its first request, and loading takes random numbers from that request. Any request can be
    the first, so all services that this program uses are loaded before. The ids of S3's multipart uploads come from
    `os.urandom` in moto; here they come from its seeded random numbers, too.
    """
    mock_random.seed(0)
    # Load the policies that AWS manages, such as the one for RDS's monitoring, for the partition `aws` only. moto looks
    # for a caller's key in the accounts of all partitions, and each other one would take 0.25 s to load its policies.
    os.environ["MOTO_IAM_LOAD_MANAGED_POLICIES"] = "true"
    accounts: Any = get_backend("iam")[DEFAULT_ACCOUNT_ID]
    _ = accounts["aws"]
    del os.environ["MOTO_IAM_LOAD_MANAGED_POLICIES"]
    for partition in accounts.regions:
        _ = accounts[partition]
    for service in _SERVICES:
        backends = get_backend(service)[DEFAULT_ACCOUNT_ID]
        _ = backends[aws_account.REGION if aws_account.REGION in backends.regions else "aws"]
    s3_models.__dict__["os"] = SimpleNamespace(urandom=mock_random.randbytes)


def _keep_policies_only() -> None:
    """Store bucket policies without enforcing them.

    moto denies every request under a condition that it does not know, such as TLS.
    """

    def neutral(self: s3_models.FakeBucket, action: str, resource: str) -> PermissionResult:
        return PermissionResult.NEUTRAL

    s3_models.FakeBucket.get_permission = neutral


def _complete_cluster() -> None:
    """Add to moto's cluster what EKS creates with a cluster: the security group and the OIDC issuer."""
    ec2: Any = get_backend("ec2")[DEFAULT_ACCOUNT_ID][aws_account.REGION]
    cluster: Any = get_backend("eks")[DEFAULT_ACCOUNT_ID][aws_account.REGION].clusters[aws_account.CLUSTER]
    (group,) = ec2.describe_security_groups(filters={"group-name": [aws_account.CLUSTER_SECURITY_GROUP]})
    cluster.resources_vpc_config |= {
        "vpcId": group.vpc_id,
        "clusterSecurityGroupId": group.id,
        "publicAccessCidrs": ["0.0.0.0/0"],
    }
    cluster.identity = {"oidc": {"issuer": f"https://oidc.eks.{aws_account.REGION}.amazonaws.com/id/{'0' * 31}1"}}


class _RequestHandler(MotoRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        # werkzeug's own line has terminal colours and names no action. The service is in the scope of the signature,
        # `Credential=KEY/DATE/REGION/SERVICE/aws4_request` (Signature Version 4).
        scope = re.search(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/", self.headers.get("Authorization", ""))
        action = self.environ.get(_ACTION) or f"{self.command} {self.path}"
        self.log("info", "%s %s %s", scope[1] if scope else "unsigned", action, code)


def _seed(journal: Journal) -> None:
    """Fill the account through its API, on a port that no other client knows."""
    server = make_server(aws_account.ADDRESS, 0, journal, threaded=True, request_handler=_RequestHandler)
    # The server notices a shutdown only at its next poll, so the interval of 0.01 s is also the time of the shutdown.
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    contents.fill(f"http://{aws_account.ADDRESS}:{server.server_port}")
    server.shutdown()
    journal.append(_SEEDED)


def main(port: int, file: Path) -> None:
    """Serve the account on a port of loopback, with the journal in a file."""
    # From now on a client's connection is queued until the account is complete, instead of being refused.
    listener = socket.create_server((aws_account.ADDRESS, port), backlog=128)
    # Loaded services are never freed. The garbage collector would still search them again and again, which was measured
    # as a third of the loading time.
    gc.disable()
    _load_services()
    gc.freeze()
    gc.enable()
    _keep_policies_only()
    rules.install()
    journal = Journal(DomainDispatcherApplication(create_backend_app), file)
    if not journal.replay():
        _seed(journal)
    _complete_cluster()
    make_server(
        aws_account.ADDRESS, port, journal, threaded=True, request_handler=_RequestHandler, fd=listener.fileno()
    ).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
