"""The one way for a text that is not ours into Markdown.

Names, values and messages come from dependencies, from the cloud and from the branch under review. In a code span GitHub renders no HTML, no
link, no mention and no heading, and a code span ends at a backtick or with its line. So the text gets neither.
"""

LONGEST = 120
"""Characters of a text that are shown, at most."""


def code(text: object, longest: int = LONGEST) -> str:
    """Return a text as a code span on one line."""
    # Line breaks of any kind, control characters, invisible ones and halves of surrogates are not printable.
    flat = " ".join("".join(one if one.isprintable() else " " for one in str(text)).replace("`", "'").split())
    return f"`{flat[:longest] + '…' if len(flat) > longest else flat or '(empty)'}`"
