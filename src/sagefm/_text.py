"""Text that a terminal does not obey."""

from __future__ import annotations


def plain(text: object) -> str:
    """Return text with a question mark for each control character and half of a surrogate pair."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in str(text))
