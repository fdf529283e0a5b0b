"""Accounts, teams and permissions: the commands and the Python of docs/users-and-permissions.md, and MLflow's own page.

The tests are steps that run in the order in which they are written, with the default MLflow and with the guide's. The guide's MLflow has no
teams, so there the commands name the users.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from local.charts.mlflow import APP_VERSIONS
from local.http_load import send
from local.stack import LocalStack, new_stack
from tests.docs_commands import block, blocks
from tests.local.browser import in_a_browser, pages
from tests.local.docs_shell import Shell

pytestmark = pytest.mark.local

PAGE = "docs/users-and-permissions.md"
GUIDES_CHART = "1.8.1"

FILL = """
import mlflow
from mlflow import MlflowClient

client = MlflowClient()
for name in ("churn", "other"):
    mlflow.set_experiment(name)
    with mlflow.start_run() as run:
        mlflow.log_text("weights", "model/weights.txt")
    client.create_registered_model(f"{name}-model")
    client.create_model_version(f"{name}-model", f"{run.info.artifact_uri}/model", run.info.run_id)
mlflow.genai.register_prompt("churn-prompt", "hello {{name}}")
"""
TRY = """
import json
import mlflow
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

client = MlflowClient()


def log():
    mlflow.set_experiment("churn")
    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 0.5)
    assert len(mlflow.search_runs(experiment_names=["churn"])) > 0


def look():
    assert len(client.search_runs([client.get_experiment_by_name("churn").experiment_id])) > 0


def load():
    path = mlflow.artifacts.download_artifacts("models:/churn-model/1")
    assert open(f"{path}/weights.txt").read() == "weights"


tried = {
    "look": look,
    "log": log,
    "see the model": lambda: client.get_registered_model("churn-model"),
    "load the model": load,
    "change the model": lambda: client.set_model_version_tag("churn-model", "1", "key", "value"),
}


def allowed(attempt):
    try:
        attempt()
    except (MlflowException, requests.HTTPError) as error:
        assert "403" in str(error) or error.error_code == "PERMISSION_DENIED", error
        return False
    return True


print(json.dumps([name for name, attempt in tried.items() if allowed(attempt)]))
"""
READ = ["look", "see the model", "load the model"]
EDIT = ["look", "log", "see the model", "load the model", "change the model"]


@dataclass
class Site:
    """A stack, and the passwords that its commands have printed."""

    stack: LocalStack
    version: str
    passwords: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def has_teams(self) -> bool:
        return self.version != APP_VERSIONS[GUIDES_CHART]

    @property
    def admin(self) -> tuple[str, str]:
        return "admin", self.stack.password()

    def login(self, name: str) -> tuple[str, str]:
        return name, self.passwords[name]

    def run(self, *commands: str, ok: bool = True) -> str:
        """Run commands of the page on this stack, and return what they print. Logins that they print are kept."""
        shell = Shell(self.stack, MLFLOW_TRACKING_INSECURE_TLS="true")
        done = shell.run(*(command.replace("STACK=dev", "STACK=local") for command in commands), ok=ok)
        self.keep(done.stdout)
        assert (done.returncode == 0) == ok
        return done.stdout + done.stderr

    def keep(self, printed: str) -> None:
        found = re.findall(r"^MLFLOW_TRACKING_USERNAME=(.+)\nMLFLOW_TRACKING_PASSWORD=(.+)$", printed, re.MULTILINE)
        self.passwords.update(found)

    def as_user(self, name: str, script: str = TRY) -> str:
        return self.stack.client(script, user=name, password=self.passwords[name], version=self.version)

    def may(self, name: str) -> list[str]:
        """Return what a user may do with the experiment and the model of the page."""
        return json.loads(self.as_user(name))

    def may_log_in(self, name: str) -> bool:
        answer = self.stack.get("/api/2.0/mlflow/experiments/search?max_results=1", login=self.login(name))
        assert answer.status in {200, 401}
        return answer.status == 200

    def experiment(self, name: str) -> str:
        path = f"/api/2.0/mlflow/experiments/get-by-name?experiment_name={name}"
        return json.loads(self.stack.get(path, login=self.admin).body)["experiment"]["experiment_id"]


@pytest.fixture(scope="module", params=[APP_VERSIONS["1.11.5"], APP_VERSIONS[GUIDES_CHART]])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with new_stack("people") as stack:
        if request.param == APP_VERSIONS[GUIDES_CHART]:
            stack.up(mlflow__chartVersion=GUIDES_CHART)
        else:
            stack.up()
        stack.client(FILL, version=request.param)
        yield Site(stack, request.param)


@pytest.fixture
def same_with_every_mlflow(site: Site) -> None:
    """Skip a test with the guide's MLflow, which takes minutes and shows nothing more."""
    if not site.has_teams:
        pytest.skip("the same with every MLflow, and shown with the default one")


def test_the_login_that_is_printed_is_a_users_without_any_permission(site: Site) -> None:
    site.run(*block("docs/users-and-permissions.md", "make user STACK=dev NAME=alice").to_run())
    assert site.may("alice") == []


@pytest.mark.usefixtures("same_with_every_mlflow")
def test_an_account_that_exists_is_not_made_again(site: Site) -> None:
    said = site.run(*block("docs/users-and-permissions.md", "make user STACK=dev NAME=alice").to_run(), ok=False)
    assert "The user alice exists." in said
    assert site.may_log_in("alice")


@pytest.mark.usefixtures("same_with_every_mlflow")
def test_a_forgotten_password_is_replaced(site: Site) -> None:
    _, forgotten = site.login("alice")
    site.run(*block("docs/users-and-permissions.md", "make new-password").to_run())
    assert site.passwords["alice"] != forgotten
    assert site.may_log_in("alice")
    site.passwords["forgotten"] = forgotten
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    assert site.stack.get(path, login=("alice", forgotten)).status == 401


def test_a_team_gets_the_experiment_and_its_model(site: Site) -> None:
    user, team, grant = block("docs/users-and-permissions.md", "make team").to_run()
    site.run(user)
    if site.has_teams:
        site.run(team, grant)
    else:
        assert "without teams" in site.run(team, ok=False)
        assert "without teams" in site.run(grant, ok=False)
        site.run(grant.replace("TEAM=churn", 'USERS="alice bob"'))
    assert site.may("alice") == EDIT
    assert site.may("bob") == EDIT


def test_who_joins_later_has_what_the_team_has(site: Site) -> None:
    if not site.has_teams:
        pytest.skip("this MLflow has no teams")
    site.run("make user STACK=dev NAME=late", "make team STACK=dev TEAM=churn USERS=late")
    assert site.may("late") == EDIT


def test_a_reader_reads(site: Site) -> None:
    (grant,) = block("docs/users-and-permissions.md", "USERS=carol").to_run()
    assert "There is no user carol." in site.run(grant, ok=False)
    site.run("make user STACK=dev NAME=carol", grant)
    assert site.may("carol") == READ


def test_a_model_without_its_experiment_is_seen_and_not_loaded(site: Site) -> None:
    site.run("make revoke STACK=dev USERS=carol EXPERIMENT=churn")
    assert site.may("carol") == ["see the model"]


@pytest.mark.usefixtures("same_with_every_mlflow")
def test_a_model_of_another_experiment_is_named(site: Site) -> None:
    said = site.run('make grant STACK=dev USERS=carol EXPERIMENT=churn MODELS="churn-model other-model"')
    assert f"Version 1 of other-model is from the experiment with the id {site.experiment('other')}" in said
    assert "Version 1 of churn-model" not in said


def test_a_permission_is_changed_by_giving_another_one(site: Site) -> None:
    for permission, expected in (("EDIT", EDIT), ("READ", READ)):
        site.run(
            f"make grant STACK=dev USERS=carol EXPERIMENT=churn MODELS=churn-model PERMISSION={permission}",
        )
        assert site.may("carol") == expected
    if site.has_teams:
        for permission, expected in (("READ", READ), ("EDIT", EDIT)):
            site.run(f"make grant STACK=dev TEAM=churn EXPERIMENT=churn MODELS=churn-model PERMISSION={permission}")
            assert site.may("bob") == expected


@pytest.mark.usefixtures("same_with_every_mlflow")
def test_a_prompt_is_given_as_a_model_is(site: Site) -> None:
    load = 'import mlflow; print(mlflow.genai.load_prompt("prompts:/churn-prompt/1").template)'
    with pytest.raises(RuntimeError, match=r"403|PERMISSION_DENIED|Permission denied"):
        site.as_user("carol", load)
    said = site.run("make grant STACK=dev USERS=carol EXPERIMENT=churn MODELS=churn-prompt")
    assert "carol has READ on the prompt churn-prompt." in said
    assert site.as_user("carol", load) == "hello {{name}}"


@pytest.mark.usefixtures("same_with_every_mlflow")
def test_a_machine_gets_a_file_with_its_login(site: Site, tmp_path: Path) -> None:
    commands = block("docs/users-and-permissions.md", "> ci-churn.env").to_run()
    file = tmp_path / "ci-churn.env"
    site.run(*(command.replace("ci-churn.env", str(file)) for command in commands))
    site.keep(file.read_text())
    assert site.may("ci-churn") == ["look", "log"]
    # The shell reads the file as docker and kubectl do: a name, an equals sign, a value.
    Shell(site.stack, MLFLOW_TRACKING_INSECURE_TLS="true").run(
        f"set -a; . {file}",
        'python -c \'import mlflow; mlflow.set_experiment("churn"); mlflow.start_run(); mlflow.log_metric("a", 1)\'',
    )


@pytest.mark.usefixtures("same_with_every_mlflow")
def test_several_mistakes_are_named_at_once(site: Site) -> None:
    said = site.run('make grant STACK=dev USERS=carol EXPERIMENT=chrun MODELS="churn-model chrun-model"', ok=False)
    assert "There is no experiment chrun.\nThere is no model chrun-model.\n" in said
    assert "There is no user nobody." in site.run("make remove-user STACK=dev NAME=nobody", ok=False)
    assert "EXPERIMENT is missing" in site.run("make grant STACK=dev USERS=carol", ok=False)
    assert "name users or teams" in site.run("make grant STACK=dev EXPERIMENT=churn", ok=False)


@pytest.mark.usefixtures("same_with_every_mlflow")
def test_the_administrator_cannot_take_away_the_own_account(site: Site) -> None:
    assert "log in as another administrator" in site.run("make remove-user STACK=dev NAME=admin", ok=False)
    assert "make rotate-admin" in site.run("make new-password STACK=dev NAME=admin", ok=False)
    assert site.stack.get("/", login=site.admin).status == 200


@pytest.mark.usefixtures("same_with_every_mlflow")
def test_the_commands_work_without_a_stack(site: Site) -> None:
    login, grant = block("docs/users-and-permissions.md", "operations.people").to_run()
    said = site.run(login, grant)
    assert "bob has READ on the model churn-model." in said
    site.run(login, grant.replace("grant", "revoke").replace(" --permission READ", ""))
    refused = site.run(
        f"export MLFLOW_TRACKING_URI={site.stack.url} MLFLOW_TRACKING_USERNAME=carol MLFLOW_TRACKING_PASSWORD={site.passwords['carol']}",
        grant,
        ok=False,
    )
    assert "refuses this to carol, who must be an administrator (403)" in refused


def test_an_owner_gives_a_permission_to_somebody_else(site: Site) -> None:
    give = {
        True: 'client.grant_user_permission("bob", "experiment", made, "READ")',
        False: 'client.create_experiment_permission(made, "bob", "READ")',
    }[site.has_teams]
    experiment = site.as_user(
        "alice",
        "import mlflow\n"
        "from mlflow.server import get_app_client\n"
        "client = get_app_client('basic-auth', mlflow.get_tracking_uri())\n"
        f"made = mlflow.create_experiment('of alice')\n{give}\nprint(made)",
    )
    path = f"/api/2.0/mlflow/experiments/get?experiment_id={experiment}"
    assert site.stack.get(path, login=site.login("bob")).status == 200
    assert site.stack.get(path, login=site.login("carol")).status == 403


def test_mlflows_page_is_told_that_passwords_can_be_changed(site: Site) -> None:
    if not site.has_teams:
        pytest.skip("the page of this MLflow has no such function")
    for prefix in ("/api", "/ajax-api"):
        answer = site.stack.get(f"{prefix}/2.0/mlflow/users/current", login=site.login("alice"))
        assert json.loads(answer.body)["is_basic_auth"] is True
        assert json.loads(answer.body)["user"]["username"] == "alice"


def test_people_change_their_own_password_with_the_client(site: Site) -> None:
    user, old = site.login("carol")
    new = old[::-1]
    site.as_user(
        user,
        "import mlflow\n"
        "from mlflow.server import get_app_client\n"
        "client = get_app_client('basic-auth', mlflow.get_tracking_uri())\n"
        + (
            f"client.update_user_password('{user}', '{new}', current_password='{old}')"
            if site.has_teams
            else f"client.update_user_password('{user}', '{new}')"
        ),
    )
    assert not site.may_log_in(user)
    site.passwords[user] = new
    assert site.may_log_in(user)


def test_the_python_of_the_page_gives_and_takes_away(site: Site) -> None:
    if not site.has_teams:
        pytest.skip("the page's Python is for MLflow 3.15")
    (script,) = [one.text for one in blocks(PAGE) if one.language == "python"]
    giving, taking = script.split("\n\nclient.revoke")
    site.passwords["dora"] = "at least 12 characters"
    site.stack.client(giving)
    assert site.may("dora") == [*READ, "change the model"]
    imports = script.split("\n\nclient.create_user")[0]
    known = 'team = next(role for role in client.list_roles("default") if role.name == "churn-readers")'
    site.stack.client(f"{imports}\n{known}\nclient.revoke{taking}")
    assert not site.may_log_in("dora")


def test_everything_is_taken_away_again(site: Site) -> None:
    revoke, leave, remove = block("docs/users-and-permissions.md", "make remove-user").to_run()
    if site.has_teams:
        site.run(leave)
        assert site.may("bob") == []
        assert site.may("alice") == EDIT
        site.run(revoke)
    else:
        site.run(revoke.replace("TEAM=churn", 'USERS="alice bob"'))
        # The user still has what an owner has given, and MLflow itself cannot remove such a user.
        refused = send(site.stack, "DELETE", "/api/2.0/mlflow/users/delete", {"username": "bob"}, site.admin)
        assert refused.status == 400
        assert "cannot hold a value of the request" in refused.body
    assert site.may("alice") == []
    site.run(remove)
    assert not site.may_log_in("bob")


def test_a_removed_users_experiment_stays_and_a_new_user_of_the_name_does_not_get_it(site: Site) -> None:
    site.run("make remove-user STACK=dev NAME=alice")
    assert not site.may_log_in("alice")
    site.run("make user STACK=dev NAME=alice")
    path = f"/api/2.0/mlflow/experiments/get?experiment_id={site.experiment('of%20alice')}"
    assert site.stack.get(path, login=site.admin).status == 200
    assert site.stack.get(path, login=site.login("alice")).status == 403


@pytest.mark.browser
@in_a_browser
def test_an_administrator_does_the_same_on_mlflows_page(site: Site) -> None:
    site.passwords["erin"] = "a password of erin"
    with pages(site.stack, site.admin, site.login("erin")) as (admin, erin):
        if not site.has_teams:
            admin.goto("/signup")
            admin.get_by_label("Username").fill("erin")
            admin.get_by_label("Password").fill(site.passwords["erin"])
            admin.on("dialog", lambda dialog: dialog.accept())
            admin.get_by_role("button", name="Sign up").click()
            admin.wait_for_url(f"{site.stack.url}/")
            assert site.may_log_in("erin")
            return
        site.run("make grant STACK=dev TEAM=churn EXPERIMENT=churn MODELS=churn-model PERMISSION=EDIT")
        admin.goto("/#/admin")
        admin.get_by_role("button", name="Create User").click()
        form = admin.get_by_role("dialog")
        form.get_by_placeholder("Enter username").fill("erin")
        form.get_by_placeholder("Enter password").fill(site.passwords["erin"])
        form.get_by_text("Role assignment").click()
        form.get_by_text("Select one or more roles").click()
        admin.get_by_role("option", name="churn").click()
        admin.keyboard.press("Escape")
        form.get_by_role("button", name="Create user").click()
        admin.get_by_role("link", name="erin").wait_for()
        assert site.may("erin") == EDIT

        erin.goto("/#/account")
        erin.get_by_role("button", name="Change password").click()
        form = erin.get_by_role("dialog")
        new = "another password of erin"
        form.get_by_placeholder("Enter current password").fill(site.passwords["erin"])
        form.get_by_placeholder("Enter new password").fill(new)
        form.get_by_placeholder("Confirm new password").fill(new)
        form.get_by_role("button", name="Update password").click()
        form.wait_for(state="hidden")
        assert not site.may_log_in("erin")
        site.passwords["erin"] = new
        assert site.may_log_in("erin")

        admin.goto("/#/admin")
        admin.get_by_role("row", name="erin").get_by_role("checkbox").check()
        admin.get_by_role("button", name="Delete").click()
        admin.get_by_role("dialog").get_by_role("button", name="Delete").click()
        admin.get_by_role("link", name="erin").wait_for(state="detached")
        assert not site.may_log_in("erin")
