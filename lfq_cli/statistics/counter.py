"""Counts of one set of codes, exact while memory allows: a table, the codes seen, a sketch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lfq_cli import kernels
from lfq_cli.bits import BitOrder, Indices
from lfq_cli.statistics.bitpairs import pairs_of_codes, pairs_of_table
from lfq_cli.statistics.profile import Profile, profile_of
from lfq_cli.statistics.sketch import BY_SAMPLE, Sketch
from lfq_cli.statistics.tables import (
    DENSE_BITS,
    Codes,
    Counts,
    DenseTable,
    FieldsTally,
    SparseTable,
    Start,
    Table,
    Tally,
    tally_dense,
    tally_fields,
    tally_sparse,
)
from lfq_cli.statistics.usage import MOST_SHOWN, BitStatistics, Estimate, Usage

ALWAYS_DENSE_BITS = 10  # 8 KiB
_RUN_OF_CODES = 1 << 18  # 1 MiB of counts: they stay in cache
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
        return self._state.table.astype(np.int64, copy=False) if isinstance(self._state, DenseTable) else None

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

    def take(self, tally: Tally | FieldsTally, start: Start | None = None) -> None:
        """Adds a tally of this counter; uses another thread if it can start one."""
        if isinstance(self._state, DenseTable):
            self._state.take(tally, start)
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
        total = state.total
        if isinstance(state, DenseTable):
            both = pairs_of_table(state.table, self.bits)
            profile = profile_of(state.table)
            most, least = _extremes_of_table(state.table, profile)
        else:
            codes, counts = state.pairs()
            both = pairs_of_codes(codes, counts, self.bits)
            profile = profile_of(counts)
            most, least = _extremes(codes, counts)
        return Usage(
            bits=self.bits,
            count=total,
            profile=profile,
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
    most, least = _extremes(codes, counts)
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


def _extremes(codes: Codes, counts: Counts) -> tuple[Extremes, Extremes]:
    """((code, count) of the most used codes, of the least used); for equal counts the lower codes."""
    most, least = _lowest(codes, -counts), _lowest(codes, counts)
    return tuple((code, -key) for key, code in most), tuple((code, key) for key, code in least)


def _extremes_of_table(table: Table, profile: Profile) -> tuple[Extremes, Extremes]:
    """`_extremes` of counts of all codes. The profile says which counts to look for, so little of the table is read."""
    most = _first_of_table(table, profile.counts, profile.codes)
    return most, _first_of_table(table, profile.counts[::-1], profile.codes[::-1])


def _first_of_table(table: Table, counts: Counts, codes: NDArray[np.float64]) -> Extremes:
    """(code, count) of the MOST_SHOWN codes whose counts come first in `counts`; for equal counts the lower codes.

    counts: all that are in the table, ascending or descending. codes: how many have each.
    """
    last = int(np.searchsorted(np.cumsum(codes), MOST_SHOWN))
    found: list[tuple[int, int]] = []
    if last:  # fewer than MOST_SHOWN codes
        ends = sorted((int(counts[0]), int(counts[last - 1])))
        places = np.concatenate(list(_codes_between(table, *ends)))
        pairs = [(int(code), int(table[code])) for code in places]
        found = sorted(pairs, key=lambda pair: pair[1], reverse=bool(counts[0] > counts[-1]))
    if last < len(counts):
        same = chain.from_iterable(_codes_between(table, int(counts[last]), int(counts[last])))
        found += [(int(code), int(counts[last])) for code in islice(same, MOST_SHOWN - len(found))]
    return tuple(found)


def _codes_between(table: Table, least: int, most: int) -> Iterator[NDArray[np.intp]]:
    """The codes that occurred from `least` to `most` times in ascending order, run by run."""
    for first in range(0, table.size, _RUN_OF_CODES):
        part = table[first : first + _RUN_OF_CODES]
        yield np.flatnonzero((part >= least) & (part <= most)) + first


def _lowest(codes: Codes, keys: Counts) -> list[tuple[int, int]]:
    """(key, code) of the MOST_SHOWN codes with the lowest keys, in order, and for equal keys the lowest codes."""
    if codes.size <= MOST_SHOWN:
        chosen = np.arange(codes.size)
    else:
        edge = np.partition(keys, MOST_SHOWN)[MOST_SHOWN]
        below = np.flatnonzero(keys < edge)
        chosen = np.concatenate([below, _lowest_codes(codes, np.flatnonzero(keys == edge))])
    return sorted((int(keys[k]), int(codes[k])) for k in chosen)[:MOST_SHOWN]


def _lowest_codes(codes: Codes, places: NDArray[np.intp]) -> NDArray[np.intp]:
    """The places of the lowest codes among these places."""
    if places.size <= MOST_SHOWN:
        return places
    return places[np.argpartition(codes[places], MOST_SHOWN)[:MOST_SHOWN]]
