"""The checks of a stack that is up, in the order of the output."""

from collections.abc import Callable, Collection
from functools import partial

from operations.checks import Check
from operations.verify import database, site
from operations.verify.subject import Subject

CHECKS: dict[str, Callable[[Subject], str]] = {
    "name": site.name,
    "certificate": site.certificate,
    "strangers": site.strangers,
    "login": site.login,
    "version": site.version,
    "transfers": site.transfers,
    "run and file": site.run,
    "other users": site.others,
    "database": database.state,
    "reachable from": database.network,
    "restorable": database.backup,
    "waiting changes": database.pending,
    "alarms": database.alarms,
}
"""Title of a check to its function."""


def checks(subject: Subject, only: Collection[str] = ()) -> list[Check]:
    """Return the checks of a stack, or those with some titles."""
    return [Check(title, partial(look, subject)) for title, look in CHECKS.items() if not only or title in only]
