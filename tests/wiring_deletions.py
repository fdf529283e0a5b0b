"""Deletes each keyword argument of `wiring.py` in turn and lists those that no test misses.

    .venv/bin/python -m tests.wiring_deletions

Run it after a change to the wiring or to `test_every_setting_arrives.py`. It takes some ten minutes. Each deletion is
made in a copy of the checkout.
"""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests import ROOT

WIRING = "wiring.py"
# The first file finds nearly every deletion, so the others run only for those that it misses.
TESTS = (["tests/unit/test_every_setting_arrives.py"], ["tests/unit", "tests/contract"])


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """Yield each keyword's place, and the source without it."""
    count = sum(isinstance(node, ast.keyword) for node in ast.walk(ast.parse(source)))
    for number in range(count):
        tree = ast.parse(source)
        keyword = [node for node in ast.walk(tree) if isinstance(node, ast.keyword)][number]
        call = next(node for node in ast.walk(tree) if isinstance(node, ast.Call) and keyword in node.keywords)
        call.keywords.remove(keyword)
        yield f"{WIRING}:{keyword.value.lineno} {ast.unparse(keyword)}", ast.unparse(tree)


def survives(name: str, source: str) -> bool:
    """Return True if the tests pass in a copy of the checkout with this source."""
    with tempfile.TemporaryDirectory() as folder:
        tracked = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for path in filter(lambda path: path and (ROOT / path).is_file(), tracked.split("\0")):
            copy = Path(folder, path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, copy)
        Path(folder, WIRING).write_text(source)
        for tests in TESTS:
            command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
            if subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode != 0:
                print(f"red    {name}", flush=True)
                return False
    print(f"GREEN  {name}", flush=True)
    return True


def main() -> None:
    """Print a line for each keyword, then the sum."""
    source = (ROOT / WIRING).read_text()
    if not survives("nothing deleted", source):
        sys.exit("error: the tests are red before anything is deleted")
    deletions = list(mutants(source))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        survivors = sum(pool.map(lambda mutant: survives(*mutant), deletions))
    print(f"red {len(deletions) - survivors} of {len(deletions)}")
    sys.exit(survivors > 0)


if __name__ == "__main__":
    main()
