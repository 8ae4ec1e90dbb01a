"""Counts of one set of codes, exact while memory allows: a table, the codes seen, a sketch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lfq_cli import kernels
from lfq_cli.bits import BitOrder, Indices
from lfq_cli.statistics.bitpairs import pairs_of_codes, pairs_of_table
from lfq_cli.statistics.profile import profile_of
from lfq_cli.statistics.sketch import BY_SAMPLE, Sketch
from lfq_cli.statistics.tables import (
    DENSE_BITS,
    Codes,
    Counts,
    DenseTable,
    FieldsTally,
    SparseTable,
    Tally,
    tally_dense,
    tally_fields,
    tally_sparse,
)
from lfq_cli.statistics.usage import MOST_SHOWN, BitStatistics, Estimate, Usage

ALWAYS_DENSE_BITS = 10  # 8 KiB
MEMORY_BYTES = 1 << 30
"""The default limit for one counter."""
_BYTES_OF_CODE = 64
"""A code and its count, including the copies made while merging."""


class Counter:
    """Counts indices of `bits` bits."""

    def __init__(self, bits: int, expected: int | None = None, memory_bytes: int = MEMORY_BYTES) -> None:
        """expected: how many indices to expect; for few, no table of a large codebook is allocated.

        memory_bytes: the limit for exact counts if there is no table of all codes.
        """
        self.bits = bits
        self.most_codes = max(1 << 10, memory_bytes // _BYTES_OF_CODE)
        few = expected is not None and bits > ALWAYS_DENSE_BITS and expected << 6 < 1 << bits
        self._state: DenseTable | SparseTable | Sketch = SparseTable() if bits > DENSE_BITS or few else DenseTable(bits)

    @classmethod
    def of_pairs(cls, codes: Codes, counts: Counts, bits: int, memory_bytes: int = MEMORY_BYTES) -> Counter:
        """A counter with these counts of uint64 codes, in ascending order."""
        counter = cls(bits, int(codes.size), memory_bytes)
        counter.take(Tally(codes, counts))
        return counter

    @classmethod
    def of_table(cls, counts: Counts, bits: int, memory_bytes: int = MEMORY_BYTES) -> Counter:
        """A counter with these counts of all 2^bits codes; at most DENSE_BITS bits."""
        counter = cls(bits, memory_bytes=memory_bytes)
        counter.take(Tally(None, counts))
        return counter

    @classmethod
    def of_sketch(cls, sketch: Sketch, memory_bytes: int = MEMORY_BYTES) -> Counter:
        """A counter that continues from a sketch."""
        counter = cls(sketch.bits, memory_bytes=memory_bytes) if sketch.bits > DENSE_BITS else cls(sketch.bits, 0)
        sketch.capacity = max(sketch.capacity, counter.most_codes // 4)
        counter._state = sketch
        return counter

    @property
    def sketch(self) -> Sketch | None:
        """The sketch, if not every code was counted exactly."""
        return self._state if isinstance(self._state, Sketch) else None

    @property
    def table(self) -> Counts | None:
        """Counts of all codes, if there is a table of them; read-only."""
        return self._state.table if isinstance(self._state, DenseTable) else None

    @property
    def total(self) -> int:
        """The number of counted indices."""
        return self._state.total

    def tally(self, indices: Indices) -> Tally:
        """The tally of indices [n] of any integer type. Does not change the counter; may be called from any thread."""
        return tally_dense(indices, self.bits) if isinstance(self._state, DenseTable) else tally_sparse(indices)

    @property
    def counts_fields(self) -> bool:
        """Whether codes can be tallied directly from a stream, which is faster."""
        return isinstance(self._state, DenseTable) and kernels.counts_fields(self.bits)

    def tally_fields(self, fields: FieldsTally) -> Tally | FieldsTally:
        """Like `tally`; requires `counts_fields`."""
        return tally_fields(fields, self.bits)

    def take(self, tally: Tally | FieldsTally) -> None:
        """Adds a tally of this counter."""
        if isinstance(self._state, DenseTable):
            self._state.take(tally)
            return
        assert isinstance(tally, Tally)
        self._state.take(tally)
        self._keep_to_memory()

    def add(self, indices: Indices) -> None:
        """Counts indices [n] of an integer type."""
        self.take(self.tally(indices))

    def merge(self, other: Counter) -> None:
        """Adds the counts of another counter with as many bits, which is unchanged."""
        theirs = other._state
        if isinstance(theirs, Sketch):
            if not isinstance(self._state, Sketch):
                self._state = Sketch.of(self._sparse_pairs(), self.bits, self.most_codes // 4, held=theirs.held[0])
            self._state.merge(theirs)
            return
        if isinstance(theirs, DenseTable) and isinstance(self._state, SparseTable):
            self._make_dense(self._state)
        if isinstance(theirs, DenseTable) and isinstance(self._state, DenseTable):
            self._state.take(Tally(None, theirs.table))
        else:
            self._state.take(Tally(*other._sparse_pairs()))
        self._keep_to_memory()

    def exact_pairs(self) -> tuple[Codes, Counts] | None:
        """(codes used, their counts), codes in ascending order; None if not every code was counted."""
        return None if isinstance(self._state, Sketch) else self._state.pairs()

    def usage(self, order: BitOrder, min_count: int = 1) -> Usage:
        """The statistics so far; `order` says which channel is an index's most significant bit."""
        state = self._state
        if isinstance(state, Sketch):
            return _usage_of_sketch(state, order, min_count)
        if isinstance(state, DenseTable):
            both = pairs_of_table(state.table, self.bits)
        else:
            both = pairs_of_codes(*state.pairs(), self.bits)
        total = state.total
        most, least = _extremes(state.in_runs())
        return Usage(
            bits=self.bits,
            count=total,
            profile=profile_of(state.counts()),
            bit_statistics=_in_channel_order(total, both, order),
            most_used=most,
            least_used=least,
            min_count=min_count,
        )

    def _make_dense(self, sparse: SparseTable) -> None:
        self._state = DenseTable(self.bits)
        self._state.take(Tally(*sparse.pairs()))

    def _sparse_pairs(self) -> tuple[Codes, Counts]:
        assert not isinstance(self._state, Sketch)
        codes, counts = self._state.pairs()
        return codes.astype(np.uint64, copy=False), counts

    def _keep_to_memory(self) -> None:
        if not isinstance(self._state, SparseTable):
            return
        if self.bits <= DENSE_BITS:
            if self._state.size > 1 << (self.bits - 3):  # a table takes no more
                self._make_dense(self._state)
        elif self._state.size > self.most_codes:
            pairs = self._state.pairs()
            if pairs[0].size > self.most_codes // 2:  # or it would be merged again with every run
                self._state = Sketch.of(pairs, self.bits, self.most_codes // 4)


def _usage_of_sketch(sketch: Sketch, order: BitOrder, min_count: int) -> Usage:
    codes, counts, weights = sketch.known()
    used, used_estimate = sketch.codes_used()
    most, least = _extremes([(codes, counts)])
    return Usage(
        bits=sketch.bits,
        count=sketch.total,
        profile=profile_of(counts, weights),
        bit_statistics=_in_channel_order(sketch.total, sketch.both, order),
        most_used=most,
        least_used=least,
        estimated={
            "codes_used": used_estimate,
            "entropy_bits": Estimate(BY_SAMPLE, sketch.entropy_error_bits()),
        },
        codes_used_estimate=used,
        min_count=min_count,
    )


def _in_channel_order(total: int, both: Counts, order: BitOrder) -> BitStatistics:
    return BitStatistics(total, both if order == "lsb" else both[::-1, ::-1])


Extremes: TypeAlias = tuple[tuple[int, int], ...]


def _extremes(runs: Iterable[tuple[Codes, Counts]]) -> tuple[Extremes, Extremes]:
    """((code, count) of the most used codes, of the least used); for equal counts the lower codes.

    runs: codes in ascending order, also from run to run, so that for equal counts the earlier ones win.
    """
    most: list[tuple[int, int]] = []
    least: list[tuple[int, int]] = []
    for codes, counts in runs:
        most = _best(most, codes, -counts)
        least = _best(least, codes, counts)
    return tuple((code, -key) for key, code in most), tuple((code, key) for key, code in least)


def _best(found: list[tuple[int, int]], codes: Codes, keys: Counts) -> list[tuple[int, int]]:
    """(key, code) of the MOST_SHOWN codes with the lowest keys, among those found before and a later run."""
    if len(found) == MOST_SHOWN:
        better = np.flatnonzero(keys < found[-1][0])
        codes, keys = codes[better], keys[better]
    return sorted(found + _lowest(codes, keys))[:MOST_SHOWN] if codes.size else found


def _lowest(codes: Codes, keys: Counts) -> list[tuple[int, int]]:
    """(key, code) of the MOST_SHOWN codes with the lowest keys, and for equal keys the lowest codes; unordered."""
    if codes.size <= MOST_SHOWN:
        chosen = np.arange(codes.size)
    else:
        edge = np.partition(keys, MOST_SHOWN)[MOST_SHOWN]
        below = np.flatnonzero(keys < edge)
        chosen = np.concatenate([below, _lowest_codes(codes, np.flatnonzero(keys == edge))])
    return [(int(keys[k]), int(codes[k])) for k in chosen]


def _lowest_codes(codes: Codes, places: NDArray[np.intp]) -> NDArray[np.intp]:
    """The places of the lowest codes among these places."""
    if places.size <= MOST_SHOWN:
        return places
    return places[np.argpartition(codes[places], MOST_SHOWN)[:MOST_SHOWN]]
