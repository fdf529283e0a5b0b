"""Events after the first day of a deployment: passwords change, a pod dies, files are large, many clients connect.

The measurements are written to artifacts/day-two.md. No test asserts a time.
"""

import contextlib
import os
import re
import secrets
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from local import aws_account
from local.http_load import MIB, Load, Request, Sampler, database_login, memory, over_and_over, pods, report, send
from local.stack import PYTHON, LocalStack, new_stack
from local.supervisor.client import Supervisor
from local.supervisor.spec import Status
from operations.rotate_admin import change_password
from tests import ROOT
from tests.docs_commands import block
from tests.local.account import aws_client, postgresql
from tests.local.docs_shell import Shell

pytestmark = [pytest.mark.local, pytest.mark.slow]

TOPIC = f"arn:aws:sns:{aws_account.REGION}:123456789012:alarms"
TESTS = "tests"
"""Application name of the tests' connections to the database."""
CREATE = "/ajax-api/2.0/mlflow/experiments/create"
UPLOAD = """
import hashlib, os, tempfile, time
import mlflow

with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "random.bin")
    with open(path, "wb") as file:
        for _ in range(200):
            file.write(os.urandom(2**20))
    mlflow.set_experiment("large")
    with mlflow.start_run() as run:
        began = time.monotonic()
        mlflow.log_artifact(path)
        uploaded = time.monotonic()
    back = mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/random.bin", dst_path=os.path.join(folder, "back"))
    downloaded = time.monotonic()
    digests = [hashlib.sha256(open(name, "rb").read()).hexdigest() for name in (path, back)]
    print(run.info.experiment_id, run.info.run_id, digests[0] == digests[1], os.path.getsize(back),
          f"{uploaded - began:.1f}", f"{downloaded - uploaded:.1f}")
"""


@pytest.fixture(scope="module")
def site() -> Iterator[LocalStack]:
    """A stack whose settings these tests change. They run in the order in which they are written."""
    with new_stack("day-two") as stack:
        stack.up()
        yield stack


@pytest.fixture(scope="module")
def admin(site: LocalStack) -> tuple[str, str]:
    return "admin", site.password()


@pytest.fixture(scope="module")
def experiment(site: LocalStack, admin: tuple[str, str]) -> str:
    """Id of an experiment to write to."""
    answer = send(site, "POST", "/api/2.0/mlflow/experiments/create", {"name": "load"}, admin)
    return answer.body.split('"')[3]


@pytest.fixture(scope="module")
def two_pods(site: LocalStack) -> LocalStack:
    aws_client(site, "sns").create_topic(Name="alarms")
    site.up(mlflow__replicas=2, postgres__alarmTopicArn=TOPIC, artifacts__transfers="direct")
    return site


def test_the_site_answers_over_https_only_and_says_so(site: LocalStack, admin: tuple[str, str]) -> None:
    assert site.get("/", login=admin).headers["strict-transport-security"] == "max-age=31536000"
    redirected = site.get("/some/page?x=1", url=f"http://localhost:{site.http_port}")
    assert (redirected.status, redirected.headers["location"]) == (302, f"{site.url}/some/page?x=1")


def test_a_large_artifact_comes_back_byte_for_byte_and_only_with_the_login(
    site: LocalStack, admin: tuple[str, str]
) -> None:
    (leader,) = pods(site).values()
    before = memory(leader)
    with Sampler(lambda: memory(leader), every=0.1) as seen:
        said = site.client(UPLOAD)
    experiment, run, same, size, up, down = said.split()
    assert (same, size) == ("True", str(200 * MIB))
    proxied = f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts/random.bin"
    for path in (proxied, proxied.replace("/api/", "/ajax-api/"), f"/get-artifact?run_uuid={run}&path=random.bin"):
        assert site.get(path).status == 401
    peak = max(seen.seen)
    report(
        "200 MB artifact through HAProxy, 3.15.1",
        f"up {up} s, down {down} s; memory of the pod (PSS) {before / MIB:.0f} MiB before, "
        f"{peak / MIB:.0f} MiB at most, {memory(leader) / MIB:.0f} MiB after",
    )


def test_a_rotation_loses_no_request_and_the_next_one_retires_the_password_before_it(
    site: LocalStack, admin: tuple[str, str], experiment: str
) -> None:
    with site.connect(as_master=True) as server:
        first = database_login(site)
        with _log_in(server, *first) as held:
            assert site.changes(database__rotation=1) == {
                "replace": ["database-user-2-password"],
                "update": ["database-user-2", "mlflow-postgres-database-secret", "mlflow-release"],
            }
            second = _rotate(site, server, 1, admin, experiment)
            assert second[0] == "mlflow_user_2"
            assert held.execute("SELECT count(*) FROM experiments").fetchone()
        # Old pods can still open a connection with the first login, so it must not be refused yet.
        assert _can_log_in(server, *first)

        assert site.changes(database__rotation=2) == {
            "replace": ["database-user-password"],
            "update": ["database-user", "mlflow-postgres-database-secret", "mlflow-release"],
        }
        third = _rotate(site, server, 2, admin, experiment)
        assert third[0] == first[0] == "mlflow_user"
        assert third[1] != first[1]
        assert not _can_log_in(server, *first)
        assert _can_log_in(server, *second)


def test_a_password_of_ones_own_has_a_window_unless_the_rotation_is_raised_with_it(
    site: LocalStack, admin: tuple[str, str], experiment: str
) -> None:
    with site.connect(as_master=True) as server:
        second = "mlflow_user_2", _rested_password(site)
        before = database_login(site)
        _set_secret(site, "database.password", secrets.token_hex(16))
        with Load(site, admin, over_and_over(Request.create_run(experiment)), pause=0.05) as load:
            site.up(database__rotation=2)
            time.sleep(2)
        report("Database password changed without raising database.rotation, 8 clients", load.said())
        changed = database_login(site)
        assert changed[0] == before[0]
        assert not _can_log_in(server, *before)

        _set_secret(site, "database.password", secrets.token_hex(16))
        _rotate(site, server, 3, admin, experiment, "with a password of one's own")
        assert not _can_log_in(server, *second)
        assert _can_log_in(server, *changed)


def test_a_killed_pod_comes_back_and_the_other_one_serves_meanwhile(
    two_pods: LocalStack, admin: tuple[str, str], experiment: str
) -> None:
    name, victim = sorted(pods(two_pods).items())[0]
    with Load(two_pods, admin, over_and_over(Request.create_run(experiment))) as load:
        time.sleep(3)
        so_far, killed = load.total, time.monotonic()
        os.kill(victim, signal.SIGKILL)
        while pods(two_pods).get(name) in {None, victim}:
            time.sleep(0.05)
        while not _status(two_pods, name).ready:
            time.sleep(0.05)
        back = time.monotonic() - killed
        answered = load.total
        time.sleep(3)
    report(
        "One of two pods killed under load, 8 clients",
        f"{load.said()}; {load.total - so_far} of them came after the kill; the pod was back after {back:.1f} s",
    )
    assert answered - so_far > load.failed
    assert _status(two_pods, name).restarts == 1
    assert Load(two_pods, admin, over_and_over(Request.create_run(experiment))).run(2).failed == 0


def test_files_go_straight_to_the_bucket_where_the_settings_say_so(two_pods: LocalStack) -> None:
    log = Supervisor(two_pods.folder).log(aws_account.PROCESS)
    before = log.stat().st_size
    small_parts = "import os; os.environ['MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE'] = '1'\n"
    assert two_pods.client(small_parts + UPLOAD).split()[2] == "True"
    # A signed address has its signature in the query, so the log names no service.
    signed = re.findall(r"\] unsigned (\w+) \S+random.bin\?", log.read_bytes()[before:].decode())
    assert {"GET", "PUT"} <= set(signed)
    status = two_pods.get("/api/3.0/mlflow/server-info", login=("admin", two_pods.password()))
    assert '"multipart_downloads_enabled":true' in status.body


def test_verify_finds_nothing_wrong_and_each_fault_that_is_put_in(
    two_pods: LocalStack, admin: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
    began = time.monotonic()
    code, said = _verify(two_pods)
    report("make verify of the local stack", f"{time.monotonic() - began:.0f} s")
    assert (code, said.count("✓"), said.count("! certificate")) == (0, 12, 1), said

    resources = two_pods.resources()
    rds, ec2, cloudwatch, s3 = (aws_client(two_pods, service) for service in ("rds", "ec2", "cloudwatch", "s3"))
    instance = {"DBInstanceIdentifier": resources["postgres-instance"]["outputs"]["identifier"]}
    rule = {"GroupId": resources["postgres-sg"]["id"], "IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432}
    alarm = {"AlarmName": resources["postgres-alarms-cpu"]["id"], "StateReason": "81 % CPU"}
    bucket = resources["artifacts-bucket"]["id"]

    ec2.authorize_security_group_ingress(**rule, CidrIp="0.0.0.0/0")
    cloudwatch.set_alarm_state(**alarm, StateValue="ALARM")
    listed = s3.list_object_versions(Bucket=bucket)
    for version in [*listed.get("Versions", []), *listed.get("DeleteMarkers", [])]:
        s3.delete_object(Bucket=bucket, Key=version["Key"], VersionId=version["VersionId"])
    s3.delete_bucket(Bucket=bucket)
    try:
        code, said = _verify(two_pods)
    finally:
        ec2.revoke_security_group_ingress(**rule, CidrIp="0.0.0.0/0")
        cloudwatch.set_alarm_state(**alarm, StateValue="OK")
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": aws_account.REGION})
    sentences = ["it lets in 0.0.0.0/0 too", f"{alarm['AlarmName']}: 81 % CPU", "PUT of a file gets"]
    assert (code, [one for one in sentences if one not in said]) == (1, []), said
    assert "3 check(s) failed" in said

    rds.modify_db_instance(**instance, PubliclyAccessible=True, ApplyImmediately=True)
    change_password(two_pods.url, *admin, "another-password")
    try:
        code, said = _verify(two_pods)
    finally:
        change_password(two_pods.url, admin[0], "another-password", admin[1])
        rds.modify_db_instance(**instance, PubliclyAccessible=False, ApplyImmediately=True)
    sentences = ["it has a public address", "refuses the name and the password of admin"]
    assert (code, [one for one in sentences if one not in said]) == (1, []), said
    assert admin[1] not in said


def test_a_new_admin_password_works_at_once_and_the_old_one_ends_with_the_cache(
    two_pods: LocalStack, admin: tuple[str, str], experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
    search = "/api/2.0/mlflow/experiments/search?max_results=1"
    new = admin[0], secrets.token_hex(16)

    def statuses(login: tuple[str, str]) -> Counter[int]:
        # Each request has a new connection, so that both pods get some.
        return Counter(two_pods.get(search, login=login).status for _ in range(6))

    assert statuses(admin) == {200: 6}
    change_password(two_pods.url, *admin, new[1])
    changed = time.monotonic()
    try:
        assert statuses(new) == {200: 6}
        entered = 0.0
        # The wait of a minute is also the load for the measurement of memory below.
        with Load(two_pods, new, over_and_over(Request.create_run(experiment))) as load:
            while time.monotonic() - changed < 63:
                if statuses(admin)[200]:
                    entered = time.monotonic() - changed
                time.sleep(1)
        assert load.failed == 0
        assert statuses(admin) == {401: 6}
        report(
            "Administrator's password changed, two pods, 3.15.1",
            f"the new one works at once; the old one last entered {entered:.0f} s later, on the pod that did not handle the change",
        )
        report(
            "Memory of a pod (PSS) after a minute of load, 3.15.1",
            f"{', '.join(f'{memory(leader) / MIB:.0f} MiB' for leader in pods(two_pods).values())} (two pods; {load.said()}, {load.per_second:.0f}/s)",
        )
    finally:
        change_password(two_pods.url, *new, admin[1])


def test_the_login_cache_saves_the_hash_on_every_request(two_pods: LocalStack, admin: tuple[str, str]) -> None:
    search = Request("GET", "/api/2.0/mlflow/experiments/search?max_results=1")
    with_cache = Load(two_pods, admin, over_and_over(search)).run(5)
    running = pods(two_pods)
    two_pods.up(mlflow__auth__cacheSeconds=0)
    assert not running.keys() & pods(two_pods).keys(), (
        "pods read this setting from a file when they start, so a change must replace them"
    )
    without = Load(two_pods, admin, over_and_over(search)).run(5)
    assert with_cache.failed == without.failed == 0
    report(
        "Login cache, two pods, 8 clients reading",
        f"{with_cache.per_second:.0f} requests/s with cacheSeconds 60, {without.per_second:.0f} with 0: "
        f"{with_cache.per_second / without.per_second:.0f} times as many",
    )


def test_a_postgresql_upgrade_at_once_is_over_when_up_ends(site: LocalStack, admin: tuple[str, str]) -> None:
    assert send(site, "POST", CREATE, {"name": "before the upgrade"}, admin, {"Origin": site.url}).status == 200
    kept = _experiments(site, admin)
    said = Shell(site).run(*block("docs/upgrade-postgresql.md", "applyImmediately' true").to_run()).stdout
    assert "postgres.engineVersion: the instance has 17.6, the settings say 18: it is changed at once" in said
    assert postgresql(site) == 18
    # The pods' connections ended with the old server. The next request opens new ones.
    assert _experiments(site, admin) == kept
    assert site.changes() == {}
    assert send(site, "POST", CREATE, {"name": "after the upgrade"}, admin, {"Origin": site.url}).status == 200


def test_a_page_of_the_site_can_write_and_its_plain_twin_cannot(site: LocalStack, admin: tuple[str, str]) -> None:
    # MLflow accepts every origin on localhost, so only another name shows that the setting works.
    origin = f"https://mlflow.example.com:{site.https_port}"
    site.up(mlflow__host="mlflow.example.com", mlflow__url=origin)
    host = {"Host": f"mlflow.example.com:{site.https_port}"}
    ours = send(site, "POST", CREATE, {"name": "from the page"}, admin, host | {"Origin": origin})
    assert ours.status == 200
    for foreign in (origin.replace("https", "http"), "https://mlflow.example.com", "https://evil.example"):
        assert send(site, "POST", CREATE, {"name": foreign}, admin, host | {"Origin": foreign}).status == 403


def _verify(site: LocalStack) -> tuple[int, str]:
    """Run `make verify` on a stack, and return its exit code and output."""
    local = f"{PYTHON} -m local"
    done = subprocess.run(
        [PYTHON, "-m", "operations.verify", "local", "--pulumi", f"{local} pulumi", "--aws", f"{local} aws"],
        cwd=ROOT,
        env=site.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def _rotate(
    site: LocalStack,
    server: psycopg.Connection[Any],
    rotation: int,
    admin: tuple[str, str],
    experiment: str,
    how: str = "with a generated password",
) -> tuple[str, str]:
    """Raise the rotation while clients write, and return the login of the new pods."""
    old = database_login(site)
    runs = _runs(server, old)
    connected = (
        "SELECT usename, count(*) FROM pg_stat_activity "
        "WHERE usename LIKE 'mlflow_user%%' AND application_name <> %s GROUP BY usename"
    )
    with (
        Sampler(lambda: dict(server.execute(connected, (TESTS,)).fetchall())) as seen,
        Load(site, admin, over_and_over(Request.create_run(experiment)), pause=0.05) as load,
    ):
        site.up(database__rotation=rotation)
        # Only the new pods answer the requests of these two seconds.
        time.sleep(2)
    new = database_login(site)
    both = [one for one in seen.seen if {old[0], new[0]} <= one.keys()]
    assert both, "old and new pods were never connected at the same time"
    assert seen.seen[-1].keys() == {new[0]}
    assert load.failed == 0, load.failures[:3]
    assert _runs(server, new) - runs == load.total
    report(
        f"database.rotation raised to {rotation} {how}, 8 clients",
        f"{load.said()}; the old pods kept {max(one[old[0]] for one in both)} connections beside the new ones' for {len(both) * 0.2:.1f} s",
    )
    return new


def _runs(server: psycopg.Connection[Any], login: tuple[str, str]) -> int:
    # The master has no right to read MLflow's tables.
    with _log_in(server, *login) as database:
        (count,) = database.execute("SELECT count(*) FROM runs").fetchone() or (0,)
    return count


def _experiments(site: LocalStack, admin: tuple[str, str]) -> str:
    return send(site, "POST", "/api/2.0/mlflow/experiments/search", {"max_results": 1000}, admin).body


def _rested_password(site: LocalStack) -> str:
    return site.resources()["database-user-2-password"]["outputs"]["result"]["plaintext"].strip('"')


def _log_in(server: psycopg.Connection[Any], user: str, password: str) -> psycopg.Connection[Any]:
    info = server.info
    return psycopg.connect(
        host=info.host,
        port=info.port,
        dbname="mlflow",
        user=user,
        password=password,
        sslmode="require",
        autocommit=True,
        application_name=TESTS,
    )


def _can_log_in(server: psycopg.Connection[Any], user: str, password: str) -> bool:
    try:
        with contextlib.closing(_log_in(server, user, password)):
            return True
    except psycopg.OperationalError as error:
        if "password authentication failed" not in str(error):
            raise
        return False


def _set_secret(site: LocalStack, key: str, value: str) -> None:
    # The password goes through standard input, as a person's does: an argument is visible in the process list.
    subprocess.run(
        [PYTHON, "-m", "local", "pulumi", "config", "set", "--secret", "--path", f"mlflow-eks:{key}"],
        cwd=ROOT,
        env=site.environment(),
        input=value,
        capture_output=True,
        text=True,
        check=True,
    )


def _status(site: LocalStack, name: str) -> Status:
    status = Supervisor(site.folder).get(name)
    assert status is not None
    return status
