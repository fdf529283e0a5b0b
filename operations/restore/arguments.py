"""Arguments of the commands that take a backup: the stack, and a snapshot or a moment."""

import argparse
from datetime import datetime

from operations.restore.copy_of import Source


def source_of(given: argparse.Namespace) -> Source:
    """Return the source that the arguments name.

    Raises:
        SystemExit: the time is no time with a zone.
    """
    try:
        when = datetime.fromisoformat(given.time) if given.time else None
    except ValueError:
        when = None
    if given.time and (when is None or when.tzinfo is None):
        raise SystemExit(f"TIME is {given.time}; write a time of UTC such as 2026-11-30T02:00:00Z")
    return Source(given.snapshot, when)


def arguments(name: str, description: str) -> argparse.ArgumentParser:
    """Return the parser of the arguments that each of these commands takes."""
    parser = argparse.ArgumentParser(prog=f"make {name}", description=description)
    parser.add_argument("stack", help="name of the stack")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--snapshot", help="snapshot to restore")
    source.add_argument("--time", help="moment to restore, such as 2026-11-30T02:00:00Z")
    parser.add_argument("--pulumi", default="pulumi", help="how to call pulumi (default: pulumi)")
    parser.add_argument("--aws", default="aws", help="how to call the AWS CLI (default: aws)")
    return parser
