"""The values of nested mappings and lists by their dotted names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from lfq_cli.errors import LfqError
from lfq_cli.regions import InputFile
from lfq_cli.torchfile.values import Global, OddTensor, Opaque, View

MAX_NAMES = 1_000_000
MAX_NAME_LETTERS = 1 << 28
MAX_DEPTH = 100


def named_values(file: InputFile, value: Any, sole: str, error: type[LfqError]) -> dict[str, Any]:
    """Every value in mappings, and in lists that hold tensors, by its dotted path: "model.0.weight".

    A single value outside these is called `sole`. Raises `error` if two values have the same name.
    """
    pairs = list(_pairs(file, value, error))
    named = {name or sole: held for name, held in pairs}
    if len(named) != len(pairs):
        twice = [name for name, count in Counter(name or sole for name, _ in pairs).items() if count > 1]
        raise error(f"{file.path}: holds two values of one name: {', '.join(map(repr, twice[:3]))}")
    return named


def _pairs(file: InputFile, value: Any, error: type[LfqError]) -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything that is not a container. Containers may be shared, even contain themselves."""
    opened = _holders_of_tensors(value)
    pending: list[tuple[str, int, Any]] = [("", 0, value)]
    count = letters = 0
    while pending:
        prefix, depth, value = pending.pop()
        if not isinstance(value, dict) and id(value) not in opened:
            yield prefix, value
            continue
        items = list(value.items() if isinstance(value, dict) else enumerate(value))
        count += len(items)
        letters += len(items) * len(prefix)
        if count > MAX_NAMES or letters > MAX_NAME_LETTERS or depth > MAX_DEPTH:
            raise error(f"{file.path}: its mappings hold more than {MAX_NAMES:,} names, or one another without end")
        below = [(_joined(file, prefix, key, error), depth + 1, held) for key, held in items]
        pending += reversed(below)


def _joined(file: InputFile, prefix: str, key: Any, error: type[LfqError]) -> str:
    text = key.what if isinstance(key, Opaque) else key.path if isinstance(key, Global) else str(key)
    try:
        text.encode()
    except UnicodeEncodeError as reason:
        raise error(f"{file.path}: a name in it is not text") from reason
    return f"{prefix}.{text}" if prefix else text


def _holders_of_tensors(value: Any) -> set[int]:
    """The ids of the containers that hold a tensor, directly or further down; visits each container once."""
    owners: dict[int, list[int]] = {}
    holders: set[int] = set()
    pending, seen = [value], {id(value)}
    while pending:
        container = pending.pop()
        for held in _contents(container):
            if isinstance(held, View | OddTensor):
                holders.add(id(container))
            elif isinstance(held, dict | list | tuple):
                owners.setdefault(id(held), []).append(id(container))
                if id(held) not in seen:
                    seen.add(id(held))
                    pending.append(held)
    rising = list(holders)
    while rising:
        above = set(owners.get(rising.pop(), ())) - holders
        holders |= above
        rising += above
    return holders


def _contents(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list | tuple):
        yield from value
