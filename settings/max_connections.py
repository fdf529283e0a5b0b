"""The number of connections that RDS allows on an instance class."""

import re

_GIB_OF_LARGE = {"t": 8, "m": 8, "r": 16, "x": 32}
_SIZES = {"micro": 1 / 8, "small": 1 / 4, "medium": 1 / 2, "large": 1.0, "xlarge": 2.0}


def max_connections(instance_class: str) -> int | None:
    """Return the connections that RDS allows on an instance class, or None for an unknown class.

    RDS's default is LEAST(memory in bytes / 9531392, 5000). The system keeps about 0.24 GiB of the class's memory for itself. So a
    class with 1 GiB has about 85 connections, and one with 2 GiB about 198.
    """
    match = re.fullmatch(r"db\.([a-z])[a-z0-9]*\.(\d*)(micro|small|medium|large|xlarge)", instance_class)
    if not match or match[1] not in _GIB_OF_LARGE:
        return None
    gib = _GIB_OF_LARGE[match[1]] * _SIZES[match[3]] * int(match[2] or 1)
    return min(int((gib - 0.24) * 2**30 / 9531392), 5000)
