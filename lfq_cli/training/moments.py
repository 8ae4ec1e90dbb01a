"""Mean and covariance of vectors in one pass, and the vector furthest from the mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lfq_cli.floats import Floats


@dataclass(frozen=True)
class Moments:
    """mean [dim] and covariance [dim, dim] of `count` vectors, float64."""

    count: int
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @property
    def variance(self) -> float:
        """The mean squared distance from the mean."""
        return float(np.trace(self.covariance))


class MomentsCounter:
    """Sums of vectors in float64, shifted by the median of the first ones, so that no digits cancel."""

    def __init__(self, dim: int) -> None:
        self._sum = np.zeros(dim)
        self._squares = np.zeros((dim, dim))
        self._shift: NDArray[np.float64] | None = None
        self._count = 0
        self._furthest = (-1.0, -1)

    def add(self, vectors: Floats, numbers: NDArray[np.int64]) -> None:
        """Adds vectors [n, dim] with their numbers in the data [n]."""
        if not len(vectors):
            return
        wide = vectors.astype(np.float64)
        if self._shift is None:
            self._shift = np.median(wide, axis=0)  # robust against an outlier among the first vectors
        wide -= self._shift
        self._sum += wide.sum(0)
        same = torch.from_numpy(wide)
        self._squares += (same.T @ same).numpy()  # torch, here with one thread, gives the same sums every time
        self._count += len(wide)
        lengths = np.einsum("nd,nd->n", wide, wide)
        most = int(lengths.argmax())
        self._furthest = max(self._furthest, (float(lengths[most]), int(numbers[most])))

    def moments(self) -> Moments:
        """The moments of all added vectors, of which there must be at least one."""
        assert self._shift is not None
        off = self._sum / self._count
        covariance = self._squares / self._count - np.outer(off, off)
        return Moments(self._count, self._shift + off, covariance)

    def furthest(self) -> tuple[float, int]:
        """(share of all squared distances, number) of the vector furthest from the mean."""
        length, number = self._furthest
        total = float(np.trace(self._squares))
        return (length / total if total > 0 else 0.0), number
