"""The elements of tensors that are not stored in C order."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from lfq_cli.dtypes import TORCH_BYTES
from lfq_cli.regions import InputFile, bytes_of
from lfq_cli.torchfile.values import View

PIECE_BYTES = 8 << 20
"""Bytes read at a time: a narrow view of a large tensor takes no more memory than its own elements and this."""


@dataclass(eq=False)
class StridedRegion:
    """A tensor that is loaded into memory, in C order and little-endian, when the first bytes of it are read.

    start: the position of its first element in the file.
    """

    file: InputFile
    view: View
    start: int
    is_big_endian: bool
    seekable: bool = True
    _held: memoryview | None = None
    _lock: Lock = field(default_factory=Lock)

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fills `view` from byte `offset` of the tensor."""
        with self._lock:
            if self._held is None:
                self._held = bytes_of(self._elements())
        view[:] = self._held[offset : offset + len(view)]

    def _elements(self) -> NDArray[np.uint8]:
        """The elements [elements, bytes of one] in C order."""
        item_bytes = TORCH_BYTES[self.view.dtype]
        elements = np.empty(self.view.shape, f"V{item_bytes}")
        self._fill(elements, [step * item_bytes for step in self.view.stride], self.start)
        parts = elements.reshape(-1).view(np.uint8).reshape(-1, item_bytes)
        if self.is_big_endian:
            parts = np.ascontiguousarray(parts[:, ::-1])
        if self.view.negated:
            parts[:, -1] ^= 0x80  # the sign of every float format
        return parts

    def _fill(self, elements: NDArray[Any], strides: list[int], start: int) -> None:
        """Reads elements at `start` and `strides` (in bytes); halves the axis that spans most bytes until it fits."""
        ways = [step * (size - 1) for step, size in zip(strides, elements.shape, strict=True)]
        nbytes = elements.itemsize + sum(ways)
        if nbytes <= PIECE_BYTES:
            piece = np.empty(nbytes, np.uint8)
            self.file.read_into(start, piece.data)
            first = piece[: elements.itemsize].view(elements.dtype)
            elements[...] = as_strided(first, elements.shape, strides)
            return
        axis = ways.index(max(ways))
        half = elements.shape[axis] // 2
        before, behind = np.split(elements, [half], axis)
        self._fill(before, strides, start)
        self._fill(behind, strides, start + half * strides[axis])
