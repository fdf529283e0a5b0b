"""Compare two databases as MLflow reads them: the one in use, and a copy from the backups."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from operations.checks import MissingError
from operations.stack_cluster import KubectlError, State

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
    now = str(int(moment.timestamp() * 1000))
    return [
        python_in_pod(state, "look.py", [now], PGHOST=address.host, PGPORT=str(address.port)) for address in addresses
    ]


def python_in_pod(state: State, file: str, arguments: Sequence[str], *, seconds: int = 120, **variables: str) -> Any:
    """Run a file of this folder in a pod of MLflow, with the pod's own login, and return the JSON of its last line.

    Args:
        state: state of the stack, which leads to its cluster.
        file: name of the file.
        arguments: arguments of the file.
        seconds: seconds that it may take. A pod that is short of CPU takes a while to load MLflow.
        variables: environment variables in addition to the pod's.

    Raises:
        MissingError: the pod, a database or MLflow refuses.
    """
    program = (Path(__file__).parent / file).read_text(encoding="utf-8")
    other = ["env", *(f"{name}={value}" for name, value in variables.items())]
    with state.kubectl() as kubectl:
        pod = ["-n", namespace_of_mlflow(state), "exec", "deploy/mlflow", "--"]
        try:
            said = replace(kubectl, seconds=seconds)(*pod, *other, "python", "-c", program, *arguments)
        except KubectlError as error:
            raise MissingError(f"MLflow's pod cannot do it ({' '.join(other[1:] or arguments[:2])}): {error}") from None
    return json.loads(said.splitlines()[-1])


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
