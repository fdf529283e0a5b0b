"""Draws a stack's resources as a Mermaid diagram, a box a component: ``pulumi stack export | python -m operations.resource_graph``.

An arrow points from a resource to one that waits for it; arrows that follow from others are left out.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any, cast


def draw(deployment: Mapping[str, Any]) -> str:
    """Write the diagram.

    Args:
        deployment: the ``deployment`` of ``pulumi stack export``.
    """
    resources = cast("list[dict[str, Any]]", deployment["resources"])
    drawn = {
        resource["urn"]: resource
        for resource in resources
        if resource.get("custom")
        and not resource["type"].startswith(
            ("pulumi:providers:aws", "pulumi:providers:random", "pulumi:providers:pulumi")
        )
        and not resource["urn"].endswith("::default")
    }
    needs = {urn: {need for need in _needs(resource) if need in drawn} for urn, resource in drawn.items()}
    boxes: dict[str, list[str]] = {}
    for urn, resource in drawn.items():
        boxes.setdefault(_name(resource.get("parent", "")), []).append(urn)
    ids = {urn: f"r{number}" for number, urn in enumerate(drawn)}
    lines = ["flowchart LR"]
    for box, members in boxes.items():
        inside = not box.startswith("mlflow-eks-")
        if inside:
            lines.append(f"    subgraph {box}")
        lines += [f'    {"    " if inside else ""}{ids[urn]}["{_name(urn)}<br><i>{_kind(urn)}</i>"]' for urn in members]
        if inside:
            lines.append("    end")
    lines += [
        f"    {ids[need]} --> {ids[urn]}"
        for urn in drawn
        for need in sorted(_direct(urn, needs), key=list(drawn).index)
    ]
    return "\n".join(lines)


def _needs(resource: Mapping[str, Any]) -> set[str]:
    provider = str(resource.get("provider", "")).rpartition("::")[0]
    return {*cast("list[str]", resource.get("dependencies") or []), *([provider] if provider else [])}


def _direct(urn: str, needs: Mapping[str, set[str]]) -> set[str]:
    """What a resource waits for, without what those wait for anyway."""

    def reach(start: str) -> set[str]:
        found: set[str] = set()
        stack = [start]
        while stack:
            for need in needs[stack.pop()]:
                if need not in found:
                    found.add(need)
                    stack.append(need)
        return found

    return {need for need in needs[urn] if not any(need in reach(other) for other in needs[urn] if other != need)}


def _name(urn: str) -> str:
    return urn.rsplit("::", 1)[-1]


def _kind(urn: str) -> str:
    return urn.split("::")[-2].rsplit("$", 1)[-1].rsplit(":", 1)[-1]


def main() -> None:
    """Read an export from standard input and print a Markdown block."""
    print("```mermaid", draw(json.load(sys.stdin)["deployment"]), "```", sep="\n")


if __name__ == "__main__":
    main()
