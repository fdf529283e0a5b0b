"""Makes what the workflows of a stack need: ``make bootstrap STACK=dev OWNER=acme REPOSITORY=mlflow-eks``.

An administrator of the account runs the command once for each stack, and again after a change that docs/iam.md names. With GH_TOKEN in the
environment, a token that administers the repository, the command sets the environments too. Without it, it says what to set.
"""

import argparse
import os
from collections.abc import Sequence

from operations import stack_file
from operations.aws_cli import from_config
from operations.bootstrap import environments
from operations.bootstrap.account import Account, Call, Names, Say
from operations.checks import MissingError
from operations.deployments.github import GitHub
from operations.iam.policies import Place

API = "https://api.github.com"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(prog="make bootstrap", description="Make what the workflows of a stack need.")
    found.add_argument("stack")
    found.add_argument("--owner", required=True, help="GitHub's owner of the repository")
    found.add_argument("--repository", required=True, help="name of the repository")
    found.add_argument("--ids", nargs=2, help="numbers of owner and repository: docs/iam.md#github")
    found.add_argument("--reviewers", nargs="+", default=[], help="GitHub users who approve deployments")
    found.add_argument("--state-bucket", help="default: mlflow-eks-state-STACK-ACCOUNT-REGION")
    found.add_argument("--role-path", default="/", help="path of the roles and policies (default: /)")
    found.add_argument("--role-boundary", help="ARN of the roles' permissions boundary (default: none)")
    found.add_argument("--aws", default="aws", help="command that calls AWS (default: aws)")
    return found


def bootstrap(given: argparse.Namespace, aws: Call, github: GitHub | None, say: Say) -> None:
    """Make everything, and say what was made and what is left to do.

    Args:
        given: the command line.
        aws: the ``aws`` command.
        github: GitHub's API. None: the environments are only named.
        say: function that gets each line.

    Raises:
        MissingError: AWS refused a call.
        SystemExit: the stack's file is wrong, or GitHub refused.
    """
    stack: str = given.stack
    settings = stack_file.read(stack)
    region = stack_file.config(stack).get("aws:region")
    if settings.cluster.name is None or region is None:
        raise SystemExit(
            f"Pulumi.{stack}.yaml needs mlflow-eks:cluster.name and aws:region; without them there is no AWS."
        )
    reviewers: Sequence[str] = given.reviewers
    if github and not reviewers:
        raise SystemExit(
            '--reviewers names nobody; write REVIEWERS="ada bob", the GitHub users who approve deployments.'
        )
    account = str(aws("sts", "get-caller-identity")["Account"])
    names = Names.of(stack, account, region, given.state_bucket)
    place = Place(
        account=account,
        region=region,
        cluster=settings.cluster.name,
        host=settings.mlflow.host,
        stack=stack,
        state_bucket=names.bucket,
        state_key="",
        owner=given.owner,
        repository=given.repository,
        ids=tuple(given.ids) if given.ids else None,
        role_path=settings.iam.path,
        boundary=settings.iam.permissions_boundary,
        database_key=settings.postgres.kms_key_arn,
        bucket=settings.artifacts.bucket,
    )
    made = Account(aws, say, given.role_path, given.role_boundary).make(place, names)
    provider = f"awskms://{names.key_alias}?region={region}"
    variables = {
        "AWS_REGION": region,
        "PULUMI_BACKEND_URL": f"s3://{names.bucket}",
        "PULUMI_SECRETS_PROVIDER": provider,
    }
    # A stack that protects its data has data that not everybody who pushes a branch may see.
    wanted = environments.environments(stack, variables, made, guarded=settings.protect)
    committed = f"secretsprovider: {provider}" in (stack_file.ROOT / f"Pulumi.{stack}.yaml").read_text().splitlines()
    if github:
        numbers = environments.reviewer_ids(github, reviewers)
        for each in wanted:
            environments.write(github, each, numbers, say)
        if committed:
            stacks = environments.stacks_with(github, stack)
            environments.variable(github, "actions/variables", "STACKS", stacks)
            say(f"set the variable STACKS to {stacks}")
    else:
        say(f"\nGH_TOKEN is not set, so set this on GitHub:\n\n{environments.as_text(wanted, reviewers)}")
        if committed:
            say(f'\nVariable STACKS of the repository: a list with {stack} in it, such as ["{stack}"].')
    say(_next(stack, names, provider, made, committed=committed))


def _next(stack: str, names: Names, provider: str, made: dict[str, str], *, committed: bool) -> str:
    init = f"pulumi stack init {stack} --secrets-provider '{provider}'"
    lines = [
        "\nThen:",
        *(
            []
            if committed
            else [
                f"  pulumi login s3://{names.bucket} && {init}",
                f"  commit Pulumi.{stack}.yaml, and run this command again: it then adds {stack} to STACKS",
            ]
        ),
        "  access entries of the cluster for the two roles: docs/iam.md#the-cluster",
        *(f"    {made[role]}" for role in ("preview", "deploy")),
        "  runner groups and the variables RUNNER_PREVIEW and RUNNER_UP: CONTRIBUTING.md, Workflows",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the command.

    Raises:
        SystemExit: with one sentence, when AWS or GitHub refused.
    """
    given = parser().parse_args()
    token = os.environ.get("GH_TOKEN")
    api = os.environ.get("GITHUB_API_URL", API)
    github = GitHub(api, f"{given.owner}/{given.repository}", token) if token else None
    aws = from_config(stack_file.config(given.stack), given.aws)
    try:
        bootstrap(given, aws, github, lambda line: print(line, flush=True))
    except MissingError as error:
        raise SystemExit(f"error: AWS refused: {error}") from None


if __name__ == "__main__":
    main()
