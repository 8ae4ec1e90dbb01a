"""Splits blocks to fit a device's memory: in halves, and again in halves, where it runs out."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

from lfq_cli.errors import DeviceError, LfqNote
from lfq_cli.layout import Block

T = TypeVar("T")

FEWEST_VECTORS = 8
"""A device without room for so many is too small."""


class Halving:
    """The most vectors that a device takes at once: unlimited until it runs out of memory."""

    def __init__(self, device: str, free: Callable[[], None]) -> None:
        """device: its name in messages; free: releases unused memory."""
        self._device = device
        self._free = free
        self._lock = threading.Lock()
        self.most_vectors: int | None = None

    def compute(self, work: Callable[[Block], T], block: Block) -> Iterator[T]:
        """work(piece) for each piece of the block, in the order of its vectors: a single piece, if there is room.

        Warns of each halving. Raises DeviceError if not even FEWEST_VECTORS fit.
        """
        import torch

        for piece in pieces(block, self.most_vectors):
            try:
                done = [work(piece)]
            except torch.cuda.OutOfMemoryError as error:  # on every device; torch.OutOfMemoryError from 2.5 on
                if piece.vectors <= FEWEST_VECTORS:
                    raise DeviceError(
                        f"{self._device}: out of memory for {piece.vectors} vectors", "--device cpu"
                    ) from error
                done = []
            if done:
                yield done[0]
                continue
            self._halve(piece.vectors)  # the error is released, with the memory its traceback held
            yield from self.compute(work, piece)

    def _halve(self, vectors: int) -> None:
        """Halves the limit because this many vectors were too many; several threads may find that at once."""
        with self._lock:
            if self.most_vectors is None or self.most_vectors >= vectors:
                self.most_vectors = -(-vectors // 2)
                warnings.warn(
                    f"{self._device}: out of memory for {vectors:,} vectors at once; halving", LfqNote, stacklevel=2
                )
        self._free()


def pieces(block: Block, most_vectors: int | None) -> Iterator[Block]:
    """The block in pieces of at most so many vectors: whole outer items, or ranges of positions within one."""
    if most_vectors is None or block.vectors <= most_vectors:
        yield block
        return
    outer, inner = block.outer, block.inner
    items = most_vectors // (inner.stop - inner.start)
    for first in range(outer.start, outer.stop, max(items, 1)):
        last = min(first + max(items, 1), outer.stop)
        step = most_vectors if not items else inner.stop - inner.start
        for start in range(inner.start, inner.stop, step):
            yield Block(slice(first, last), slice(start, min(start + step, inner.stop)))
