"""Names the run that holds a stack's lock: ``python -m operations.deployments.owner owner.json`` before `pulumi up`.

Pulumi's lock says user, host and process. A runner that GitHub killed cannot be asked, so each deployment leaves its run, host and start
as an artifact, and a later one finds by them whose lock is in its way: `python -m operations.unstick --github`.
"""

import argparse
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from operations.deployments.github import GitHub, RefusedError

FILE = "owner.json"
"""Name of the file in the artifact."""
OVER = "completed"
"""GitHub's word for a run that has ended, in whatever way."""


@dataclass(frozen=True)
class Owner:
    """A run that deploys a stack."""

    run: int
    """Number of the run, which its reruns share."""
    attempt: int
    """Number of the rerun, from 1."""
    host: str
    """Name of the runner's machine."""
    started: str
    """Time before `pulumi up`, in ISO 8601."""

    @property
    def moment(self) -> datetime:
        """Start of the deployment."""
        return datetime.fromisoformat(self.started)


def this_run() -> Owner:
    """Return the run that this process belongs to."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    run, attempt = int(os.environ["GITHUB_RUN_ID"]), int(os.environ["GITHUB_RUN_ATTEMPT"])
    return Owner(run, attempt, socket.gethostname(), started)


def verdict(github: GitHub, stack: str, host: str, locked_at: datetime) -> tuple[bool, str]:
    """Say whether the run that took a lock is over.

    Args:
        github: the API.
        stack: name of the stack.
        host: host that the lock names.
        locked_at: time of the lock.

    Returns:
        True if it is over, and a sentence about the owner.

    Raises:
        RefusedError: GitHub does not answer.
    """
    artifacts = github.every("actions/artifacts", "artifacts", name=f"owner-{stack}")
    owners = [owner for each in artifacts if not each["expired"] and (owner := _read(github, each))]
    # The lock is taken after the file was written, by the deployment that started last before it.
    fitting = [owner for owner in owners if owner.host == host and owner.moment <= locked_at]
    if not fitting:
        return (
            False,
            f"no deployment of this repository ran on {host} then, so it is a person's: ask, then `pulumi cancel --stack {stack}`",
        )
    owner = max(fitting, key=lambda each: each.moment)
    answer = github.get(f"actions/runs/{owner.run}/attempts/{owner.attempt}")
    over, address = answer["status"] == OVER, answer["html_url"]
    if over:
        return True, f"{address}, which is over ({answer.get('conclusion')})"
    return (
        False,
        f"{address}, which is {str(answer['status']).replace('_', ' ')}: wait until it ends, and do not cancel it",
    )


def _read(github: GitHub, artifact: Mapping[str, Any]) -> Owner | None:
    try:
        return Owner(**json.loads(github.artifact(artifact["id"], FILE)))
    except (RefusedError, TypeError, ValueError):
        return None


def main() -> None:
    """Write the file of this run."""
    parser = argparse.ArgumentParser(description="Write down which run is going to deploy.")
    parser.add_argument("file", type=Path, help="file to write")
    parser.parse_args().file.write_text(json.dumps(asdict(this_run())))


if __name__ == "__main__":
    main()
