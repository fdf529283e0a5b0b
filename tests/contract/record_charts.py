"""Record the output of the two real charts for the program's values (``make chart-facts``).

Helm renders the charts from the folder in ``CHARTS``, where they are unpacked (``mlflow-1.11.5/Chart.yaml``), or from
their repositories. Helm also checks the values against the chart's schema, so recorded values have passed the schema.
Recordings contain facts and no text of a chart: for a script, only its hash; of the schema, the rules for single values.
"""

import configparser
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.contract import value_rules
from tests.contract.cases import CASES, release
from tests.contract.recordings import without_null, write

KUBERNETES = "1.34.0"
"""Kubernetes version for the charts, which render some parts differently by version."""

_CONTAINER = (
    "name",
    "image",
    "command",
    "resources",
    "securityContext",
    "ports",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
)
_POD = (
    "affinity",
    "imagePullSecrets",
    "securityContext",
    "terminationGracePeriodSeconds",
    "topologySpreadConstraints",
    "volumes",
)


def unpacked(helm: str, folder: Path, inputs: Mapping[str, Any]) -> Path:
    """Return the folder of a release's chart, fetched into this folder unless it is there.

    Raises:
        SystemExit: with Helm's own message, for example if the repository cannot be reached.
    """
    chart, version = inputs["chart"], inputs["version"]
    target = folder / f"{chart}-{version}"
    if not target.is_dir():
        source = ["--repo", inputs["repositoryOpts"]["repo"], "--version", version]
        command = [helm, "pull", chart, *source, "--untar", "--untardir", f"{target}.pulled"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            sys.exit(f"error: {chart} {version}: {run.stderr.strip()}")
        Path(f"{target}.pulled", chart).rename(target)
    return target


def rendered(helm: str, source: Path, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the objects that the chart renders from a release's values.

    Raises:
        SystemExit: with Helm's own message, for example about a value that the chart's schema or `helm lint --strict` refuses.
    """
    chart, version = inputs["chart"], inputs["version"]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as values:
        json.dump(inputs["values"], values)
        values.flush()
        options = ["--namespace", inputs["namespace"], "--values", values.name]
        lint = [helm, "lint", "--strict", str(source), *options]
        linted = subprocess.run(lint, capture_output=True, text=True, check=False)
        if linted.returncode:
            sys.exit(f"error: {chart} {version}: {linted.stdout.strip()}\n{linted.stderr.strip()}")
        template = [helm, "template", inputs["name"], str(source), *options, "--kube-version", KUBERNETES]
        run = subprocess.run(template, capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(f"error: {chart} {version}: {run.stderr.strip()}")
    return [item for item in yaml.safe_load_all(run.stdout) if item]


def facts(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Reduce rendered objects to the facts that the local stack and the controls use."""

    def each(kind: str) -> list[Mapping[str, Any]]:
        return [item for item in items if item["kind"] == kind]

    def named(objects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {item["metadata"]["name"]: item for item in objects}

    (deployment,) = each("Deployment")
    template = deployment["spec"]["template"]
    pod = template["spec"]
    return {
        "objects": {f"{item['kind']}/{item['metadata']['name']}": True for item in items},
        "replicas": deployment["spec"].get("replicas"),
        "strategy": deployment["spec"].get("strategy"),
        "podAnnotations": _without_checksums(template["metadata"].get("annotations", {})),
        "pod": {name: pod[name] for name in _POD if name in pod},
        "initOrder": [each["name"] for each in pod.get("initContainers", [])],
        "initContainers": {each["name"]: _container(each) for each in pod.get("initContainers", [])},
        "containers": {each["name"]: _container(each) for each in pod["containers"]},
        "services": {name: _annotated(item) for name, item in named(each("Service")).items()},
        "ingresses": {name: _annotated(item) for name, item in named(each("Ingress")).items()},
        "ingressClasses": {name: _annotated(item) for name, item in named(each("IngressClass")).items()},
        "configMaps": {name: _entries(item.get("data") or {}) for name, item in named(each("ConfigMap")).items()},
        "autoscalers": {name: item["spec"] for name, item in named(each("HorizontalPodAutoscaler")).items()},
        "serviceMonitors": {name: item["metadata"]["labels"] for name, item in named(each("ServiceMonitor")).items()},
        "disruptionBudgets": {name: item["spec"] for name, item in named(each("PodDisruptionBudget")).items()},
        "serviceAccounts": {
            name: {
                "annotations": item["metadata"].get("annotations"),
                "automountServiceAccountToken": item.get("automountServiceAccountToken"),
            }
            for name, item in named(each("ServiceAccount")).items()
        },
    }


def _annotated(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"annotations": item["metadata"].get("annotations"), "spec": item["spec"]}


def _without_checksums(annotations: Mapping[str, str]) -> dict[str, str]:
    return {name: "" if name.startswith("checksum/") else value for name, value in annotations.items()}


def _container(container: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: container[name] for name in _CONTAINER if name in container},
        "args": [fingerprint(argument) for argument in container.get("args", [])],
        "env": {variable["name"]: _value(variable) for variable in container.get("env", [])},
        "envFrom": [
            f"{kind}:{source['name']}" for entry in container.get("envFrom", []) for kind, source in entry.items()
        ],
        "volumeMounts": [
            {name: mount[name] for name in ("name", "mountPath", "subPath") if name in mount}
            for mount in container.get("volumeMounts", [])
        ],
    }


def _value(variable: Mapping[str, Any]) -> Any:
    if "valueFrom" not in variable:
        return variable.get("value", "")
    source = variable["valueFrom"]
    if "secretKeyRef" in source:
        return f"secret:{source['secretKeyRef']['name']}/{source['secretKeyRef']['key']}"
    return source


def _entries(data: Mapping[str, str]) -> dict[str, Any]:
    return {name: _ini(text) if name.endswith(".ini") else fingerprint(text) for name, text in data.items()}


def _ini(text: str) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(text)
    return {section: dict(parser[section]) for section in parser.sections()}


def fingerprint(text: str) -> str:
    """Return a single line unchanged, and the hash of a longer text."""
    return text if "\n" not in text.strip() else f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def main() -> None:
    """Record every case, and remove the recordings of cases that no longer exist."""
    helm = shutil.which("helm")
    if not helm:
        sys.exit("error: helm is not on PATH; `make chart-facts` needs it to render the charts")
    recordings: dict[str, dict[str, Any]] = {}
    rules: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as fetched:
        for case in CASES:
            inputs = release(case)
            source = unpacked(helm, Path(os.environ.get("CHARTS") or fetched), inputs)
            recordings[case] = {"values": inputs["values"], "facts": facts(rendered(helm, source, inputs))}
            schema = source / "values.schema.json"
            if schema.is_file():
                chart = rules.setdefault(case.partition("/")[0], {})
                chart |= value_rules.rules_of(json.loads(schema.read_text()), without_null(inputs["values"]))
            print(case)
    write(recordings, rules)


if __name__ == "__main__":
    main()
