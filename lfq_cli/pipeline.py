"""Every loop over data, in constant memory: floats to codes, codes to floats, codes to counts, codes to a table.

The road of a block: a worker reads it by position into a buffer of its own and computes; codes are handed to the caller
in order, who writes them; floats are written by position where they belong. Workers run ahead by a few blocks, so that
reading, computing and writing overlap. Knows blocks and backends; files are opened, named and finished by `jobs`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from lfq_cli import floats
from lfq_cli.backends import Backend
from lfq_cli.bits import PACKINGS, Packed, StreamJoiner, indices_to_bits, pack, unpack
from lfq_cli.codesfile import CodesTensor, TensorCodes
from lfq_cli.container import DTYPES
from lfq_cli.errors import TensorError
from lfq_cli.files import write_all, write_at
from lfq_cli.floats import FORMATS, Bools, FloatFormat, Raw
from lfq_cli.layout import Block, Geometry, Layout, geometry_of, insert_channels
from lfq_cli.regions import CPUS, bytes_of
from lfq_cli.stats import Counter
from lfq_cli.tensors import StoredTensor, open_source

T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[int], None]
"""Called with the bytes done since the last call."""


class Workers:
    """Runs a function over items in threads, and gives the results in order."""

    def __init__(self, pool: ThreadPoolExecutor, threads: int) -> None:
        self._pool = pool
        self._ahead = 2 * threads

    def start(self, work: Callable[[], R]) -> Callable[[], R]:
        """Begins `work` beside everything else; the call that is returned waits for its result or raises its error."""
        return self._pool.submit(work).result

    def in_order(self, work: Callable[[T], R], items: Iterable[T], *, parallel: bool = True) -> Generator[R]:
        """work(item) for every item; a few items ahead of the caller, or one by one if not `parallel`."""
        if not parallel:
            yield from map(work, items)
            return
        items = iter(items)
        first = list(islice(items, 2))
        if len(first) < 2:  # nothing to overlap: not worth a thread's time
            yield from map(work, first)
            return
        running: deque[Future[R]] = deque()
        try:
            for item in chain(first, items):
                running.append(self._pool.submit(work, item))
                if len(running) > self._ahead:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()
            wait(running)  # the caller is about to close what they read from


BLOCKS_AT_ONCE = 4  # handing over costs more than what stays in cache gains: of the read floor 1 reaches 0.4, 4 0.6


def _in_tasks(blocks: Iterator[Block]) -> Iterator[list[Block]]:
    """The blocks in runs, each of which a worker takes at once."""
    while run := list(islice(blocks, BLOCKS_AT_ONCE)):
        yield run


THREADS = CPUS


@contextmanager
def start_workers() -> Iterator[Workers]:
    """A worker thread for every core, for as long as the block lasts."""
    with ThreadPoolExecutor(THREADS, thread_name_prefix="lfq") as pool:
        yield Workers(pool, THREADS)


# floats -> codes


@dataclass(frozen=True)
class EncodeTask:
    """One tensor on its way through a backend."""

    path: Path
    tensor: StoredTensor
    layout: Layout
    backend: Backend
    zero_nan: bool

    @property
    def spec(self) -> FloatFormat:
        """How the values are stored."""
        return FORMATS[self.tensor.dtype]

    @cached_property
    def geometry(self) -> Geometry:
        """The tensor as [outer, channels, inner]."""
        return geometry_of(self.tensor.shape, self.layout)

    def blocks(self) -> Iterator[Block]:
        """The tensor in order, in blocks that suit the backend."""
        seekable = self.tensor.region.seekable
        return self.geometry.blocks(self.backend.block_values, whole_items=not seekable)

    def run(self, blocks: list[Block]) -> list[tuple[Block, Packed]]:
        """Reads and encodes some blocks, one after the other while it is in cache."""
        return [(block, self._encode(block)) for block in blocks]

    def _encode(self, block: Block) -> Packed:
        raw = _read_block(self.tensor, self.geometry, block, self.spec)
        stream, has_nan = self.backend.encode(raw, self.spec)
        if has_nan and not self.zero_nan:
            raise _NanFoundError
        return stream


class _NanFoundError(Exception):
    """A block holds NaN; where and how many is found out afterwards."""


def packed_runs(task: EncodeTask, info: CodesTensor, workers: Workers, progress: Progress) -> Generator[NDArray[Any]]:
    """The tensor's codes as they are stored, run by run. Raises TensorError for NaN unless it counts as zero."""
    packing = PACKINGS[info.packing]
    joiner = StreamJoiner()
    item_bytes = task.geometry.channels * task.spec.itemsize
    parallel = task.tensor.region.seekable
    try:
        done = workers.in_order(task.run, _in_tasks(task.blocks()), parallel=parallel)
        for block, stream in chain.from_iterable(done):
            if info.packing == "bits":
                yield joiner.join(stream, block.vectors * info.bits_per_vector)
            else:
                yield packing.pack(stream, block.vectors, info.codebook_dims, info.bit_order, DTYPES[info.dtype])
            progress(block.vectors * item_bytes)
    except _NanFoundError:
        raise _nan_error(task) from None
    yield joiner.finish()


def _nan_error(task: EncodeTask) -> TensorError:
    """Reads the tensor again to count its NaN and find the first, in C order of the tensor."""
    count, first = 0, prod(task.tensor.shape)
    with open_source(task.path) as again:
        task = replace(task, tensor=again.tensors[task.tensor.name])
        for block in task.blocks():
            where = floats.is_nan(_read_block(task.tensor, task.geometry, block, task.spec), task.spec)
            if where.any():
                count += int(where.sum())
                first = min(first, _first_position(task.geometry, block, where))
    position = [int(axis) for axis in np.unravel_index(first, task.tensor.shape)]
    return TensorError(
        f"{task.path}: {task.tensor.name!r} holds {count} NaN, the first at {position}",
        "--nan zero encodes NaN as bit 0, as the reference does",
    )


def _first_position(geometry: Geometry, block: Block, where: floats.Bools) -> int:
    """The position in the flat tensor of the first that is true in a block [outer, channels, inner]."""
    outer, channel, inner = (int(axis[0]) for axis in np.nonzero(where))
    channels_before = (block.outer.start + outer) * geometry.channels + channel
    return int(channels_before * geometry.inner + block.inner.start + inner)


_buffers = threading.local()


def _read_block(tensor: StoredTensor, geometry: Geometry, block: Block, spec: FloatFormat) -> Raw:
    """The block's values [outer, channels, inner] as stored, in this thread's reused buffer."""
    outer, inner = block.outer.stop - block.outer.start, block.inner.stop - block.inner.start
    needed = outer * geometry.channels * inner * spec.itemsize
    buffer: NDArray[Any] | None = getattr(_buffers, "block", None)
    if buffer is None or buffer.size < needed:
        buffer = _buffers.block = np.empty(needed, np.uint8)
    raw = buffer[:needed].view(spec.storage).reshape(outer, geometry.channels, inner)
    for part, start in geometry.runs(block):
        tensor.region.read_into(start * spec.itemsize, bytes_of(raw[part]))
    return raw


# codes -> floats


@dataclass(frozen=True)
class DecodeTask:
    """One tensor's codes on their way back through a backend into a file."""

    codes: TensorCodes
    file: BinaryIO
    start: int
    """Where in the file the tensor's bytes begin."""
    channels: int
    backend: Backend
    spec: FloatFormat
    project_out: bool
    kept_bits: Bools | None = None
    """Which bits of a stored vector are decoded, [B] bool; None: all."""

    @cached_property
    def geometry(self) -> Geometry:
        """The decoded tensor as [outer, channels, inner]."""
        return geometry_of(
            insert_channels(self.codes.info.positions, self.channels, self.codes.info.source.layout),
            self.codes.info.source.layout,
        )

    def blocks(self) -> Iterator[Block]:
        """The tensor in order, in blocks that suit the backend."""
        return self.geometry.blocks(self.backend.block_values)

    def run(self, blocks: list[Block]) -> list[Block]:
        """Reads, decodes and writes some blocks, one after the other."""
        for block in blocks:
            self._decode(block)
        return blocks

    def _decode(self, block: Block) -> None:
        start = block.outer.start * self.geometry.inner + block.inner.start
        stream = self.codes.stream(start, start + block.vectors)
        if self.kept_bits is not None:
            stream = pack(unpack(stream, block.vectors, len(self.kept_bits))[:, self.kept_bits])
        outer, inner = block.outer.stop - block.outer.start, block.inner.stop - block.inner.start
        raw = self.backend.decode(stream, outer, inner, self.spec, project_out=self.project_out)
        _write_block(self.file, self.start, self.geometry, block, raw)


def write_decoded(task: DecodeTask, workers: Workers, progress: Progress) -> None:
    """Decodes every block and writes it where it belongs; the order of the blocks in time does not matter."""
    with closing(workers.in_order(task.run, _in_tasks(task.blocks()))) as done:
        for block in chain.from_iterable(done):
            progress(block.vectors * task.codes.info.bits_per_vector // 8)


def _write_block(file: BinaryIO, start: int, geometry: Geometry, block: Block, raw: Raw) -> None:
    """Writes [outer, channels, inner] into a tensor that begins at byte `start` of the file."""
    for part, position in geometry.runs(block):
        write_at(file, start + position * raw.itemsize, bytes_of(raw[part]))


# codes -> counts

_COUNTED_VECTORS = 1 << 20
_UNPACKED_VECTORS = 1 << 17  # of 2^14 to 2^20 the fastest at D = 10 and 18: what is unpacked stays in cache


def count(codes: TensorCodes, progress: Progress) -> list[Counter]:
    """A counter for every codebook of the tensor, fed with all of its indices.

    In one thread: numpy counts under the interpreter's lock, and another one would wait for it at every operation of
    unpacking. With D = 18, 15 million indices: 270 M/s, against 210 with two threads that unpack and one that counts.
    """
    info = codes.info
    counters = [Counter(bits) for bits in info.codebook_dims]
    buffer = np.empty((min(_COUNTED_VECTORS, info.vectors), len(counters)), codes.dtype)
    for start in range(0, info.vectors, _COUNTED_VECTORS):
        indices = buffer[: info.vectors - start]
        for first in range(0, len(indices), _UNPACKED_VECTORS):
            run = indices[first : first + _UNPACKED_VECTORS]
            run[:] = codes.indices(start + first, start + first + len(run), codes.dtype)
        for counter, column in zip(counters, indices.T, strict=True):
            counter.add(np.ascontiguousarray(column))
        progress(len(indices) * info.bits_per_vector // 8)
    return counters


# codes -> a table

_TABLE_ROWS = 1 << 14


def write_table(file: BinaryIO, backend: Backend, first: int, last: int, spec: FloatFormat, progress: Progress) -> None:
    """Writes what the indices `first` to `last` of the backend's one codebook decode to, a row each."""
    quantizer = backend.quantizer
    for start in range(first, last, _TABLE_ROWS):
        rows = np.arange(start, min(start + _TABLE_ROWS, last), dtype=np.uint64)[:, None]
        stream = pack(indices_to_bits(rows, quantizer.codebook_dims, quantizer.bit_order))
        raw = backend.decode(stream, len(rows), 1, spec, project_out=True)
        write_all(file, bytes_of(raw))
        progress(raw.nbytes)
