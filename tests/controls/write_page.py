"""Writes docs/security-controls.md from controls.yaml and waivers.yaml: `python -m tests.controls.write_page`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tests import ROOT
from tests.controls import verdict

PAGE = ROOT / "docs" / "security-controls.md"

_INTRODUCTION = """\
<!-- Written by `python -m tests.controls.write_page` from tests/controls/*.yaml; change those. -->

# Security controls

The page is about the two stack files as they are committed: another setting can undo a control. Run `make test TESTS=tests/controls` after
you changed your settings. AWS Security Hub judges the account, not the program, so controls on existing resources are listed as yours.

The controls are those of AWS Foundational Security Best Practices and Checkov that apply to a deployment like this one. `tests/controls` runs
the whole program for `Pulumi.prod.yaml` and `Pulumi.dev.yaml`, and turns the resources into a Terraform plan and Kubernetes manifests. Checkov
checks these files. Assertions of this project (the checks without `CKV`) check the rest. A failed check without a waiver on this page fails
the build, and so does a waiver that excuses nothing any more.

✓ met, ✗ waived for the reason given, partly: met except for the pods that the reason names, n/a: nothing to check.
"""


def render() -> str:
    waivers = verdict.waivers()
    lines = [_INTRODUCTION]
    for section, rows in verdict.table().items():
        lines += [
            f"## {section}",
            "",
            "| AWS | Checks | Control | prod | dev | How, or why not |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_row(control, waivers) for control in rows]
        lines.append("")
    return "\n".join(lines)


def _row(control: verdict.Control, waivers: Sequence[verdict.Waiver]) -> str:
    of_control = [waiver for waiver in waivers if set(waiver.checks) & set(control.checks)]
    marks = [
        _mark(control, [waiver for waiver in of_control if stack in waiver.stacks], stack) for stack in verdict.STACKS
    ]
    how = " ".join([*_means(control), *(_excuse(waiver) for waiver in of_control)])
    return f"| {' | '.join([control.aws, ', '.join(control.checks), control.control, *marks, how])} |"


def _mark(control: verdict.Control, waivers: Sequence[verdict.Waiver], stack: str) -> str:
    if control.elsewhere:
        return "yours"
    if stack not in control.stacks:
        return "n/a"
    if not waivers:
        return "✓"
    # A waiver for some pods or containers says nothing about the others, which meet the control.
    of_pods = all(waiver.of_a_pod for waiver in waivers)
    return "partly" if of_pods and list(_means(control)) else "✗"


def _means(control: verdict.Control) -> Iterator[str]:
    files: dict[str, list[str]] = {}
    for entry in control.by:
        file, _, text = entry.partition(": ")
        files.setdefault(file, []).append(f"`{text}`")
    if files:
        yield "; ".join(f"[{Path(file).name}](../{file}): {', '.join(texts)}" for file, texts in files.items()) + "."
    if control.chart:
        yield "Default of the charts."
    if control.elsewhere:
        yield control.elsewhere


def _excuse(waiver: verdict.Waiver) -> str:
    """Return the reason of a waiver, after the stacks or the chart that it is limited to."""
    of_one_chart = {"Deployment.mlflow.mlflow": ["MLflow"], "Deployment.haproxy.ha-proxy-ingress": ["HAProxy"]}
    stacks = [] if set(waiver.stacks) == set(verdict.STACKS) else list(waiver.stacks)
    where = ", ".join([*stacks, *of_one_chart.get(waiver.resource, [])])
    return f"{where}: {waiver.reason}" if where else waiver.reason


if __name__ == "__main__":
    PAGE.write_text(render())
