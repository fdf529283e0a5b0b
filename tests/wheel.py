"""The package `mlflow_eks`, as `pip install .` makes it."""

import subprocess
import sys
from pathlib import Path

from tests import ROOT


def install(folder: Path) -> None:
    """Install the package and nothing else into a folder, without a network: the build system is in the virtualenv."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    alone = ["--no-index", "--no-build-isolation", "--no-deps", "--no-compile"]
    subprocess.run([*pip, *alone, "--target", folder, ROOT], check=True)
