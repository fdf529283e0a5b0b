"""The table of docs/lost-state.md: the form of the id with which each kind of resource is imported."""

import re

from tests import ROOT

PAGE = "docs/lost-state.md"


def import_ids() -> dict[str, str]:
    """Return the form of the id by type. It is empty for a type that cannot be imported."""
    rows = re.findall(r"^\| `(\w+:\S+:\w+)` \|(?: `(\S+)`)? \|", (ROOT / PAGE).read_text(), re.MULTILINE)
    return dict(rows)


def fits(form: str, resource_id: str) -> bool:
    """Return whether an id has this form, in which words in capitals stand for names."""
    pattern = "".join(".+" if part.isupper() else re.escape(part) for part in re.split(r"([A-Z]+)", form))
    return re.fullmatch(pattern, resource_id) is not None
