"""Stops a deployment that is no longer the newest: ``python -m operations.deployments.newest``.

GitHub lets a run of last week be approved, or run again, today. Such a run has last week's program. The exit code is 0 if the branch has
not moved on, or only by files that start no deployment, and 1 with a sentence if it has.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from operations.deployments.github import GitHub, of_this_job

WORKFLOW = Path(__file__).parents[2] / ".github" / "workflows" / "deploy.yml"
MOST_FILES = 300
"""Files that GitHub lists of a comparison, at most."""


def ignored_paths() -> list[str]:
    """Return the patterns of files that start no deployment."""
    # BaseLoader, because other loaders read the key `on` as a boolean.
    document: Any = yaml.load(WORKFLOW.read_text(), Loader=yaml.BaseLoader)  # noqa: S506
    return document["on"]["push"]["paths-ignore"]


def starts_no_deployment(file: str, patterns: Sequence[str]) -> bool:
    """Return True if one of the workflow's patterns, `**END` or `folder/**`, fits the file."""
    return any(
        file.endswith(pattern.removeprefix("**"))
        if pattern.startswith("**")
        else file.startswith(pattern.removesuffix("**"))
        for pattern in patterns
    )


def refusal(github: GitHub, commit: str, branch: str, patterns: Sequence[str]) -> str | None:
    """Return the sentence that says why a commit is not deployed. None: it is the newest.

    Args:
        github: the API.
        commit: commit of the run.
        branch: branch that is deployed.
        patterns: patterns of files that start no deployment.
    """
    answer = github.get(f"compare/{commit}...{branch}")
    if answer["status"] == "identical":
        return None
    here = commit[:9]
    if answer["status"] != "ahead":
        return f"Not deployed: {branch} does not contain {here}, the commit of this run. Deploy what is on {branch}."
    listed: list[dict[str, str]] = answer.get("files") or []
    files = [each["filename"] for each in listed]
    changed = [file for file in files if not starts_no_deployment(file, patterns)]
    if not changed and len(files) < MOST_FILES:
        return None
    newest = answer["commits"][-1]["sha"][:9] if answer.get("commits") else branch
    example = f", for example {changed[0]}" if changed else ""
    return (
        f"Not deployed: this run is of {here}, and {branch} has moved on to {newest}{example}. "
        f"Approve the run of the newest commit instead; to go back, revert the change in a pull request."
    )


def main() -> None:
    """Compare the run's commit with the branch."""
    parser = argparse.ArgumentParser(description="Stop a deployment of a commit that is not the branch's newest.")
    parser.parse_args()
    said = refusal(of_this_job(), os.environ["GITHUB_SHA"], os.environ["GITHUB_REF_NAME"], ignored_paths())
    if said:
        print(f"::error::{said}")
        sys.exit(1)


if __name__ == "__main__":
    main()
