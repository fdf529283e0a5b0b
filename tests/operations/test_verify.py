"""Verify, with a stand-in of MLflow over HTTP and answers of AWS from a table. Each fault is one row."""

import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast
from urllib.parse import parse_qs, urlsplit

import pytest

from local.certificates import self_signed
from operations import checks, mlflow_site
from operations.aws_cli import Aws
from operations.mlflow_site import basic
from operations.verify import site
from operations.verify.checks import CHECKS
from operations.verify.checks import checks as all_checks
from operations.verify.subject import Subject, read
from settings.reader import parse
from tests.operations.http_server import serving
from tests.unit.harness import MINIMAL, changed

ADMIN = ("admin", "the-password-of-the-administrator")
SWITCHES = ("multipart_uploads_enabled", "multipart_downloads_enabled")
EXPERIMENTS, RUNS, USERS = "experiments", "runs", "users"


class FakeMlflow(BaseHTTPRequestHandler):
    """A server that keeps experiments, runs, files and users, and that has one fault."""

    fault: ClassVar[str]
    straight: ClassVar[str]
    users: ClassVar[dict[str, str]]
    experiments: ClassVar[dict[str, str]]
    runs: ClassVar[dict[str, list[dict[str, Any]]]]
    files: ClassVar[dict[str, bytes]]
    trash: ClassVar[list[str]]

    def respond(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        user = self._user()
        if self.path == "/health":
            return self._say(200, b"OK")
        if user is None and self.fault != "an open site":
            return self._say(401, b"You are not authenticated.")
        if self.path == "/version":
            return self._say(200, b"3.7.0" if self.fault == "an old version" else b"3.15.1\n")
        if "/mlflow-artifacts/" in self.path:
            return self._file(body)
        if self.path.endswith("/server-info"):
            told = self.fault == "clients sent elsewhere" or (self.straight and self.fault != "pods of before")
            return self._say(200, json.dumps(dict.fromkeys(SWITCHES, bool(told))).encode())
        address = urlsplit(self.path)
        values = {key: value[0] for key, value in parse_qs(address.query).items()}
        values |= json.loads(body) if body else {}
        status, answer = self._answer(address.path.partition("/mlflow/")[2], values, user or "")
        return self._say(status, json.dumps(answer).encode())

    do_GET = do_POST = do_PUT = do_DELETE = respond  # noqa: N815  (the names that the server calls)

    def _user(self) -> str | None:
        header = self.headers.get("Authorization", "")
        if self.fault == "every password":
            return "admin" if header else None
        if self.fault == "a changed password":
            return None
        return next((name for name, password in self.users.items() if header == basic(name, password)), None)

    def _file(self, body: bytes) -> None:
        if self.fault == "a store that is away":
            return self._say(503, b'{"error_code": "TEMPORARILY_UNAVAILABLE"}')
        if "/presigned/" in self.path:
            return self._say(200, json.dumps({"url": self.straight + self.path}).encode())
        if self.command == "PUT":
            self.files[self.path] = body
        content = self.files[self.path]
        if self.command == "DELETE":
            del self.files[self.path]
        return self._say(200, content[1:] if self.fault == "a changed file" else content)

    def _answer(self, route: str, values: dict[str, Any], user: str) -> tuple[int, dict[str, Any]]:
        mine = user in {"admin", ""}
        hidden = not mine and self.fault != "a wrong permission"
        match route:
            case "experiments/create":
                self.experiments[str(len(self.experiments))] = values["name"]
                return 200, {"experiment_id": str(len(self.experiments) - 1)}
            case "experiments/search":
                shown = mine or self.fault == "a list of everything"
                names = self.experiments.values() if shown else ()
                return 200, {"experiments": [{"name": name} for name in names]}
            case "experiments/delete" | "runs/delete":
                self.trash.append(route)
                return 200, {}
            case "runs/create":
                self.runs[run := f"r{len(self.runs)}"] = []
                uri = f"{'s3://bucket' if self.fault == 'files elsewhere' else 'mlflow-artifacts:'}/0/{run}/artifacts"
                return 200, {"run": {"info": {"run_id": run, "artifact_uri": uri}}}
            case "runs/log-metric":
                self.runs[values["run_id"]].append(values)
                return 200, {}
            case "runs/get" if mine:
                metrics = [] if self.fault == "a lost metric" else self.runs[values["run_id"]]
                return 200, {"run": {"data": {"metrics": metrics}}}
            case "experiments/get" | "runs/get" | "artifacts/list":
                return (403, {"error_code": "PERMISSION_DENIED", "message": "No."}) if hidden else (200, {})
            case "users/create":
                if self.fault == "no new users":
                    return 500, {"error_code": "INTERNAL_ERROR", "message": "It is broken."}
                self.users[values["username"]] = values["password"]
                return 200, {}
            case "users/get":
                return 200, {"user": {"username": values["username"]}}
            case "users/delete":
                del self.users[values["username"]]
                return 200, {}
            case _:
                raise AssertionError(route)

    def _say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class FakeS3(BaseHTTPRequestHandler):
    """A store that takes addresses without a login, unless it refuses them."""

    def do_GET(self) -> None:
        content = FakeMlflow.files[self.path.replace("/presigned/", "/artifacts/")]
        self.send_response(403 if FakeMlflow.fault == "a refusing store" else 200)
        self.end_headers()
        self.wfile.write(content[1:] if FakeMlflow.fault == "a store of others" else content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def hours_ago(hours: float) -> str:
    return (datetime.now(UTC) - timedelta(hours=hours)).isoformat()


INSTANCE: Mapping[str, Any] = {
    "DBInstanceStatus": "available",
    "EngineVersion": "17.6",
    "DBInstanceClass": "db.t3.micro",
    "PubliclyAccessible": False,
    "VpcSecurityGroups": [{"VpcSecurityGroupId": "sg-0db"}],
    "BackupRetentionPeriod": 7,
    "LatestRestorableTime": hours_ago(0.1),
    "InstanceCreateTime": hours_ago(300),
    "PreferredMaintenanceWindow": "sun:03:00-sun:03:30",
    "PendingModifiedValues": {},
    "DBParameterGroups": [{"DBParameterGroupName": "postgres-parameters", "ParameterApplyStatus": "in-sync"}],
}
CLUSTER_RULE: dict[str, Any] = {"UserIdGroupPairs": [{"GroupId": "sg-0c1"}]}
ALARM: dict[str, Any] = {"AlarmName": "postgres-alarms-cpu-1", "StateValue": "OK"}
RESOURCES: Mapping[str, list[Mapping[str, Any]]] = {
    "aws:ec2/securityGroup:SecurityGroup": [{"id": "sg-0db"}],
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": [{"referencedSecurityGroupId": "sg-0c1"}],
    "aws:cloudwatch/metricAlarm:MetricAlarm": [{"name": "postgres-alarms-cpu-1"}],
}


@dataclass
class Stack:
    """A stack that is up. A test changes what it is about."""

    url: str
    instance: dict[str, Any]
    rules: list[dict[str, Any]]
    alarms: list[dict[str, Any]]
    settings: Mapping[str, Any]
    resources: Mapping[str, list[Mapping[str, Any]]]

    def subject(self) -> Subject:
        host = urlsplit(self.url).hostname
        raw = changed(self.settings, {"mlflow.host": "localhost", "mlflow.url": self.url, "ingress.plainHttp": True})
        settings, problems = parse(raw, {"mlflow"})
        assert settings is not None, problems
        assert not problems, problems
        login = {"adminUser": ADMIN[0], "adminPassword": ADMIN[1]} if settings.mlflow.auth.mode == "basic" else {}
        outputs = {"url": self.url, "loadBalancerAddress": host, "databaseIdentifier": "postgres-1", **login}
        return Subject(settings, outputs, self.resources, cast("Aws", self._aws))

    def _aws(self, _: str, operation: str, *__: str) -> Any:
        return {
            "describe-db-instances": {"DBInstances": [self.instance]},
            "describe-security-groups": {"SecurityGroups": [{"IpPermissions": self.rules}]},
            "describe-alarms": {"MetricAlarms": self.alarms},
        }[operation]

    def screen(self) -> tuple[str, int]:
        lines, failed = checks.examine(all_checks(self.subject()))
        return "\n".join(lines), failed


@pytest.fixture
def stack() -> Iterator[Stack]:
    FakeMlflow.fault, FakeMlflow.straight, FakeMlflow.users = "", "", dict([ADMIN])
    FakeMlflow.experiments, FakeMlflow.runs, FakeMlflow.files, FakeMlflow.trash = {}, {}, {}, []
    with serving(FakeMlflow) as url:
        yield Stack(
            url.replace("127.0.0.1", "localhost"), {**INSTANCE}, [CLUSTER_RULE], [ALARM], MINIMAL, {**RESOURCES}
        )


def test_a_healthy_stack_gets_no_cross_and_keeps_nothing_of_the_checks(stack: Stack) -> None:
    text, failed = stack.screen()
    assert failed == 0, text
    assert text.count("✓") == len(CHECKS) - 1, text
    assert "· certificate" in text
    assert FakeMlflow.users == dict([ADMIN])
    assert FakeMlflow.files == {}
    assert sorted(FakeMlflow.trash) == ["experiments/delete"] * 2 + ["runs/delete"] * 2
    assert ADMIN[1] not in text


SITE_FAULTS = {
    "an open site": (1, "a request without a login gets 200 instead of 401"),
    "every password": (2, "a request with a wrong password gets 200 instead of 401"),
    "a changed password": (4, "refuses the name and the password of admin (401)"),
    "an old version": (1, "MLflow 3.7.0 answers, and the stack has 3.15.1"),
    "a lost metric": (1, "the metric 0.5 comes back as []"),
    "clients sent elsewhere": (1, "downloads straight to S3, uploads straight to S3; artifacts.transfers is proxied"),
    "a changed file": (1, "the file comes back with other bytes"),
    "a store that is away": (1, "PUT of a file gets 503: "),
    "a wrong permission": (1, "a new user sees the experiment, the run, the files of an administrator"),
    "a list of everything": (1, "a new user sees the list of experiments of an administrator"),
    "no new users": (1, "MLflow answers 500: It is broken."),
}
"""Fault of MLflow to the number of checks that fail and a sentence."""


@pytest.mark.parametrize("fault", SITE_FAULTS)
def test_a_fault_of_the_site_is_found_and_what_was_made_is_removed(stack: Stack, fault: str) -> None:
    FakeMlflow.fault = fault
    number, sentence = SITE_FAULTS[fault]
    text, failed = stack.screen()
    assert sentence in text
    assert failed == number, text
    assert FakeMlflow.files == {}
    assert len(FakeMlflow.users) == 1
    assert len(FakeMlflow.trash) == len(FakeMlflow.experiments) + len(FakeMlflow.runs)
    assert ADMIN[1] not in text


def test_files_that_do_not_go_through_mlflow_are_left_out(stack: Stack) -> None:
    FakeMlflow.fault = "files elsewhere"
    text, failed = stack.screen()
    assert (failed, "but to s3://bucket/0/" in text) == (0, True)


@pytest.mark.parametrize(
    ("fault", "failed", "says"),
    [
        ("", 0, "clients go straight to S3"),
        ("a refusing store", 1, "127.0.0.1 refuses the address that MLflow signs (403)"),
        ("a store of others", 1, "127.0.0.1 answers with other bytes"),
        # Another machine may have a route.
        ("no route", 0, "a client here could read no file: 127.0.0.1 cannot be reached"),
        ("pods of before", 1, "uploads through the pods; artifacts.transfers is direct: look whether the pods"),
    ],
)
def test_where_clients_go_to_s3_verify_goes_there_too(stack: Stack, fault: str, failed: int, says: str) -> None:
    stack.settings = changed(stack.settings, {"artifacts.transfers": "direct"})
    FakeMlflow.fault = fault
    with serving(FakeS3) as store:
        FakeMlflow.straight = "http://127.0.0.1:1" if fault == "no route" else store
        text, number = stack.screen()
    assert (number, says in text) == (failed, True), text
    assert FakeMlflow.files == {}


DATABASE_FAULTS: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "a state": ({"DBInstanceStatus": "storage-full"}, "it is storage-full"),
    "another version": ({"EngineVersion": "16.9"}, "PostgreSQL 16.9 runs, and the stack has 17"),
    "a public address": ({"PubliclyAccessible": True}, "it has a public address"),
    "another group": ({"VpcSecurityGroups": [{"VpcSecurityGroupId": "sg-0ff"}]}, "sg-0ff is on it too"),
    "no backups": ({"BackupRetentionPeriod": 0}, "backups are off"),
    "an old backup": ({"LatestRestorableTime": hours_ago(50)}, "the newest is 2 day(s) old"),
    "a backup that never came": ({"LatestRestorableTime": None}, "there is none; look at the events"),
    "parameters that wait": (
        {"DBParameterGroups": [{"DBParameterGroupName": "postgres-18", "ParameterApplyStatus": "pending-reboot"}]},
        "parameters of postgres-18: wait for a restart",
    ),
}
"""Fault of the instance to fields and a sentence."""


def test_a_change_that_waits_for_the_window_is_told_and_is_no_fault(stack: Stack) -> None:
    stack.instance |= {"PendingModifiedValues": {"DBInstanceClass": "db.m7g.large", "MasterUserPassword": "****"}}
    text, failed = stack.screen()
    waits = "waits for the maintenance window, sun:03:00-sun:03:30 UTC"
    assert f"DBInstanceClass db.m7g.large, MasterUserPassword changed: {waits}" in text
    assert failed == 0, text


def test_a_version_that_waits_is_no_fault(stack: Stack) -> None:
    stack.instance |= {"EngineVersion": "16.9", "PendingModifiedValues": {"EngineVersion": "17.6"}}
    text, failed = stack.screen()
    assert "EngineVersion 17.6: waits for the maintenance window" in text
    assert failed == 0, text


@pytest.mark.parametrize("fault", DATABASE_FAULTS)
def test_a_fault_of_the_database_is_found(stack: Stack, fault: str) -> None:
    fields, sentence = DATABASE_FAULTS[fault]
    stack.instance |= fields
    text, failed = stack.screen()
    assert sentence in text
    assert failed == 1, text


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        ({"IpRanges": [{"CidrIp": "0.0.0.0/0"}]}, "0.0.0.0/0"),
        ({"Ipv6Ranges": [{"CidrIpv6": "::/0"}]}, "::/0"),
        ({"UserIdGroupPairs": [{"GroupId": "sg-0ff"}]}, "sg-0ff"),
        ({"PrefixListIds": [{"PrefixListId": "pl-1"}]}, "pl-1"),
    ],
)
def test_a_source_that_somebody_added_is_found(stack: Stack, rule: dict[str, Any], source: str) -> None:
    stack.rules.append(rule)
    text, failed = stack.screen()
    assert (failed, f"it lets in {source} too" in text) == (1, True)


@pytest.mark.parametrize(
    ("alarms", "said", "failures"),
    [
        ([{**ALARM, "StateValue": "ALARM", "StateReason": "81 % CPU"}], "postgres-alarms-cpu-1: 81 % CPU", 1),
        ([], "postgres-alarms-cpu-1 is gone", 1),
        ([{**ALARM, "StateValue": "INSUFFICIENT_DATA"}], "1, none fires, 1 without data yet", 0),
    ],
)
def test_alarms_that_fire_or_are_gone_are_found(
    stack: Stack, alarms: list[dict[str, Any]], said: str, failures: int
) -> None:
    stack.alarms = alarms
    text, failed = stack.screen()
    assert (failed, said in text) == (failures, True)


def test_an_answer_of_another_form_fails_its_check_only(stack: Stack) -> None:
    del stack.instance["VpcSecurityGroups"]
    text, failed = stack.screen()
    assert (failed, "an answer has not the form that is expected: KeyError('VpcSecurityGroups')" in text) == (1, True)


def test_the_checks_that_somebody_names_are_made_and_no_other(stack: Stack) -> None:
    found = all_checks(stack.subject(), ["restorable", "certificate"])
    assert [check.title for check in found] == ["certificate", "restorable"]


def test_a_new_instance_may_have_no_backup_yet(stack: Stack) -> None:
    stack.instance |= {"LatestRestorableTime": None, "InstanceCreateTime": hours_ago(1)}
    text, failed = stack.screen()
    assert (failed, "the instance is younger than a day" in text) == (0, True)


def test_a_stack_without_a_login_and_without_alarms_is_tried_as_far_as_it_goes(stack: Stack) -> None:
    stack.settings = changed(MINIMAL, {"mlflow.auth.mode": "none"})
    stack.resources = {**RESOURCES, "aws:cloudwatch/metricAlarm:MetricAlarm": []}
    FakeMlflow.fault = "an open site"
    FakeMlflow.users = {}
    text, failed = stack.screen()
    assert failed == 0, text
    assert "not asked for (mlflow.auth.mode is none)" in text
    assert "this stack has none (postgres.alarmTopicArn is not set)" in text


def test_users_who_may_see_everything_are_no_fault(stack: Stack) -> None:
    stack.settings = changed(MINIMAL, {"mlflow.auth.defaultPermission": "READ"})
    text, failed = stack.screen()
    assert (failed, "every user may see everything" in text) == (0, True)


def test_a_name_that_does_not_resolve_gets_the_record_to_create(stack: Stack) -> None:
    record = {"name": "mlflow.invalid", "type": "CNAME", "value": "lb.elb.amazonaws.com"}
    subject = stack.subject()
    unknown = subject.settings.model_copy(
        update={"mlflow": subject.settings.mlflow.model_copy(update={"url": "http://mlflow.invalid"})}
    )
    with pytest.raises(checks.MissingError, match=r"create the CNAME mlflow\.invalid for lb\.elb\.amazonaws\.com"):
        site.name(Subject(unknown, {"dnsRecordToCreate": record}, {}, subject.aws))
    assert ", which is not 192.0.2.1" in site.name(
        Subject(subject.settings, {"loadBalancerAddress": "192.0.2.1"}, {}, subject.aws)
    )


def test_waiting_ends_with_the_first_answer(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(site, "time", SimpleNamespace(sleep=waited.append, monotonic=lambda: float(len(waited))))
    site.wait(stack.subject(), 3)
    assert waited == []
    away = stack.subject().settings
    away = away.model_copy(update={"mlflow": away.mlflow.model_copy(update={"url": "http://127.0.0.1:9"})})
    site.wait(Subject(away, {}, {}, stack.subject().aws), 3)
    assert len(waited) == 3


@contextmanager
def with_tls(folder: Path, days: float, life: float) -> Iterator[tuple[str, Path]]:
    """Serve TLS with a self-signed certificate, and provide the address and the certificate's file."""
    authority, key = folder / "site.pem", folder / "site.key"
    for file, text in zip((authority, key), self_signed(["localhost"], days, life - days), strict=True):
        file.write_text(text)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, key)
    server = HTTPServer(("127.0.0.1", 0), FakeMlflow)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"https://localhost:{server.server_port}", authority
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("days", "life", "trust", "said"),
    [
        (60, 90, "file", "✓ 60 days left"),
        (60, 90, "nothing", "✗ clients do not trust it: self-signed certificate"),
        (60, 90, "insecure", "! 60 days left; not checked whether clients trust it"),
        (5, 90, "file", "✗ 5 days left, and nothing has renewed it"),
        # A certificate for six days is renewed after four.
        (2, 6, "file", "✓ 2 days left"),
        (-1, 90, "file", "✗ clients do not trust it: certificate has expired"),
        (-1, 90, "insecure", "✗ clients do not trust it: certificate has expired"),
    ],
)
def test_a_certificate_is_judged_by_trust_and_days(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: float, life: float, trust: str, said: str
) -> None:
    with with_tls(tmp_path, days, life) as (url, file):
        for name, value in {
            "MLFLOW_TRACKING_SERVER_CERT_PATH": str(file) if trust == "file" else "",
            "MLFLOW_TRACKING_INSECURE_TLS": "true" if trust == "insecure" else "",
        }.items():
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
        settings = stack.subject().settings
        secure = settings.model_copy(update={"mlflow": settings.mlflow.model_copy(update={"url": url})})
        subject = Subject(secure, {}, {}, stack.subject().aws)
        (line,), _ = checks.examine([checks.Check("", lambda: site.certificate(subject))])
    assert " ".join(line.split()).startswith(said), line


def test_a_stack_is_read_through_pulumi_with_its_identity(tmp_path: Path) -> None:
    secret = {"mode": "basic", "adminPassword": ADMIN[1]}
    answers = {
        "config": {
            "aws:region": {"value": "eu-west-1"},
            "aws:profile": {"value": "company"},
            "mlflow-eks:protect": {"value": "false"},
            "mlflow-eks:cluster": {"value": "{}", "objectValue": {"name": "my-cluster"}},
            "mlflow-eks:mlflow": {"secret": True, "objectValue": {"host": "mlflow.example.com", "auth": secret}},
        },
        "output": {"url": "https://mlflow.example.com", "adminUser": "admin", "adminPassword": ADMIN[1]},
        "export": {"deployment": {"resources": [{"type": "a", "id": "1", "outputs": {"n": 2}}, {"type": "a"}]}},
    }
    program = tmp_path / "pulumi"
    program.write_text(
        "#!/usr/bin/env python3\nimport json, sys\n"
        f"answers = json.loads({json.dumps(answers)!r})\n"
        "print(json.dumps(next(answers[word] for word in sys.argv if word in answers)))\n"
    )
    program.chmod(0o755)
    subject = read("dev", str(program), "aws")
    assert (subject.settings.protect, subject.url) == (False, "https://mlflow.example.com")
    assert (subject.aws.region, subject.aws.profile) == ("eu-west-1", "company")
    assert subject.resources == {"a": [{"id": "1", "n": 2}, {"id": None}]}
    assert subject.site == mlflow_site.Site("https://mlflow.example.com", *ADMIN)
    assert ADMIN[1] not in repr(subject)
    program.write_text(program.read_text().replace('"url"', '"other"'))
    with pytest.raises(SystemExit, match="The stack dev is not up"):
        read("dev", str(program), "aws")
