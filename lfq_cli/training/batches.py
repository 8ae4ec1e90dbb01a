"""Batches of coordinates by number: the same number gives the same batch in every run.

If all training vectors are in memory, an epoch is a permutation of them. Otherwise runs of vectors are read in shuffled
order until a pool is full, and batches come from a permutation of the pool; the next pool continues where it ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lfq_cli.floats import Floats
from lfq_cli.training.holdout import is_held_out
from lfq_cli.training.source import Run, Source
from lfq_cli.training.space import Space

_PERMUTED, _SHUFFLED, _MIXED = 3, 4, 5


def generator_of(*numbers: int) -> torch.Generator:
    """A random generator seeded with these numbers."""
    seed = int(np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(seed % 2**63)


class MemoryBatches:
    """Batches of vectors that are all in memory, x [n, r]. mixed: see `recipe.MIXED`."""

    def __init__(self, x: Tensor, size: int, *, seed: int, mixed: float = 0.0) -> None:
        self._x = x
        self._size = min(size, len(x))
        self._seed = seed
        self._mixed = mixed
        self._order: tuple[int, Tensor] | None = None

    def batch(self, number: int) -> Tensor:
        """Batch `number` [size, r], from 0 on without end."""
        epoch, place = divmod(number, len(self._x) // self._size)
        if self._order is None or self._order[0] != epoch:
            order = torch.randperm(len(self._x), generator=generator_of(self._seed, _PERMUTED, epoch))
            self._order = epoch, order.to(self._x.device)
        found = self._x[self._order[1][place * self._size : (place + 1) * self._size]]
        if not self._mixed:
            return found
        pairs = torch.randint(len(self._x), (2, len(found)), generator=generator_of(self._seed, _MIXED, number))
        first, second = self._x[pairs.to(self._x.device)]
        moved: Tensor = found + self._mixed * (first - second)
        return moved


@dataclass(frozen=True)
class _Pool:
    number: int
    batches: MemoryBatches


class StreamedBatches:
    """Batches of vectors that are read again and again, `pool_vectors` of them in memory at a time."""

    def __init__(
        self,
        source: Source,
        space: Space,
        size: int,
        *,
        trained: int,
        pool_vectors: int,
        seed: int,
        holdout: float,
        device: torch.device,
    ) -> None:
        """trained: how many vectors of the source are not held out."""
        self._source = source
        self._space = space
        self._size = min(size, pool_vectors)
        self._pool_vectors = pool_vectors
        self._pools = max(1, trained // pool_vectors)
        self._seed = seed
        self._holdout = holdout
        self._device = device
        self._pool: _Pool | None = None
        self._rest: Iterator[Floats] = iter(())

    def batch(self, number: int) -> Tensor:
        """Batch `number` [size, r], from 0 on without end."""
        pool, place = divmod(number, self._pool_vectors // self._size)
        if self._pool is None or self._pool.number != pool:
            self._pool = _Pool(pool, self._read(pool))
        return self._pool.batches.batch(place)

    def _read(self, number: int) -> MemoryBatches:
        epoch, place = divmod(number, self._pools)
        follows = self._pool is not None and self._pool.number == number - 1 and place > 0
        if not follows:
            self._rest = self._training_vectors(epoch, skip=place * self._pool_vectors)
        self._pool = None  # its memory is needed
        x = torch.empty(self._pool_vectors, self._space.size)
        filled = 0
        for vectors in self._rest:
            taken = vectors[: self._pool_vectors - filled]
            x[filled : filled + len(taken)] = self._space.coordinates(taken)
            filled += len(taken)
            if filled == self._pool_vectors:
                self._rest = _chained(vectors[len(taken) :], self._rest)
                break
        return MemoryBatches(x[:filled].to(self._device), self._size, seed=self._seed + number)

    def _training_vectors(self, epoch: int, *, skip: int) -> Iterator[Floats]:
        """The training vectors in the shuffled order of an epoch, but for the first `skip`."""
        runs = self._source.runs
        order = torch.randperm(len(runs), generator=generator_of(self._seed, _SHUFFLED, epoch))
        for place in order.tolist():
            run = runs[place]
            trained = self._trained(run)
            if skip >= int(trained.sum()):
                skip -= int(trained.sum())
                continue
            first = 0
            for vectors in self._source.read(run):
                found = vectors[trained[first : first + len(vectors)]]
                first += len(vectors)
                if skip < len(found):
                    yield found[skip:]
                skip = max(skip - len(found), 0)

    def _trained(self, run: Run) -> np.ndarray:
        return ~is_held_out(run.first, run.vectors, seed=self._seed, share=self._holdout)


def _chained(first: Floats, rest: Iterator[Floats]) -> Iterator[Floats]:
    if len(first):
        yield first
    yield from rest
