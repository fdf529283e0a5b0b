"""The gate of the security controls: findings of Checkov and this project's checks, waivers, the table of controls."""

import fnmatch
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.controls import terraform_plan
from tests.unit.harness import Deployment

CHECKOV = "checkov==3.3.30"
"""Checkov's package and version.

It needs another version of `packaging` than Pulumi's SDK, so it has its own environment.
"""

FOLDER = Path(__file__).parent
STACKS = ("prod", "dev")
"""Stacks that are checked."""


@dataclass(frozen=True, order=True)
class Finding:
    """The result of one check of one resource."""

    check: str
    """Id of the check."""
    resource: str
    """Address of the resource (`plan.address`)."""
    passed: bool
    title: str = ""
    """Title of the check."""

    def __str__(self) -> str:
        return f"{self.check} {self.resource}{f': {self.title}' if self.title else ''}"


@dataclass(frozen=True)
class Waiver:
    """Checks that may fail, with the reason."""

    checks: Sequence[str]
    """Ids of the checks."""
    resource: str
    """Pattern of resource addresses. `*` stands for any text."""
    reason: str
    """Reason, as in docs/security-controls.md."""
    stacks: Sequence[str] = STACKS
    """Stacks in which the checks may fail, default all."""

    @property
    def of_a_pod(self) -> bool:
        """True if the waiver is about pods that a chart creates."""
        return self.resource.startswith(("Deployment.", "Pod."))

    def covers(self, finding: Finding) -> bool:
        return (
            not finding.passed and finding.check in self.checks and fnmatch.fnmatchcase(finding.resource, self.resource)
        )


@dataclass(frozen=True)
class Control:
    """A row of the table in docs/security-controls.md."""

    control: str
    """The state in which the control is met."""
    aws: str = ""
    """Id in AWS Foundational Security Best Practices."""
    checks: Sequence[str] = ()
    """Ids of Checkov's checks and of those in project_checks.py."""
    by: Sequence[str] = ()
    """The code that meets the control, as `file: text in that file`."""
    chart: bool = False
    """True if the charts meet the control by default."""
    elsewhere: str = ""
    """The role or service that must meet the control, where this program cannot."""
    stacks: Sequence[str] = STACKS
    """Stacks that have something to check, default all."""


def waivers() -> list[Waiver]:
    return [Waiver(**entry) for entry in yaml.safe_load((FOLDER / "waivers.yaml").read_text())]


def table() -> dict[str, list[Control]]:
    """Return the controls by section."""
    sections: dict[str, list[dict[str, Any]]] = yaml.safe_load((FOLDER / "controls.yaml").read_text())
    return {section: [Control(**row) for row in rows] for section, rows in sections.items()}


def not_waived(findings: Sequence[Finding], waived: Sequence[Waiver]) -> list[str]:
    """Return the failures without a waiver."""
    return [
        str(finding)
        for finding in sorted(findings)
        if not finding.passed and not any(waiver.covers(finding) for waiver in waived)
    ]


def without_a_failure(findings: Sequence[Finding], waived: Sequence[Waiver]) -> list[str]:
    """Return the waivers without a failure. Their cause is mended or gone, and they would hide the next failure."""
    return [
        f"{check} {waiver.resource}"
        for waiver in waived
        for check in waiver.checks
        if not any(finding.check == check and waiver.covers(finding) for finding in findings)
    ]


def checkov(uv: Path, deployment: Deployment, folder: Path) -> list[Finding]:
    """Run Checkov on a stack and return its findings. Its input files are written into the folder."""
    (folder / "plan.json").write_text(json.dumps(terraform_plan.terraform_plan(deployment), indent=1))
    objects = terraform_plan.manifests(deployment) + terraform_plan.chart_manifests(deployment)
    (folder / "objects.yaml").write_text(yaml.safe_dump_all(objects))
    command = [str(uv), "tool", "run", "--python", sys.executable, "--from", CHECKOV, "checkov", "--directory", "."]
    command += [
        "--framework",
        "terraform_plan",
        "kubernetes",
        "--output",
        "json",
        "--compact",
        "--soft-fail",
        "--skip-download",
    ]
    # It would ask PyPI for a newer version of itself.
    environment = {**os.environ, "CKV_SKIP_PACKAGE_UPDATE_CHECK": "true", "LOG_LEVEL": "ERROR"}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    try:
        reports = json.loads(run.stdout)
    except json.JSONDecodeError:
        raise RuntimeError(f"{CHECKOV} did not run: {(run.stderr or run.stdout).strip()[-2000:]}") from None
    read = {report["check_type"] for report in reports}
    assert read == {"kubernetes", "terraform_plan"}, f"Checkov read {read} only"
    assert not any(report["results"]["parsing_errors"] for report in reports), (
        "Checkov could not read what terraform_plan.py wrote"
    )
    return [
        Finding(check["check_id"], check["resource"], result == "passed_checks", check["check_name"])
        for report in reports
        for result in ("passed_checks", "failed_checks")
        for check in report["results"][result]
    ]
