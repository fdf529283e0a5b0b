"""The rule for tags: what every AWS service of this program takes, so the strictest service decides."""

import unicodedata
from collections.abc import Mapping

from settings.problem import Problem
from settings.value_types import shown

PUNCTUATION = "_.:/=+-@"
"""Characters that RDS and IAM take in tags beside letters, digits and spaces. EC2 takes all characters."""
OWN = ("Project", "Stack")
"""Tags that the program adds."""
MOST = 50 - len(OWN)
"""Largest number of tags: AWS takes 50 on a resource."""


def tag_problems(tags: Mapping[str, str]) -> list[Problem]:
    """Return what AWS would refuse in these tags, half-way through an `up`."""
    found: list[Problem] = []
    if len(tags) > MOST:
        found.append(Problem("tags", f"are {len(tags)}; AWS takes {MOST} beside {' and '.join(OWN)}: leave some out"))
    # Keys of IAM ignore the case.
    known = {key.lower(): key for key in OWN}
    for key, value in tags.items():
        twin = known.setdefault(key.lower(), key)
        if twin != key:
            found.append(
                Problem(f"tags.{key}", f"is the tag {twin} to IAM, which ignores the case; write one of the two")
            )
        for part, text, longest in (("key", key, 128), ("value", value, 256)):
            fault = _fault(text, longest)
            if fault:
                found.append(Problem(f"tags.{key}", f"has the {part} {shown(text)}, {fault}"))
    return found


def _fault(text: str, longest: int) -> str:
    odd = next((one for one in text if one not in PUNCTUATION and unicodedata.category(one)[0] not in "LNZ"), None)
    if odd is not None:
        return f"and AWS takes no {odd!r} in tags; write letters, digits, spaces and {' '.join(PUNCTUATION)} only"
    if not text:
        return f"which is empty; write 1 to {longest} characters"
    if len(text) > longest:
        return f"which has {len(text)} characters; write {longest} at most"
    if text.lower().startswith(("aws:", "rds:")):
        return "and AWS keeps tags that begin with aws: and rds: for itself; write another"
    return ""
