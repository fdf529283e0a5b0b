"""Progress of `make up` before and after Pulumi's own output: steps with the time they took, and a box at the end.

Steps go to standard error, so that a command's standard output is only its result.
"""

import os
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

_TICK = 0.2
_MARKS = {"waiting": "·", "running": "…", "done": "✓", "failed": "✗"}
_COLOURS = {"waiting": "2", "running": "36", "done": "32", "failed": "31"}


class Step:
    """One line: a title, the current action, and the time so far. The line is removed if the step had nothing to do."""

    def __init__(self, progress: "Progress", title: str) -> None:
        self.title = title
        self.note = ""
        self.state = "waiting"
        self.started = self.ended = 0.0
        self._progress = progress

    def __enter__(self) -> Self:
        self.started = time.monotonic()
        self.state = "running"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended = time.monotonic()
        self.state = "failed" if kind else "done"
        if error is not None:
            # At once: other steps may go on for minutes.
            self.say(str(error).partition("\n")[0])
        elif self.note:
            self.note = ""
            self._progress.report(self)
        else:
            self._progress.forget(self)

    def say(self, note: str) -> None:
        """Show the current action."""
        self.note = note
        self._progress.report(self)

    def text(self) -> str:
        """Return the line, without colour."""
        seconds = (self.ended or time.monotonic()) - self.started if self.started else 0
        took = f"{seconds // 60:.0f}:{seconds % 60:02.0f}" if seconds >= 60 else f"{seconds:.1f} s"
        return f"{_MARKS[self.state]} {self.title:<24} {took:>7}  {self.note}".rstrip()


class Progress:
    """Steps that run in parallel. On a terminal the lines are redrawn in place, elsewhere each change is a line."""

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._colour = self._live and "NO_COLOR" not in os.environ
        self._lock = threading.Lock()
        self._drawn = 0
        self._ended = threading.Event()
        self._drawer = threading.Thread(target=self._draw_until_ended)

    def step(self, title: str) -> Step:
        """Return a step with that title. Enter it when it begins."""
        step = Step(self, title)
        self._steps.append(step)
        return step

    def __enter__(self) -> Self:
        if self._live:
            self._drawer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._live:
            self._drawer.join()
            self._draw()

    def report(self, step: Step) -> None:
        """Print a line, unless lines are redrawn."""
        if not self._live:
            with self._lock:
                print(step.text(), file=sys.stderr, flush=True)

    def forget(self, step: Step) -> None:
        """Remove the line of a step."""
        with self._lock:
            self._steps.remove(step)

    def _draw_until_ended(self) -> None:
        while not self._ended.wait(_TICK):
            self._draw()

    def _draw(self) -> None:
        with self._lock:
            steps = list(self._steps)
        width = shutil.get_terminal_size().columns
        lines = [f"\033[{self._drawn}A" if self._drawn else ""]
        for step in steps:
            # A line that wraps takes two rows, and the next drawing would begin in the wrong place.
            text = step.text()[: max(width - 1, 20)]
            mark = f"\033[{_COLOURS[step.state]}m{text[0]}\033[0m" if self._colour else text[0]
            lines.append(f"\033[2K{mark}{text[1:]}\n")
        # Clear the rest of a longer drawing. Last, because a terminal keeps a screen that is cleared from its top.
        lines.append("\033[J")
        self._drawn = len(steps)
        sys.stderr.write("".join(lines))
        sys.stderr.flush()


def box(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """Return labelled lines in a frame."""
    label_width = max(len(label) for label, _ in rows)
    lines = [title, "", *(f"{label:<{label_width}}  {value}" for label, value in rows)]
    width = max(len(line) for line in lines)
    inside = "\n".join(f"│  {line:<{width}}  │" for line in lines)
    edge = "─" * (width + 4)
    return f"╭{edge}╮\n{inside}\n╰{edge}╯"
