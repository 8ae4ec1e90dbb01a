"""How a codes file stores the indices of vectors: one stream of bits, a row of bytes per vector, or plain integers.

A packing is a record of its properties, so that no other module compares names of packings. `dims` lists the bits of
each index of one vector; their sum is B. Layouts never change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfq_cli.bits import (
    BitOrder,
    Packed,
    from_rows,
    indices_to_bits,
    pack,
    stream_bytes,
    stream_to_indices,
    to_rows,
)
from lfq_cli.dtypes import NUMPY


@dataclass(frozen=True)
class Packing:
    """One way to store a run of vectors."""

    pack: Callable[[Packed, int, tuple[int, ...], BitOrder, np.dtype[Any]], NDArray[Any]]
    """(stream, vectors, dims, order, dtype) -> the stored array."""
    unpack: Callable[[NDArray[Any], int, tuple[int, ...], BitOrder], Packed]
    """(stored array, vectors, dims, order) -> stream."""
    shape: Callable[[int, tuple[int, ...], tuple[int, ...], tuple[int, ...]], tuple[int, ...]]
    """(vectors, axes of the positions, shape of the index tensor, dims) -> the shape of the stored array."""
    row_bits: Callable[[tuple[int, ...], str], int]
    """(dims, dtype) -> stored bits per vector."""
    fault: Callable[[NDArray[Any], tuple[int, ...]], str | None]
    """(stored array [vectors, row], dims) -> what is wrong with it, since no encoder writes it; None if nothing is."""
    dtypes: tuple[str, ...] = ("U8",)
    """Its possible dtypes in a safetensors file; if several, the smallest that holds the indices, or a wider one."""
    is_stream: bool = False
    """Whether vectors follow each other without padding, so that one may begin in the middle of a byte."""
    holds_indices: bool = False
    """Whether the indices themselves are stored."""


def _to_rows(
    stream: Packed, vectors: int, dims: tuple[int, ...], order: BitOrder, dtype: np.dtype[Any]
) -> NDArray[Any]:
    return to_rows(stream, vectors, sum(dims))


def _from_rows(rows: NDArray[Any], vectors: int, dims: tuple[int, ...], order: BitOrder) -> Packed:
    return from_rows(rows.reshape(vectors, _row_bytes(dims)), sum(dims))


def _row_bytes(dims: tuple[int, ...]) -> int:
    return -(-sum(dims) // 8)


def _row_tail(rows: NDArray[Any], dims: tuple[int, ...]) -> str | None:
    unused = (1 << -sum(dims) % 8) - 1
    return "the unused bits at the end of a row are not zero" if (rows[:, -1] & unused).any() else None


def _from_indices(indices: NDArray[Any], vectors: int, dims: tuple[int, ...], order: BitOrder) -> Packed:
    return pack(indices_to_bits(indices.reshape(vectors, len(dims)), dims, order))


def _out_of_range(indices: NDArray[Any], dims: tuple[int, ...]) -> str | None:
    for k, bits in enumerate(dims):
        column = indices[:, k]
        if column.size and (column.min() < 0 or int(column.max()) >= 2**bits):
            return f"it holds indices outside 0 to 2^{bits} - 1"
    return None


PACKINGS = {
    "bits": Packing(
        pack=lambda stream, *_: stream,
        unpack=lambda stream, *_: stream,
        shape=lambda vectors, positions, shape, dims: (stream_bytes(vectors, sum(dims)),),
        row_bits=lambda dims, dtype: sum(dims),
        fault=lambda stored, dims: None,
        is_stream=True,
    ),
    "rows": Packing(
        pack=_to_rows,
        unpack=_from_rows,
        shape=lambda vectors, positions, shape, dims: (*positions, _row_bytes(dims)),
        row_bits=lambda dims, dtype: 8 * _row_bytes(dims),
        fault=_row_tail,
    ),
    "ints": Packing(
        pack=stream_to_indices,
        unpack=_from_indices,
        shape=lambda vectors, positions, shape, dims: shape,
        row_bits=lambda dims, dtype: 8 * NUMPY[dtype].itemsize * len(dims),
        fault=_out_of_range,
        dtypes=("U8", "I16", "I32", "I64", "U64"),
        holds_indices=True,
    ),
}
