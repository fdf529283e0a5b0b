"""Fetches what was reviewed: ``python -m operations.deployments.reviewed --stack dev --tree TREE record.json``.

The record is an artifact of the last preview of the pull request that was merged as this commit. Its name has the tree of files that was
previewed: the tree of the pull request's merge with the branch, which is the tree of the merged commit too as long as the branch had not
moved on. The exit code is 0 if the record is there, and 1 with a sentence if it is not.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from operations.deployments.github import GitHub, of_this_job

WORKFLOW = ".github/workflows/preview.yml"
FILE = "record.json"
"""Name of the file in the artifact."""


class NoneReviewedError(SystemExit):
    """There is no record. The message says why, and what to do."""


def record(github: GitHub, commit: str, stack: str, tree: str) -> tuple[str, str]:
    """Return the record of a merged commit, and the address of the preview's run.

    Args:
        github: the API.
        commit: commit on the branch that is deployed.
        stack: name of the stack.
        tree: hash of the commit's tree.

    Raises:
        NoneReviewedError: no preview of this tree was kept.
        RefusedError: GitHub does not answer.
    """
    way_out = "Deploy by hand what nobody has reviewed, if it has to be: docs/deployments.md#without-a-review says what that costs."
    pulls = [
        pull
        for pull in github.every(f"commits/{commit}/pulls")
        if pull.get("merged_at") and pull["base"]["ref"] == os.environ.get("GITHUB_REF_NAME", "main")
    ]
    if not pulls:
        raise NoneReviewedError(
            f"Not deployed: {commit[:9]} came by no pull request, so nobody has read its preview. {way_out}"
        )
    # A commit that is in several pull requests was merged by the one whose merge it is, or by the newest.
    pull = max(pulls, key=lambda each: (each.get("merge_commit_sha") == commit, each["merged_at"]))
    where = f"pull request {pull['number']}"
    found: list[dict[str, Any]] = []
    for run in github.every("actions/runs", "workflow_runs", head_sha=pull["head"]["sha"]):
        # A fork's run could leave an artifact of any name and content. The path is that of this repository's workflow.
        if run["path"].partition("@")[0] != WORKFLOW or run["head_repository"]["full_name"] != github.repository:
            continue
        artifacts = github.every(f"actions/runs/{run['id']}/artifacts", "artifacts", name=f"reviewed-{stack}")
        found += [{**each, "run": run["html_url"]} for each in artifacts if not each["expired"]]
    if not found:
        raise NoneReviewedError(
            f"Not deployed: the last commit of {where} has no preview of {stack} that is still kept. Run its preview again, "
            f"which works for a merged pull request too, then this run. {way_out}"
        )
    newest = max(found, key=lambda each: each["created_at"])
    return github.artifact(newest["id"], FILE), newest["run"]


def main() -> None:
    """Write the record to a file."""
    parser = argparse.ArgumentParser(description="Fetch the record of what was reviewed.")
    parser.add_argument("file", type=Path, help="file to write")
    parser.add_argument("--stack", required=True, help="name of the stack")
    parser.add_argument("--tree", required=True, help="hash of the commit's tree")
    given = parser.parse_args()
    try:
        text, run = record(of_this_job(), os.environ["GITHUB_SHA"], given.stack, given.tree)
    except SystemExit as error:
        raise SystemExit(f"::error::{error}") from None
    given.file.write_text(text)
    print(f"Reviewed in {run}")


if __name__ == "__main__":
    main()
