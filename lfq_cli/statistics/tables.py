"""Exact counts: a table of all codes, or the codes seen and their counts. Arrays only.

A run of indices is first tallied, which needs only the run and can be done in any thread; a table then adds the tallies
one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lfq_cli import kernels
from lfq_cli.bits import BitOrder, Indices, Packed

Codes: TypeAlias = NDArray[Any]
Counts: TypeAlias = NDArray[np.int64]
Start: TypeAlias = Callable[[Callable[[], None]], Callable[[], None]]
"""Starts work in another thread; the function that it returns waits for it."""
Table: TypeAlias = NDArray[Any]
"""Counts of all codes: int64, or uint32 if even their sum has no more than 32 bits."""

DENSE_BITS = 26
"""256 MiB of counts, 512 MiB from 2^32 indices on."""
_BINCOUNT_BITS = 18  # a table for every run: 2 MiB, which stays in cache
_FEW_CODES = 1 << 16  # not worth another thread
_MOST_IN_32_BITS = (1 << 32) - 1
_BINCOUNT_SHARE = 4  # not worth a table for fewer indices than a quarter of the codes


@dataclass(frozen=True)
class Tally:
    """The tally of a run: counts of all codes, or of some codes in ascending order, or the unsorted codes."""

    codes: Codes | None
    counts: Counts | None

    @property
    def total(self) -> int:
        """Indices in the run."""
        if self.counts is not None:
            return int(self.counts.sum())
        return 0 if self.codes is None else self.codes.size


@dataclass(frozen=True)
class FieldsTally:
    """A run of codes in a stream, every `stride` bits from bit `first` on. A table counts them when it adds the tally:
    for a large table this takes less memory and work than passing codes on.
    """

    stream: Packed
    first: int
    stride: int
    order: BitOrder
    total: int
    """Codes in the run."""

    def count_into(self, table: Table, codes: range | None = None) -> None:
        """Counts each code in table [2^bits], or only `codes`; requires `kernels.counts_fields(bits)`."""
        bits = table.size.bit_length() - 1
        kernels.count(self.stream, self.first, self.stride, bits, self.order, self.total, table, codes)

    def count_in_halves(self, table: Table, start: Start) -> None:
        """`count_into`, with half of the codes in another thread: as each waits for memory, in half the time."""
        half = table.size // 2
        wait_for_rest = start(lambda: self.count_into(table, range(half, table.size)))
        self.count_into(table, range(half))
        wait_for_rest()


def tally_fields(fields: FieldsTally, bits: int) -> Tally | FieldsTally:
    """The run as counts of all codes if such a table is small, else unchanged."""
    if not _is_worth_a_table(fields.total, bits):
        return fields
    counts = np.zeros(1 << bits, np.uint32)  # half the cache of int64: 1.7 times as fast at 18 bits
    fields.count_into(counts)
    return Tally(None, counts.astype(np.int64))


def _is_worth_a_table(total: int, bits: int) -> bool:
    return bits <= _BINCOUNT_BITS and _BINCOUNT_SHARE * total >= 1 << bits


def tally_dense(indices: Indices, bits: int) -> Tally:
    """Tallies indices [n] in a table of 2^bits counts."""
    if _is_worth_a_table(indices.size, bits):
        return Tally(None, np.bincount(indices.astype(np.int64, copy=False), minlength=1 << bits))
    return Tally(indices.astype(np.int64), None)  # a copy: the caller's buffer is reused before this is added


def tally_sparse(indices: Indices) -> Tally:
    """Tallies indices [n] of any integer type as distinct uint64 codes in ascending order."""
    codes, counts = np.unique(indices.astype(np.uint64, copy=False), return_counts=True)
    return Tally(codes, counts.astype(np.int64, copy=False))


class DenseTable:
    """A count for every code of 2^bits."""

    def __init__(self, bits: int) -> None:
        # beyond the cache, counting in a table of half the size is 1.4 times as fast (24 bits)
        self.table: Table = np.zeros(1 << bits, np.uint32 if bits > _BINCOUNT_BITS else np.int64)
        self.total = 0

    def take(self, tally: Tally | FieldsTally, start: Start | None = None) -> None:
        """Adds what was tallied; uses another thread if it can start one."""
        self.total += tally.total
        if self.total > _MOST_IN_32_BITS:
            self.table = self.table.astype(np.int64, copy=False)
        if isinstance(tally, FieldsTally):
            if start is not None and self.table.size > 1 << _BINCOUNT_BITS and tally.total > _FEW_CODES:
                tally.count_in_halves(self.table, start)
            else:
                tally.count_into(self.table)
            return
        counts = np.asarray(1 if tally.counts is None else tally.counts).astype(self.table.dtype, copy=False)
        if tally.codes is None:
            self.table += counts
        else:
            np.add.at(self.table, tally.codes.astype(np.int64, copy=False), counts)

    def pairs(self) -> tuple[Codes, Counts]:
        """(codes used, their counts), codes in ascending order."""
        codes = np.flatnonzero(self.table)
        return codes, self.table[codes].astype(np.int64, copy=False)


class SparseTable:
    """The codes seen and their counts, in sorted runs that grow at least twofold from the last to the first."""

    def __init__(self) -> None:
        self._runs: list[tuple[Codes, Counts]] = []
        self.total = 0

    def take(self, tally: Tally) -> None:
        """Adds a tally of some codes in ascending order."""
        assert tally.codes is not None
        assert tally.counts is not None
        self.total += tally.total
        if tally.codes.size:
            self._runs.append((tally.codes, tally.counts))
        while len(self._runs) > 1 and self._runs[-2][0].size < 2 * self._runs[-1][0].size:
            last = self._runs.pop()
            self._runs[-1] = merge_sorted(*self._runs[-1], *last)

    @property
    def size(self) -> int:
        """The number of codes held; those in several runs count several times."""
        return sum(codes.size for codes, _ in self._runs)

    def pairs(self) -> tuple[Codes, Counts]:
        """(codes used, their counts), codes in ascending order; afterwards there is a single run."""
        while len(self._runs) > 1:
            last = self._runs.pop()
            self._runs[-1] = merge_sorted(*self._runs[-1], *last)
        return self._runs[0] if self._runs else (np.empty(0, np.uint64), np.empty(0, np.int64))


def merge_sorted(a: Codes, a_counts: Counts, b: Codes, b_counts: Counts) -> tuple[Codes, Counts]:
    """Merges two runs of codes in ascending order, adding their counts."""
    both = np.concatenate([a, b])
    order = np.argsort(both, kind="stable")  # two sorted runs: one merge
    both = both[order]
    starts = np.flatnonzero(np.append(True, both[1:] != both[:-1])) if both.size else np.empty(0, np.int64)
    counts = np.concatenate([a_counts, b_counts])[order]
    return both[starts], np.add.reduceat(counts, starts) if starts.size else counts
