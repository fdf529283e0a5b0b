"""Helm's memory of releases, a Secret for each revision. Helm reads nothing else to find out what it may do."""

import base64
import fcntl
import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from local import paths
from local.cluster.objects import Object, Objects, make_secret

PENDING = ("pending-install", "pending-upgrade")
"""Statuses of a revision that Helm works on. Helm refuses to go on from them."""
UNINSTALLING = "uninstalling"
"""Status of a release whose uninstall has begun."""
_TYPE = "helm.sh/release.v1"
_KEY = "release"


class Revisions:
    """The revisions of all releases."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.locks = objects.folder.parent / "helm"

    @contextmanager
    def at_work(self, namespace: str, name: str) -> Generator[None]:
        """Hold a lock on a release, so that `forget_interrupted` can wait for an operation that outlives its engine."""
        paths.make_private(self.locks)
        with (self.locks / f"{namespace}.{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def of(self, namespace: str, name: str) -> list[Object]:
        """Return the records of a release's revisions, the oldest first."""
        records = [_record(secret) for secret in self._secrets() if _belongs(secret, namespace, name)]
        return sorted(records, key=lambda record: record["status"]["revision"])

    def last(self, namespace: str, name: str) -> Object | None:
        """Return the record of a release's newest revision, None if Helm knows no such release."""
        return next(reversed(self.of(namespace, name)), None)

    def newest(self) -> list[Object]:
        """Return the record of the newest revision of every release."""
        records = {
            (record["status"]["namespace"], record["status"]["name"]): record
            for record in sorted(map(_record, self._secrets()), key=lambda record: record["status"]["revision"])
        }
        return list(records.values())

    def write(self, record: Object, status: str) -> Object:
        """Write a revision with a status, and return its record."""
        written = {**record, "status": {**record["status"], "status": status}}
        about = written["status"]
        secret = make_secret(about["namespace"], _secret_name(written), {_KEY: json.dumps(written)}, _TYPE)
        labels = {"owner": "helm", "name": about["name"], "status": status, "version": str(about["revision"])}
        secret["metadata"]["labels"] = labels
        self.objects.put(secret)
        return written

    def forget(self, record: Object) -> None:
        """Remove a revision. Nothing that runs is changed."""
        self.objects.remove("Secret", record["status"]["namespace"], _secret_name(record))

    def forget_interrupted(self) -> list[str]:
        """Remove what keeps Helm from going on after it was killed, and return the names of the releases.

        After an upgrade this is the pending revision. A release that never was complete, or is no more, is forgotten as a
        whole, so that the next installation takes over what runs.
        """
        return [
            record["status"]["name"]
            for record in self.newest()
            if self._forget_interrupted(record["status"]["namespace"], record["status"]["name"])
        ]

    def _forget_interrupted(self, namespace: str, name: str) -> bool:
        with self.at_work(namespace, name):
            revisions = self.of(namespace, name)
            status = revisions[-1]["status"]["status"] if revisions else ""
            if status not in {*PENDING, UNINSTALLING}:
                return False
            for each in revisions[-1:] if status == "pending-upgrade" else revisions:
                self.forget(each)
            return True

    def _secrets(self) -> list[Object]:
        return [secret for secret in self.objects.all("Secret") if secret["type"] == _TYPE]


def _belongs(secret: Object, namespace: str, name: str) -> bool:
    metadata = secret["metadata"]
    return (metadata["namespace"], metadata["labels"]["name"]) == (namespace, name)


def _record(secret: Object) -> dict[str, Any]:
    return json.loads(base64.b64decode(secret["data"][_KEY]))


def _secret_name(record: Object) -> str:
    return f"sh.helm.release.v1.{record['status']['name']}.v{record['status']['revision']}"
