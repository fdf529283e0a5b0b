"""Entries that the state has lost come back as docs/lost-state.md says, and `up` replaces nothing.

The tests are steps that run in the order in which they are written, on one stack.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from components.mlflow_release.names import RELEASE
from local.stack import LocalStack, new_stack
from tests.docs_commands import block
from tests.local.account import aws_client, postgresql
from tests.local.docs_shell import Shell
from tests.lost_state_page import fits, import_ids

pytestmark = pytest.mark.local

Entry = dict[str, Any]


@pytest.fixture(scope="module")
def site() -> Iterator[LocalStack]:
    with new_stack("lost") as stack:
        stack.up()
        yield stack


@pytest.fixture(scope="module")
def shell(site: LocalStack) -> Shell:
    return Shell(site)


def lose(stack: LocalStack, file: Path, lost: Callable[[Entry], bool]) -> dict[str, Entry]:
    """Take entries out of the state, with whatever refers to them, and return them by name."""
    state = json.loads(stack.pulumi("stack", "export").stdout)
    resources: list[Entry] = state["deployment"]["resources"]
    gone = {entry["urn"] for entry in resources if lost(entry)}
    for entry in resources:
        for group in [entry.get("dependencies"), *entry.get("propertyDependencies", {}).values()]:
            if group:
                group[:] = [urn for urn in group if urn not in gone]
    state["deployment"]["resources"] = [entry for entry in resources if entry["urn"] not in gone]
    file.write_text(json.dumps(state))
    stack.pulumi("stack", "import", "--file", str(file))
    return {name(entry): entry for entry in resources if entry["urn"] in gone}


def name(entry: Entry) -> str:
    return entry["urn"].rsplit("::", 1)[-1]


def is_made(entry: Entry) -> bool:
    return entry.get("custom", False) and not entry.get("external") and not entry["type"].startswith("pulumi:")


def in_folder(folder: Path, commands: list[str]) -> list[str]:
    """Return commands of the page, with their files in a folder."""
    here = partial(re.sub, r"(?<= )(\w+\.json)", rf"{folder}/\1")
    return [here(command) for command in commands]


def test_an_up_does_not_take_over_what_the_state_does_not_know(site: LocalStack, tmp_path: Path) -> None:
    lose(site, tmp_path / "state.json", lambda entry: name(entry) == "mlflow-network-policy")
    refused = site.pulumi("up", "--yes", "--skip-preview", ok=False)
    assert f'NetworkPolicy "{RELEASE}" already exists' in refused.stdout + refused.stderr
    site.command("pulumi", "up", "--yes", "--skip-preview", PULUMI_K8S_UPSERT_EXISTING_OBJECTS="true")
    # The SDK reads the variable, and makes it an input of the provider.
    assert site.changes() == {"update": ["cluster"]}


def test_an_import_brings_back_every_kind_of_resource(site: LocalStack, shell: Shell, tmp_path: Path) -> None:
    lost = lose(site, tmp_path / "state.json", lambda entry: is_made(entry) and not entry["type"].startswith("random:"))
    shell.run(*in_folder(tmp_path, block("docs/lost-state.md", "preview --import-file").to_run()))
    file, ids = tmp_path / "lost.json", import_ids()
    listed = json.loads(file.read_text())
    assert {one["name"] for one in listed["resources"]} == set(lost)
    listed["resources"] = [one for one in listed["resources"] if ids[one["type"]]]
    for one in listed["resources"]:
        one["id"] = lost[one["name"]]["id"]
        if ids[one["type"]].startswith("CLUSTER,"):
            one["id"] = f"mlflow-local,{one['id']}"
        assert fits(ids[one["type"]], one["id"]), one
    file.write_text(json.dumps(listed))
    shell.run(*in_folder(tmp_path, block("docs/lost-state.md", "import --file lost.json").to_run()))
    assert site.changes().keys() == {"create", "update"}
    site.pulumi("up", "--yes", "--skip-preview")
    assert site.changes() == {}
    assert site.get("/", login=("admin", site.password())).status == 200


def test_an_older_copy_brings_back_generated_values_too(site: LocalStack, shell: Shell, tmp_path: Path) -> None:
    password = site.password()
    (copies,) = (site.folder / "backend").glob(".pulumi/history/*/*")
    shutil.copy(max(copies.glob("*.checkpoint.json")), tmp_path / "older.json")
    lose(site, tmp_path / "state.json", is_made)
    shell.run(*in_folder(tmp_path, block("docs/lost-state.md", "jq").to_run()))
    assert site.changes() == {}
    assert site.password() == password


def test_a_blue_green_upgrade_of_postgresql_is_taken_over(site: LocalStack, shell: Shell, tmp_path: Path) -> None:
    identifier = site.outputs()["databaseIdentifier"]
    account = aws_client(site, "rds")
    before = account.describe_db_instances(DBInstanceIdentifier=identifier)["DBInstances"][0]
    account.create_db_parameter_group(
        DBParameterGroupName="mlflow-switch", DBParameterGroupFamily="postgres18", Description="TLS only"
    )
    made = account.create_blue_green_deployment(
        BlueGreenDeploymentName="mlflow",
        Source=before["DBInstanceArn"],
        TargetEngineVersion="18",
        TargetDBParameterGroupName="mlflow-switch",
    )["BlueGreenDeployment"]
    account.switchover_blue_green_deployment(BlueGreenDeploymentIdentifier=made["BlueGreenDeploymentIdentifier"])
    # The account has exchanged the two; now the server is of the new version.
    site.command("maintenance")
    now = account.describe_db_instances(DBInstanceIdentifier=identifier)["DBInstances"][0]
    assert now["DbiResourceId"] != before["DbiResourceId"]
    assert postgresql(site) == 18
    account.delete_db_instance(DBInstanceIdentifier=f"{identifier}-old1", SkipFinalSnapshot=True)

    commands = block("docs/upgrade-postgresql.md", "jq --arg").to_run()
    example = "db-0123456789ABCDEFGHIJKLMNOP"
    assert any(example in command for command in commands)
    answered = [command.replace(example, now["DbiResourceId"]) for command in commands]
    shell.run(*in_folder(tmp_path, answered))
    assert site.changes() == {}
    assert site.outputs()["databaseIdentifier"] == identifier
    assert {each["DBInstanceIdentifier"] for each in account.describe_db_instances()["DBInstances"]} == {identifier}
    assert postgresql(site) == 18
    assert site.get("/", login=("admin", site.password())).status == 200
