"""A list of checks, each a line on the terminal: for doctor, which looks before `up`, and verify, which looks after it."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NoReturn


class MissingError(Exception):
    """A check found something wrong. The message says what to do."""


class SkippedError(Exception):
    """A check does not apply to this stack. The message says why."""


class NotedError(Exception):
    """A check found something that works and that has a price or a risk. The message says which."""


@dataclass(frozen=True)
class Check:
    """A check, which is one line of the output."""

    title: str
    look: Callable[[], str]
    """Function that returns what it found, or raises MissingError, SkippedError or NotedError."""


def skip(reason: str) -> NoReturn:
    """End a check that does not apply."""
    raise SkippedError(reason)


def examine(found: Sequence[Check], workers: int | None = None) -> tuple[list[str], int]:
    """Run all checks.

    Args:
        found: the checks.
        workers: number of checks that run at the same time, default all.

    Returns:
        The lines of the output, and the number of failed checks.
    """

    def carry_out(check: Check) -> tuple[str, str]:
        try:
            return "✓", check.look()
        except SkippedError as reason:
            return "·", str(reason)
        except NotedError as reason:
            return "!", str(reason)
        except MissingError as reason:
            return "✗", str(reason)
        except (LookupError, TypeError, ValueError) as error:
            # The other checks are worth more than a traceback.
            return "✗", f"an answer has not the form that is expected: {error!r}"

    with ThreadPoolExecutor(max_workers=workers or len(found)) as pool:
        results = list(pool.map(carry_out, found))
    width = max(len(check.title) for check in found)
    below = "\n" + " " * (width + 6)
    lines = [
        f"  {mark} {check.title:<{width}}  {text.strip().replace(chr(10), below)}"
        for check, (mark, text) in zip(found, results, strict=True)
    ]
    return lines, sum(mark == "✗" for mark, _ in results)
