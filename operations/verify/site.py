"""Checks of the site from outside: name, certificate, login, a run with a file, and what another user sees of it.

What a check makes it removes. MLflow has no request that empties its trash, so each time two deleted experiments with a deleted run
stay there until `mlflow gc`. A bucket with versions keeps the file's version until its rule deletes it.
"""

import contextlib
import functools
import json
import re
import secrets
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from typing import Any, ParamSpec
from urllib.parse import urlsplit

from operations.checks import MissingError, NotedError, skip
from operations.mlflow_site import RefusedError, Site, trusted
from operations.people import API, People
from operations.verify.subject import Subject
from settings.mlflow import MLFLOW_OF_A_CHART

FEWEST_DAYS = 14
"""Days that a certificate must live on at least. One that lives for less than 140 days: a tenth of them."""
FILES = "/api/2.0/mlflow-artifacts/artifacts"
SERVER_INFO = "/api/3.0/mlflow/server-info"
FILE = "verify.txt"
TIMEOUT = 10
"""Seconds for a connection."""
P = ParamSpec("P")


def in_words(look: Callable[P, str]) -> Callable[P, str]:
    """Turn the errors of `mlflow_site` into those of a check."""

    @functools.wraps(look)
    def check(*args: P.args, **kwargs: P.kwargs) -> str:
        try:
            return look(*args, **kwargs)
        except SystemExit as error:
            raise MissingError(str(error)) from None
        except RefusedError as refused:
            raise MissingError(f"MLflow answers {refused.status}: {refused}") from None

    return check


def name(subject: Subject) -> str:
    """Look whether the name of the site resolves."""
    host = urlsplit(subject.url).hostname or ""
    found = _addresses(host)
    if not found:
        record = subject.outputs.get("dnsRecordToCreate")
        todo = f"create the {record['type']} {record['name']} for {record['value']}" if record else "look at its record"
        raise MissingError(f"{host} does not resolve from here; {todo} (docs/tls-and-dns.md)")
    balancer = subject.outputs.get("loadBalancerAddress")
    beside = "" if not balancer or set(found) & set(_addresses(balancer)) else f", which is not {balancer}"
    return f"{host} is {', '.join(found)}{beside}"


def _addresses(host: str) -> list[str]:
    with contextlib.suppress(OSError):
        return sorted({str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})
    return []


def certificate(subject: Subject) -> str:
    """Look whether clients trust the certificate, and how long it lives on."""
    site = urlsplit(subject.url)
    if site.scheme != "https":
        return skip("this stack has no TLS (ingress.plainHttp)")
    where = (site.hostname or "", site.port or 443)
    context = trusted()
    try:
        found = _certificate(where, context)
    except ssl.SSLCertVerificationError as error:
        raise MissingError(
            f"clients do not trust it: {error.verify_message}; mend it, or set MLFLOW_TRACKING_SERVER_CERT_PATH to its authority"
        ) from None
    except OSError as error:
        raise MissingError(f"{where[0]}:{where[1]} cannot be reached ({error})") from None
    end, begin = _seconds(found["notAfter"]), _seconds(found["notBefore"])
    days = (end - time.time()) / 86400
    text = f"{days:.0f} days left"
    if days < min(FEWEST_DAYS, (end - begin) / 86400 / 10):
        raise MissingError(f"{text}, and nothing has renewed it; renew it, or see why it is not (docs/tls-and-dns.md)")
    if not context.check_hostname:
        raise NotedError(f"{text}; not checked whether clients trust it (MLFLOW_TRACKING_INSECURE_TLS)")
    return text


def _certificate(where: tuple[str, int], context: ssl.SSLContext) -> dict[str, Any]:
    """Return the fields of the server's certificate.

    Python gives the fields of a trusted certificate only. So where none is asked for, it is trusted by itself first.
    """
    if not context.check_hostname:
        context = ssl.create_default_context(cadata=ssl.get_server_certificate(where, timeout=TIMEOUT))
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    with (
        socket.create_connection(where, timeout=TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname=where[0]) as tls,
    ):
        return dict(tls.getpeercert() or {})


def _seconds(text: Any) -> float:
    return float(ssl.cert_time_to_seconds(str(text)))


@in_words
def strangers(subject: Subject) -> str:
    """Look whether the site refuses requests without a login, and with a wrong one."""
    if subject.settings.mlflow.auth.mode == "none":
        return skip("this stack has no login (mlflow.auth.mode is none)")
    # The same wrong password counts once for MLflow's limit.
    for who, site in {
        "without a login": Site(subject.url, "", ""),
        "with a wrong password": Site(subject.url, "make-verify", "wrong"),
    }.items():
        status, _, _ = site.send("GET", f"{API}/experiments/search?max_results=1")
        if status != 401:
            raise MissingError(f"a request {who} gets {status} instead of 401; look who may read the site's data")
    return "refused without a login, and with a wrong password"


@in_words
def login(subject: Subject) -> str:
    """Look whether the administrator can log in."""
    site = _site(subject)
    site.ask("GET", f"{API}/experiments/search", max_results=1)
    return f"accepted for {site.user}" if site.user else "not asked for (mlflow.auth.mode is none)"


@in_words
def run(subject: Subject) -> str:
    """Write a run with a metric and a file, read both, and remove them."""
    site, content = _site(subject), secrets.token_bytes(2**16)
    with _experiment(site) as (_, experiment), _run(site, experiment) as (number, uri):
        site.ask("POST", f"{API}/runs/log-metric", run_id=number, key="verify", value=0.5, timestamp=1)
        read = site.ask("GET", f"{API}/runs/get", run_id=number)["run"]["data"]["metrics"]
        if [metric["value"] for metric in read] != [0.5]:
            raise MissingError(f"the metric 0.5 comes back as {read}; look at the logs of MLflow and its database")
        if not uri.startswith("mlflow-artifacts:/"):
            return f"a metric is there and back; files do not go through MLflow but to {uri}"
        path = f"{FILES}{uri.removeprefix('mlflow-artifacts:')}/{FILE}"
        began = time.monotonic()
        _transfer(site, "PUT", path, content)
        try:
            if _transfer(site, "GET", path) != content:
                raise MissingError(
                    "the file comes back with other bytes; look at the bucket, and at what stands before the site"
                )
            if subject.settings.artifacts.transfers == "direct":
                _straight(site, path.replace("/artifacts/", "/presigned/", 1), content)
        finally:
            _transfer(site, "DELETE", path)
    return f"a metric and 64 KiB are there and back in {time.monotonic() - began:.1f} s, and removed"


def _straight(site: Site, path: str, content: bytes) -> None:
    """Read a file by an address that MLflow signs."""
    address = str(site.ask("GET", path)["url"])
    host = urlsplit(address).hostname
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:  # noqa: S310  (the address that MLflow's client would use)
            read = answer.read()
    except urllib.error.HTTPError as error:
        raise MissingError(
            f"{host} refuses the address that MLflow signs ({error.code}); look at the policies of the bucket and of the network's "
            "endpoint for S3 (docs/artifact-transfers.md)"
        ) from None
    except OSError as error:
        raise NotedError(
            f"a client here could read no file: {host} cannot be reached ({error}); give clients a route to S3, or write "
            "artifacts.transfers: proxied"
        ) from None
    if read != content:
        raise MissingError(f"{host} answers with other bytes than the file's; look at what stands before S3")


@in_words
def transfers(subject: Subject) -> str:
    """Compare what MLflow tells clients about the way of files with the settings."""
    if not subject.settings.on_eks:
        return skip("this stack has no bucket")
    status, body, _ = _site(subject).send("GET", SERVER_INFO)
    said: dict[str, Any] = json.loads(body) if status == 200 else {}
    told = {key: bool(said.get(f"multipart_{key}_enabled")) for key in ("downloads", "uploads")}
    wanted = subject.settings.artifacts.transfers
    if set(told.values()) != {wanted == "direct"}:
        ways = ", ".join(f"{key} {'straight to S3' if told[key] else 'through the pods'}" for key in told)
        raise MissingError(
            f"MLflow tells clients: {ways}; artifacts.transfers is {wanted}: look whether the pods were replaced"
        )
    return "clients go straight to S3" if wanted == "direct" else "clients are sent through the pods"


@in_words
def others(subject: Subject) -> str:
    """Make a user, and look whether that user sees an experiment of somebody else. Both are removed."""
    auth = subject.settings.mlflow.auth
    if auth.mode != "basic":
        return skip(f"accounts are not MLflow's own (mlflow.auth.mode is {auth.mode})")
    if auth.default_permission != "NO_PERMISSIONS":
        return skip(f"every user may see everything (mlflow.auth.defaultPermission is {auth.default_permission})")
    site = _site(subject)
    people, user = People(site), f"verify-{secrets.token_hex(4)}"
    with _experiment(site) as (name, experiment), _run(site, experiment) as (number, _):
        other = Site(site.url, user, people.make(user))
        try:
            seen = [
                what
                for what, path in {
                    "experiment": f"{API}/experiments/get?experiment_id={experiment}",
                    "run": f"{API}/runs/get?run_id={number}",
                    "files": f"{API}/artifacts/list?run_id={number}",
                }.items()
                if other.send("GET", path)[0] not in {403, 404}
            ]
            status, body, _ = other.send("GET", f"{API}/experiments/search?max_results=1000")
            if status != 200:
                raise MissingError(f"a new user cannot log in ({status}); look at the logs of MLflow")
            if any(each["name"] == name for each in json.loads(body).get("experiments", [])):
                seen.append("list of experiments")
        finally:
            people.remove(user)
    if seen:
        raise MissingError(
            f"a new user sees the {', the '.join(seen)} of an administrator; stop giving out accounts, and compare MLflow's version with the stack's"
        )
    return "a new user saw nothing, and is removed"


@in_words
def version(subject: Subject) -> str:
    """Compare MLflow's version with the stack's."""
    section = subject.settings.mlflow
    wanted = section.image.tag if section.image else MLFLOW_OF_A_CHART[section.chart_version]
    status, body, _ = _site(subject).send("GET", "/version")
    found = body.decode(errors="replace").strip()
    if status != 200:
        raise MissingError(f"the site does not say its version ({status})")
    # A tag can have a suffix after the version.
    if re.findall(r"\d+", wanted)[:3] != re.findall(r"\d+", found)[:3]:
        raise MissingError(f"MLflow {found} answers, and the stack has {wanted}; look whether its pods were replaced")
    return f"MLflow {found}, chart {section.chart_version}"


def wait(subject: Subject, seconds: float) -> None:
    """Wait until the site answers. A new load balancer needs some minutes after `up`.

    Args:
        subject: the stack.
        seconds: time after which the checks begin all the same.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(SystemExit):
            if Site(subject.url, "", "").send("GET", "/health")[0] == 200:
                return
        time.sleep(5)


def _site(subject: Subject) -> Site:
    if subject.settings.mlflow.auth.mode != "none" and not subject.outputs.get("adminPassword"):
        skip("the stack has no login of an administrator")
    return subject.site


@contextlib.contextmanager
def _experiment(site: Site) -> Generator[tuple[str, str]]:
    """Provide a new experiment's name and id, and delete it."""
    name = f"make verify {datetime.now(UTC):%Y-%m-%d %H:%M:%S} {secrets.token_hex(4)}"
    number = site.ask("POST", f"{API}/experiments/create", name=name)["experiment_id"]
    try:
        yield name, number
    finally:
        site.ask("POST", f"{API}/experiments/delete", experiment_id=number)


@contextlib.contextmanager
def _run(site: Site, experiment: str) -> Generator[tuple[str, str]]:
    """Provide a new run's id and the address of its files, and delete it."""
    info = site.ask("POST", f"{API}/runs/create", experiment_id=experiment, start_time=1)["run"]["info"]
    try:
        yield info["run_id"], info["artifact_uri"]
    finally:
        site.ask("POST", f"{API}/runs/delete", run_id=info["run_id"])


def _transfer(site: Site, method: str, path: str, body: bytes | None = None) -> bytes:
    status, answer, reason = site.send(method, path, body, "application/octet-stream")
    if status != 200:
        said = " ".join(answer.decode(errors="replace").split())[:200] or reason
        raise MissingError(f"{method} of a file gets {status}: {said}; look at the bucket, its key and the pods' role")
    return answer
