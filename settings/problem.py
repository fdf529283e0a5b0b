"""A wrong setting, as an object: where it is, and what to write instead."""

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Problem:
    """A wrong setting. As text it is one sentence that begins with the setting's key."""

    key: str
    """Key of the setting as it is written in messages, for example ``postgres.allowFrom.cidrs[0]``. Empty for a section itself,
    inside that section's rules."""
    sentence: str
    """The rest of the sentence after the key: the mistake, and what to write instead."""
    based_on: Sequence[str] = ()
    """Keys of other settings from which the problem follows. The problem is left out where one of them is wrong itself."""

    def within(self, section: str) -> "Problem":
        """Return the problem with its keys below a section's key."""
        return replace(
            self, key=_join(section, self.key), based_on=[_join(section, key) for key in (*self.based_on, self.key)]
        )

    def follows_from(self, key: str) -> bool:
        """Return True if a setting, one below it or one above it is among those that the problem is about."""
        return any(_overlap(key, own) for own in (self.key, *self.based_on))

    def __str__(self) -> str:
        return f"{self.key} {self.sentence}"


def _join(section: str, key: str) -> str:
    return f"{section}.{key}" if section and key else section or key


def _overlap(first: str, second: str) -> bool:
    above, below = sorted((first, second), key=len)
    return below == above or below.startswith((f"{above}.", f"{above}["))
