"""The current code replaces nothing in a preview of a stack that an older release has made.

``python -m tests.local.test_recorded_state <folder of a local stack>`` recorded the state, with made-up secrets.
"""

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from local.stack import LocalStack
from tests import ROOT

pytestmark = pytest.mark.local

RECORDED = Path(__file__).parent / "recorded"


def releases() -> list[Path]:
    return sorted(RECORDED.glob("*.json"))


@pytest.mark.parametrize("release", releases(), ids=lambda path: path.stem)
def test_nothing_of_an_older_stack_is_replaced_or_deleted(own_stack: LocalStack, release: Path) -> None:
    # A preview reads the load balancer's Service, which must exist.
    own_stack.up()
    # Only the resources are replaced. The rest of the new stack's state says how its secrets are decrypted.
    state = json.loads(own_stack.pulumi("stack", "export").stdout)
    # In this account the VPC has another id than in the recording.
    vpc = own_stack.resources()["postgres-sg"]["inputs"]["vpcId"]
    state["deployment"]["resources"] = json.loads(re.sub(r"\bvpc-[0-9a-f]{17}\b", vpc, release.read_text()))
    older = own_stack.folder / "older.json"
    older.write_text(json.dumps(state))
    own_stack.pulumi("stack", "import", "--file", str(older))
    changes = own_stack.changes()
    touched = {operation for operation in changes if operation not in {"update", "create"}}
    assert touched == set(), changes


def record(folder: Path, target: Path) -> None:
    """Write a stack's state with made-up secrets. All occurrences of a secret get the same made-up one."""
    exported = LocalStack(folder, 0, 0).pulumi("stack", "export", "--show-secrets").stdout
    made_up: dict[str, str] = {}

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            if "plaintext" in value:
                leaves(json.loads(value["plaintext"]))
            for item in value.values():
                collect(item)
        elif isinstance(value, list):
            for item in value:
                collect(item)

    def leaves(value: Any) -> None:
        if isinstance(value, dict):
            for item in value.values():
                leaves(item)
        elif isinstance(value, str) and len(value) >= 12:
            made_up.setdefault(value, f"made-up-secret-{len(made_up):02d}".ljust(32, "x"))

    collect(json.loads(exported))
    for secret in sorted(made_up, key=len, reverse=True):
        exported = exported.replace(secret, made_up[secret])
    resources = json.loads(exported)["deployment"]["resources"]
    target.write_text(json.dumps(resources, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    record(Path(sys.argv[1]), RECORDED / f"{project['version']}.json")
