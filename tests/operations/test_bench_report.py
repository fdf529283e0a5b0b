"""The report of `make bench`."""

from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

from local.bench import commands, pages, report, soak
from local.bench.program import Pair
from local.bench.serving import CHART, CONFIGURATIONS, DEFAULT, NO_LOGIN, Row, Window
from local.bench.stored_runs import SEARCHES, Growth
from local.bench.transfers import DIRECT, PLAIN, Transfer
from local.http_load import MIB, Load


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(report, "FOLDER", tmp_path / "bench")
    monkeypatch.setattr(report, "REPORT", tmp_path / "bench.md")
    return tmp_path


def row(name: str, per_second: float, memory: int) -> Row:
    loads = ("create-run", "log-batch", "search-runs", "mixed")
    windows = {load: Window([per_second, per_second, per_second * 100], [0.010] * 98 + [0.5, 0.5]) for load in loads}
    return Row("3.15.1", name, windows, [memory * MIB], connections=9, probes=[0.03, 0.25])


def load(answers: Counter[str]) -> Load:
    return Load(cast(Any, None), None, cast(Any, None), answers=answers, seconds=100)


def test_a_ratio_is_one_of_medians_so_that_one_slow_run_does_not_count() -> None:
    assert Pair("", ours=[3, 3, 90], other=[2, 2, 2]).ratio == 1.5


def test_the_server_is_held_against_the_chart_and_against_no_login() -> None:
    rows = [row(CHART, 8, 2048), row(DEFAULT, 90, 512), row(NO_LOGIN, 100, 500)]
    said = "\n".join(report.server(rows, rounds=3, seconds=4))
    assert "| 3.15.1 | throughput, the default here to the chart's | 11.25 | 11.25 | 11.25 | 11.25 |" in said
    assert "| 3.15.1 | throughput per GiB, the default here to the chart's | 45.00 | 45.00 | 45.00 | 45.00 |" in said
    assert "| 3.15.1 | throughput, with the login to without | 0.90 | 0.90 | 0.90 | 0.90 |" in said
    assert "| 10 / 10 / 500 | 512 | 180 | 9 | 250 | 0 |" in said


def test_every_version_is_measured_against_the_chart_and_without_a_login() -> None:
    for configurations in CONFIGURATIONS.values():
        assert {CHART, DEFAULT, NO_LOGIN} <= {one.name for one in configurations}


def test_memory_that_grows_only_while_caches_fill_is_no_growth() -> None:
    filling = [soak.Sample(second, (300 + second) * MIB, 9, 0) for second in range(0, 600, 10)]
    settled = [soak.Sample(second, 400 * MIB, 9, 0) for second in range(600, 3600, 10)]
    assert soak.Soak(60, load(Counter()), [*filling, *settled]).growth == pytest.approx(0)


def test_a_leak_shows_as_mebibytes_an_hour() -> None:
    samples = [soak.Sample(second, int((400 + second / 60) * MIB), 9, 0) for second in range(0, 3600, 10)]
    hour = soak.Soak(60, load(Counter({"200": 998, "503": 2})), samples)
    assert "growth +60.0 MiB an hour" in hour.lines()[1]
    assert "2 of 1000 requests failed" in hour.lines()[0]


def test_an_overload_that_is_not_recovered_from_is_said() -> None:
    bad = soak.Overload(16, 8, Counter({"503": 3}), ["TEMPORARILY_UNAVAILABLE"], recovered=None, restarts=1)
    assert "did not recover within two minutes, restarted 1 times" in bad.lines()[-1]


def test_a_part_that_is_measured_again_replaces_itself_and_leaves_the_others(folder: Path) -> None:
    report.write("soak", ["first"], "python -m local.bench soak")
    report.write("program", ["second"], "python -m local.bench program")
    report.write("soak", ["third"], "python -m local.bench soak")
    said = (folder / "bench.md").read_text()
    assert said.index("## The program") < said.index("second") < said.index("## Soak") < said.index("third")
    assert "first" not in said


def test_a_part_comes_with_its_picture(folder: Path) -> None:
    searches = [
        Growth(runs, search, indexed, [5, 6, 7])
        for runs in (1000, 10000)
        for search in SEARCHES
        for indexed in (False, True)
    ]
    report.write("stored-runs", report.stored(searches), "python -m local.bench stored-runs")
    assert (folder / "bench" / "stored-runs.png").stat().st_size > 5000
    assert "![Stored runs](bench/stored-runs.png)" in (folder / "bench.md").read_text()
    assert "| newest, with the index | 6 (5-7) | 6 (5-7) |" in (folder / "bench.md").read_text()


@pytest.mark.parametrize("arguments", [["--help"], ["nothing"]])
def test_the_command_line_lists_the_parts_and_nothing_else(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit):
        commands.main(arguments)
    printed = "".join(capsys.readouterr())
    assert "stored-runs" in printed
    assert "[]" not in printed


@pytest.mark.parametrize(
    ("arguments", "parts"), [([], [*report.TITLES]), (["all"], [*report.TITLES]), (["soak"], ["soak"])]
)
def test_without_a_part_all_are_measured(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], parts: list[str]
) -> None:
    measured: list[str] = []
    monkeypatch.setattr(commands, "_stack", lambda _: nullcontext())
    monkeypatch.setattr(commands, "_on_a_stack", lambda stack, parts, options, command: measured.extend(parts))
    assert commands.main(arguments) == 0
    assert measured == parts


def test_each_way_of_a_file_is_held_against_the_plain_client_with_as_many_files() -> None:
    ways = [Transfer(PLAIN, count, 100 * count, 200, 0, 0.1, 0) for count in (1, 8)]
    ways += [Transfer(DIRECT, count, 90, 100, 40 * MIB, 0.25, 1) for count in (1, 8)]
    said = report.files(ways, 1024, before=3.14, after=2)
    assert "Load average of the machine 3.1 at the start and 2.0 at the end." in said
    assert f"| {DIRECT} | 1 x 1024 MiB | 90 | 100 | 0.90 / 0.50 | 40 | 250 | 1 |" in said
    assert f"| {DIRECT} | 8 x 128 MiB | 90 | 100 | 0.11 / 0.50 | 40 | 250 | 1 |" in said


def test_a_page_on_the_site_is_held_against_the_same_page_of_mlflow_alone() -> None:
    said = pages.lines([pages.View("a run, cold", site=[1.1, 1.2, 9.0], alone=[0.9, 1.0, 1.1])])
    assert "| a run, cold | 1.20 (1.10-9.00) | 1.00 (0.90-1.10) | **1.20** |" in said
