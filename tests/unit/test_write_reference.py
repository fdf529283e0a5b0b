import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from operations.stack_file import ROOT
from settings import write_reference


def test_the_committed_page_and_schema_are_in_step_with_the_settings() -> None:
    assert write_reference.PAGE.read_text() == write_reference.page(), "run `make settings-reference`"
    assert json.loads(write_reference.SCHEMA.read_text()) == write_reference.schema(), "run `make settings-reference`"


def test_the_command_writes_what_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed = {name: getattr(write_reference, name) for name in ("PAGE", "SCHEMA")}
    for name in committed:
        monkeypatch.setattr(write_reference, name, tmp_path / name)
    write_reference.write()
    assert {name: (tmp_path / name).read_text() for name in committed} == {
        name: path.read_text() for name, path in committed.items()
    }


@pytest.mark.parametrize("stack", ["dev", "prod", "local"])
def test_the_committed_stack_files_fit_the_schema(stack: str) -> None:
    jsonschema.validate(yaml.safe_load((ROOT / f"Pulumi.{stack}.yaml").read_text()), write_reference.schema())


def test_the_schema_refuses_a_password_in_plain_text() -> None:
    file = {
        "config": {
            "mlflow-eks:cluster": {"name": "c"},
            "mlflow-eks:mlflow": {"host": "h"},
            "mlflow-eks:database": {"password": "plain"},
        }
    }
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(file, write_reference.schema())


def test_every_setting_has_a_sentence() -> None:
    rows = [line for line in write_reference.page().splitlines() if line.startswith("| `")]
    assert len(rows) > 80
    assert [row for row in rows if row.rstrip(" |").endswith("|")] == []
