"""Codes against their source: encodes it again, compares bit by bit, and measures how near to 0 the values were."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfq_cli.bits import unpack
from lfq_cli.codesfile import TensorCodes
from lfq_cli.floats import Bools
from lfq_cli.layout import Block
from lfq_cli.packings import PACKINGS
from lfq_cli.pipeline.encode import EncodeTask, read_block

MARGINS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
_SAMPLED_RUN = 1 << 10  # vectors sampled at once: enough to be worth reading a block for
_LEAST_RUNS = 16
_CHECKED_VECTORS = 1 << 17


@dataclass
class Comparison:
    """Newly made codes against the stored ones. Counts per bit are [B], in stream order."""

    dims: tuple[int, ...]
    vectors: int
    differing_indices: int
    differing_bits_by_bit: NDArray[np.int64]
    close_by_bit: NDArray[np.int64]
    """How often |z| is below each of MARGINS: [len(MARGINS), B]."""

    @classmethod
    def nothing(cls, dims: tuple[int, ...]) -> Comparison:
        """The comparison of no vectors."""
        bits = sum(dims)
        return cls(dims, 0, 0, np.zeros(bits, np.int64), np.zeros((len(MARGINS), bits), np.int64))

    @property
    def differing_bits(self) -> int:
        """The share of bits that differ."""
        return int(self.differing_bits_by_bit.sum())

    def as_json(self) -> dict[str, Any]:
        """The JSON object of `lfq verify --source`: shares."""
        vectors = max(self.vectors, 1)
        return {
            "vectors": self.vectors,
            "indices_differ": self.differing_indices / (vectors * len(self.dims)),
            "bits_differ": self.differing_bits / (vectors * sum(self.dims)),
            "bits_differ_by_bit": (self.differing_bits_by_bit / vectors).tolist(),
            "margin": {
                f"{m:g}": float(close.mean() / vectors) for m, close in zip(MARGINS, self.close_by_bit, strict=True)
            },
            "margin_by_bit": {
                f"{m:g}": (close / vectors).tolist() for m, close in zip(MARGINS, self.close_by_bit, strict=True)
            },
        }


def compare(task: EncodeTask, codes: TensorCodes, sample: int | None) -> Comparison:
    """Encodes the task's tensor again, or about `sample` vectors of it, and compares."""
    total = Comparison.nothing(codes.info.codebook_dims)
    for block in _sampled(task, sample):
        _compare_block(task, block, codes, 0, total)
    return total


def compare_item(task: EncodeTask, codes: TensorCodes, start: int, total: Comparison) -> None:
    """Adds the comparison of the task's tensor, whose codes begin at vector `start`, to `total`."""
    for block in task.blocks():
        _compare_block(task, block, codes, start, total)


def _compare_block(task: EncodeTask, block: Block, codes: TensorCodes, start: int, total: Comparison) -> None:
    raw = read_block(task.tensor, task.geometry, block, task.spec)
    start += block.outer.start * task.geometry.inner + block.inner.start
    stored = codes.stream(start, start + block.vectors)
    made, _ = task.backend.encode(raw, task.spec)
    differ = unpack(stored ^ made, block.vectors, sum(total.dims))
    total.vectors += block.vectors
    total.differing_bits_by_bit += differ.sum(axis=0)
    total.differing_indices += sum(int(field.any(axis=1).sum()) for field in _fields(differ, total.dims))
    near = np.abs(task.backend.latents(raw, task.spec))
    for k, margin in enumerate(MARGINS):
        total.close_by_bit[k] += (near < np.float32(margin)).sum(axis=0)


def _fields(bits: Bools, dims: tuple[int, ...]) -> list[Bools]:
    return np.split(bits, np.cumsum(dims)[:-1], axis=1)


def _sampled(task: EncodeTask, sample: int | None) -> Iterator[Block]:
    """All blocks; or evenly spaced runs of `sample` vectors in all, where the source allows random access."""
    if sample is None or sample >= task.geometry.vectors or not task.tensor.region.seekable:
        yield from task.blocks()
        return
    run = min(_SAMPLED_RUN, -(-sample // _LEAST_RUNS))
    blocks = list(task.geometry.blocks(run * task.geometry.channels))
    wanted = min(len(blocks), -(-sample // run))
    while wanted < len(blocks) and sum(blocks[k].vectors for k in _spread(len(blocks), wanted)) < sample:
        wanted += 1  # the last block of an item is smaller
    yield from (blocks[k] for k in _spread(len(blocks), wanted))


def _spread(count: int, wanted: int) -> list[int]:
    """`wanted` evenly spaced numbers below `count`, including the first and last."""
    return [count // 2] if wanted == 1 else [k * (count - 1) // (wanted - 1) for k in range(wanted)]


def check_indices(codes: TensorCodes) -> None:
    """Reads every index. Raises CodesFileError for one outside its codebook, and for set bits that belong to no
    index.
    """
    if not PACKINGS[codes.info.packing].is_stream:  # a stream has no such values
        for start in range(0, codes.info.vectors, _CHECKED_VECTORS):
            codes.stream(start, min(start + _CHECKED_VECTORS, codes.info.vectors))
