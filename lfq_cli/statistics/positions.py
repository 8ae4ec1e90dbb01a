"""Counts by position: a code and its position are counted as one larger code."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from lfq_cli.bits import MAX_INDEX_BITS, Indices
from lfq_cli.statistics.counter import Counter
from lfq_cli.statistics.sketch import mixed
from lfq_cli.statistics.tables import Tally
from lfq_cli.statistics.usage import PositionStatistics


class PositionCounter:
    """Counts pairs of a position and a code; positions are numbered in C order of `axes`."""

    def __init__(self, bits: int, axes: tuple[int, ...], vectors: int | None, memory_bytes: int) -> None:
        self.axes = axes
        self._count = prod(axes)
        position_bits = max(1, (self._count - 1).bit_length())
        self._hashed = bits + position_bits > MAX_INDEX_BITS
        self._code_bits = min(bits, MAX_INDEX_BITS - position_bits)
        self.counter = Counter(self._code_bits + position_bits, vectors, memory_bytes)

    def tally(self, indices: Indices, start: int) -> Tally:
        """The tally of indices [n] of the vectors from number `start` on; the counter does not change."""
        positions = np.arange(start, start + len(indices), dtype=np.uint64) % np.uint64(self._count)
        codes = indices.astype(np.uint64, copy=False)
        if self._hashed:  # to 57 bits or more: two codes of a position are unlikely to share a hash
            codes = mixed(codes) >> np.uint64(MAX_INDEX_BITS - self._code_bits)
        return self.counter.tally(positions << np.uint64(self._code_bits) | codes)

    def statistics(self) -> PositionStatistics | None:
        """Statistics of each position; None if not every pair was counted."""
        pairs = self.counter.exact_pairs()
        if pairs is None:
            return None
        keys, counts = pairs
        positions = (keys.astype(np.uint64, copy=False) >> np.uint64(self._code_bits)).astype(np.int64)
        totals = self._by_position(positions, counts.astype(np.float64))
        logs = self._by_position(positions, (counts * np.log2(counts)).astype(np.float64, copy=False))
        most = np.zeros(self._count, np.int64)
        np.maximum.at(most, positions, counts)
        at_least_one = np.maximum(totals, 1)
        return PositionStatistics(
            axes=self.axes,
            count=int(totals.max(initial=0)),
            codes_used=np.bincount(positions, minlength=self._count).reshape(self.axes),
            entropy_bits=np.maximum(np.log2(at_least_one) - logs / at_least_one, 0).reshape(self.axes),
            most_used_share=(most / at_least_one).reshape(self.axes),
        )

    def _by_position(self, positions: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(positions, values, minlength=self._count), np.float64)
