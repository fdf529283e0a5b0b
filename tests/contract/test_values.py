"""The program's values are those that the real charts accepted, and the charts' output is what the program intends."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests import ROOT
from tests.contract.cases import CASES, release
from tests.contract.recordings import RECORDED, recording, without_null
from tests.unit.harness import deploy

CHARTS = Path(os.environ.get("CHARTS", ROOT.parent / "shared" / "charts"))
"""Folder with unpacked charts (`mlflow-1.11.5/values.schema.json`), where there is one."""
OF_MLFLOW = [case for case in CASES if case.startswith("mlflow-")]


@pytest.mark.parametrize("case", CASES)
def test_the_values_are_those_that_the_chart_accepted(case: str) -> None:
    assert without_null(release(case)["values"]) == recording(case)["values"], (
        "the real chart was not rendered with these values; run `make chart-facts`, which needs helm, and commit its files"
    )


@pytest.mark.parametrize("case", OF_MLFLOW)
def test_the_values_fit_the_schema_of_a_chart_that_is_at_hand(case: str) -> None:
    schema = CHARTS / case.split("/", maxsplit=1)[0] / "values.schema.json"
    if schema.is_file():
        jsonschema.validate(release(case)["values"], _of_a_part(json.loads(schema.read_text())))
    # Without a chart at hand, the test above is enough: Helm checked the schema when the values were recorded.


def _of_a_part(schema: Any) -> Any:
    """Leave out the rules about required values. They apply only after the chart's defaults are added, as Helm does."""
    if isinstance(schema, dict):
        return {key: _of_a_part(rule) for key, rule in schema.items() if key not in {"required", "allOf"}}
    return schema


@pytest.mark.parametrize("case", CASES)
def test_the_namespace_admits_the_pods_of_the_chart(case: str) -> None:
    deployment = deploy(CASES[case], secrets=["postgres"])
    namespace = deployment.named("mlflow-namespace" if case.startswith("mlflow-") else "ingress-namespace")
    level = namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert level == "baseline" or is_restricted(recording(case)["facts"])


def test_a_chart_gets_the_lower_level_only_because_it_needs_it() -> None:
    assert not is_restricted(recording("mlflow-1.8.1/least")["facts"])
    assert is_restricted(recording("mlflow-1.11.5/least")["facts"])


def is_restricted(facts: Mapping[str, Any]) -> bool:
    """Return whether all containers meet the level `restricted` of the Pod Security Standards, as far as the charts can miss it."""
    containers = [*facts["initContainers"].values(), *facts["containers"].values()]
    return all(_is_restricted(facts["pod"], container) for container in containers)


def _is_restricted(pod: Mapping[str, Any], container: Mapping[str, Any]) -> bool:
    own = container.get("securityContext", {})
    context = {**pod.get("securityContext", {}), **own}
    capabilities = own.get("capabilities", {})
    return (
        context.get("runAsNonRoot") is True
        and context.get("seccompProfile", {}).get("type") in {"RuntimeDefault", "Localhost"}
        and own.get("allowPrivilegeEscalation") is False
        and capabilities.get("drop") == ["ALL"]
        and set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"}
        and not any("hostPath" in volume for volume in pod.get("volumes", []))
    )


def test_every_recording_belongs_to_a_case() -> None:
    assert {f"{path.parent.name}/{path.stem}" for path in RECORDED.glob("*/*.json")} == set(CASES)
