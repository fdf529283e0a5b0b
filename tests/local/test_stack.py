"""The whole deployment on the real engine: its resources, its login, and no changes in a second `up`."""

import re
import subprocess
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from ssl import create_default_context
from typing import LiteralString

import psycopg
import pytest
import yaml

from local.http_load import Load, Request, over_and_over, report
from local.stack import LocalStack, Project, new_stack
from local.supervisor.client import Supervisor
from tests.policy_simulation import PREVIEW, asked_during, not_allowed

pytestmark = pytest.mark.local

SLEEPS = """
import os, time
from pathlib import Path
Path("pid.new").write_text(str(os.getpid()))
Path("pid.new").rename("pid")
time.sleep(300)
"""
"""A program that writes its process id to a file and sleeps."""

LOG_A_RUN = """
import mlflow
mlflow.set_experiment("tests")
with mlflow.start_run() as run:
    mlflow.log_param("depth", 3)
    mlflow.log_metric("accuracy", 0.91)
    mlflow.log_text("hello", "note.txt")
back = mlflow.get_run(run.info.run_id)
print(back.data.params["depth"], back.data.metrics["accuracy"], mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/note.txt"))
"""

WITHOUT_S3 = """
import os, time
# The proxy leads nowhere, so of all addresses the client reaches the site's only.
os.environ |= {"http_proxy": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1"}
import mlflow
from urllib.parse import urlsplit
os.environ["no_proxy"] = urlsplit(mlflow.get_tracking_uri()).netloc
mlflow.set_experiment("without S3")
with mlflow.start_run() as run:
    mlflow.log_text("x" * 1000, "note.txt")
took = []
for asked in ("", "true"):
    if asked:
        os.environ |= {"MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": asked, "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": asked}
        os.environ["MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE"] = "1"
        with mlflow.start_run(run_id=run.info.run_id):
            mlflow.log_text("x" * 1000, "note.txt")
    began = time.monotonic()
    assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/note.txt") == "x" * 1000
    took.append(time.monotonic() - began)
print(max(took))
"""
"""A client without a route to S3, which sets nothing, and then insists on signed addresses. It prints the seconds of a download."""


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_second_up_changes_nothing(stack: LocalStack) -> None:
    assert stack.changes() == {}


def test_the_status_shows_the_site_and_a_client_that_trusts_its_certificate_gets_in(stack: LocalStack) -> None:
    said = stack.command("status").stdout
    assert f"URL          {stack.url}" in said
    certificate = re.search(r"MLFLOW_TRACKING_SERVER_CERT_PATH=(\S+)", said)
    assert certificate
    with urllib.request.urlopen(f"{stack.url}/health", context=create_default_context(cafile=certificate[1])) as answer:
        assert answer.status == 200


def test_the_ports_of_another_local_stack_are_said_to_be_its(stack: LocalStack) -> None:
    with new_stack("neighbour") as other:
        refused = replace(other, http_port=stack.http_port).command("up", ok=False)
    assert f"port {stack.http_port} is in use by the local stack in {stack.folder}: free it" in refused.stderr


def test_an_edit_of_the_checkout_is_in_the_next_preview_unless_the_copy_was_changed(stack: LocalStack) -> None:
    written = stack.folder / "project" / "settings-of-checkout.yaml"
    settings = stack.folder / "project" / "Pulumi.local.yaml"
    before = settings.read_text()
    # As if the checkout had been edited since the last `make up`.
    for file in (written, settings):
        file.write_text(before.replace("workers: 1", "workers: 3"))
    stack.pulumi("preview", "--expect-no-changes")
    assert settings.read_text() == before
    with stack.with_settings(mlflow__workers=3):
        assert stack.pulumi("config", "get", "--path", "mlflow-eks:mlflow.workers").stdout.strip() == "3"


def test_a_refresh_finds_nothing_changed_and_asks_for_nothing_beyond_the_policy_of_previews(stack: LocalStack) -> None:
    def compare() -> None:
        compared = stack.pulumi("preview", "--refresh", "--expect-no-changes", ok=False)
        assert compared.returncode == 0, compared.stdout

    asked = asked_during(compare, stack)
    assert {"rds:DescribeDBInstances", "iam:GetRole", "eks:DescribeCluster", "s3:GetBucketPolicy"} <= asked
    assert not_allowed(PREVIEW, asked) == []


def test_a_changed_setting_touches_only_the_release(stack: LocalStack) -> None:
    assert stack.changes(mlflow__auth__cacheSeconds=30) == {"update": ["mlflow-release"]}


def test_two_commands_at_the_same_moment_do_not_disturb_each_other(stack: LocalStack) -> None:
    projects = [Project(stack, name, "import os\nprint('in', os.getcwd())\n") for name in ("one", "two")]
    with ThreadPoolExecutor() as pool:
        previews = [pool.submit(project.pulumi, "preview") for project in projects]
        ours = pool.submit(stack.pulumi, "preview", "--expect-no-changes")
    for project, preview in zip(projects, previews, strict=True):
        assert f"in {project.folder}\n" in preview.result().stdout
    ours.result()


def test_what_a_program_prints_is_in_the_output_of_the_command(stack: LocalStack) -> None:
    program = 'import os\nprint("this is", os.environ["SAID"])\nimport neighbour\n'
    project = Project(stack, "prints", program)
    (project.folder / "neighbour.py").write_text("print('and its neighbour')\n")
    # `up` runs the program twice, and the second run imports its modules anew.
    said = project.pulumi("up", "--yes", SAID="the program").stdout.split("Diagnostics:")[1:]
    assert len(said) == 2
    assert all("    this is the program\n    and its neighbour\n" in diagnostics for diagnostics in said)


def test_a_program_ends_with_its_killed_engine_and_the_plugins_go_on(stack: LocalStack) -> None:
    project = Project(stack, "sleeps", SLEEPS)
    plugins = Supervisor(stack.folder).get("plugins")
    command = [stack.folder / "bin" / "pulumi", "--non-interactive", "preview"]
    with subprocess.Popen(
        command, cwd=project.folder, env=project.environment, stdout=subprocess.PIPE, text=True
    ) as engine:
        written = project.folder / "pid"
        eventually(written.exists)
        engine.kill()
    pid = written.read_text()
    eventually(lambda: not Path(f"/proc/{pid}").exists())
    assert Supervisor(stack.folder).get("plugins") == plugins
    stack.pulumi("preview", "--expect-no-changes")


def test_a_wrong_setting_is_refused_in_one_message_without_a_traceback(stack: LocalStack) -> None:
    with stack.with_settings(mlflow__replcas=2):
        refused = stack.pulumi("preview", ok=False)
    assert refused.returncode != 0
    said = refused.stdout + refused.stderr
    assert "mlflow.replcas is unknown; did you mean replicas?" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ({"mlflow-eks:mlflow": None}, "mlflow is empty; write a map of settings: host,"),
        ({"mlflow-eks:mlflow": "mlflow.example.com"}, "mlflow is a text; write a map of settings: host,"),
        ({}, "mlflow is missing; set it with `pulumi config set --path 'mlflow-eks:mlflow.host' mlflow.example.com`"),
    ],
)
def test_a_section_that_is_none_is_refused_beside_the_other_mistakes(
    stack: LocalStack, written: dict[str, str | None], told: str
) -> None:
    file = stack.folder / "project" / "Pulumi.local.yaml"
    before = file.read_text()
    content = yaml.safe_load(before)
    del content["config"]["mlflow-eks:mlflow"]
    content["config"] |= {**written, "mlflow-eks:protect": "maybe"}
    try:
        file.write_text(yaml.safe_dump(content))
        refused = stack.pulumi("preview", ok=False)
    finally:
        file.write_text(before)
    assert refused.returncode != 0
    assert "Pulumi.local.yaml has 2 wrong settings:" in refused.stdout
    assert told in refused.stdout
    assert "protect is 'maybe'; write true or false (default true)" in refused.stdout


def test_an_engine_version_that_is_not_offered_is_refused_without_a_traceback(stack: LocalStack) -> None:
    with stack.with_settings(postgres__engineVersion="29", postgres__allowMajorUpgrade=True):
        refused = stack.pulumi("preview", ok=False)
    assert refused.returncode != 0
    said = refused.stdout + refused.stderr
    assert "engine version 29 of PostgreSQL is not offered" in said
    assert "Traceback" not in said


def test_all_of_mlflows_tables_are_in_its_own_schema(stack: LocalStack) -> None:
    with stack.connect(as_master=True) as server:
        tables = dict(server.execute("SELECT schemaname, count(*) FROM pg_tables GROUP BY schemaname").fetchall())
    assert tables["mlflow"] > 50
    assert "public" not in tables


def test_the_tables_belong_to_the_role_that_both_logins_act_as(stack: LocalStack) -> None:
    with stack.connect(as_master=True) as server:
        owners = server.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'mlflow'").fetchall()
    assert owners == [("mlflow_app",)]


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE public.t (n int)", "CREATE SCHEMA other", "CREATE TEMP TABLE t (n int)"]
)
def test_the_app_role_cannot_go_beyond_its_schema(stack: LocalStack, statement: LiteralString) -> None:
    with stack.connect() as server, pytest.raises(psycopg.errors.InsufficientPrivilege):
        server.execute(statement)


def test_every_connection_of_mlflow_is_encrypted(stack: LocalStack) -> None:
    with stack.connect(as_master=True) as server:
        encrypted = server.execute(
            "SELECT ssl, count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename LIKE 'mlflow_user%' GROUP BY ssl"
        ).fetchall()
    assert [ssl for ssl, _ in encrypted] == [True]


def test_the_server_refuses_connections_without_tls(stack: LocalStack) -> None:
    with pytest.raises(psycopg.OperationalError, match="no encryption"):
        stack.connect(sslmode="disable")


def test_a_client_with_the_password_logs_a_run_and_reads_it_back(stack: LocalStack) -> None:
    assert stack.client(LOG_A_RUN) == "3 0.91 hello"


def test_a_client_without_a_route_to_s3_gets_its_file_at_once(stack: LocalStack) -> None:
    seconds = float(stack.client(WITHOUT_S3))
    # The page says 2 s, which a machine under tests is not held to. With signed addresses the client fails after ten minutes.
    assert seconds < 10
    report("a file of 1 KB, for a client without a route to S3", f"{seconds:.1f} s")


@pytest.mark.parametrize(
    "path",
    ["/", "/api/2.0/mlflow/experiments/search?max_results=1", "/ajax-api/2.0/mlflow/experiments/search?max_results=1"],
)
def test_without_a_password_nobody_gets_in(stack: LocalStack, path: str) -> None:
    assert stack.get(path).status == 401
    assert stack.get(path, login=("admin", "not-the-password")).status == 401


def test_with_the_password_the_page_comes(stack: LocalStack) -> None:
    assert stack.get("/", login=("admin", stack.password())).status == 200


def test_a_foreign_host_header_gets_nothing_from_haproxy(stack: LocalStack) -> None:
    assert stack.get("/", login=("admin", stack.password()), headers={"Host": "evil.example"}).status == 404


def test_plain_http_is_redirected_to_https(stack: LocalStack) -> None:
    answer = stack.get("/", url=f"http://localhost:{stack.http_port}")
    assert answer.status in {301, 302, 307, 308}
    assert answer.headers["location"].startswith(stack.url)


def test_more_clients_than_a_pod_has_connections_wait_and_none_of_them_fails(stack: LocalStack) -> None:
    # Without the limit, requests would block each other: each holds one connection of the pool and waits for a second.
    crowd = Load(stack, ("admin", stack.password()), over_and_over(Request.create_run("0")), clients=64).run(5)
    assert crowd.failed == 0, crowd.said()


def test_a_page_of_another_site_cannot_write(stack: LocalStack) -> None:
    answer = stack.get(
        "/ajax-api/2.0/mlflow/experiments/search?max_results=1",
        login=("admin", stack.password()),
        headers={"Origin": "https://evil.example"},
    )
    assert "access-control-allow-origin" not in {name.lower() for name in answer.headers}
