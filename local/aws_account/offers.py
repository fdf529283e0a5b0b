"""Offers of RDS in the local account."""

import re

VERSIONS = {"17": "17.6", "18": "18.4"}
"""Major version of PostgreSQL that the account offers, to the newest minor version."""
INSTANCE_CLASS = re.compile(
    r"db\.(t3|t4g|m[5-8]g|m[5-7]i|r[5-8]g|r[5-7]i|x2g)\.(micro|small|medium|(2|4|8|12|16)?x?large)"
)
"""Instance classes that the account offers."""


def latest(version: str) -> str | None:
    """Return the version that RDS makes of a major or a whole one. None: it offers no such version."""
    return VERSIONS.get(version) or (version if version in VERSIONS.values() else None)
