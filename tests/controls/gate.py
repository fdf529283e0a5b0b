"""What fails, and what may: Checkov's findings and our own, the waivers, the table of controls."""

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

from tests.controls import plan
from tests.unit.harness import Deployment

CHECKOV = "checkov==3.3.30"
"""In an environment of its own: it wants another `packaging` than Pulumi's SDK."""

FOLDER = Path(__file__).parent
STACKS = ("prod", "dev")


@dataclass(frozen=True, order=True)
class Finding:
    """One check of one resource."""

    check: str
    resource: str
    passed: bool
    title: str = ""

    def __str__(self) -> str:
        return f"{self.check} {self.resource}{f': {self.title}' if self.title else ''}"


@dataclass(frozen=True)
class Waiver:
    """Why checks may fail."""

    checks: Sequence[str]
    resource: str
    """Pattern of resources, `*` for any part."""
    reason: str
    stacks: Sequence[str] = STACKS

    @property
    def of_a_pod(self) -> bool:
        """True if it is about what a chart makes."""
        return self.resource.startswith(("Deployment.", "Pod."))

    def covers(self, finding: Finding) -> bool:
        return (
            not finding.passed and finding.check in self.checks and fnmatch.fnmatchcase(finding.resource, self.resource)
        )


@dataclass(frozen=True)
class Control:
    """A row of the table in docs/security-controls.md."""

    control: str
    """What is the case when it is met."""
    aws: str = ""
    """Id in AWS Foundational Security Best Practices."""
    checks: Sequence[str] = ()
    """Checkov's ids and those of own.py."""
    by: Sequence[str] = ()
    """What meets it, `file: text in that file`."""
    chart: bool = False
    """Met by the charts without being asked."""
    elsewhere: str = ""
    """Who meets it, when this program cannot."""
    stacks: Sequence[str] = STACKS
    """Where there is something to check."""


def waivers() -> list[Waiver]:
    return [Waiver(**entry) for entry in yaml.safe_load((FOLDER / "waivers.yaml").read_text())]


def table() -> dict[str, list[Control]]:
    """Section to its controls."""
    sections: dict[str, list[dict[str, Any]]] = yaml.safe_load((FOLDER / "controls.yaml").read_text())
    return {section: [Control(**row) for row in rows] for section, rows in sections.items()}


def not_waived(findings: Sequence[Finding], waived: Sequence[Waiver]) -> list[str]:
    """Failures that nobody gave a reason for."""
    return [
        str(finding)
        for finding in sorted(findings)
        if not finding.passed and not any(waiver.covers(finding) for waiver in waived)
    ]


def without_a_failure(findings: Sequence[Finding], waived: Sequence[Waiver]) -> list[str]:
    """Waivers that excuse nothing: what they were for is mended or gone, and the next failure would hide behind them."""
    return [
        f"{check} {waiver.resource}"
        for waiver in waived
        for check in waiver.checks
        if not any(finding.check == check and waiver.covers(finding) for finding in findings)
    ]


def checkov(uv: Path, deployment: Deployment, folder: Path) -> list[Finding]:
    """Run Checkov over a stack; the folder receives what it reads."""
    (folder / "plan.json").write_text(json.dumps(plan.terraform_plan(deployment), indent=1))
    objects = plan.manifests(deployment) + plan.chart_manifests(deployment)
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
        "Checkov could not read what plan.py wrote"
    )
    return [
        Finding(check["check_id"], check["resource"], result == "passed_checks", check["check_name"])
        for report in reports
        for result in ("passed_checks", "failed_checks")
        for check in report["results"][result]
    ]
