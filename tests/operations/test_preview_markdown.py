import subprocess
import sys
from typing import Any

from operations.preview_markdown import UNKNOWN, render

URN = "urn:pulumi:dev::mlflow-eks::mlflow-eks:index:PrivatePostgres$"


def step(operation: str, kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"op": operation, "urn": f"{URN}{kind}::{name}", **more}


def test_a_preview_without_changes_says_so() -> None:
    assert "Preview of `dev`: no changes" in render("dev", {"steps": [step("same", "aws:s3/bucket:Bucket", "b")]})


def test_a_change_is_shown_from_old_to_new() -> None:
    markdown = render(
        "dev",
        {
            "steps": [
                step(
                    "update",
                    "aws:rds/instance:Instance",
                    "postgres-instance",
                    oldState={"inputs": {"instanceClass": "db.t3.micro"}},
                    newState={"inputs": {"instanceClass": "db.t3.small"}},
                    detailedDiff={"instanceClass": {"kind": "update", "inputDiff": False}},
                )
            ]
        },
    )
    assert "1 changed" in markdown
    assert "`instanceClass`: `db.t3.micro` → `db.t3.small`" in markdown
    assert "CAUTION" not in markdown


def test_a_nested_value_is_found_by_its_path() -> None:
    markdown = render(
        "dev",
        {
            "steps": [
                step(
                    "update",
                    "kubernetes:helm.sh/v3:Release",
                    "mlflow-release",
                    oldState={
                        "inputs": {"values": {"podAnnotations": {"checksum/secrets": "aa"}, "hosts": [{"host": "a"}]}}
                    },
                    newState={
                        "inputs": {
                            "values": {"podAnnotations": {"checksum/secrets": UNKNOWN}, "hosts": [{"host": "b"}]}
                        }
                    },
                    detailedDiff={
                        'values.podAnnotations["checksum/secrets"]': {"kind": "update"},
                        "values.hosts[0].host": {"kind": "update"},
                    },
                )
            ]
        },
    )
    assert "`aa` → *known afterwards*" in markdown
    assert "`values.hosts[0].host`: `a` → `b`" in markdown


def test_a_replaced_database_is_shouted_about_once_with_the_input_that_forces_it() -> None:
    replaced = {
        "oldState": {"inputs": {"storageEncrypted": False}},
        "newState": {"inputs": {"storageEncrypted": True}},
        "replaceReasons": ["storageEncrypted"],
        "detailedDiff": {"storageEncrypted": {"kind": "update-replace"}},
    }
    operations = ("create-replacement", "replace", "delete-replaced")
    markdown = render(
        "prod",
        {"steps": [step(one, "aws:rds/instance:Instance", "postgres-instance", **replaced) for one in operations]},
    )
    assert markdown.count("[!CAUTION]") == 1
    assert "1 replaced" in markdown
    assert "the database server with all of MLflow's data" in markdown
    assert "**forces the replacement**" in markdown


def test_a_masked_secret_stays_masked() -> None:
    masked = {
        "oldState": {"inputs": {"password": "[secret]"}},
        "newState": {"inputs": {"password": "[secret]"}},
        "detailedDiff": {"password": {"kind": "update"}},
    }
    assert "`[secret]` → `[secret]`" in render(
        "dev", {"steps": [step("update", "postgresql:index/role:Role", "r", **masked)]}
    )


def test_the_warnings_of_the_program_are_part_of_the_comment() -> None:
    markdown = render(
        "dev",
        {
            "diagnostics": [
                {"severity": "warning", "message": "<{%fg 3%}>ingress.plainHttp: in clear\n"},
                {"severity": "info", "message": "x"},
                {"severity": "warning", "message": "<{%reset%}>warning: another\n"},
            ]
        },
    )
    assert "- warning: ingress.plainHttp: in clear" in markdown
    assert "- warning: another" in markdown
    assert "x" not in markdown.split("Warnings and errors")[1].replace("ingress", "")


def test_a_failed_preview_does_not_look_like_one_without_changes() -> None:
    markdown = render(
        "dev", {"diagnostics": [{"severity": "error", "message": "postgres.engineVersion 29 is not offered"}]}
    )
    assert "Preview of `dev`: it failed" in markdown
    assert "no changes" not in markdown
    assert "- error: postgres.engineVersion 29 is not offered" in markdown


def test_something_else_than_a_preview_is_refused_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "operations.preview_markdown", "--stack", "dev"],
        input="error: no stack",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip() == "This is not the output of `pulumi preview --json`; it begins with: 'error: no stack'"


def test_a_preview_that_never_began_points_at_what_was_said_about_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "operations.preview_markdown", "--stack", "dev"],
        input="",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "`pulumi preview` failed; its error message is above." in done.stderr
