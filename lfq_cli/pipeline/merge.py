"""Samples or parts of codes files -> one codes file: joins codes at any bit, rows and texts at any byte, and shifts
offsets.

A thread reads and hashes ahead, while the caller joins, hashes and writes. Beyond reading and writing the bytes, that
is all the work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np

from lfq_cli.bits import Packed, StreamJoiner, cut_stream
from lfq_cli.codesfile import CodesHeader, CodesTensor
from lfq_cli.codesfile.header import OFFSETS
from lfq_cli.codesfile.reader import Stored
from lfq_cli.codesfile.writer import TensorWriter
from lfq_cli.container import tensor_bytes
from lfq_cli.errors import CodesFileError
from lfq_cli.pipeline.workers import Progress, Workers
from lfq_cli.regions import InputFile

_RUN_BYTES = 1 << 20
_OFFSET = np.dtype("<i8")


@dataclass(frozen=True)
class Part:
    """Samples `first` to `last` of the `count` of a codes file. `extents`, of ragged codes and texts by name: where
    these samples begin and end, in vectors and bytes.
    """

    first: int
    last: int
    count: int
    extents: Mapping[str, tuple[int, int]]

    @property
    def is_whole(self) -> bool:
        """Whether these are all samples of the file."""
        return self.first == 0 and self.last == self.count


@dataclass(frozen=True)
class StoredFile:
    """An open codes file, and the positions of everything in it: its header is not read again."""

    file: InputFile
    stored: Mapping[str, Stored]


class StoredReader:
    """Reads what codes files store, in reused buffers."""

    def __init__(self, workers: Workers, progress: Progress) -> None:
        self._workers = workers
        self.progress = progress
        self._buffers = [np.empty(_RUN_BYTES, np.uint8) for _ in range(2)]

    def runs(
        self, source: StoredFile, name: str, low: int, high: int, *, checked: bool
    ) -> Generator[tuple[int, Packed]]:
        """(position, bytes) of one run after the other, from byte `low` of a stored tensor to `high`. The bytes are
        valid until the next run is requested.

        checked: low and high are its ends; raises CodesFileError at the end where its digest differs from the header's.
        """
        stored, digest = source.stored[name], hashlib.sha256()

        def read(start: int) -> tuple[int, Packed]:
            run = self._buffers[(start - low) // _RUN_BYTES % 2][: min(_RUN_BYTES, high - start)]
            source.file.read_into(stored.start + start, run.data)
            if checked:
                digest.update(run.data)
            return start, run

        with closing(self._workers.one_ahead(read, range(low, high, _RUN_BYTES))) as runs:
            yield from runs
        if checked and digest.hexdigest() != stored.sha256:
            raise CodesFileError(
                f"{source.file.path}: {name!r} is damaged: its bytes have another sha256 than the header says",
                "encode its source again, or restore the file from a copy",
            )

    def check(self, source: StoredFile) -> None:
        """Raises CodesFileError unless everything the file stores has the header's digests."""
        for name, stored in source.stored.items():
            for _, run in self.runs(source, name, 0, stored.nbytes, checked=True):
                self.progress(len(run) // 2)  # the other half counts when its samples are read


class SamplesJoiner:
    """Appends samples of codes files, part by part, to a file being written."""

    def __init__(self, header: CodesHeader, out: Mapping[str, TensorWriter], reader: StoredReader) -> None:
        """header: of the file being written; the headers of the source files differ only in counts."""
        assert header.samples is not None
        self._reader = reader
        texts = (header.samples.keys, *header.samples.texts)
        offsets = {tensor.offsets for tensor in header.tensors.values()} | {name + OFFSETS for name in texts}
        scratch = np.empty(2 * _RUN_BYTES + 1, np.uint8)
        self._stored: dict[str, _Stored] = {
            name: _StoredOffsets(writer)
            if name in offsets
            else _StoredBits(name, unit_bits(header, name), writer, scratch)
            for name, writer in out.items()
        }

    def add(self, source: StoredFile, part: Part) -> None:
        """Adds some samples of a file. Raises CodesFileError if all of them are added and the file is damaged."""
        whole = part.is_whole
        for name, stored in self._stored.items():
            first, end = stored.span(part)
            low, high = first // 8, -(-end // 8)
            with closing(self._reader.runs(source, name, low, high, checked=whole)) as runs:
                for start, run in runs:
                    skip = max(first - 8 * start, 0)
                    stored.take(run, skip, min(end - 8 * start, 8 * len(run)) - skip)
                    self._reader.progress(len(run) if whole else len(run) // 2)
            stored.end_part()

    def finish(self) -> None:
        """Writes the last, incomplete byte of each tensor."""
        for stored in self._stored.values():
            stored.finish()


class PartsJoiner:
    """Appends one tensor's codes, part after part, to the whole being written."""

    def __init__(self, out: TensorWriter, reader: StoredReader) -> None:
        self._out = out
        self._reader = reader
        self._joiner = StreamJoiner(np.empty(2 * _RUN_BYTES + 1, np.uint8))

    def add(self, source: StoredFile, info: CodesTensor) -> None:
        """Adds the tensor's codes of a part. Raises CodesFileError if the part is damaged."""
        bits = info.vectors * info.stored_bits_per_vector
        for start, run in self._reader.runs(source, info.name, 0, info.stored_bytes, checked=True):
            count = min(bits - 8 * start, 8 * len(run))
            self._out.append(self._joiner.join(cut_stream(run, 0, count), count))
            self._reader.progress(len(run))

    def finish(self) -> None:
        """Writes the last, incomplete byte."""
        self._out.append(self._joiner.finish())


def unit_bits(header: CodesHeader, name: str) -> int:
    """Bits of one unit in which a Part is measured in a stored tensor: a vector of ragged codes, a byte of a text, a
    sample of anything else.
    """
    assert header.samples is not None
    if name in header.tensors:
        tensor = header.tensors[name]
        vectors = 1 if tensor.offsets is not None else prod(tensor.positions[1:])
        return vectors * tensor.stored_bits_per_vector
    column = header.samples.columns[name]
    return 8 * tensor_bytes(column.dtype, column.shape[1:])


class _Stored(Protocol):
    """One stored tensor of the file being written."""

    def span(self, part: Part) -> tuple[int, int]:
        """Its bits in the part, in the source file."""
        ...

    def take(self, run: Packed, skip: int, bits: int) -> None:
        """Adds the next bits of the part, which begin at bit `skip` of the run."""
        ...

    def end_part(self) -> None:
        """Begins another part."""
        ...

    def finish(self) -> None:
        """Ends the tensor."""
        ...


class _StoredBits:
    """Codes, carried rows or text, joined end to end."""

    def __init__(self, name: str, unit: int, out: TensorWriter, scratch: Packed) -> None:
        """scratch: memory that all of them share, since joined bytes are written at once."""
        self._name = name
        self._unit = unit
        self._out = out
        self._joiner = StreamJoiner(scratch)

    def span(self, part: Part) -> tuple[int, int]:
        first, last = part.extents.get(self._name, (part.first, part.last))
        return first * self._unit, last * self._unit

    def take(self, run: Packed, skip: int, bits: int) -> None:
        self._out.append(self._joiner.join(cut_stream(run, skip, bits), bits))

    def end_part(self) -> None:
        pass

    def finish(self) -> None:
        self._out.append(self._joiner.finish())


class _StoredOffsets:
    """Where samples begin: each part's offsets continue those of the part before."""

    def __init__(self, out: TensorWriter) -> None:
        self._out = out
        self._end = 0
        self._moved_by: int | None = None
        out.append(np.zeros(1, _OFFSET))

    def span(self, part: Part) -> tuple[int, int]:
        return 64 * part.first, 64 * (part.last + 1)

    def take(self, run: Packed, skip: int, bits: int) -> None:
        offsets = run.view(_OFFSET)
        if self._moved_by is None:  # a part's first offset is the previous one's last
            self._moved_by, offsets = self._end - int(offsets[0]), offsets[1:]
        if offsets.size:
            moved = offsets + self._moved_by
            self._end = int(moved[-1])
            self._out.append(moved)

    def end_part(self) -> None:
        self._moved_by = None

    def finish(self) -> None:
        pass
