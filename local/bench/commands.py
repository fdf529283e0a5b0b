"""The command line of the benchmark, and the order of its parts on one local stack."""

import argparse
import contextlib
import os
import shlex
import shutil
from collections.abc import Generator, Sequence
from datetime import datetime

from local import paths
from local.bench import pages, program, report, serving, soak, stored_runs, stored_values, transfers
from local.charts.mlflow import APP_VERSIONS
from local.stack import LocalStack, free_ports


def main(arguments: Sequence[str]) -> int:
    """Measure the parts that the arguments name, and return the exit code.

    Raises:
        CommandError: a command of the stack failed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m local.bench", description="Measure; the report is artifacts/bench.md."
    )
    parser.add_argument(
        "part", nargs="*", choices=[*report.TITLES, "all"], default="all", help="default: all, which takes two hours"
    )
    parser.add_argument("--rounds", type=int, default=3, help="number of measurements of each row; default: 3")
    parser.add_argument(
        "--seconds", type=float, default=4, help="seconds of measured load on the server in each round; default: 4"
    )
    names = list(dict.fromkeys(one.name for rows in serving.CONFIGURATIONS.values() for one in rows))
    parser.add_argument(
        "--row",
        action="append",
        choices=names,
        metavar="NAME",
        help=f"measure only this row of the server; can be repeated; {', '.join(map(repr, names))}",
    )
    parser.add_argument("--mib", type=int, default=1024, help="size of the transferred file in MiB; default: 1024")
    parser.add_argument("--s3", metavar="URL", help="S3 of the transfers, with a bucket of the stack's name")
    parser.add_argument("--minutes", type=float, default=60, help="minutes of the soak; default: 60")
    options = parser.parse_args(arguments)
    parts = list(report.TITLES) if "all" in options.part else options.part
    command = shlex.join(["python", "-m", "local.bench", *arguments])
    with _stack("bench") as stack:
        _on_a_stack(stack, parts, options, command)
    print(f"The report is {report.REPORT}")
    return 0


def _on_a_stack(stack: LocalStack, parts: Sequence[str], options: argparse.Namespace, command: str) -> None:
    if "serving" in parts:
        rows: list[serving.Row] = []
        # An older MLflow refuses the tables of a newer one, so the older version must be deployed first.
        for chart, version in sorted(APP_VERSIONS.items(), key=lambda item: tuple(map(int, item[1].split(".")))):
            stack.up(mlflow__chartVersion=chart, mlflow__workers=serving.DEFAULT_WORKERS)
            wanted = options.row or [one.name for one in serving.CONFIGURATIONS[version]]
            configurations = [one for one in serving.CONFIGURATIONS[version] if one.name in wanted]
            rows += serving.measure(stack, version, configurations, options.rounds, options.seconds, say)
        report.write("serving", report.server(rows, options.rounds, options.seconds), command)
    if "stored-values" in parts:
        with _stack("bench-values") as other:
            report.write("stored-values", stored_values.lines(stored_values.measure(other, say)), command)
    if set(parts) <= {"serving", "stored-values"}:
        return
    stack.command("up")
    if "program" in parts:
        say("the program, without changes")
        pairs = [program.start(options.rounds), *program.no_change(stack, options.rounds)]
        report.write("program", report.program(pairs, program.growth(stack, options.rounds, say)), command)
    if "stored-runs" in parts:
        searches = stored_runs.measure(stack, 5 * options.rounds, say)
        report.write("stored-runs", report.stored(searches), command)
    if not {"soak", "pages", "transfers"}.isdisjoint(parts):
        stack.up(mlflow__workers=serving.DEFAULT_WORKERS)
    if "soak" in parts:
        hour = soak.soak(stack, options.minutes, say)
        report.write("soak", report.endurance(hour, soak.overload(stack, 60, say)), command)
    if "pages" in parts:
        report.write("pages", pages.lines(pages.measure(stack, 3 * options.rounds, say)), command)
    if "transfers" in parts:
        before = os.getloadavg()[0]
        sent = transfers.measure(stack, options.mib, options.s3, say)
        report.write("transfers", report.files(sent, options.mib, before, os.getloadavg()[0]), command)


@contextlib.contextmanager
def _stack(name: str) -> Generator[LocalStack]:
    stack = LocalStack(paths.home() / "stacks" / name, *free_ports())
    try:
        yield stack
    finally:
        # Other projects were deployed in this stack's folder, too, and `down` would not destroy those. `--force`
        # deletes all.
        stack.command("down", "--force", ok=False)
        shutil.rmtree(stack.folder, ignore_errors=True)


def say(text: str) -> None:
    """Print a line with the time."""
    print(f"{datetime.now():%H:%M:%S} {text}", flush=True)
