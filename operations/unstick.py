"""Frees a stack whose `pulumi up` or `pulumi destroy` was killed: ``make unstick STACK=dev``.

A killed command leaves two things. Pulumi's lock is removed if its owner has ended. Helm remembers that it works on a release and refuses
to go on, so that memory is removed. It is a Secret for each revision. What runs is not touched: the next `pulumi up` takes it over.
"""

import argparse
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from operations.deployments import owner
from operations.deployments.github import of_this_job
from operations.mlflow_site import run_pulumi
from operations.stack_cluster import Kubectl, KubectlError, Release, read_state

KEEPS_HISTORY = ("pending-upgrade", "pending-rollback")
"""Statuses after which the revisions before are still true."""
INTERRUPTED = (*KEEPS_HISTORY, "pending-install", "uninstalling")
"""Statuses of a release that Helm worked on when it was killed."""
LOCKED = re.compile(r"created by (?P<user>\S+)@(?P<host>\S+) \(pid (?P<pid>\d+)\)(?: at (?P<at>\S+))?")
"""Pulumi's words for the owner of a lock, for a state in a bucket or a folder."""
NO_LOCK = "lock: there is none."
"""Sentence for a stack without a lock."""
Verdict = Callable[[str, datetime], tuple[bool, str]]
"""Function that takes the host and the time of a lock, and returns True if its owner is over, with a sentence."""
PLUGIN = "pulumi-resource-kubernetes"
"""Name of the process in which Helm works. It goes on when only the engine was killed."""


@dataclass(frozen=True)
class Revision:
    """A revision of a release in Helm's memory."""

    secret: str
    """Name of the Secret."""
    number: int
    """Number of the revision."""
    status: str
    """Status, in Helm's words."""


def to_forget(revisions: Sequence[Revision], *, unknown: bool = False) -> list[Revision]:
    """Return the revisions without which Helm goes on.

    A release that never was complete, or is no more, is forgotten as a whole, so that Helm installs it again over what runs.

    Args:
        revisions: all revisions of a release.
        unknown: True if Pulumi's state does not have the release, and so installs it: Helm refuses that for a release that it knows.
    """
    if unknown:
        return list(revisions)
    last = max(revisions, key=lambda each: each.number, default=None)
    if last is None or last.status not in INTERRUPTED:
        return []
    return [last] if last.status in KEEPS_HISTORY else list(revisions)


def revisions_of(kubectl: Kubectl, release: Release) -> list[Revision]:
    """Ask the cluster what Helm remembers of a release.

    Raises:
        KubectlError: the cluster does not answer.
    """
    columns = "custom-columns=NAME:.metadata.name,VERSION:.metadata.labels.version,STATUS:.metadata.labels.status"
    # The content of the Secrets is not read.
    selected = ["-l", f"owner=helm,name={release.name}", "-o", columns, "--no-headers"]
    lines = kubectl("-n", release.namespace, "get", "secrets", *selected).splitlines()
    return [Revision(secret, int(number), status) for secret, number, status in map(str.split, lines)]


def free_release(kubectl: Kubectl, release: Release, at_work: Callable[[], bool], *, unknown: bool = False) -> str:
    """Make Helm forget an interrupted operation on a release, and return a sentence about it.

    Args:
        kubectl: kubectl for the cluster.
        release: the release.
        at_work: returns True as long as the operation may still go on.
        unknown: True if Pulumi's state does not have the release, because its creation was interrupted.

    Raises:
        KubectlError: the cluster does not answer or refuses.
    """
    deadline = time.monotonic() + release.timeout
    # Helm's last word is the status, so a plugin that has said it is not waited for.
    while to_forget(revisions := revisions_of(kubectl, release)) and at_work():
        print(f"{release}: waiting for {PLUGIN}, which may still work on it", flush=True)
        if time.monotonic() > deadline:
            raise KubectlError(
                f"{release}: {PLUGIN} still works on it after {release.timeout} s; end that process first"
            )
        time.sleep(10)
    forgotten = to_forget(revisions, unknown=unknown)
    if not revisions:
        return f"{release}: Helm knows no such release."
    last = max(revisions, key=lambda each: each.number)
    if not forgotten:
        return f"{release}: nothing to do, revision {last.number} is {last.status}."
    kubectl("-n", release.namespace, "delete", "secret", *(each.secret for each in forgotten))
    what = f"revision {last.number}" if len(forgotten) == 1 else f"{len(forgotten)} revisions"
    return f"{release}: was {last.status}. Helm has forgotten {what}; what runs is as it was."


def free_lock(stack: str, pulumi: str, verdict: Verdict | None = None) -> str:
    """Remove the lock of a command that has ended, and return a sentence about it.

    Args:
        stack: name of the stack.
        pulumi: command of the CLI.
        verdict: judges a lock by its host and time. None: processes of this machine are looked at.

    Raises:
        SystemExit: the command that holds the lock runs, or nobody here can tell.
    """
    # Only a command that wants to change the state meets the lock. This one then finds nothing that it could change.
    nothing = f"urn:pulumi:{stack}::unstick::none:none:None::none"
    try:
        run_pulumi(pulumi, stack, "refresh", "--yes", "--skip-preview", "--non-interactive", "--target", nothing)
        return NO_LOCK
    except SystemExit as refused:
        if "no resource named" in str(refused):
            return NO_LOCK
        locks = [match.groupdict() for match in LOCKED.finditer(str(refused))]
        if not locks:
            raise
    for lock in locks:
        name = f"process {lock['pid']} of {lock['user']} on {lock['host']}"
        if verdict is not None:
            over, said = verdict(lock["host"], datetime.fromisoformat(lock["at"]))
            if not over:
                raise SystemExit(f"The lock of {stack} belongs to {name} since {lock['at']}: {said}.")
            print(f"lock: it belonged to {name} of {said}.", flush=True)
            continue
        if lock["host"] != socket.gethostname():
            raise SystemExit(
                f"The lock of {stack} belongs to {name}, which cannot be seen from here. If that command has ended, "
                f"run `pulumi cancel --stack {stack}`, then this again."
            )
        if _runs(int(lock["pid"])):
            raise SystemExit(f"The lock of {stack} belongs to {name}, which runs: wait until it ends, or end it.")
    run_pulumi(pulumi, stack, "cancel", "--yes")
    return f"lock: removed, because its owner has ended ({', '.join(lock['pid'] for lock in locks)})."


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def plugin_runs() -> bool:
    """Return True if a kubernetes plugin of Pulumi runs on this machine."""
    processes = subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True, check=True).stdout
    return any(PLUGIN in line.partition(" ")[0] for line in processes.splitlines())


def next_step(stack: str, *, release_half_made: bool, others_half_made: bool) -> str:
    """Return the command that goes on.

    Args:
        stack: name of the stack.
        release_half_made: True if the state has an interrupted creation of a Helm release.
        others_half_made: True if the state has one of another resource.
    """
    if others_half_made:
        return f"pulumi refresh --stack {stack}    # it asks about each resource that may be half created\n  pulumi up --stack {stack}"
    if release_half_made:
        return f"pulumi refresh --clear-pending-creates --stack {stack}\n  pulumi up --stack {stack}"
    return f"pulumi up --refresh --stack {stack}"


def _github(stack: str) -> Verdict:
    github = of_this_job()
    return lambda host, at: owner.verdict(github, stack, host, at)


def main() -> None:
    """Free a stack, say what was done, and name the next command."""
    parser = argparse.ArgumentParser(prog="make unstick", description="Free a stack after a killed command.")
    parser.add_argument("stack", help="name of the stack")
    parser.add_argument("--pulumi", default="pulumi", help="how to call pulumi (default: pulumi)")
    parser.add_argument("--github", action="store_true", help="in a deployment: ask GitHub whether the owner is over")
    given = parser.parse_args()

    freed = free_lock(given.stack, given.pulumi, _github(given.stack) if given.github else None)
    print(freed, flush=True)
    state = read_state(given.stack, given.pulumi)
    if given.github and freed == NO_LOCK and not state.being_created:
        return
    if state.provider is not None:
        with state.kubectl() as kubectl:
            for release in state.releases:
                try:
                    print(free_release(kubectl, release, plugin_runs, unknown=release in state.half_made), flush=True)
                except KubectlError as error:
                    raise SystemExit(f"{release}: {error}") from None
            # Without its plugin, an engine ends in order, and writes nothing of what it was about to create.
            for release in state.lost:
                try:
                    if revisions_of(kubectl, release):
                        print(free_release(kubectl, release, plugin_runs, unknown=True), flush=True)
                except KubectlError as error:
                    raise SystemExit(f"{release}: {error}") from None
    others = bool(state.being_created) and not state.only_releases_are_being_created
    step = next_step(given.stack, release_half_made=bool(state.being_created), others_half_made=others)
    if given.github and not state.being_created:
        # What the killed command had finished is in the state, so the deployment's own comparison tells the rest.
        return
    if given.github:
        raise SystemExit(
            f"Not deployed: a killed deployment left resources of {given.stack} half created. Run this on a machine of "
            f"yours, then this run again:\n  {step}"
        )
    print(f"Now run:\n  {step}\nTo finish a destroy instead: pulumi destroy --refresh --stack {given.stack}")


if __name__ == "__main__":
    main()
