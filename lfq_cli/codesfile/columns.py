"""Columns of samples: text of any length as bytes and offsets, and back."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lfq_cli.errors import CodesFileError

Offsets = NDArray[np.int64]


def offsets_of(lengths: Sequence[int] | array[int]) -> Offsets:
    """The start of each item of these lengths, and the end of the last: I64 [count + 1]."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(np.asarray(lengths, np.int64), out=offsets[1:])
    return offsets


def check_offsets(offsets: Offsets, end: int, where: str) -> None:
    """Raises CodesFileError unless offsets start at 0, never decrease, and end at `end`."""
    if offsets[0] != 0 or offsets[-1] != end or (np.diff(offsets) < 0).any():
        raise CodesFileError(f"{where}: its offsets do not match its data", "encode the samples again")


def texts_of(data: bytes, offsets: Offsets, where: str) -> list[str]:
    """The texts concatenated in `data`. Raises CodesFileError if they are not UTF-8."""
    check_offsets(offsets, len(data), where)
    try:
        return [data[a:b].decode("utf-8") for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
    except UnicodeDecodeError as reason:
        raise CodesFileError(f"{where}: is not UTF-8: {reason}", "encode the samples again") from reason


def bad_key(key: str) -> str | None:
    """What is wrong with a sample's key; None for a valid one."""
    if key.isprintable():
        return None if key else "is empty"
    if any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in key):
        return "has control characters in it"
    try:
        key.encode("utf-8")
    except UnicodeEncodeError:
        return "is not UTF-8"
    return None
