"""Which epoch it is, agreed on by all processes that load data."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np

_EPOCHS = 1 << 31
_FIRST = 1 << 30
"""What epoch 0 is held as, so that the one before it is not a negative number."""


class EpochCounter:
    """Counts how often a data set was begun, across processes: all workers of one epoch get the same number.

    Workers of an epoch share torch's seed and, if they are persistent, the number of times they began. The epoch and
    its identifier are one word in shared memory, so it is never read half written.
    """

    def __init__(self) -> None:
        self._word = _shared_word()
        self._begun = os.getpid(), 0
        self.set(0)

    def set(self, epoch: int) -> None:
        """Sets the next epoch to begin to `epoch`."""
        self._word[0] = self._own = _FIRST + epoch - 1
        self._set_to = epoch
        self._begun = os.getpid(), 0

    @property
    def current(self) -> int:
        """The epoch that began last in any process; before the first, the one that will begin."""
        return max(int(self._word[0]) % _EPOCHS - _FIRST, self._set_to)

    @property
    def has_begun_elsewhere(self) -> bool:
        """Whether other processes have begun epochs since this one last began or set one."""
        return int(self._word[0]) != self._own

    def begin(self, worker: Any) -> int:
        """Begins an epoch and returns its number; worker: the result of torch.utils.data.get_worker_info()."""
        word = self._next_word(worker)
        self._word[0] = self._own = word
        self._begun = os.getpid(), self._times() + 1
        return word % _EPOCHS - _FIRST

    def upcoming(self, worker: Any) -> int:
        """The epoch that `begin` would give."""
        return self._next_word(worker) % _EPOCHS - _FIRST

    def _times(self) -> int:
        """How often this process has begun an epoch."""
        pid, times = self._begun
        return times if pid == os.getpid() else 0

    def _next_word(self, worker: Any) -> int:
        word = int(self._word[0])
        epoch = word % _EPOCHS + 1
        if worker is None:
            return epoch
        tag = 1 + (int(worker.seed) - int(worker.id) + (self._times() + 1) * 0x9E3779B1) % (_EPOCHS - 2)
        return word if word // _EPOCHS == tag else tag * _EPOCHS + epoch


def _shared_word() -> Any:
    """An int64 shared by forked and spawned loaders: a tensor where torch is installed, since loaders need torch."""
    torch = sys.modules.get("torch")
    if torch is None:
        return np.zeros(1, np.int64)
    return torch.zeros(1, dtype=torch.int64).share_memory_()
