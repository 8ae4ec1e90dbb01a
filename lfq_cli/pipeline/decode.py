"""Codes -> floats: every block is written by position, in whatever order blocks are done."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from typing import BinaryIO

from lfq_cli.backends import Backend, CodesToRead, DeviceBackend
from lfq_cli.bits import Packed, pack, unpack
from lfq_cli.codesfile import TensorCodes
from lfq_cli.files import write_at
from lfq_cli.floats import Bools, FloatFormat, Raw
from lfq_cli.layout import Block, Geometry, geometry_of, insert_channels
from lfq_cli.pipeline.workers import Progress, Workers, in_tasks
from lfq_cli.regions import bytes_of


@dataclass(frozen=True)
class DecodeTask:
    """One tensor's codes to decode through a backend."""

    codes: TensorCodes
    start: int
    """Where in the output the tensor's bytes begin."""
    channels: int
    backend: Backend
    spec: FloatFormat
    project_out: bool
    kept_bits: Bools | None = None
    """Which bits of a stored vector are decoded, [B] bool; None: all."""

    @cached_property
    def geometry(self) -> Geometry:
        """The decoded tensor as [outer, channels, inner]."""
        axis = self.codes.info.channel_axis
        return geometry_of(insert_channels(self.codes.info.positions, self.channels, axis), axis)

    def blocks(self) -> Iterator[Block]:
        """The tensor in order, in blocks that suit the backend."""
        return self.geometry.blocks(self.backend.block_values(self.spec))

    def run(self, blocks: list[Block], file: BinaryIO) -> list[Block]:
        """Reads and decodes some blocks and writes them into `file`, one after the other."""
        with closing(self._decoded(blocks)) as decoded:
            for block, raw in zip(blocks, decoded, strict=True):
                _write_block(file, self.start, self.geometry, block, raw)
        return blocks

    def _decoded(self, blocks: list[Block]) -> Generator[Raw]:
        """The blocks' floats in order; each is valid until the next is requested."""
        to_read = (CodesToRead(*_positions(block), partial(self._stream, block)) for block in blocks)
        if isinstance(self.backend, DeviceBackend):
            yield from self.backend.decode_blocks(to_read, self.spec, project_out=self.project_out)
            return
        for outer, inner, read in to_read:
            yield self.backend.decode(read(), outer, inner, self.spec, project_out=self.project_out)

    def _stream(self, block: Block) -> Packed:
        start = block.outer.start * self.geometry.inner + block.inner.start
        stream = self.codes.stream(start, start + block.vectors)
        if self.kept_bits is not None:
            stream = pack(unpack(stream, block.vectors, len(self.kept_bits))[:, self.kept_bits])
        return stream


def _positions(block: Block) -> tuple[int, int]:
    """How many outer items and inner positions a block has."""
    return block.outer.stop - block.outer.start, block.inner.stop - block.inner.start


def write_decoded(task: DecodeTask, file: BinaryIO, workers: Workers, progress: Progress) -> None:
    """Decodes every block and writes it by position; blocks may finish in any order."""
    with closing(workers.in_order(partial(task.run, file=file), in_tasks(task.blocks()))) as done:
        for block in chain.from_iterable(done):
            progress(block.vectors * task.codes.info.bits_per_vector // 8)


def _write_block(file: BinaryIO, start: int, geometry: Geometry, block: Block, raw: Raw) -> None:
    """Writes [outer, channels, inner] into a tensor that begins at byte `start` of the file."""
    for part, position in geometry.runs(block):
        write_at(file, start + position * raw.itemsize, bytes_of(raw[part]))
