"""Floats as vectors: a tensor block by block as float32 rows, from the start or from any block on."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
from einops import rearrange

from lfq_cli.errors import TensorError
from lfq_cli.floats import FORMATS, Floats, to_float32
from lfq_cli.layout import Block, geometry_of
from lfq_cli.pipeline.encode import read_block
from lfq_cli.tensors import StoredTensor

BLOCK_VALUES = 1 << 18
"""1 MiB of float32: small enough that blocks read in any order mix well, large enough for the disk."""


def vector_blocks(tensor: StoredTensor, axis: int) -> list[Block]:
    """The blocks of a tensor whose features are on `axis`; a single block where it does not allow random access."""
    geometry = geometry_of(tensor.shape, axis)
    if tensor.region.seekable:
        return list(geometry.blocks(BLOCK_VALUES))
    return list(geometry.blocks(max(prod(tensor.shape), 1)))


def read_vectors(path: Path | str, tensor: StoredTensor, axis: int, block: Block) -> Floats:
    """The vectors of a block, float32 [n, dim], in new memory. Raises TensorError for NaN and infinity."""
    spec, geometry = FORMATS[tensor.dtype], geometry_of(tensor.shape, axis)
    raw = to_float32(read_block(tensor, geometry, block, spec), spec)
    vectors = rearrange(raw, "o c i -> (o i) c")
    vectors = np.array(vectors, np.float32, order="C", copy=vectors.base is not None)
    if not np.isfinite(vectors).all():
        _refuse(path, tensor, axis, block, vectors)
    return vectors


def all_vectors(path: Path | str, tensor: StoredTensor, axis: int) -> Iterator[Floats]:
    """The vectors of a tensor, block by block."""
    for block in vector_blocks(tensor, axis):
        yield read_vectors(path, tensor, axis, block)


def _refuse(path: Path | str, tensor: StoredTensor, axis: int, block: Block, vectors: Floats) -> None:
    row = int(np.flatnonzero(~np.isfinite(vectors).all(1))[0])
    feature = int(np.flatnonzero(~np.isfinite(vectors[row]))[0])
    inner = block.inner.stop - block.inner.start
    geometry = geometry_of(tensor.shape, axis)
    number = (block.outer.start + row // inner) * geometry.inner + block.inner.start + row % inner
    raise TensorError(
        f"{path}: {tensor.name!r} holds {vectors[row, feature]} in vector {number}, feature {feature}",
        "train on finite numbers: leave such vectors out, or store the values in a wider format",
    )
