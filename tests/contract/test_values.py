"""The program's values are those that the real charts accepted, and the charts' output is what the program intends."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.contract import value_rules
from tests.contract.cases import CASES, release
from tests.contract.recordings import RECORDED, recording, without_null
from tests.unit.harness import changed, deploy


@pytest.mark.parametrize("case", CASES)
def test_the_values_are_those_that_the_chart_accepted(case: str) -> None:
    assert without_null(release(case)["values"]) == recording(case)["values"], (
        "the real chart was not rendered with these values; run `make chart-facts`, which needs helm, and commit its files"
    )


@pytest.mark.parametrize("case", CASES)
def test_the_values_keep_the_charts_rules(case: str) -> None:
    assert value_rules.release_faults(release(case)) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"replicaCount": "2"}, ".replicaCount: '2' is not of type 'integer'"),
        ({"extraArgs": {"workers": 2}}, ".extraArgs.workers: 2 is not of type 'string'"),
        ({"auth.defaultPermission": "ALL"}, ".auth.defaultPermission: 'ALL' is not one of"),
        ({"replicaCounts": 2}, ".*: the chart's rule is not recorded"),
    ],
)
def test_a_value_that_a_chart_refuses_is_found(change: dict[str, Any], fault: str) -> None:
    inputs = release("mlflow-1.11.5/least")
    (found,) = value_rules.release_faults({**inputs, "values": changed(inputs["values"], change)})
    assert found.startswith(fault)


@pytest.mark.parametrize("case", CASES)
def test_the_namespace_admits_the_pods_of_the_chart(case: str) -> None:
    deployment = deploy(CASES[case], secrets=["mlflow", "postgres"])
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
