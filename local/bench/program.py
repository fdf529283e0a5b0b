"""The time of the program itself: its start, a preview without changes, a preview of several times its resources."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from local import paths
from local.pulumi_cli.engine import PROJECT, STACK
from local.stack import LocalStack, Project

COPIES = (1, 2, 4, 8)
"""Numbers of stacks' worth of resources."""
EMPTY_MAIN = '"""Nothing."""\n'
"""An empty program."""
BARE_MAIN = '''
"""The SDKs and the plugins of the program, and nothing made with them."""

import pulumi_aws
import pulumi_kubernetes
import pulumi_postgresql
import pulumi_random

pulumi_aws.Provider("aws", region="eu-west-1")
pulumi_kubernetes.Provider("kubernetes")
pulumi_postgresql.Provider("postgresql", host="127.0.0.1")
pulumi_random.Provider("random")
'''
"""A program that imports the same SDKs, starts the same plugins and creates no resources."""
SMALLEST = """
for number in range({count}):
    pulumi_random.RandomId(f"number-{{number}}", byte_length=4)
"""
"""Code that creates `count` of the smallest resource."""
MANY_MAIN = '''
"""The program, so many times, each time with other logical names."""

import os
import runpy
import sys

import pulumi

sys.path.insert(0, os.environ["CHECKOUT"])
plain = pulumi.Resource.__init__
prefix = ""


def named(self, t, name, *more, **others):
    plain(self, t, prefix + name, *more, **others)


pulumi.Resource.__init__ = named
for number in range(int(os.environ["COPIES"])):
    prefix = f"n{number}-"
    runpy.run_path(os.path.join(os.environ["CHECKOUT"], "__main__.py"), run_name="__main__")
'''
"""A program that runs this repository's program COPIES times, each time with a prefix for the logical names."""
STARTED = """
import os, runpy, sys, types
import pulumi

class Stop(pulumi.runtime.Mocks):
    def new_resource(self, args):
        self.stop()
    def call(self, args):
        self.stop()
    def stop(self):
        # The SDKs register modules that they load only when they are used.
        loaded = [name for name, module in sys.modules.items() if type(module) is types.ModuleType]
        sys.stdout.write("\\n".join(name for name in loaded if name.partition(".")[0].startswith(("pulumi", "pydantic"))))
        sys.stdout.flush()
        os._exit(0)

pulumi.runtime.set_mocks(Stop(), project="mlflow-eks", stack="dev")
pulumi.runtime.set_all_config({
    "mlflow-eks:cluster": '{"name": "a"}', "mlflow-eks:mlflow": '{"host": "mlflow.example.com"}', "aws:region": "eu-west-1",
})
runpy.run_path("__main__.py", run_name="__main__")
"""
"""Code that runs the program up to its first registration, and prints the SDKs' modules that are loaded by then."""
IMPORTS = """
import importlib, os, sys

for name in sys.stdin.read().split():
    importlib.import_module(name)
os._exit(0)
"""
"""Code that imports the modules that standard input names."""


@dataclass(frozen=True)
class Pair:
    """The times of two tasks that ran alternately."""

    name: str
    """Name of the comparison."""
    ours: Sequence[float]
    """Seconds of this program."""
    other: Sequence[float]
    """Seconds of the other task."""

    @property
    def ratio(self) -> float:
        """Ratio of the medians, ours to the other."""
        return statistics.median(self.ours) / statistics.median(self.other)


def seconds(task: Callable[[], object]) -> float:
    """Run a task and return the seconds that it took."""
    began = time.monotonic()
    task()
    return time.monotonic() - began


def start(runs: int) -> Pair:
    """Compare the program up to its first registration with an import of the SDKs' modules that are loaded by then."""
    modules = _python(STARTED, "").stdout
    title = "start to first registration / import of the SDKs"
    return _in_turns(title, runs, partial(_python, STARTED, ""), partial(_python, IMPORTS, modules))


def no_change(stack: LocalStack, runs: int) -> list[Pair]:
    """Compare a preview and an up of an unchanged stack with those of three other programs.

    The first program is empty. The second imports the same SDKs and starts the same plugins. The third also has as many
    resources, of the smallest type: the time above that one is the program's own.

    Raises:
        CommandError: the stack has no state that can be read.
        RuntimeError: a pulumi command failed.
    """
    resources = json.loads(stack.pulumi("stack", "export").stdout)["deployment"]["resources"]
    count = sum(not resource["type"].startswith("pulumi:") for resource in resources)
    empty = Project(stack, "empty", EMPTY_MAIN)
    bare = Project(stack, "bare", BARE_MAIN)
    smallest = Project(stack, "smallest", BARE_MAIN + SMALLEST.format(count=count))
    for filled in (bare, smallest):
        filled.pulumi("up", "--yes", "--skip-preview")
    others = {
        "empty program": empty,
        "the same SDKs and plugins, no resources": bare,
        "the same SDKs and plugins, as many of the smallest resource": smallest,
    }
    local = ("--stack", STACK, "--config-file", str(stack.folder / "project" / f"Pulumi.{STACK}.yaml"))
    pairs: list[Pair] = []
    for name, command in {"preview": ("preview",), "up": ("up", "--yes", "--skip-preview")}.items():
        ours = partial(empty.pulumi, *command, *local, cwd=paths.CHECKOUT)
        for title, other in others.items():
            pairs.append(_in_turns(f"no-op {name} / {title}", runs, ours, partial(other.pulumi, *command)))
    return pairs


def growth(stack: LocalStack, runs: int, say: Callable[[str], None]) -> dict[int, float]:
    """Return the median seconds of a preview that creates 1, 2, 4 and 8 stacks' worth of resources.

    Raises:
        CommandError: a preview failed.
    """
    # A setting belongs to the project in its name, so the copies of this program need this project's name.
    many = Project(stack, "many", MANY_MAIN, project=PROJECT)
    settings = (stack.folder / "project" / f"Pulumi.{STACK}.yaml").read_text()
    file = many.folder / "Pulumi.many.yaml"
    file.write_text((file.read_text() if file.exists() else "") + settings[settings.index("config:") :])
    result: dict[int, float] = {}
    for copies in COPIES:
        say(f"a preview of {copies} stacks' worth of resources")
        preview = partial(many.pulumi, "preview", COPIES=str(copies), CHECKOUT=str(paths.CHECKOUT))
        times = [seconds(preview) for _ in range(runs)]
        result[copies] = statistics.median(times)
    return result


def _in_turns(name: str, runs: int, ours: Callable[[], object], other: Callable[[], object]) -> Pair:
    pairs = [(seconds(ours), seconds(other)) for _ in range(runs + 1)]
    # The first run of each fills the disk's cache and does not count.
    return Pair(name, [first for first, _ in pairs[1:]], [second for _, second in pairs[1:]])


def _python(code: str, stdin: str) -> subprocess.CompletedProcess[str]:
    clean: Mapping[str, str] = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=paths.CHECKOUT,
        env=clean,
        input=stdin,
        capture_output=True,
        text=True,
        check=True,
    )
