"""The requests that clients without a second try have lost."""

import os
import time

from local.http_load import Load, report

REQUESTS = int(os.environ.get("CLUSTER_TEST_REQUESTS") or 5000)
"""Requests of each load, at least."""
PATIENCE = 900
"""Seconds that they may take. A node with two cores that are busy answers 20 requests a second."""


def losses(load: Load, what: str) -> int:
    """Wait until a load has sent its requests, report it, and return how many were lost."""
    time.sleep(15)
    deadline = time.monotonic() + PATIENCE
    while load.total < REQUESTS and time.monotonic() < deadline:
        time.sleep(1)
    times = sorted(load.latencies)
    report(what, f"{load.said()}; p99 {times[len(times) * 99 // 100]:.1f} s, longest {times[-1]:.1f} s")
    print(load.failures[:20])
    return load.failed
