"""A `pulumi` for the fast run of the workflows: one instance, whose inputs are the section `postgres` of the stack's file.

The folder TOLD_STATE has `state.json`, the inputs of the last `up`, and `cloud.json`, what is there. A `lock` in it is somebody's lock.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml

STATE = Path(os.environ["TOLD_STATE"])
URN = "urn:pulumi:dev::mlflow-eks::mlflow-eks:index:PrivatePostgres$aws:rds/instance:Instance::postgres"


def read(name: str) -> dict[str, Any]:
    """Return the content of a file of the state."""
    file = STATE / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def wanted() -> dict[str, Any]:
    """Return what the program of this checkout wants."""
    config = yaml.safe_load(Path("Pulumi.dev.yaml").read_text())["config"]
    return {"identifier": "postgres-1", **config.get("mlflow-eks:postgres", {})}


def preview(before: dict[str, Any]) -> dict[str, Any]:
    """Return the output of `pulumi preview --json`."""
    after = wanted()
    paths = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
    op = "create" if not before else "update" if paths else "same"
    step: dict[str, Any] = {"op": op, "urn": URN, "newState": {"urn": URN, "inputs": after}}
    if before:
        step["oldState"] = {"urn": URN, "inputs": before}
        step["detailedDiff"] = {path: {"kind": "update", "inputDiff": True} for path in paths}
        step["diffReasons"] = paths
    return {"steps": [step], "changeSummary": {op: 1}}


def locked() -> None:
    """Refuse as Pulumi does if there is a lock."""
    if (STATE / "lock").exists():
        sys.exit(f"error: the stack is currently locked by 1 lock(s).\n  s3://x.json: {(STATE / 'lock').read_text()}")


def main() -> None:
    """Run a command."""
    arguments = sys.argv[1:]
    if "AWS_SESSION_TOKEN" not in os.environ:
        sys.exit("error: no credentials")
    match arguments[0]:
        case "preview":
            found = preview(read("cloud") if "--refresh" in arguments else read("state"))
            print(json.dumps(found))
            if "--expect-no-changes" in arguments and found["steps"][0]["op"] != "same":
                sys.exit(7)
        case "refresh":
            locked()
            sys.exit("error: no resource named 'x' found")
        case "cancel":
            (STATE / "lock").unlink()
        case "up":
            locked()
            for name in ("state", "cloud"):
                (STATE / f"{name}.json").write_text(json.dumps(wanted()))
        case "stack" if "export" in arguments:
            print(json.dumps({"deployment": {"resources": []}}))
        case "stack":
            print("url  https://mlflow.example.com")
        case other:
            sys.exit(f"error: told_pulumi has no {other}")


if __name__ == "__main__":
    main()
