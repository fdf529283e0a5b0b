"""The package `mlflow_eks`: complete, typed, at work without this checkout, and the program of its page makes two whole sites."""

import ast
import importlib.metadata
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import ROOT
from tests.docs_commands import blocks
from tests.unit.harness import Deployment, deploy
from tests.wheel import install

PAGE = "docs/use-a-component.md"

IMPORT_ALL = """
import importlib, importlib.util, pkgutil, sys

sys.path.insert(0, sys.argv[1])
import mlflow_eks

for module in pkgutil.walk_packages(mlflow_eks.__path__, "mlflow_eks."):
    # The pods have what these import; here they are files only.
    if ".pod_code." not in module.name:
        importlib.import_module(module.name)
        print(module.name)

from mlflow_eks.mlflow_release.login_code import CODE

assert (CODE / "ldap_login.py").read_text()
assert importlib.util.find_spec("components") is None
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the package."""
    folder = tmp_path_factory.mktemp("installed")
    install(folder)
    return folder


def files(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_package_is_the_folder_of_components_and_nothing_else(installed: Path) -> None:
    assert files(installed / "mlflow_eks") == files(ROOT / "components")
    others = {path.name for path in installed.iterdir()} - {"mlflow_eks"}
    assert others == {f"mlflow_eks-{_project()['version']}.dist-info"}


def test_the_package_says_that_it_is_typed(installed: Path) -> None:
    assert (installed / "mlflow_eks" / "py.typed").exists()


def test_every_module_works_without_this_checkout(installed: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-c", IMPORT_ALL, installed]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {"mlflow_eks.mlflow_release.chart_values", "mlflow_eks.private_postgres"} <= set(done.stdout.split())


def test_the_package_asks_for_what_it_imports(installed: Path) -> None:
    (distribution,) = importlib.metadata.distributions(path=[str(installed)])
    asked = {canonicalize_name(Requirement(line).name) for line in distribution.requires or ()}
    imported = {name for path in (ROOT / "components").rglob("*.py") for name in _imports(path)}
    # What runs in the pods is in MLflow's image.
    assert asked == {canonicalize_name(name) for name in imported}


def test_the_versions_that_the_program_pins_are_in_the_ranges_of_the_package() -> None:
    pins = dict(line.split("==") for line in (ROOT / "requirements.in").read_text().splitlines() if "==" in line)
    ranges = {one.name: one.specifier for one in map(Requirement, _project()["dependencies"])}
    assert ranges.keys() == pins.keys()
    assert [name for name, version in pins.items() if version not in ranges[name]] == []


@pytest.fixture
def page(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """The program of the page, run with the installed package."""
    monkeypatch.syspath_prepend(installed)
    (program,) = [block.text for block in blocks(PAGE) if block.language == "python"]
    settings = {"server": "db.example.com", "context": "my-cluster", "password": "of the administrator"}
    return deploy({}, secrets=["password"], as_written=settings, program=lambda: exec(program, {}))


def test_the_program_of_the_page_has_ten_lines() -> None:
    (program,) = [block.text for block in blocks(PAGE) if block.language == "python"]
    lines = [line for line in program.splitlines() if line and not line.startswith(("import ", "from "))]
    assert len(lines) == 10


def test_the_program_of_the_page_makes_two_whole_sites_with_one_ingress_and_no_name_twice(page: Deployment) -> None:
    releases = [one["namespace"] for one in page.of_type("kubernetes:helm.sh/v3:Release")]
    assert sorted(releases) == ["blue", "haproxy", "red"]
    assert {one["name"] for one in page.of_type("postgresql:index/database:Database")} == {"red", "blue"}
    assert [name for name, count in Counter(_names(page)).items() if count > 1] == []


def _names(deployment: Deployment) -> Iterator[tuple[str, ...]]:
    """Yield the name of each resource in the state, and the name that its cluster or server knows it by."""
    for one in deployment.resources:
        yield one.type, one.name
        if "metadata" in one.inputs:
            yield one.type, one["metadata"].get("namespace", ""), one["metadata"]["name"]
        elif one.type.startswith("kubernetes:helm"):
            yield one.type, one["namespace"], one["name"]
        elif one.type.startswith("postgresql:"):
            yield (
                one.type,
                *(str(one.inputs.get(key, "")) for key in ("database", "schema", "objectType", "role", "name")),
            )


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _imports(path: Path) -> Iterator[str]:
    """Yield the packages outside the standard library that a file of the components imports."""
    if "pod_code" in path.parts:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        yield from {name.partition(".")[0] for name in names} - sys.stdlib_module_names
