"""The environments of a stack on GitHub, with their variables and reviewers."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from operations.deployments.github import GitHub, RefusedError

NOT_FOUND = 404


@dataclass(frozen=True)
class Environment:
    """An environment as it shall be."""

    name: str
    variables: Mapping[str, str]
    reviewed: bool
    """True if a job that names the environment waits for a reviewer."""
    main_only: bool
    """True if only jobs of the branch main may name the environment."""


def environments(
    stack: str, variables: Mapping[str, str], roles: Mapping[str, str], *, guarded: bool
) -> list[Environment]:
    """Return the three environments of a stack.

    Args:
        stack: name of the stack.
        variables: what all three have in common.
        roles: ARNs of the roles `preview` and `deploy`.
        guarded: True if a branch's code must not see the stack's secrets before a person has read that code.
    """
    reading = {**variables, "AWS_ROLE_ARN": roles["preview"]}
    return [
        Environment(f"{stack}-preview", reading, reviewed=guarded, main_only=False),
        Environment(f"{stack}-plan", reading, reviewed=False, main_only=True),
        Environment(stack, {**variables, "AWS_ROLE_ARN": roles["deploy"]}, reviewed=True, main_only=True),
    ]


def reviewer_ids(github: GitHub, logins: Sequence[str]) -> list[int]:
    """Return the numbers of users.

    Raises:
        RefusedError: there is no such user, or GitHub does not answer.
    """
    return [int(github.get(f"/users/{login}")["id"]) for login in logins]


def write(github: GitHub, wanted: Environment, reviewers: Sequence[int], say: Callable[[str], None]) -> None:
    """Create an environment, or put it right.

    Raises:
        RefusedError: GitHub refused. Required reviewers of a private repository need a paid plan.
    """
    body: dict[str, Any] = {
        "reviewers": [{"type": "User", "id": each} for each in reviewers] if wanted.reviewed else None,
        "deployment_branch_policy": (
            {"protected_branches": False, "custom_branch_policies": True} if wanted.main_only else None
        ),
    }
    github.send("PUT", f"environments/{wanted.name}", body)
    if wanted.main_only:
        policies = f"environments/{wanted.name}/deployment-branch-policies"
        names: set[str] = {each["name"] for each in github.get(policies)["branch_policies"]}
        if "main" not in names:
            github.send("POST", policies, {"name": "main"})
        for other in sorted(names - {"main"}):
            say(f"the environment {wanted.name} also takes the branch {other}: remove that rule unless it is meant")
    # What GitHub has made of it counts: a plan without required reviewers takes the request and leaves them out.
    rules: list[dict[str, Any]] = github.get(f"environments/{wanted.name}").get("protection_rules") or []
    if wanted.reviewed and "required_reviewers" not in {rule["type"] for rule in rules}:
        raise RefusedError(
            f"GitHub has made the environment {wanted.name} without required reviewers, so nothing guards its role. "
            "The repository's plan may not have them."
        )
    for name, value in wanted.variables.items():
        variable(github, f"environments/{wanted.name}/variables", name, value)
    say(f"set the environment {wanted.name} and its {len(wanted.variables)} variables")


def variable(github: GitHub, path: str, name: str, value: str) -> None:
    """Set a variable of the repository or of an environment.

    Raises:
        RefusedError: GitHub refused, or did not answer.
    """
    try:
        github.send("PATCH", f"{path}/{name}", {"name": name, "value": value})
    except RefusedError as refused:
        if refused.status != NOT_FOUND:
            raise
        github.send("POST", path, {"name": name, "value": value})


def stacks_with(github: GitHub, stack: str) -> str:
    """Return the value of the variable STACKS with the stack in it.

    Raises:
        RefusedError: GitHub does not answer, or the variable has no list.
    """
    try:
        value: str = github.get("actions/variables/STACKS")["value"]
    except RefusedError as refused:
        if refused.status != NOT_FOUND:
            raise
        value = "[]"
    try:
        stacks: list[str] = json.loads(value)
        return json.dumps(sorted({*stacks, stack}))
    except (ValueError, TypeError):
        raise RefusedError(f'The variable STACKS is {value}; write a list such as ["dev"].') from None


def as_text(wanted: Sequence[Environment], reviewers: Sequence[str]) -> str:
    """Return what a person has to set where there is no token."""
    lines: list[str] = []
    for each in wanted:
        rules = [f"required reviewers ({', '.join(reviewers) or 'choose them'})"] if each.reviewed else []
        rules += ["deployments from the branch main only"] if each.main_only else []
        lines.append(f"Environment {each.name}: {'; '.join(rules) or 'no rule'}")
        lines += [f"  {name} = {value}" for name, value in each.variables.items()]
    return "\n".join(lines)
