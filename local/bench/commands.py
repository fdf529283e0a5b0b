"""The parts of the benchmark, and in which order they share a stack."""

import argparse
import contextlib
import shlex
import shutil
from collections.abc import Generator, Sequence
from datetime import datetime

from local import paths
from local.bench import program, report, serving, soak, stored_runs
from local.charts.mlflow import APP_VERSIONS
from local.stack import LocalStack, free_ports


def main(arguments: Sequence[str]) -> int:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure; the report is artifacts/bench.md.")
    parser.add_argument("part", nargs="*", choices=[*report.TITLES, []], help="default: all, which takes two hours")
    parser.add_argument("--rounds", type=int, default=3, help="how often each thing is measured; default: 3")
    parser.add_argument("--seconds", type=float, default=4, help="of a server's load that counts, a round; default: 4")
    names = list(dict.fromkeys(one.name for rows in serving.CONFIGURATIONS.values() for one in rows))
    parser.add_argument(
        "--row",
        action="append",
        choices=names,
        metavar="NAME",
        help=f"of the server: only these rows, for more rounds in the same time; {', '.join(map(repr, names))}",
    )
    parser.add_argument("--minutes", type=float, default=60, help="of the soak; default: 60")
    given = parser.parse_args(arguments)
    parts = given.part or list(report.TITLES)
    command = shlex.join(["python", "-m", "local.bench", *arguments])
    with _stack("bench") as stack:
        _on_a_stack(stack, parts, given, command)
    print(f"The report is {report.REPORT}")
    return 0


def _on_a_stack(stack: LocalStack, parts: Sequence[str], given: argparse.Namespace, command: str) -> None:
    if "serving" in parts:
        rows: list[serving.Row] = []
        # A stack whose settings can be changed before its first up: the older MLflow refuses the newer one's tables.
        stack.command("preview")
        for chart, version in sorted(APP_VERSIONS.items(), key=lambda item: tuple(map(int, item[1].split(".")))):
            stack.up(mlflow__chartVersion=chart, mlflow__workers=serving.DEFAULT_WORKERS)
            wanted = given.row or [one.name for one in serving.CONFIGURATIONS[version]]
            configurations = [one for one in serving.CONFIGURATIONS[version] if one.name in wanted]
            rows += serving.measure(stack, version, configurations, given.rounds, given.seconds, say)
        report.write("serving", report.server(rows, given.rounds, given.seconds), command)
    stack.command("up")
    if "program" in parts:
        say("the program, without changes")
        pairs = [program.start(given.rounds), *program.no_change(stack, given.rounds)]
        report.write("program", report.program(pairs, program.growth(stack, given.rounds, say)), command)
    if "stored-runs" in parts:
        found = stored_runs.measure(stack, 5 * given.rounds, say)
        report.write("stored-runs", report.stored(found), command)
    if "soak" in parts:
        stack.up(mlflow__workers=serving.DEFAULT_WORKERS)
        hour = soak.soak(stack, given.minutes, say)
        report.write("soak", report.endurance(hour, soak.overload(stack, 60, say)), command)


@contextlib.contextmanager
def _stack(name: str) -> Generator[LocalStack]:
    stack = LocalStack(paths.home() / "stacks" / name, *free_ports())
    try:
        yield stack
    finally:
        # Programs of other projects were on its engine; the stack goes as a whole.
        stack.command("down", "--force", ok=False)
        shutil.rmtree(stack.folder, ignore_errors=True)


def say(text: str) -> None:
    """Show what is going on."""
    print(f"{datetime.now():%H:%M:%S} {text}", flush=True)
