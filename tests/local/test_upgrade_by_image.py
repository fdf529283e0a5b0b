"""An upgrade to a newer MLflow than the chart's, by `mlflow.image`, keeps data, logins and permissions. There is no way back.

The tests are steps that run in the order in which they are written. docs/upgrade.md describes them.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from local.charts.mlflow import APP_VERSIONS
from local.http_load import Load, Request, over_and_over, report, send
from local.stack import new_stack
from tests import ROOT
from tests.docs_commands import block
from tests.local.docs_shell import Shell
from tests.local.kept_data import FILL, NEW_SNAPSHOT, READER, Site

pytestmark = [pytest.mark.local, pytest.mark.slow]

BEFORE, AFTER = APP_VERSIONS["1.11.5"], "3.17.2"
MEMBER = "member"
REMOVE = "pulumi config rm --path 'mlflow-eks:mlflow.image'"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with new_stack("image") as stack:
        stack.up()
        yield Site(stack)


def make(site: Site, command: str) -> str:
    return Shell(site.stack, MLFLOW_TRACKING_INSECURE_TLS="true").run(f"make {command} STACK=local").stdout


def write(site: Site, login: tuple[str, str]) -> int:
    fields = {"experiment_id": site.experiment, "key": "written by", "value": login[0]}
    return send(site.stack, "POST", "/api/2.0/mlflow/experiments/set-experiment-tag", fields, login).status


@pytest.fixture(scope="module")
def member(site: Site) -> tuple[str, str]:
    """Login of a member of a team that may write. The password is the one of before the upgrade."""
    return MEMBER, make(site, f"user NAME={MEMBER}").splitlines()[-1].partition("=")[2]


def test_a_stack_with_the_charts_mlflow_has_data_users_and_a_team(site: Site, member: tuple[str, str]) -> None:
    assert site.version() == BEFORE
    site.experiment = site.stack.client(FILL)
    granted = {"resource_type": "experiment", "resource_id": site.experiment}
    site.add_the_reader("/api/3.0/mlflow/users/permissions/grant", granted)
    assert write(site, member) == 403
    make(site, f"team TEAM=writers USERS={MEMBER}")
    make(site, "grant TEAM=writers EXPERIMENT=kept MODELS=kept-model PERMISSION=EDIT")
    assert write(site, member) == 200
    site.before = site.look(BEFORE)


def test_the_image_changes_the_release_and_nothing_else(site: Site) -> None:
    assert site.stack.changes(mlflow__image__tag=AFTER) == {"update": ["mlflow-release"], **NEW_SNAPSHOT}


def test_everything_is_there_on_the_newer_mlflow(site: Site, member: tuple[str, str]) -> None:
    with Load(site.stack, site.admin, over_and_over(Request.create_run("0")), clients=2, pause=0.2) as load:
        site.run("\n".join(block("docs/upgrade.md", "mlflow.image.tag").to_run()))
    report(f"Upgrade from {BEFORE} to {AFTER} under light load, 2 clients", load.said())
    assert site.version() == AFTER
    with site.stack.connect() as database:
        (written,) = database.execute("SELECT count(*) FROM runs WHERE experiment_id = 0").fetchone() or (0,)
    assert written >= load.answers["200"]
    # The client of before the upgrade goes on working.
    assert site.look(BEFORE) == site.look(AFTER) == site.before
    site.reader_may_what_was_granted()
    assert write(site, member) == 200
    assert write(site, READER) == 403


def test_an_ordinary_user_works_on_it(site: Site) -> None:
    password = make(site, "user NAME=worker").splitlines()[-1].partition("=")[2]
    script = Path(__file__).with_name("ordinary_work.py").read_text()
    assert site.stack.client(script, user="worker", password=password, version=AFTER) == "all of it"


def test_permissions_are_taken_away_on_it_as_before(site: Site, member: tuple[str, str]) -> None:
    make(site, "revoke TEAM=writers EXPERIMENT=kept MODELS=kept-model")
    assert write(site, member) == 403
    make(site, f"grant USERS={MEMBER} EXPERIMENT=kept PERMISSION=EDIT")
    assert write(site, member) == 200
    make(site, f"remove-user NAME={MEMBER}")
    assert site.search(member).status == 401


def test_there_is_no_way_back_by_the_setting(site: Site) -> None:
    assert f"`{REMOVE}`" in (ROOT / "docs/upgrade.md").read_text()
    config = site.stack.folder / "project" / "Pulumi.local.yaml"
    before = config.read_text()
    try:
        site.run(REMOVE)
        refused = site.stack.pulumi("up", "--yes", "--skip-preview", ok=False)
    finally:
        config.write_text(before)
    assert refused.returncode != 0
    assert "Can't locate revision identified by" in refused.stdout + refused.stderr, refused.stdout
    # The release was rolled back, and the newer server was never stopped.
    assert site.version() == AFTER
    assert site.search(site.admin).status == 200


def test_with_the_setting_again_there_is_nothing_to_change_but_the_snapshot_of_the_attempt(site: Site) -> None:
    assert site.stack.changes() == NEW_SNAPSHOT
