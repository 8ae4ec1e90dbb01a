"""Keys of dicts and elements of sets, chosen so that no file can make lookups slow."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from lfq_cli.torchfile.values import Global, Opaque


def as_key(value: Any) -> Hashable:
    """The key for a value in a dict or set: text, bytes and numbers themselves, the identity of everything else.

    This includes tuples and long integers: many of them can have the same hash, and hashing a tuple may recurse
    forever.
    """
    if value is None or type(value) in (str, bytes, bool, float):
        return value  # type: ignore[no-any-return]
    if type(value) is int and -(2**63) <= value < 2**64:
        return value
    return value if isinstance(value, Opaque | Global) else Opaque(_shown(value))


def _shown(value: Any) -> str:
    """An integer, or a tuple of a few texts and numbers, as Python shows it; for anything else only the type."""
    items = value if isinstance(value, tuple) else (value,)
    plain = len(items) <= 8 and all(type(item) in (str, bool, float, int) for item in items)
    return repr(value) if plain else type(value).__name__
