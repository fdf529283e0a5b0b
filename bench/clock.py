"""How long something takes."""

import time
from collections.abc import Callable


def seconds(task: Callable[[], object]) -> float:
    """Carry it out, and say how long that took."""
    began = time.monotonic()
    task()
    return time.monotonic() - began
