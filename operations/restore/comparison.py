"""Compare two databases as MLflow reads them: the one in use, and a copy from the backups."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from operations.checks import MissingError
from operations.stack_cluster import KubectlError, State

LOOK = (Path(__file__).parent / "look.py").read_text(encoding="utf-8")
"""Program that looks at a database, for a pod of MLflow."""
Seen = Mapping[str, object]
"""Result of `look.py`."""


@dataclass(frozen=True)
class Address:
    """Address of a database server."""

    host: str
    port: int


def namespace_of_mlflow(state: State) -> str:
    """Return the namespace of MLflow's release."""
    (release,) = (found for found in state.releases if found.name == "mlflow")
    return release.namespace


def seen_by_mlflow(state: State, addresses: Sequence[Address], moment: datetime) -> list[Seen]:
    """Look at databases from inside a pod of MLflow, with the pod's own login.

    Args:
        state: state of the stack, which leads to its cluster.
        addresses: servers to look at.
        moment: what came later is not counted.

    Raises:
        MissingError: the pod, a database or MLflow refuses.
    """
    found: list[Seen] = []
    namespace = namespace_of_mlflow(state)
    with state.kubectl() as kubectl:
        for address in addresses:
            other = ["env", f"PGHOST={address.host}", f"PGPORT={address.port}"]
            look = ["python", "-c", LOOK, str(int(moment.timestamp() * 1000))]
            try:
                # A pod that is short of CPU takes a while to load MLflow.
                said = replace(kubectl, seconds=120)("-n", namespace, "exec", "deploy/mlflow", "--", *other, *look)
            except KubectlError as error:
                raise MissingError(f"MLflow cannot read {address.host}: {error}") from None
            found.append(json.loads(said.splitlines()[-1]))
    return found


def lacks(live: Seen, copy: Seen) -> list[str]:
    """Return what a copy lacks. More than in the database in use is nothing that it lacks: somebody may have deleted it since."""
    fewer = [
        f"{what}: {copy[what]} of {number}"
        for what, number in live.items()
        if isinstance(number, int) and what not in ("users", "its values") and int(str(copy[what])) < number
    ]
    if live["newest run"] == copy["newest run"] and (live["its values"], live["their sum"]) != (
        copy["its values"],
        copy["their sum"],
    ):
        fewer.append(f"values of run {live['newest run']}: {copy['its values']} of {live['its values']}")
    return fewer


def table(live: Seen, copy: Seen) -> str:
    """Return both as a table in Markdown."""
    rows = [f"| {what} | {live[what]} | {copy[what]} |" for what in live]
    return "\n".join(["| | in use | copy |", "|---|---|---|", *rows])
