"""Floats -> codes: a tensor block by block through a backend, as packed bytes in order."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfq_cli import floats
from lfq_cli.backends import Backend, DeviceBackend, FloatsToRead
from lfq_cli.bits import Packed, StreamJoiner
from lfq_cli.codesfile import CodesTensor
from lfq_cli.dtypes import NUMPY
from lfq_cli.errors import TensorError
from lfq_cli.floats import FORMATS, FloatFormat, Raw
from lfq_cli.layout import Block, Geometry, geometry_of, position_of
from lfq_cli.packings import PACKINGS
from lfq_cli.pipeline import overflow
from lfq_cli.pipeline.overflow import NAN_HINT
from lfq_cli.pipeline.workers import Progress, Workers, in_tasks
from lfq_cli.regions import MemoryRegion, bytes_of
from lfq_cli.tensors import StoredTensor, open_source

MAX_COMPRESSED_ITEM_BYTES = 1 << 30


@dataclass(frozen=True)
class EncodeTask:
    """One tensor to encode through a backend."""

    path: Path
    tensor: StoredTensor
    channel_axis: int
    backend: Backend
    zero_nan: bool
    first_row: int = 0
    """Of axis 0: where the tensor begins in that of the file, if it is a part of it."""

    @property
    def spec(self) -> FloatFormat:
        """How the values are stored."""
        return FORMATS[self.tensor.dtype]

    @cached_property
    def geometry(self) -> Geometry:
        """The tensor as [outer, channels, inner]."""
        return geometry_of(self.tensor.shape, self.channel_axis)

    def blocks(self) -> Iterator[Block]:
        """The tensor in order, in blocks that suit the backend."""
        seekable = self.tensor.region.seekable
        item_bytes = self.geometry.channels * self.geometry.inner * self.spec.itemsize
        if not seekable and item_bytes > MAX_COMPRESSED_ITEM_BYTES:
            raise TensorError(
                f"{self.path}: {self.tensor.name!r} is compressed in items of {item_bytes / 2**30:.3g} GiB, which can"
                " only be read whole",
                "save it as .npy or .safetensors, which can be read in parts",
            )
        return self.geometry.blocks(self.backend.block_values(self.spec), whole_items=not seekable)

    def run(self, blocks: list[Block]) -> list[tuple[Block, Packed, int]]:
        """Reads and encodes some blocks; returns with each the count of its NaN values."""
        if isinstance(self.backend, DeviceBackend):
            return self._run_ahead(blocks, self.backend)
        return [(block, *self._encode(block)) for block in blocks]  # one after the other, while each is in cache

    def _run_ahead(self, blocks: list[Block], backend: DeviceBackend) -> list[tuple[Block, Packed, int]]:
        def to_read(block: Block) -> FloatsToRead:
            shape = block_shape(self.geometry, block)
            return FloatsToRead(shape, lambda raw: read_into(raw, self.tensor, self.geometry, block))

        done = []
        with closing(backend.encode_blocks(map(to_read, blocks), self.spec)) as encoded:
            for block, (stream, nan_values, nan_latents) in zip(blocks, encoded, strict=True):
                if nan_values + nan_latents and not self.zero_nan:
                    raise _NanFoundError(block)
                done.append((block, stream, nan_values))
        return done

    def _encode(self, block: Block) -> tuple[Packed, int]:
        raw = read_block(self.tensor, self.geometry, block, self.spec)
        stream, has_nan = self.backend.encode(raw, self.spec)
        if not has_nan:
            return stream, 0
        if not self.zero_nan:
            raise _NanFoundError(block)
        return stream, int(floats.is_nan(raw, self.spec).sum())


class _NanFoundError(Exception):
    """A block holds NaN, or its latents do; where and how many is determined afterwards."""

    def __init__(self, block: Block) -> None:
        super().__init__(block)
        self.block = block


class Encoding:
    """A task in progress. `nan_values`: how many values so far were NaN, encoded as zero."""

    def __init__(self, task: EncodeTask, info: CodesTensor, workers: Workers, progress: Progress) -> None:
        self._task = task
        self._info = info
        self._workers = workers
        self._progress = progress
        self.nan_values = 0

    def runs(self) -> Generator[NDArray[Any]]:
        """The tensor's stored codes, run by run. Raises TensorError for NaN unless it is encoded as zero."""
        task, info = self._task, self._info
        packing, dtype = PACKINGS[info.packing], NUMPY[info.dtype]
        joiner = StreamJoiner()
        item_bytes = task.geometry.channels * task.spec.itemsize
        parallel = task.tensor.region.seekable
        try:
            with closing(self._workers.in_order(task.run, in_tasks(task.blocks()), parallel=parallel)) as done:
                for block, stream, nan_values in chain.from_iterable(done):
                    self.nan_values += nan_values
                    if packing.is_stream:
                        yield joiner.join(stream, block.vectors * info.bits_per_vector)
                    else:
                        yield packing.pack(stream, block.vectors, info.codebook_dims, info.bit_order, dtype)
                    self._progress(block.vectors * item_bytes)
        except _NanFoundError as found:
            raise _nan_error(task, found.block) from None
        yield joiner.finish()


def _nan_error(task: EncodeTask, found: Block) -> TensorError:
    """Reads the tensor again to count its NaN and find the first, in C order of the tensor; or only as far as the block
    that was the first to have NaN, if there it is in the latents alone.
    """
    count, first = 0, prod(task.tensor.shape)
    with ExitStack() as opened:
        if not isinstance(task.tensor.region, MemoryRegion):
            again = opened.enter_context(open_source(task.path)).tensors[task.tensor.name]
            rows = task.first_row, task.first_row + task.tensor.shape[0]
            task = replace(task, tensor=again if rows == (0, again.shape[0]) else again.rows(*rows))
        for block in task.blocks():
            raw = read_block(task.tensor, task.geometry, block, task.spec)
            where = floats.is_nan(raw, task.spec)
            if where.any():
                count += int(where.sum())
                first = min(first, _first_position(task.geometry, block, where))
            elif block == found:
                vector = block.outer.start * task.geometry.inner + block.inner.start
                vector += overflow.first_vector(task.backend, raw, task.spec)
                return overflow.error(
                    f"{task.path}: {task.tensor.name!r}",
                    overflow.position(vector, task.tensor.shape, task.channel_axis, first_row=task.first_row),
                    task.backend.compute_dtype,
                )
    position = position_of(first, task.tensor.shape)
    position[0] += task.first_row
    return TensorError(f"{task.path}: {task.tensor.name!r} holds {count} NaN, the first at {position}", NAN_HINT)


def _first_position(geometry: Geometry, block: Block, where: floats.Bools) -> int:
    """The position in the flat tensor of the first true value of a block [outer, channels, inner]."""
    outer, channel, inner = (int(axis[0]) for axis in np.nonzero(where))
    channels_before = (block.outer.start + outer) * geometry.channels + channel
    return int(channels_before * geometry.inner + block.inner.start + inner)


_buffers = threading.local()


def read_block(tensor: StoredTensor, geometry: Geometry, block: Block, spec: FloatFormat) -> Raw:
    """The block's values [outer, channels, inner] as stored, in this thread's reused buffer."""
    shape = block_shape(geometry, block)
    needed = prod(shape) * spec.itemsize
    buffer: NDArray[Any] | None = getattr(_buffers, "block", None)
    if buffer is None or buffer.size < needed:
        buffer = _buffers.block = np.empty(needed, np.uint8)
    raw = buffer[:needed].view(spec.storage).reshape(shape)
    read_into(raw, tensor, geometry, block)
    return raw


def block_shape(geometry: Geometry, block: Block) -> tuple[int, int, int]:
    """[outer, channels, inner] of a block."""
    return block.outer.stop - block.outer.start, geometry.channels, block.inner.stop - block.inner.start


def read_into(raw: Raw, tensor: StoredTensor, geometry: Geometry, block: Block) -> None:
    """Fills raw [outer, channels, inner] with the block's values as stored."""
    for part, start in geometry.runs(block):
        tensor.region.read_into(start * raw.itemsize, bytes_of(raw[part]))
