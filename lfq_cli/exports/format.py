"""What an export format declares, and what it receives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Rows(NamedTuple):
    """Some samples: keys, the ids of each, in the export's dtype (one array where all have the same length), labels
    if any.
    """

    keys: list[str]
    ids: Sequence[NDArray[Any]] | NDArray[Any]
    labels: NDArray[Any] | None


@dataclass(frozen=True)
class Part:
    """A part of an export: its samples, some at a time. `positions`: the axes of a sample's codes."""

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
    """One format. write: makes the files of a part, with names starting with `stem`, in an empty folder.

    dtypes: of ids; the default is the first that holds them.
    """

    write: Callable[[Part, Path, str], None]
    dtypes: tuple[str, ...]
    shards: str | None = None
    """Suffix of the files of a split that is several parts, STEM.suffix; None: a split is one part."""
    has_labels: bool = True
    """Whether labels have a place of their own."""
    columns: tuple[str, ...] = ()
    """What labels cannot be called, where they have a column of their name."""
    label_dtype: str = "int64"
    """What holds a label there."""
    readers: str = ""
    """Who reads it, for a message about dtypes."""
    samples_per_file: int | None = None
    """The number of samples in each part of a split in several parts, by default."""
    writes_keys: bool = True
    takes_specials: bool = True
    """Whether there may be ids that are not codes."""
    library: tuple[str, str] | None = None
    """(module, extra) that writes it."""
    check: Callable[[tuple[int, ...] | None], None] = lambda positions: None
    """Raises OptionError for samples of these axes, None for different lengths, that the format has no place for."""


def joined(rows: Rows, dtype: np.dtype[Any]) -> NDArray[Any]:
    """All ids of some samples, concatenated."""
    if isinstance(rows.ids, np.ndarray):
        return rows.ids.reshape(-1)
    return np.concatenate(rows.ids) if rows.ids else np.empty(0, dtype)
