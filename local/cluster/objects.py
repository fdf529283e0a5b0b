"""The stand-in for the API server. Each Kubernetes object is a file."""

import base64
import json
import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from local import paths
from local.cluster import ClusterError

Object = dict[str, Any]
"""A Kubernetes object: `apiVersion`, `kind`, `metadata` and the other fields."""

_CLUSTER_SCOPED = {"Namespace", "IngressClass"}


class Objects:
    """The objects of the cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        paths.make_private(folder)

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return an object, or None if there is none."""
        return _read(self._file(kind, namespace, name))

    def all(self, kind: str) -> list[Object]:
        """Return every object of a kind, in all namespaces."""
        items = map(_read, sorted(self.folder.glob(f"{kind}/*/*.json")))
        # Another release can remove one after it was listed.
        return [item for item in items if item is not None]

    def create(self, item: Object) -> Object:
        """Add an object and return it as stored.

        Raises:
            ClusterError: the object exists, or its namespace does not.
        """
        kind, namespace, name = identity(item)
        if self.get(kind, namespace, name) is not None:
            raise ClusterError(f'{kind} "{name}" already exists')
        return self.put(item)

    def put(self, item: Object) -> Object:
        """Add or replace an object and return it as stored, with uid and creation time.

        Raises:
            ClusterError: the namespace does not exist.
        """
        kind, namespace, name = identity(item)
        if kind not in _CLUSTER_SCOPED:
            self.require_namespace(namespace)
            item = {**item, "metadata": {**item["metadata"], "namespace": namespace}}
        old = self.get(kind, namespace, name)
        metadata = old["metadata"] if old else {"uid": _uid(), "creationTimestamp": f"{datetime.now(UTC):%FT%TZ}"}
        kept = {key: metadata[key] for key in ("uid", "creationTimestamp")}
        stored = {**item, "metadata": {**item["metadata"], **kept}}
        write(self._file(kind, namespace, name), json.dumps(stored, indent=1))
        return stored

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """Remove an object, and all objects in it if it is a Namespace. Do nothing if it does not exist."""
        self._file(kind, namespace, name).unlink(missing_ok=True)
        if kind == "Namespace":
            for file in self.folder.glob(f"*/{name}/*.json"):
                file.unlink(missing_ok=True)

    def require_namespace(self, name: str) -> None:
        """Refuse a namespace that does not exist.

        Raises:
            ClusterError: the namespace does not exist. The message is the API server's.
        """
        if self.get("Namespace", "", name) is None:
            raise ClusterError(f'namespaces "{name}" not found')

    def secret_data(self, namespace: str, name: str) -> dict[str, str]:
        """Return the data of a Secret, decoded.

        Raises:
            ClusterError: the Secret does not exist.
        """
        secret = self.get("Secret", namespace, name)
        if secret is None:
            raise ClusterError(f'secret "{name}" not found in namespace {namespace}')
        return {key: base64.b64decode(value).decode() for key, value in secret.get("data", {}).items()}

    def _file(self, kind: str, namespace: str, name: str) -> Path:
        return self.folder / kind / ("_cluster" if kind in _CLUSTER_SCOPED else namespace) / f"{name}.json"


def identity(item: Object) -> tuple[str, str, str]:
    """Return kind, namespace (empty for an object that has none) and name of an object."""
    kind, metadata = item["kind"], item["metadata"]
    return kind, "" if kind in _CLUSTER_SCOPED else metadata.get("namespace") or "default", metadata["name"]


def make(api_version: str, kind: str, namespace: str, name: str, **rest: Any) -> Object:
    """Return an object."""
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": namespace}, **rest}


def make_secret(namespace: str, name: str, data: Mapping[str, str], kind: str = "Opaque") -> Object:
    """Return a Secret with this data, which is encoded here."""
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return make("v1", "Secret", namespace, name, type=kind, data=encoded)


def _read(file: Path) -> Object | None:
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None


def write(file: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file in one step: a reader sees the old content or the new. By default only the owner may read it."""
    paths.make_private(file.parent)
    new = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w") as content:
        content.write(text)
    new.rename(file)


def _uid() -> str:
    digits = secrets.token_hex(16)
    return "-".join(digits[start:end] for start, end in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))
