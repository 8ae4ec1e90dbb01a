"""Process-wide settings of torch, and who may change them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager


class _TorchSettings:
    """Process-wide settings of torch: set when the first backend starts to work, restored when the last one ends.

    Backends may work in several threads at once; if each restored what it found, one could leave another's settings
    behind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = self._holders_of_one_thread = 0
        self._precision = ""
        self._count = 0

    @contextmanager
    def held(self, *, one_thread: bool) -> Iterator[None]:
        """A block in which products are exact and, on request, each runs in one thread."""
        with self._lock:
            self._begin(one_thread=one_thread)
        try:
            yield
        finally:
            with self._lock:
                self._end(one_thread=one_thread)

    def _begin(self, *, one_thread: bool) -> None:
        import torch

        if not self._holders:
            self._precision = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")  # TF32 changes tokens
        self._holders += 1
        if one_thread:
            if not self._holders_of_one_thread:
                self._count = torch.get_num_threads()
            self._holders_of_one_thread += 1
            torch.set_num_threads(1)  # several blocks at once overlap with reading: 1.7 times torch's own threads

    def _end(self, *, one_thread: bool) -> None:
        import torch

        self._holders -= 1
        if not self._holders:
            torch.set_float32_matmul_precision(self._precision)
        if one_thread:
            self._holders_of_one_thread -= 1
            if not self._holders_of_one_thread:
                torch.set_num_threads(self._count)


_settings = _TorchSettings()


def exact_products(*, one_thread: bool) -> AbstractContextManager[None]:
    """A block in which torch's products are exact, on request each in one thread: always the same sums."""
    return _settings.held(one_thread=one_thread)
