"""MLflow clients of several versions, and the record of what each can do with each version of the server."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from local import tools
from tests import ROOT

Results = Mapping[str, str]
"""Feature to `yes`, `no` (the server refuses it) or `-` (the client has no such function)."""

_OF_ITS_TIME = ("numpy<2", "pandas<2.3", "setuptools<81")
CLIENTS: Mapping[str, Sequence[str]] = {
    "1.30.1": _OF_ITS_TIME,
    "2.3.2": _OF_ITS_TIME,
    "2.9.2": _OF_ITS_TIME,
    # With a newer one this client loses its spans: `SimpleSpanProcessor` has gained an attribute, which MLflow's subclass does not set.
    "2.22.5": ("numpy", "pandas", "opentelemetry-sdk<1.35"),
    tools.MLFLOW_VERSIONS[0]: ("numpy", "pandas"),
}
"""Version of the client to what is installed next to it."""
RECORD = Path(__file__).with_name("clients.json")
PAGE = ROOT / "docs" / "upgrade.md"
FIRST_CELL = "| with a client of MLflow |"
"""Beginning of the table in the page."""


def python(version: str) -> Path:
    """Return the interpreter of a virtual environment with that client. The first call installs it."""
    packages = [f"mlflow-skinny=={version}", *CLIENTS[version]]

    def install(tool: tools.Tool, say: tools.Say) -> None:
        uv = tools.uv_bin()
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, tool.folder], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", tool.path, *packages], check=True)

    digest = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:8]
    of_python = f"py{sys.version_info.major}.{sys.version_info.minor}"
    return tools.ensure(tools.Tool(f"client-{version}", f"{of_python}-{digest}", "bin/python", install))


def recorded() -> dict[str, dict[str, Results]]:
    """Return the recorded results by version of the server and of the client."""
    return json.loads(RECORD.read_text())


def table(results: Mapping[str, Mapping[str, Results]]) -> str:
    """Return the table for the page."""
    newest, *others = results
    clients = list(results[newest])
    lines = [f"{FIRST_CELL} {' | '.join(clients)} |", f"|---|{'---|' * len(clients)}"]
    for feature in results[newest][clients[0]]:
        cells = [
            "; ".join(
                [
                    results[newest][client][feature],
                    *(
                        f"{results[other][client][feature]} with a server of {other}"
                        for other in others
                        if results[other][client][feature] != results[newest][client][feature]
                    ),
                ]
            )
            for client in clients
        ]
        lines.append(f"| {feature} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write(results: Mapping[str, Mapping[str, Results]]) -> None:
    """Replace the record, and the table in the page."""
    RECORD.write_text(json.dumps(results, indent=1) + "\n")
    before, _, rest = PAGE.read_text().partition(FIRST_CELL)
    after = rest.partition("\n\n")[2]
    PAGE.write_text(f"{before}{table(results)}\n{after}")
