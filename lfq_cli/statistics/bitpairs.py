"""How often two bits of a code are both 1, computed from counts of codes, without another pass over the indices.

Bit 0 is the lowest bit of a code. `both[i, j]` counts how often bits i and j are both 1, `both[i, i]` how often bit i
is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lfq_cli.statistics.tables import Codes, Counts, Table

_CODES_AT_ONCE = 1 << 13
_LOW_BITS = 12
_ROWS_AT_ONCE = 1 << 6  # 1 MiB of 32-bit counts: they stay in cache


def pairs_of_table(table: Table, bits: int) -> NDArray[np.int64]:
    """Counts of all 2^bits codes -> both [bits, bits].

    The table is taken as a matrix [high bits, low bits]. Its column sums give the pairs of two low bits, its row sums
    those of two high bits, and for each low bit the row sums over the columns where it is 1 give the mixed pairs. The
    table is read once, which takes a third of the time of folding it in half bit by bit (24 bits).
    """
    low = min(bits, _LOW_BITS)
    rows = table.reshape(-1, 1 << low)
    columns = np.zeros(1 << low, np.int64)
    totals, crossed = np.empty(len(rows), np.int64), np.empty((len(rows), low), np.int64)
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        some = slice(first, first + _ROWS_AT_ONCE)
        part = rows[some]
        columns += part.sum(axis=0, dtype=table.dtype)
        for bit in reversed(range(low)):
            odd = part[:, 1 << bit :]
            crossed[some, bit] = odd.sum(axis=1, dtype=table.dtype)
            part = part[:, : 1 << bit] + odd
        totals[some] = part[:, 0]
    low_ones, high_ones = _bits_of(np.arange(1 << low), low), _bits_of(np.arange(len(rows)), bits - low)
    both = np.empty((bits, bits), np.int64)
    both[:low, :low] = (low_ones * columns) @ low_ones.T
    both[low:, low:] = (high_ones * totals) @ high_ones.T
    both[low:, :low] = high_ones.astype(np.int64) @ crossed
    both[:low, low:] = both[low:, :low].T
    return both


def pairs_of_codes(codes: Codes, counts: Counts, bits: int) -> NDArray[np.int64]:
    """Codes [n] and their counts [n] -> both [bits, bits]. Exact up to 2^53 indices."""
    both = np.zeros((bits, bits), np.float64)
    narrow = counts.max(initial=0) * _CODES_AT_ONCE < 1 << 24  # sums are exact in float32, in half the time
    dtype = np.dtype(np.float32 if narrow else np.float64)
    for first in range(0, codes.size, _CODES_AT_ONCE):
        ones = _bits_of(codes[first : first + _CODES_AT_ONCE], bits).astype(dtype)
        both += (ones * counts[first : first + _CODES_AT_ONCE].astype(dtype)) @ ones.T
    return np.rint(both).astype(np.int64)


def _bits_of(codes: Codes, bits: int) -> NDArray[np.uint8]:
    """codes [n] -> their bits [bits, n], 0 or 1, lowest bit first."""
    octets = codes.astype("<u8").view(np.uint8).reshape(-1, 8)
    return np.unpackbits(octets, axis=1, count=bits, bitorder="little").T
