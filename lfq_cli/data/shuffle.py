"""A shuffled order in constant memory: a permutation that maps each place to its item.

A Feistel network over pairs of half-words permutes the numbers below a power of 4; results beyond the count are
permuted again until they are inside (cycle walking). Sources: Luby and Rackoff, "How to construct pseudorandom
permutations from pseudorandom functions", 1988; Black and Rogaway, "Ciphers with arbitrary finite domains", 2002. The
round function is the finaliser of splitmix64 (Steele, Lea, Flood, 2014).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6


class Permutation:
    """An order of the numbers below `count`, the same for the same seed on every machine."""

    def __init__(self, count: int, seed: int, epoch: int) -> None:
        self._count = count
        bits = max((count - 1).bit_length(), 2)
        self._half = np.uint64((bits + 1) // 2)
        self._mask = np.uint64((1 << int(self._half)) - 1)
        entropy = np.random.SeedSequence([seed % 2**64, epoch])
        self._keys = entropy.generate_state(_ROUNDS, np.uint64)

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The items at these places."""
        items = self._permuted(places.astype(np.uint64))
        outside = items >= self._count
        while outside.any():
            items[outside] = self._permuted(items[outside])
            outside = items >= self._count
        return items.astype(np.int64)

    def _permuted(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = numbers >> self._half, numbers & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right + key) & self._mask)
        return (left << self._half) | right


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
