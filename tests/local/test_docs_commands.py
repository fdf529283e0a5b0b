"""The pages' commands run on a local stack as they are written: README, first stack, rotation, backup, stuck states and more.

The tests are steps that run in the order in which they are written. test_upgrade.py runs the commands of docs/upgrade.md, the database dump among them.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from pulumi.runtime.proto import language_pb2_grpc

from local import aws_account, paths
from local.cluster.objects import Objects
from local.cluster.revisions import Revisions
from local.http_load import database_login
from local.plugins.server import serve
from local.stack import PYTHON, LocalStack, free_ports, new_stack
from local.supervisor.client import Supervisor
from tests import ROOT
from tests.docs_commands import block, words
from tests.local.docs_shell import Shell
from tests.local.language_host import Host
from tests.unit.harness import deploy

pytestmark = pytest.mark.local

LOG_A_RUN = (
    """python -c 'import mlflow; mlflow.set_experiment("printed"); mlflow.start_run(); mlflow.log_metric("a", 1)'"""
)


@pytest.fixture(scope="module")
def site() -> Iterator[LocalStack]:
    with new_stack("docs") as stack:
        paths.make_traversable(stack.folder)
        yield stack


@pytest.fixture(scope="module")
def shell(site: LocalStack) -> Shell:
    # The local stack's certificate is self-signed, so clients must not check it.
    return Shell(site, MLFLOW_TRACKING_INSECURE_TLS="true")


def test_the_first_commands_of_the_readme_bring_mlflow_up_and_show_no_change(site: LocalStack, shell: Shell) -> None:
    up, preview, down = block("README.md", "make up").commands()
    said = shell.run(up).stdout
    assert f"URL          {site.url}" in said
    assert "## Preview of `local`: no changes" in shell.run(preview).stdout
    assert down.startswith("make down"), "the last test runs this command"


def test_the_lines_that_make_up_prints_are_enough_to_log_a_run(shell: Shell) -> None:
    lines = shell.run("make up").stdout.partition("For an MLflow client")[2].splitlines()
    exported = [line for line in lines if line.startswith("export ")]
    # The printed lines must set this variable, so the fixture's is removed.
    shell.run("unset MLFLOW_TRACKING_INSECURE_TLS", *exported, LOG_A_RUN)


def test_the_machine_shows_what_runs(shell: Shell) -> None:
    (status,) = block("local/README.md", "make status").to_run()
    processes, *site = shell.run(status).stdout.split("\n\n")
    lines = processes.splitlines()
    assert "MLflow 3.15.1 runs on this machine." in "".join(site)
    assert re.findall(r"^\w+", "\n".join(lines), re.MULTILINE) == ["aws", "haproxy", "mlflow", "plugins", "rds"]
    assert all(line.endswith(" ready") for line in lines)


@pytest.mark.parametrize("page", ["README.md", "docs/first-stack.md"])
def test_the_first_stack_is_made_as_the_workflows_want_it(
    site: LocalStack, shell: Shell, tmp_path: Path, page: str
) -> None:
    readme, first_stack = block("README.md", "pulumi stack init"), block("docs/first-stack.md", "pulumi stack init")
    commands = (readme if page == "README.md" else first_stack).to_run()
    _make_key(site)
    for file in ("Pulumi.yaml", "Pulumi.dev.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    environment = {**_engine(site, tmp_path), **aws_account.credentials(_endpoint(site))}
    shell.run(*commands, cwd=tmp_path, variables=environment)
    written = yaml.safe_load((tmp_path / "Pulumi.dev.yaml").read_text())
    assert written["config"]["mlflow-eks:cluster"]["name"] == "my-cluster"
    assert written["config"]["mlflow-eks:mlflow"]["host"] == "mlflow.example.com"
    if page == "README.md":
        assert "encryptionsalt" in written
    else:
        # .github/actions/open-stack requires these two entries.
        assert written["secretsprovider"] == words(commands[0])[-1]
        assert written["encryptedkey"]


def test_a_project_from_the_template_has_a_stack_with_the_two_settings(
    site: LocalStack, shell: Shell, tmp_path: Path
) -> None:
    (command,) = block("README.md", "pulumi new").to_run()
    template = tmp_path / "template"
    template.mkdir()
    for file in ("Pulumi.yaml", "Pulumi.dev.yaml", "__main__.py"):
        shutil.copy(ROOT / file, template)
    port = free_ports()[0]
    host = serve(port, partial(language_pb2_grpc.add_LanguageRuntimeServicer_to_server, Host()))
    # Nobody types an answer here: the region is the one that the template proposes.
    shell.run(
        f"{command.replace('REPOSITORY', str(template))} --yes",
        cwd=tmp_path,
        variables={**_engine(site, tmp_path), "PULUMI_DEBUG_LANGUAGES": f"python:{port}"},
    )
    host.stop(grace=None)
    config = yaml.safe_load((tmp_path / "mlflow-eks" / "Pulumi.dev.yaml").read_text())["config"]
    assert config.pop("aws:region") == "eu-west-1"
    sections = {key.removeprefix("mlflow-eks:"): value for key, value in config.items()}
    # Pulumi puts false into quotes where it rewrites a file, and reads that as it reads false.
    assert sections.pop("protect") == "false"
    deployment = deploy(sections, as_written={"protect": "false"}, preview=True, stack="dev")
    assert deployment.outputs["url"] == "https://mlflow.example.com"
    assert deployment.named("cluster")["clusterIdentifier"] == "my-cluster"
    # The rest of the committed file is there as well.
    assert deployment.named("postgres-instance").protect is False


def test_the_outputs_of_the_first_stack_are_what_the_page_calls_them(site: LocalStack, shell: Shell) -> None:
    commands = block("docs/first-stack.md", "output adminPassword").to_run()
    assert shell.run(*commands).stdout.splitlines() == [site.url, site.password()]


def test_the_client_lines_log_a_run_as_printed(site: LocalStack, shell: Shell) -> None:
    shell.run(*block("docs/first-stack.md", "output client").to_run())
    search = 'import mlflow; print(mlflow.search_runs(experiment_names=["first"])["metrics.accuracy"][0])'
    assert site.client(search) == "0.9"


def test_a_rotation_gives_the_pods_the_other_login(site: LocalStack, shell: Shell) -> None:
    assert database_login(site)[0] == "mlflow_user"
    shell.run(*block("docs/rotation.md", "rotation' 1").to_run())
    assert database_login(site)[0] == "mlflow_user_2"
    assert site.get("/", login=("admin", site.password())).status == 200


def test_two_rotations_after_a_leak_change_the_password_of_both_logins(site: LocalStack, shell: Shell) -> None:
    user, leaked = database_login(site)
    shell.run(*block("docs/rotation.md", "rotation' 3").to_run())
    same_user, password = database_login(site)
    assert same_user == user
    assert password != leaked
    assert site.get("/", login=("admin", site.password())).status == 200


def test_the_administrator_gets_a_new_password_in_both_places(site: LocalStack, shell: Shell) -> None:
    before = site.password()
    (rotate,) = block("docs/rotation.md", "make rotate-admin").to_run()
    shell.run(rotate.replace("STACK=dev", "STACK=local"), "pulumi up")
    assert site.password() != before
    assert site.get("/", login=("admin", site.password())).status == 200


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("pending-upgrade", "another operation (install/upgrade/rollback) is in progress"),
        ("uninstalling", "resource 'mlflow/mlflow' does not exist"),
    ],
)
def test_a_release_that_helm_was_killed_at_is_freed_as_the_page_says(
    site: LocalStack, shell: Shell, status: str, said: str
) -> None:
    helm = Revisions(Objects(site.folder / "cluster" / "objects"))
    last = helm.last("mlflow", "mlflow")
    assert last is not None
    if status == "uninstalling":
        helm.objects.remove("Deployment", "mlflow", "mlflow")
    else:
        last["status"]["revision"] += 1
        shell.run("pulumi config set --path 'mlflow-eks:mlflow.auth.defaultPermission' READ")
    helm.write(last, status)
    refused = shell.run("pulumi up", ok=False)
    assert refused.returncode != 0
    assert said in refused.stdout + refused.stderr
    unstick, *then = block("docs/stuck-states.md", "make unstick").to_run()
    assert unstick == "make unstick STACK=dev"
    freed = shell.run(f"{PYTHON} -m operations.unstick local", *then).stdout
    assert f"mlflow/mlflow: was {status}." in freed
    assert f"Now run:\n  {then[0]} --stack local" in freed
    assert site.changes() == {}
    assert site.get("/", login=("admin", site.password())).status == 200


@pytest.mark.parametrize(
    ("place", "delete"),
    [
        (
            ("docs/backup-and-restore.md", "mlflow experiments restore"),
            "client.delete_experiment(run.info.experiment_id)",
        ),
        (("docs/backup-and-restore.md", "mlflow runs restore"), "client.delete_run(run.info.run_id)"),
    ],
)
def test_what_was_deleted_is_restored_by_mlflows_own_client(
    site: LocalStack, shell: Shell, place: tuple[str, str], delete: str
) -> None:
    start = "import mlflow; mlflow.set_experiment('deleted'); run = mlflow.start_run(); mlflow.end_run(); client = mlflow.MlflowClient()"
    experiment, run = site.client(f"{start}; {delete}; print(run.info.experiment_id, run.info.run_id)").split()
    ids = {"12": experiment, 2 * "0123456789abcdef": run}
    search, restore = (
        re.sub(rf"\b({'|'.join(ids)})\b", lambda found: ids[found[0]], command) for command in block(*place).to_run()
    )
    # `make up` prints the same. It would take back the rotations above.
    login = {
        "MLFLOW_TRACKING_URI": site.url,
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": site.password(),
    }
    assert ("deleted" if "experiments" in search else run) in shell.run(search, variables=login).stdout
    shell.run(restore, variables=login)
    assert run in site.client(f"import mlflow; print([*mlflow.search_runs([{experiment!r}])['run_id']])")


def test_a_restored_instance_takes_the_place_of_the_stacks_own(site: LocalStack, shell: Shell) -> None:
    host, password, preview = block("docs/backup-and-restore.md", "postgres.existing.host").to_run()
    config = site.folder / "project" / "Pulumi.local.yaml"
    before = config.read_text()
    try:
        shell.run(host.replace("…", "abc123.eu-west-1"))
        shell.run(password, text="of-the-restored-instance")
        said = shell.run(preview).stdout
    finally:
        config.write_text(before)
    assert "postgres-instance delete" in said
    assert "mlflow-release update" in said
    assert "database-database" not in [line.split()[-2] for line in said.splitlines() if line.endswith(" delete")]


def test_the_readmes_last_command_leaves_nothing(site: LocalStack, shell: Shell) -> None:
    shell.run(block("README.md", "make up").commands()[-1])
    assert not site.folder.exists()


def test_a_first_up_through_a_tunnel_goes_in_the_two_steps_of_the_page() -> None:
    with new_stack("tunnel") as stack:
        stack.command("preview")
        shell = Shell(stack)
        address, first, second = block("docs/reaching-the-database.md", "database.adminAddress").to_run()
        port = free_ports()[0]
        shell.run(address.replace("localhost:15432", f"localhost:{port}"))
        refused = shell.run(first, ok=False)
        assert refused.returncode != 0
        assert "onnection refused" in refused.stdout + refused.stderr
        assert "database-owner" in refused.stdout
        # The output that the page's tunnel needs exists after the failed `up`.
        (server,) = (one for one in Supervisor(stack.folder).list() if one.name.startswith("rds-"))
        assert shell.run("pulumi stack output databaseAddress").stdout.strip() == "127.0.0.1"
        with tunnel(port, Supervisor(stack.folder).free_port(server.name)):
            shell.run(second)
            assert stack.changes() == {}
        assert stack.get("/", login=("admin", stack.password())).status == 200


def test_a_bucket_that_is_there_is_adopted_and_not_replaced(tmp_path: Path) -> None:
    with new_stack("adopt") as stack:
        stack.command("preview")
        s3 = _client("s3", stack)
        s3.create_bucket(Bucket="of-the-old-one", CreateBucketConfiguration={"LocationConstraint": aws_account.REGION})
        file = tmp_path / "adopt.json"
        commands = [
            command.replace("adopt.json", str(file))
            for command in block("docs/from-the-guide.md", "pulumi import").to_run()
        ]
        shell = Shell(stack)
        shell.run(commands[0])
        listed = json.loads(file.read_text())
        listed["resources"] = [one for one in listed["resources"] if one["name"] in {"artifacts", "artifacts-bucket"}]
        (bucket,) = (one for one in listed["resources"] if not one.get("component"))
        bucket["id"] = "of-the-old-one"
        file.write_text(json.dumps(listed))
        shell.run(*commands[1:])
        changes = stack.changes()
        assert "artifacts-bucket" in changes["update"]
        assert not changes.keys() & {"replace", "delete"}


@contextlib.contextmanager
def tunnel(port: int, target: int) -> Iterator[None]:
    """Forward a loopback port to another, as a session of AWS Session Manager does."""

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", target))
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=ends, daemon=True).start()

    with socket.create_server(("127.0.0.1", port)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield
        # Without this, the thread that waits in `accept` would keep the port open.
        listener.shutdown(socket.SHUT_RDWR)


def _engine(site: LocalStack, folder: Path) -> dict[str, str]:
    """Return an environment in which `pulumi` keeps its stacks in this folder and knows nothing of the local stack."""
    (folder / "state").mkdir()
    return {
        "PATH": f"{site.folder / 'bin'}:{os.environ['PATH']}",
        "PULUMI_HOME": str(folder / "home"),
        "PULUMI_BACKEND_URL": f"file://{folder / 'state'}",
        # A stack without a key takes its passphrase from here.
        "PULUMI_CONFIG_PASSPHRASE": secrets.token_hex(16),
    }


def _make_key(stack: LocalStack) -> None:
    kms = _client("kms", stack)
    for alias in ("alias/pulumi", "alias/mlflow-eks-dev"):
        if alias not in {one["AliasName"] for one in kms.list_aliases()["Aliases"]}:
            kms.create_alias(AliasName=alias, TargetKeyId=kms.create_key()["KeyMetadata"]["KeyId"])


def _client(service: str, stack: LocalStack) -> Any:
    login = aws_account.credentials(_endpoint(stack))
    session: Any = boto3.Session(
        login["AWS_ACCESS_KEY_ID"], login["AWS_SECRET_ACCESS_KEY"], region_name=aws_account.REGION
    )
    return session.client(service, endpoint_url=_endpoint(stack))


def _endpoint(stack: LocalStack) -> str:
    return f"http://127.0.0.1:{Supervisor(stack.folder).free_port(aws_account.PROCESS)}"
