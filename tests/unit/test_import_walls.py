"""The walls between the parts: the imports that docs/architecture.md allows."""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests import ROOT

SHIPPED = ("__main__", "wiring", "settings", "components", "operations", "local")
WALLS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "components know neither settings nor who uses them": (
        ("components",),
        ("settings", "wiring", "operations", "local", "tests"),
    ),
    "settings know no components": (("settings",), ("wiring", "components", "operations", "local", "tests")),
    "the program knows nothing of the local stack": (
        ("__main__", "wiring", "settings", "components", "operations"),
        ("local",),
    ),
    "the local stack knows no components": (("local",), ("components", "wiring", "settings", "operations")),
    "stand-ins of plugins know no charts": (("local/plugins",), ("local/charts",)),
    "nothing that is shipped needs the tests": (SHIPPED, ("tests",)),
}
"""Sentence to the parts behind a wall, and to the parts that they may not import. A part is a path without `.py`."""


def files(part: str) -> Iterator[Path]:
    path = ROOT / part
    yield from [path.with_suffix(".py")] if path.with_suffix(".py").is_file() else path.rglob("*.py")


def imports(path: Path) -> Iterator[str]:
    """Return the imports of a file as paths: `from local import paths` gives `local` and `local/paths`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.replace(".", "/") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = "/".join([*package, *(node.module or "").split(".")]).rstrip("/")
            yield from (module, *(f"{module}/{alias.name}" for alias in node.names))


def crossings(path: Path, forbidden: Sequence[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for name in imports(path)
        if any(name == part or name.startswith(f"{part}/") for part in forbidden)
    ]


@pytest.mark.parametrize("sentence", WALLS)
def test_a_wall_has_no_door(sentence: str) -> None:
    parts, forbidden = WALLS[sentence]
    # A string would be taken for its letters.
    assert {type(parts), type(forbidden)} == {tuple}
    checked = [path for part in parts for path in files(part)]
    assert len(checked) >= len(parts)
    assert [crossing for path in checked for crossing in crossings(path, forbidden)] == []


def test_no_component_imports_another() -> None:
    paths = [path.relative_to(ROOT).with_suffix("") for path in files("components")]
    common = {"components/__init__", "components/lookups", "components/network_rules"}
    components = {"/".join(path.parts[:2]) for path in paths} - common
    assert {"components/private_postgres", "components/mlflow_release"} <= components
    between_components = [
        crossing
        for component in components
        for path in files(component)
        for crossing in crossings(path, sorted(components - {component}))
    ]
    assert between_components == []


@pytest.mark.parametrize("common", ["components/lookups", "components/network_rules"])
def test_what_components_have_in_common_imports_no_component(common: str) -> None:
    names = [name for path in files(common) for name in imports(path) if name.startswith("components/")]
    assert [name for name in names if not name.startswith(common)] == []


@pytest.mark.parametrize(
    ("line", "forbidden"),
    [
        ("import local.paths", "local"),
        ("from local import paths", "local"),
        ("from local.plugins import aws", "local/plugins/aws"),
        ("def f():\n    from components.lookups.subnets import Subnet", "components/lookups/subnets"),
        ("from ..settings import Settings", "settings"),
        ("from . import subnets", "components/subnets"),
    ],
)
def test_every_way_to_import_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, forbidden: str
) -> None:
    monkeypatch.setattr("tests.unit.test_import_walls.ROOT", tmp_path)
    file = tmp_path / "components" / "new.py"
    file.parent.mkdir()
    file.write_text(line)
    assert crossings(file, [forbidden])
