"""Writing codes files: bytes are written as they come, the digests last."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from lfq_cli.codesfile.header import CodesHeader
from lfq_cli.container import header_bytes, tensor_bytes
from lfq_cli.files import atomic_output, write_all, write_at
from lfq_cli.regions import bytes_of

_HELD_BYTES = 1 << 20


class Writer:
    """Streams the header's tensors, in the order of `header.stored`, into an open file.

    `made_from` is the header's; fields known only at the end may be set until then. A small file is held in memory and
    written at the end, so its header is made once: for 10,000 files of 576 bytes this saves a third of the work.
    """

    def __init__(self, file: BinaryIO, header: CodesHeader) -> None:
        self._file = file
        self._header = header
        self._stored = header.stored
        self._order = iter(self._stored)
        self._digests: dict[str, str] = {}
        self._side_by_side: dict[str, TensorWriter] = {}
        self._held: bytearray | None = bytearray()
        self.made_from = header.made_from
        if header.stored_bytes > _HELD_BYTES:
            self._begin()

    def _begin(self) -> int:
        """Writes a header without digests, to reserve its space; returns its length."""
        self._held = None
        head = self._head(self._header)
        write_all(self._file, head)
        return len(head)

    @contextmanager
    def tensor(self, name: str) -> Iterator[TensorWriter]:
        """Takes the bytes of tensor or column `name`; all of them must have come when the block ends."""
        if name != next(self._order, None):
            raise ValueError(f"{name!r} is written out of order")
        writer = TensorWriter(self._append)
        yield writer
        self._close(name, writer)

    def _append(self, data: memoryview, _: int) -> None:
        if self._held is None:
            write_all(self._file, data)
        else:
            self._held += data

    def side_by_side(self) -> Mapping[str, TensorWriter]:
        """Takes the bytes of all tensors and columns in any order; all of them must have come when the file ends."""
        start = self._begin()
        for name in self._order:
            self._side_by_side[name] = TensorWriter(partial(self._put, start))
            start += tensor_bytes(*self._stored[name])
        return self._side_by_side

    def _put(self, start: int, data: memoryview, position: int) -> None:
        write_at(self._file, start + position, data)

    def _close(self, name: str, writer: TensorWriter) -> None:
        needed = tensor_bytes(*self._stored[name])
        if writer.nbytes != needed:
            raise ValueError(f"{name!r} has {writer.nbytes} bytes of codes, expected {needed}")
        self._digests[name] = writer.digest.hexdigest()

    def finish(self) -> CodesHeader:
        """Writes the digests into the header, which completes the file."""
        for name, writer in self._side_by_side.items():
            self._close(name, writer)
        header = self._header.with_digests(self._digests, self.made_from)
        if self._held is None:
            self._file.seek(0)
            write_all(self._file, self._head(header))
        else:
            write_all(self._file, self._head(header) + self._held)
        return header

    def _head(self, header: CodesHeader) -> bytes:
        """The bytes before the data: always of the same length, whatever is known only at the end."""
        longest = self._header.longest()
        nbytes = 0 if longest is self._header else len(header_bytes(longest.metadata(), self._stored))
        return header_bytes(header.metadata(), self._stored, nbytes=nbytes)


class TensorWriter:
    """Writes the bytes of one tensor to the file."""

    def __init__(self, write: Callable[[memoryview, int], None]) -> None:
        """write: takes some of its bytes, and the number of bytes before them."""
        self._write = write
        self.digest = hashlib.sha256()
        self.nbytes = 0

    def append(self, codes: NDArray[Any]) -> None:
        """Adds packed codes, or rows of a column (any array in C order)."""
        data = bytes_of(codes)
        self._write(data, self.nbytes)
        self.digest.update(data)
        self.nbytes += len(data)


@contextmanager
def create(path: Path, header: CodesHeader, *, overwrite: bool = False, durable: bool = True) -> Iterator[Writer]:
    """A Writer whose file appears at `path` when the block ends without error; calls `finish`."""
    with atomic_output(path, overwrite=overwrite, durable=durable, nbytes=header.stored_bytes) as file:
        writer = Writer(file, header)
        yield writer
        writer.finish()
