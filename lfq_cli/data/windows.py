"""Windows over the vectors of samples; none extends into the next sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lfq_cli.data.catalog import Catalog
from lfq_cli.errors import OptionError

Numbers = NDArray[np.int64]


class Windows:
    """`length` vectors every `stride`, from the first vector of each sample on."""

    def __init__(self, catalog: Catalog, length: int, stride: int) -> None:
        if length < 1 or stride < 1:
            raise OptionError(f"window {length} and stride {stride}: expected 1 or more")
        every = np.arange(int(catalog.starts[-1]), dtype=np.int64)
        first, last = catalog.ranges(next(iter(catalog.tensors)), every)
        for name in catalog.tensors:
            begin, end = catalog.ranges(name, every)
            if not np.array_equal(end - begin, last - first):
                raise OptionError("its tensors have different numbers of vectors", "tensors=(...) chooses one")
        self.length = length
        self._stride = stride
        counts = np.maximum((last - first - length) // stride + 1, 0)
        self._ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def locate(self, numbers: Numbers) -> tuple[Numbers, Numbers]:
        """(sample, its first vector) of each window."""
        samples = np.searchsorted(self._ends, numbers, side="right")
        before = np.where(samples > 0, self._ends[samples - 1], 0)
        return samples, (numbers - before) * self._stride
