"""How often each pair of bits is one at the same time: from counts of codes, without going through indices again.

Bits are counted from the lowest of a code: `both[i, j]` belongs to bits i and j, `both[i, i]` are the ones of bit i.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lfq_cli.statistics.tables import Codes, Counts

_CODES_AT_ONCE = 1 << 13
_LOW_BITS = 12
_ROWS_AT_ONCE = 1 << 5  # 1 MiB of counts: they stay in cache


def pairs_of_table(table: Counts, bits: int) -> NDArray[np.int64]:
    """Counts of all 2^bits codes -> both [bits, bits].

    The table as a matrix [high bits, low bits]: sums of its columns tell the pairs of low bits, sums of its rows those
    of high ones, and sums of the columns in which a low bit is one, by row, those of one of each. It is read once: a
    third of the time of folding it in half bit by bit (24 bits).
    """
    low = min(bits, _LOW_BITS)
    rows = table.reshape(-1, 1 << low)
    columns = np.zeros(1 << low, np.int64)
    totals, crossed = np.empty(len(rows), np.int64), np.empty((len(rows), low), np.int64)
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        some = slice(first, first + _ROWS_AT_ONCE)
        part = rows[some]
        columns += part.sum(axis=0)
        for bit in reversed(range(low)):
            odd = part[:, 1 << bit :]
            crossed[some, bit] = odd.sum(axis=1)
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
    """Some codes and their counts -> both [bits, bits]. Exact up to 2^53 indices."""
    both = np.zeros((bits, bits), np.float64)
    narrow = counts.max(initial=0) * _CODES_AT_ONCE < 1 << 24  # sums that float32 holds, in half the time
    dtype = np.dtype(np.float32 if narrow else np.float64)
    for first in range(0, codes.size, _CODES_AT_ONCE):
        ones = _bits_of(codes[first : first + _CODES_AT_ONCE], bits).astype(dtype)
        both += (ones * counts[first : first + _CODES_AT_ONCE].astype(dtype)) @ ones.T
    return np.rint(both).astype(np.int64)


def _bits_of(codes: Codes, bits: int) -> NDArray[np.uint8]:
    """codes [n] -> [bits, n] of 0 and 1, lowest bit first."""
    octets = codes.astype("<u8").view(np.uint8).reshape(-1, 8)
    return np.unpackbits(octets, axis=1, count=bits, bitorder="little").T
