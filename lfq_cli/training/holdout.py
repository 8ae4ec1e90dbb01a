"""Which vectors are held out, and uniform samples. Both depend on nothing but the numbers of vectors and the seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lfq_cli.floats import Floats

_HELD_OUT, _SAMPLED = 1, 2


def shares(first: int, count: int, *, seed: int, use: int) -> NDArray[np.float64]:
    """A pseudo-random number in [0, 1) for each vector from number `first` on [count].

    Source: SplitMix64; Steele, Lea, Flood, 2014.
    """
    salt = (seed * 0x9E3779B97F4A7C15 + use * 0xD1342543DE82EF95) % 2**64
    mixed = (np.arange(first, first + count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= np.uint64(salt)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def is_held_out(first: int, count: int, *, seed: int, share: float) -> NDArray[np.bool_]:
    """Which of the vectors from number `first` on are held out [count]: about `share` of them."""
    found: NDArray[np.bool_] = shares(first, count, seed=seed, use=_HELD_OUT) < share
    return found


class Reservoir:
    """A uniform sample of at most `capacity` of the added vectors. Source: Vitter, 1985, algorithm R."""

    def __init__(self, capacity: int, dim: int, *, seed: int) -> None:
        self._capacity = capacity
        self._seed = seed
        self._kept: Floats = np.empty((capacity, dim), np.float32)  # pages without data take no memory
        self.seen = 0

    def add(self, vectors: Floats) -> None:
        """Adds vectors [n, dim]."""
        free = max(self._capacity - self.seen, 0)
        first, rest = vectors[:free], vectors[free:]
        self._kept[self.seen : self.seen + len(first)] = first
        if len(rest):
            numbers = np.arange(self.seen + len(first), self.seen + len(vectors))
            draws = shares(int(numbers[0]), len(rest), seed=self._seed, use=_SAMPLED)
            places = (draws * (numbers + 1)).astype(np.int64)
            chosen = places < self._capacity
            self._kept[places[chosen]] = rest[chosen]  # the later of two for one place wins, as if added one by one
        self.seen += len(vectors)

    def vectors(self) -> Floats:
        """The sample [n, dim]; in the order of the data if it holds all of it."""
        return self._kept[: self.seen]
