"""Numbers with their nouns, for messages and tables."""

from __future__ import annotations

_PLURALS = {"axis": "axes", "index": "indices"}


def counted(number: int, noun: str) -> str:
    """1 vector; 1,797 vectors; 2 indices; 0 bad samples."""
    return f"{number:,} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """The plural of a noun that messages use."""
    return _PLURALS.get(noun, f"{noun}s")
