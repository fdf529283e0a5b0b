"""Packages are installed as reviewed: pinned, with hashes, from the registry that the machine has configured."""

import re
import subprocess
from pathlib import Path

import pytest

from tests import ROOT

# The names are in parts, because the test searches this file, too.
REGISTRIES = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("yarnpkg", "com"),
        ("proxy", "golang", "org"),
        ("sum", "golang", "org"),
        ("goproxy", "io"),
        ("crates", "io"),
        ("rubygems", "org"),
        ("anaconda", "org"),
        ("get", "pulumi", "com"),
    )
]
INDEX_OPTIONS = re.compile(
    r"--(extra-)?index-url|--find-links|--trusted-host|\b(UV|PIP)_(EXTRA_)?INDEX|GOPROXY|npm_config_registry"
)


def tracked() -> list[Path]:
    """Return the files of the repository, including new ones that are not committed yet."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    return [file for name in listed.decode().split("\0") if name and (file := ROOT / name).is_file()]


LOCKED = [file for file in tracked() if re.fullmatch(r"requirements.*\.txt", file.name)]

by_locked_file = pytest.mark.parametrize("file", LOCKED, ids=lambda file: file.name)


def requirements(file: Path) -> list[str]:
    """Return the requirements of a file, each on one line, without comments."""
    text = re.sub(r"\\\n", " ", re.sub(r"(^|\s)#.*", "", file.read_text()))
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def test_the_lock_files_are_found() -> None:
    assert {file.relative_to(ROOT).as_posix() for file in LOCKED} == {
        "requirements.txt",
        "requirements-dev.txt",
        "local/requirements-mlflow-3.15.1.txt",
        "local/requirements-mlflow-3.17.2.txt",
        "local/requirements-mlflow-3.7.0.txt",
    }


@by_locked_file
def test_every_package_is_pinned_to_one_version_and_its_files_to_their_hashes(file: Path) -> None:
    pinned = re.compile(r"[A-Za-z0-9._-]+(\[[A-Za-z0-9,._-]+\])?==[^\s;*]+( ; [^#]+?)?( --hash=sha256:[0-9a-f]{64})+")
    assert requirements(file)
    assert [line[:80] for line in requirements(file) if not pinned.fullmatch(line)] == []


@by_locked_file
def test_everything_that_is_asked_for_is_in_the_lock_file(file: Path) -> None:
    names = {_normal(re.split(r"[\[=]", line)[0]) for line in requirements(file)}
    wanted = [line for line in requirements(file.with_suffix(".in")) if not line.startswith("-")]
    assert wanted
    assert {_normal(re.split(r"[\[=<>~! ;]", line)[0]) for line in wanted} - names == set(), "run `make lock`"


def test_a_package_has_one_version_in_the_program_and_in_development() -> None:
    versions = [
        dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE))
        for name in ("requirements.txt", "requirements-dev.txt")
    ]
    program, development = versions
    assert {name: version for name, version in program.items() if development.get(name) != version} == {}


def test_no_file_says_where_a_package_registry_is() -> None:
    # Each machine configures its own registry, which can be a mirror or a proxy. A host in a file would bypass it, or
    # publish the name of a private one.
    named: dict[str, list[str]] = {}
    for file in tracked():
        text = file.read_bytes().decode(errors="replace").lower()
        if hosts := [host for host in REGISTRIES if host in text]:
            named[file.relative_to(ROOT).as_posix()] = hosts
    assert named == {}


def test_no_file_chooses_another_package_index() -> None:
    this = Path(__file__)
    chosen = {
        file.relative_to(ROOT).as_posix(): match[0]
        for file in tracked()
        if file != this and (match := INDEX_OPTIONS.search(file.read_bytes().decode(errors="replace")))
    }
    assert chosen == {}


def test_whatever_installs_a_lock_file_wants_its_hashes() -> None:
    makefile, tools = (ROOT / "Makefile").read_text(), (ROOT / "local" / "tools.py").read_text()
    assert re.findall(r"pip sync .*--require-hashes", makefile)
    assert re.findall(r"_install_python_packages\(tool, .*--require-hashes", tools)


def test_every_go_module_has_its_hash() -> None:
    folder = ROOT / "local" / "pulumi_cli" / "go"
    required = re.findall(
        r"^\s*(?:require )?([\w./~-]+\.[\w./~-]+) (v\S+)", (folder / "go.mod").read_text(), re.MULTILINE
    )
    sums = (folder / "go.sum").read_text()
    assert required
    assert [f"{name} {version}" for name, version in required if f"{name} {version}/go.mod h1:" not in sums] == []


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
