"""The rule for labels of Kubernetes objects."""

import re
from collections.abc import Mapping

from settings.problem import Problem
from settings.value_types import QUALIFIED_NAME

LABEL_VALUE = r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?"
"""Pattern of the values of Kubernetes labels."""


def label_problems(key: str, labels: Mapping[str, str]) -> list[Problem]:
    """Return the problems of labels that Kubernetes would refuse.

    Args:
        key: key of the setting.
        labels: the labels.
    """
    return [
        Problem(
            key,
            f"has {name}: {value}; write a Kubernetes label, with a value of at most 63 letters, digits and . _ -",
        )
        for name, value in labels.items()
        if not (re.fullmatch(QUALIFIED_NAME, name) and re.fullmatch(LABEL_VALUE, value))
    ]
