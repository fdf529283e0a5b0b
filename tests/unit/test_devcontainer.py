"""The container for development has what the local stack asks of a machine. No test builds it."""

import json
import re
import shlex
from typing import Any

import pytest

from local.pulumi_cli.engine import HTTP_PORT, HTTPS_PORT
from tests import ROOT

DOCKERFILE = (ROOT / ".devcontainer/Dockerfile").read_text().replace("\\\n", " ")
INSTRUCTIONS = [line.split(maxsplit=1) for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]


def instructions(name: str) -> list[str]:
    return [text for instruction, text in INSTRUCTIONS if instruction == name]


@pytest.fixture(scope="module")
def container() -> dict[str, Any]:
    return json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())


def test_it_is_the_platform_that_the_local_stack_runs_on(container: dict[str, Any]) -> None:
    (base,) = instructions("FROM")
    assert base.startswith("--platform=linux/amd64 ")
    assert "--platform=linux/amd64" in container["runArgs"]


def test_its_base_is_an_official_image_with_the_oldest_python_that_is_supported() -> None:
    (image,) = [word for word in instructions("FROM")[0].split() if not word.startswith("--")]
    oldest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert oldest
    assert image.startswith(f"python:{oldest[1]}-")


def test_it_has_the_packages_that_only_root_can_install() -> None:
    wanted = re.findall(r"missing\+=\(([^)]+)\)", (ROOT / ".ci/run").read_text())
    assert wanted
    installed = shlex.split(" ".join(instructions("RUN")))
    assert {package for packages in wanted for package in packages.split()} <= set(installed)


def test_nothing_runs_as_root_and_what_is_installed_outlives_the_container(container: dict[str, Any]) -> None:
    (user,) = instructions("USER")
    assert container["remoteUser"] == user != "root"
    (home,) = [value for name, value in (text.split("=") for text in instructions("ENV")) if name == "MLFLOW_EKS_HOME"]
    assert home.startswith(f"/home/{user}/")
    volumes = [re.search("target=([^,]+)", mount) for mount in container["mounts"]]
    assert [found[1] for found in volumes if found] == [home, f"{container['workspaceFolder']}/.venv"]


def test_the_ports_of_the_local_stack_are_forwarded(container: dict[str, Any]) -> None:
    assert container["forwardPorts"] == [HTTP_PORT, HTTPS_PORT]
