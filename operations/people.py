"""Makes accounts and teams in a running MLflow, and gives them experiments with their models.

``make user STACK=dev NAME=alice``, and further commands that docs/users-and-permissions.md shows. Without ``--stack`` the
site is the one of the variables with which MLflow's own client logs in, so that the commands work with every MLflow that
has its ``basic-auth`` app.

MLflow 3.15 keeps permissions in roles: one of each user, and those that administrators make, which are the teams here.
MLflow 3.7 has no roles. It keeps a permission for each user and object, and removes a user only without any.
"""

import argparse
import functools
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from operations.mlflow_site import RefusedError, Site, from_environment, from_stack, new_password

API, API_3 = "/api/2.0/mlflow", "/api/3.0/mlflow"
PERMISSIONS = ("READ", "EDIT", "MANAGE")
"""Permissions on an experiment or a model, the least first."""
WORKSPACE = "default"
"""Workspace of all teams. The program's MLflow has no other one."""


@dataclass(frozen=True)
class Resource:
    """An experiment, a model or a prompt."""

    kind: str
    """Kind, as MLflow 3.15 writes it."""
    key: str
    """Id of an experiment, name of everything else."""
    label: str
    """Words for the person at the terminal."""


class Receiver(Protocol):
    """A user or a team, which can be given permissions."""

    @property
    def label(self) -> str:
        """Words for the person at the terminal."""
        ...

    def grant(self, resource: Resource, permission: str) -> None:
        """Give a permission, in the place of another one on the same resource."""
        ...

    def revoke(self, resource: Resource) -> bool:
        """Take a permission away. False: there was none."""
        ...


@dataclass(frozen=True)
class User:
    """An account of MLflow 3.15."""

    site: Site
    label: str

    def grant(self, resource: Resource, permission: str) -> None:
        """Give a permission, in the place of another one on the same resource."""
        # MLflow refuses a second permission on a resource, and has no request that changes the first one.
        self.revoke(resource)
        self.site.ask("POST", f"{API_3}/users/permissions/grant", **self._named(resource), permission=permission)

    def revoke(self, resource: Resource) -> bool:
        """Take a permission away. False: there was none."""
        return self.site.find("POST", f"{API_3}/users/permissions/revoke", **self._named(resource)) is not None

    def _named(self, resource: Resource) -> dict[str, str]:
        return {"username": self.label, "resource_type": resource.kind, "resource_id": resource.key}


@dataclass(frozen=True)
class OlderUser:
    """An account of MLflow 3.7."""

    site: Site
    label: str

    def grant(self, resource: Resource, permission: str) -> None:
        """Give a permission, in the place of another one on the same resource."""
        route, named = self._named(resource)
        if self.site.find("PATCH", f"{route}/update", **named, permission=permission) is None:
            self.site.ask("POST", f"{route}/create", **named, permission=permission)

    def revoke(self, resource: Resource) -> bool:
        """Take a permission away. False: there was none."""
        route, named = self._named(resource)
        return self.site.find("DELETE", f"{route}/delete", **named) is not None

    def _named(self, resource: Resource) -> tuple[str, dict[str, str]]:
        kind, key = ("experiments", "experiment_id") if resource.kind == "experiment" else ("registered-models", "name")
        return f"{API}/{kind}/permissions", {"username": self.label, key: resource.key}


@dataclass(frozen=True)
class Team:
    """A role of MLflow that an administrator has made. Its members have its permissions."""

    site: Site
    label: str
    role: dict[str, Any]
    """Role, as MLflow lists it."""

    def grant(self, resource: Resource, permission: str) -> None:
        """Give a permission, in the place of another one on the same resource."""
        if known := self._known(resource):
            values = {"role_permission_id": known["id"]}
            self.site.ask("PATCH", f"{API_3}/roles/permissions/update", **values, permission=permission)
        else:
            values = {"role_id": self.role["id"], "resource_type": resource.kind, "resource_pattern": resource.key}
            self.site.ask("POST", f"{API_3}/roles/permissions/add", **values, permission=permission)

    def revoke(self, resource: Resource) -> bool:
        """Take a permission away. False: there was none."""
        if known := self._known(resource):
            self.site.ask("DELETE", f"{API_3}/roles/permissions/remove", role_permission_id=known["id"])
        return known is not None

    def _known(self, resource: Resource) -> dict[str, Any] | None:
        wanted = (resource.kind, resource.key)
        rows = self.role["permissions"]
        return next((row for row in rows if (row["resource_type"], row["resource_pattern"]) == wanted), None)


class People:
    """The users and teams of a site."""

    def __init__(self, site: Site) -> None:
        """Name the site. Nothing is asked yet."""
        self.site = site

    @functools.cached_property
    def roles(self) -> dict[str, dict[str, Any]] | None:
        """Roles by name. None: this MLflow has no roles."""
        try:
            found = self.site.ask("GET", f"{API_3}/roles/list", workspace=WORKSPACE)
        except RefusedError as refused:
            if refused.status == 404:
                return None
            raise
        return {role["name"]: role for role in found["roles"]}

    def account(self, name: str) -> dict[str, Any] | None:
        """Return an account as MLflow describes it. None: there is no such account."""
        found = self.site.find("GET", f"{API}/users/get", username=name)
        return found and found["user"]

    def make(self, name: str) -> str:
        """Make an account and return its password.

        Raises:
            SystemExit: the account exists.
        """
        password = new_password()
        try:
            self.site.ask("POST", f"{API}/users/create", username=name, password=password)
        except RefusedError as refused:
            if refused.code != "RESOURCE_ALREADY_EXISTS":
                raise
            raise SystemExit(
                f"The user {name} exists. This gives it a new password: make new-password NAME={name}"
            ) from None
        return password

    def change_password(self, name: str) -> str:
        """Give an account another password and return it.

        Raises:
            SystemExit: there is no such account, or it is the administrator's own.
        """
        self._not_the_administrator(name, "change its password with make rotate-admin")
        self.check(users=[name])
        password = new_password()
        self.site.ask("PATCH", f"{API}/users/update-password", username=name, password=password)
        return password

    def remove(self, name: str) -> None:
        """Remove an account with its permissions. Its experiments, runs and models stay.

        Raises:
            SystemExit: there is no such account, or it is the administrator's own.
        """
        self._not_the_administrator(name, "log in as another administrator to remove it")
        self.check(users=[name])
        # MLflow 3.7.0 does not delete a user with permissions, and everything that a user makes gives one.
        for kind, path, keys in (
            ("experiment", API, ["experiment_id"]),
            ("registered_model", API, ["name"]),
            ("scorer", API_3, ["experiment_id", "scorer_name"]),
        ):
            for row in (self.account(name) or {}).get(f"{kind}_permissions", []):
                values = {key: row[key] for key in keys}
                route = f"{path}/{kind.replace('_', '-')}s/permissions/delete"
                self.site.ask("DELETE", route, username=name, **values)
        self.site.ask("DELETE", f"{API}/users/delete", username=name)

    def join(self, team: str, names: Sequence[str]) -> None:
        """Put users into a team, which is made if there is none of this name.

        Raises:
            SystemExit: there is no such user, or this MLflow has no roles.
        """
        self.check(users=names)
        roles = self._teams()
        if team not in roles:
            made = self.site.ask("POST", f"{API_3}/roles/create", name=team, workspace=WORKSPACE)
            roles[team] = made["role"]
        for name in names:
            try:
                self.site.ask("POST", f"{API_3}/roles/assign", username=name, role_id=roles[team]["id"])
            except RefusedError as refused:
                if refused.code != "RESOURCE_ALREADY_EXISTS":
                    raise

    def leave(self, team: str, names: Sequence[str]) -> None:
        """Take users out of a team.

        Raises:
            SystemExit: there is no such user or team.
        """
        self.check(users=names, teams=[team])
        role = self._teams()[team]["id"]
        for name in names:
            self.site.find("DELETE", f"{API_3}/roles/unassign", username=name, role_id=role)

    def receivers(self, users: Sequence[str], teams: Sequence[str]) -> list[Receiver]:
        """Return those that permissions are given to or taken from. `check` has looked whether they exist."""
        kind: type[OlderUser | User] = OlderUser if self.roles is None else User
        return [
            *(kind(self.site, name) for name in users),
            *(Team(self.site, name, self._teams()[name]) for name in teams),
        ]

    def resources(self, experiment: str, models: Sequence[str]) -> tuple[list[Resource], list[str]]:
        """Return an experiment and models, and sentences about models that need another experiment.

        Raises:
            SystemExit: one of them does not exist.
        """
        found, notes, problems = list[Resource](), list[str](), list[str]()
        got = self.site.find("GET", f"{API}/experiments/get-by-name", experiment_name=experiment)
        home = got and got["experiment"]["experiment_id"]
        if home:
            found.append(Resource("experiment", home, f"the experiment {experiment}"))
        else:
            problems.append(f"There is no experiment {experiment}.")
        for name in models:
            model = self.site.find("GET", f"{API}/registered-models/get", name=name)
            if model is None:
                problems.append(f"There is no model {name}.")
                continue
            prompt = any(tag["key"] == "mlflow.prompt.is_prompt" for tag in model["registered_model"].get("tags", []))
            kind = "prompt" if prompt else "registered_model"
            found.append(Resource(kind, name, f"the {'prompt' if prompt else 'model'} {name}"))
            for version in model["registered_model"].get("latest_versions", []):
                id_of_run = version.get("run_id")
                run = id_of_run and self.site.find("GET", f"{API}/runs/get", run_id=id_of_run)
                if run and home and run["run"]["info"]["experiment_id"] != home:
                    notes.append(
                        f"Version {version['version']} of {name} is from the experiment with the id "
                        f"{run['run']['info']['experiment_id']}; its files need a permission on that one."
                    )
        _all_is_well(problems)
        return found, notes

    def check(self, users: Iterable[str] = (), teams: Iterable[str] = ()) -> None:
        """Look whether users and teams exist.

        Raises:
            SystemExit: one does not, or this MLflow has no roles.
        """
        problems = [
            f"There is no user {name}. This makes one: make user NAME={name}"
            for name in users
            if self.account(name) is None
        ]
        problems += [
            f"There is no team {name}. This makes one: make team TEAM={name} USERS=…"
            for name in teams
            if name not in self._teams()
        ]
        _all_is_well(problems)

    def _teams(self) -> dict[str, dict[str, Any]]:
        if self.roles is None:
            raise SystemExit(f"{self.site.url} has an MLflow without roles, so without teams. Name each user: USERS=…")
        return self.roles

    def _not_the_administrator(self, name: str, instead: str) -> None:
        if name == self.site.user:
            raise SystemExit(f"{name} is the login of this command; {instead}.")


def _all_is_well(problems: Sequence[str]) -> None:
    if problems:
        raise SystemExit("\n".join(problems))


def main() -> None:
    """Do what the arguments say."""
    given = _arguments()
    site = from_stack(given.stack, given.pulumi) if given.stack else from_environment()
    people = People(site)
    try:
        match given.command:
            case "user" | "new-password":
                password = people.make(given.name) if given.command == "user" else people.change_password(given.name)
                # In the form that the shell, `kubectl create secret --from-env-file` and `gh secret set -f` read.
                print(f"MLFLOW_TRACKING_URI={site.url}")
                print(f"MLFLOW_TRACKING_USERNAME={given.name}\nMLFLOW_TRACKING_PASSWORD={password}")
            case "remove-user":
                people.remove(given.name)
                print(f"{given.name} is removed, with every permission. Experiments, runs and models are still there.")
            case "team":
                people.join(given.team, given.user)
                print(f"{given.team} has {', '.join(given.user)}.")
            case "leave-team":
                people.leave(given.team, given.user)
                print(f"{given.team} has {', '.join(given.user)} no longer.")
            case _:
                _permissions(people, given)
    except RefusedError as refused:
        raise SystemExit(f"MLflow refuses this ({refused.status}): {refused}") from None


def _permissions(people: People, given: argparse.Namespace) -> None:
    people.check(given.user, given.team)
    resources, notes = people.resources(given.experiment, given.model)
    for receiver in people.receivers(given.user, given.team):
        for resource in resources:
            if given.command == "grant":
                receiver.grant(resource, given.permission)
                print(f"{receiver.label} has {given.permission} on {resource.label}.")
            elif receiver.revoke(resource):
                print(f"{receiver.label} has no permission on {resource.label} any more.")
            else:
                print(f"{receiver.label} had no permission on {resource.label}.")
    if given.command == "grant":
        print(*notes, sep="\n", end="", file=sys.stderr)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m operations.people", description="Users and teams of an MLflow.")
    parser.add_argument("--stack", help="stack whose site it is; without, MLFLOW_TRACKING_URI, _USERNAME and _PASSWORD")
    parser.add_argument("--pulumi", default="pulumi", help="how to call pulumi (default: pulumi)")
    commands = parser.add_subparsers(dest="command", required=True)
    for command, purpose in (
        ("user", "make an account and print its login"),
        ("new-password", "give an account a new password and print its login"),
        ("remove-user", "remove an account with its permissions"),
    ):
        commands.add_parser(command, help=purpose).add_argument("name", help="name of the account")
    for command, purpose in (
        ("team", "put users into a team, and make the team if there is none"),
        ("leave-team", "take users out of a team"),
    ):
        one = commands.add_parser(command, help=purpose)
        one.add_argument("team", help="name of the team")
        one.add_argument("user", nargs="+", help="names of the users")
    for command, purpose in (
        ("grant", "give users and teams a permission on an experiment and models"),
        ("revoke", "take the permission away"),
    ):
        one = commands.add_parser(command, help=purpose)
        one.add_argument("--user", nargs="+", default=[], help="names of users")
        one.add_argument("--team", nargs="+", default=[], help="names of teams")
        one.add_argument("--experiment", required=True, help="name of the experiment")
        one.add_argument("--model", nargs="+", default=[], help="names of models and prompts")
        if command == "grant":
            one.add_argument("--permission", choices=PERMISSIONS, default=PERMISSIONS[0], help="default: READ")
    given = parser.parse_args()
    if given.command in {"grant", "revoke"} and not (given.user or given.team):
        parser.error("name users or teams: --user alice, --team churn")
    return given


if __name__ == "__main__":
    main()
