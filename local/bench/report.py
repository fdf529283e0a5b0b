"""The report of the benchmark, as Markdown and pictures."""

import contextlib
import os
import platform
import statistics
from collections.abc import Callable, Generator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from local import paths, tools
from local.bench import serving, soak, stored_runs
from local.bench.program import Pair
from local.bench.serving import CHART, DEFAULT, NO_LOGIN, TWO_PODS, Row
from local.bench.stored_runs import Growth
from local.bench.transfers import PLAIN, Transfer
from local.http_load import MIB

GIB = 1024 * MIB
"""Bytes of a gibibyte."""
FOLDER = paths.CHECKOUT / "artifacts" / "bench"
"""Folder of the parts and the pictures."""
REPORT = FOLDER.with_suffix(".md")
"""File of the report."""
TITLES = {
    "program": "The program",
    "serving": "The server",
    "stored-runs": "Stored runs",
    "stored-values": "Stored values",
    "soak": "Soak",
    "pages": "Pages in a browser",
    "transfers": "Transfers",
}
"""Part to its title, in the order of the report."""


def machine() -> str:
    """Return a description of this machine and of the measured versions."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    return (
        f"{os.cpu_count()} cores ({cpu.partition(':')[2].strip()}), {memory:.0f} GiB, Python {platform.python_version()}, "
        f"pulumi {version('pulumi')} (CLI {tools.PULUMI_VERSION}), PostgreSQL {tools.POSTGRES_VERSION}, HAProxy {tools.HAPROXY_VERSION}"
    )


def write(part: str, lines: Sequence[str], command: str) -> None:
    """Write the file of one part, and the report from the files of all parts.

    Args:
        part: name of the part, a key of `TITLES`.
        lines: Markdown of the part.
        command: command that measured the part.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    picture = [f"![{TITLES[part]}](bench/{part}.png)", ""] if (FOLDER / f"{part}.png").exists() else []
    head = [f"## {TITLES[part]}", "", f"`{command}` on {machine()}.", ""]
    (FOLDER / f"{part}.md").write_text("\n".join([*head, *lines, "", *picture]))
    parts = [FOLDER / f"{name}.md" for name in TITLES]
    REPORT.write_text("# Benchmark\n\n" + "\n".join(file.read_text() for file in parts if file.exists()))


def program(pairs: Sequence[Pair], growth: Mapping[int, float]) -> list[str]:
    """Return the part about the program, and draw its picture."""
    rows = [[pair.name, _spread(pair.ours, 2), _spread(pair.other, 2), f"**{pair.ratio:.2f}**"] for pair in pairs]
    copies = [[str(count), f"{seconds:.1f}"] for count, seconds in growth.items()]
    first, last = min(growth), max(growth)
    each = (growth[last] - growth[first]) / (last - first)
    with _picture("program", 1) as (axis,):
        axis.plot(list(growth), list(growth.values()), marker="o")
        axis.set(title="preview that creates everything", xlabel="stacks' worth of resources", ylabel="seconds", ylim=0)
    return [
        *_table(["", "ours, s", "compared with, s", "ratio"], rows),
        "",
        *_table(["stacks' worth of resources", "preview, s"], copies),
        "",
        f"Each further stack's worth takes {each:.2f} s, {each / growth[first]:.2f} of the first.",
    ]


def server(rows: Sequence[Row], rounds: int, seconds: float) -> list[str]:
    """Return the part about the server, and draw its picture."""
    workloads = list(rows[0].windows)
    head = ["MLflow", "configuration"]
    head += [f"{name}/s" for name in workloads] + [
        "mixed p50 / p95 / p99 ms",
        "memory MiB",
        "mixed/s per GiB",
        "connections",
        "slowest probe ms",
        "failed",
    ]
    table: list[list[str]] = []
    for row in rows:
        mixed = row.windows["mixed"]
        memory = statistics.median(row.memory)
        table.append(
            [
                row.version,
                f"**{row.name}**" if row.name == DEFAULT else row.name,
                *(_spread(row.windows[name].per_second, 0) for name in workloads),
                " / ".join(f"{mixed.percentile(percent):.0f}" for percent in (50, 95, 99)),
                f"{memory / MIB:.0f}",
                f"{mixed.median / (memory / GIB):.0f}",
                str(row.connections),
                f"{max(row.probes, default=0) * 1000:.0f}",
                str(sum(window.failed for window in row.windows.values())),
            ]
        )
    _draw_server(rows)
    return [
        f"{serving.CLIENTS} clients over TLS on the same machine. {rounds} rounds, each with all rows, "
        f"{seconds:.0f} s per workload after {serving.WARM_UP:.0f} s of warm-up. Median (minimum-maximum).",
        "",
        *_table(head, table),
        "",
        *_table(["MLflow", "ratio", *workloads], _ratios(rows, workloads)),
    ]


def _ratios(rows: Sequence[Row], workloads: Sequence[str]) -> list[list[str]]:
    def memory(row: Row) -> float:
        return statistics.median(row.memory)

    def nothing(_: Row) -> float:
        return 1

    wanted: Sequence[tuple[str, str, str, Callable[[Row], float]]] = (
        ("throughput, the default here to the chart's", DEFAULT, CHART, nothing),
        ("throughput per GiB, the default here to the chart's", DEFAULT, CHART, memory),
        ("throughput, 2 replicas to the chart's", TWO_PODS, CHART, nothing),
        ("throughput, with the login to without", DEFAULT, NO_LOGIN, nothing),
    )
    by_name = {(row.version, row.name): row for row in rows}
    result: list[list[str]] = []
    for version_ in dict.fromkeys(row.version for row in rows):
        for title, ours, other, per in wanted:
            if (version_, ours) in by_name and (version_, other) in by_name:
                pair = by_name[version_, ours], by_name[version_, other]
                values = [[row.windows[name].median / per(row) for row in pair] for name in workloads]
                result.append([version_, title, *(f"{first / second:.2f}" for first, second in values)])
    return result


def stored(searches: Sequence[Growth]) -> list[str]:
    """Return the part about stored runs, and draw its picture."""
    counts = list(dict.fromkeys(one.runs for one in searches))
    by_key = {(one.search, one.indexed, one.runs): one for one in searches}
    rows: list[list[str]] = []
    with _picture("stored-runs", 1) as (axis,):
        for search in stored_runs.SEARCHES:
            for indexed in (False, True):
                series = [by_key[search, indexed, count] for count in counts]
                label = f"{search}{', with the index' if indexed else ''}"
                axis.plot(
                    counts, [one.median for one in series], marker="o", linestyle="--" if indexed else "-", label=label
                )
                rows.append([label, *(_spread(one.milliseconds, 0) for one in series)])
        axis.set(title="search for 50 runs, one client", xscale="log", xlabel="runs stored", ylabel="ms", ylim=0)
        axis.legend()
    return _table(["search, ms", *(f"{count:,} runs" for count in counts)], rows)


def endurance(hour: soak.Soak, overload: soak.Overload) -> list[str]:
    """Return the part about the soak, and draw its picture."""
    with _picture("soak", 2) as (memory, connections):
        minutes = [one.seconds / 60 for one in hour.samples]
        memory.plot(minutes, [one.memory / MIB for one in hour.samples])
        memory.set(title="memory of the pods", xlabel="minutes", ylabel="MiB (PSS)", ylim=0)
        connections.plot(minutes, [one.connections for one in hour.samples])
        connections.set(title="connections of the pods", xlabel="minutes", ylim=0)
    return [*hour.lines(), "", "With fewer connections than the pods want:", "", *overload.lines()]


def files(measured: Sequence[Transfer], mib: int, before: float, after: float) -> list[str]:
    """Return the part about transfers.

    Args:
        measured: the transfers.
        mib: MiB of each row.
        before: load average of the machine when the measurement began.
        after: load average when it ended.
    """
    plain = {one.files: one for one in measured if one.name == PLAIN}
    rows = [
        [
            one.name,
            f"{one.files} x {mib // one.files} MiB",
            *(f"{speed:.0f}" for speed in (one.up, one.down)),
            f"{one.up / plain[one.files].up:.2f} / {one.down / plain[one.files].down:.2f}",
            f"{one.memory / MIB:.0f}",
            f"{one.others * 1000:.0f}",
            str(one.failed),
        ]
        for one in sorted(measured, key=lambda one: one.files)
    ]
    head = ["", "files", "up MiB/s", "down MiB/s", "to the plain client, up / down", "pods above idle MiB"]
    return [
        f"Load average of the machine {before:.1f} at the start and {after:.1f} at the end.",
        "",
        *_table([*head, "p99 of others ms", "failed of others"], rows),
    ]


def _draw_server(rows: Sequence[Row]) -> None:
    names = [f"{row.version} {row.name}" for row in rows][::-1]
    with _picture("serving", 2, height=0.35 * len(rows) + 1.5) as (throughput, memory):
        throughput.barh(names, [row.windows["mixed"].median for row in rows][::-1])
        throughput.set(title="mixed load, requests/s")
        memory.barh(names, [statistics.median(row.memory) / MIB for row in rows][::-1], color="tab:orange")
        memory.set(title="memory of the pods, MiB", yticks=[])


@contextlib.contextmanager
def _picture(part: str, axes: int, height: float = 3.5) -> Generator[list[Any]]:
    """Provide axes side by side, and write them as the picture of a part."""
    figure = Figure(figsize=(5.5 * axes, height))
    yield list(figure.subplots(1, axes, squeeze=False)[0])
    figure.tight_layout()
    FOLDER.mkdir(parents=True, exist_ok=True)
    # matplotlib gives no type to the parameter for the file.
    figure.savefig(FOLDER / f"{part}.png", dpi=110)  # pyright: ignore[reportUnknownMemberType]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _spread(values: Sequence[float], digits: int) -> str:
    middle = f"{statistics.median(values):,.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"
