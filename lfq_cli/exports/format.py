"""What an export format has to say of itself, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Rows(NamedTuple):
    """Some samples: keys, the ids of each, of the export's dtype (one array where all have as many), labels if any."""

    keys: list[str]
    ids: Sequence[NDArray[Any]] | NDArray[Any]
    labels: NDArray[Any] | None


@dataclass(frozen=True)
class Part:
    """A part of an export: the samples that go into it, some at a time. `positions`: the axes of a sample's codes."""

    rows: Callable[[], Iterator[Rows]]
    samples: int
    ids: int
    dtype: np.dtype[Any]
    positions: tuple[int, ...] | None
    vocab_size: int
    label: str | None
    """What labels are called."""
    durable: bool = True


@dataclass(frozen=True)
class Format:
    """One format. write: makes the files of a part, whose names begin with `stem`, in an empty folder.

    dtypes: of ids, the first that holds them if none is asked for. is_single: whether a split is one part.
    """

    write: Callable[[Part, Path, str], None]
    dtypes: tuple[str, ...]
    is_single: bool = False
    has_labels: bool = True
    """Whether labels have a place of their own."""
    readers: str = ""
    """Who reads it, for a message about dtypes."""
    samples_per_file: int | None = None
    """In each part, unless told otherwise; None: all."""
    writes_keys: bool = True
    takes_specials: bool = True
    """Whether there may be ids that are no codes."""


def joined(rows: Rows, dtype: np.dtype[Any]) -> NDArray[Any]:
    """All ids of some samples, one after the other."""
    if isinstance(rows.ids, np.ndarray):
        return rows.ids.reshape(-1)
    return np.concatenate(rows.ids) if rows.ids else np.empty(0, dtype)
