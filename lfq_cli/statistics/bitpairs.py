"""How often each pair of bits is one at the same time: from counts of codes, without going through indices again.

Bits are counted from the lowest of a code: `both[i, j]` belongs to bits i and j, `both[i, i]` are the ones of bit i.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lfq_cli.statistics.tables import Codes, Counts

_CODES_AT_ONCE = 1 << 13


def pairs_of_table(table: Counts, bits: int) -> NDArray[np.int64]:
    """Counts of all 2^bits codes -> both [bits, bits].

    Folds the table in half for every bit: 4 * 2^bits additions for the ones, as many for the pairs.
    """
    both = np.zeros((bits, bits), np.int64)
    for bit in range(bits):
        odd = table[1::2]
        both[bit, bit] = odd.sum()
        both[bit, bit + 1 :] = both[bit + 1 :, bit] = _ones(odd, bits - bit - 1)
        table = table[0::2] + odd
    return both


def _ones(table: Counts, bits: int) -> list[int]:
    """How often each bit is one, lowest first."""
    found = []
    for _ in range(bits):
        odd = table[1::2]
        found.append(int(odd.sum()))
        table = table[0::2] + odd
    return found


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
