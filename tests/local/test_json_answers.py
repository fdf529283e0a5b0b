"""Our encoder of MLflow's answers writes what MLflow's own writes, for every answer that MLflow has."""

import json
import subprocess
from pathlib import Path

import pytest

from components.mlflow_release.login_code import CODE
from local import tools

pytestmark = pytest.mark.local

SCRIPT = Path(__file__).with_name("answered_messages.py")


@pytest.mark.parametrize(("mlflow", "in_use"), [("3.7.0", True), ("3.15.1", True), ("3.17.2", False)])
def test_every_answer_is_the_same_as_mlflows_own(mlflow: str, in_use: bool) -> None:
    done = subprocess.run(
        [tools.mlflow_python(mlflow), SCRIPT, str(CODE)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    compared, in_one_pass, replaced = json.loads(done.stdout.splitlines()[-1])
    assert compared > 200
    assert compared - 60 < in_one_pass < compared, "both ways have been compared"
    assert replaced is in_use
