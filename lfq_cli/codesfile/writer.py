"""Writing codes files: bytes go out as they come, the digests last."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from lfq_cli.codesfile.header import CodesHeader
from lfq_cli.container import header_bytes, tensor_bytes
from lfq_cli.files import atomic_output, write_all, write_at
from lfq_cli.regions import bytes_of


class Writer:
    """Streams the header's tensors, in the order of `header.stored`, into an open file.

    `made_from` is the header's; what is only known at the end may be set until then.
    """

    def __init__(self, file: BinaryIO, header: CodesHeader) -> None:
        self._file = file
        self._header = header
        self._stored = header.stored
        self._order = iter(self._stored)
        self._digests: dict[str, str] = {}
        self._side_by_side: dict[str, TensorWriter] = {}
        self.made_from = header.made_from
        write_all(file, self._head(header))

    @contextmanager
    def tensor(self, name: str) -> Iterator[TensorWriter]:
        """Takes the bytes of tensor or column `name`; all of them must be there when the block ends."""
        if name != next(self._order, None):
            raise ValueError(f"{name!r} is written out of order")
        writer = TensorWriter(self._file)
        yield writer
        self._close(name, writer)

    def side_by_side(self) -> Mapping[str, TensorWriter]:
        """Takes the bytes of all tensors and columns in any order; all of them must be there when the file ends."""
        start = len(self._head(self._header))
        for name in self._order:
            self._side_by_side[name] = TensorWriter(self._file, start)
            start += tensor_bytes(*self._stored[name])
        return self._side_by_side

    def _close(self, name: str, writer: TensorWriter) -> None:
        needed = tensor_bytes(*self._stored[name])
        if writer.nbytes != needed:
            raise ValueError(f"{name!r} has {writer.nbytes} bytes of codes, expected {needed}")
        self._digests[name] = writer.digest.hexdigest()

    def finish(self) -> CodesHeader:
        """Writes the digests into the header; the file is complete."""
        for name, writer in self._side_by_side.items():
            self._close(name, writer)
        header = self._header.with_digests(self._digests, self.made_from)
        self._file.seek(0)
        write_all(self._file, self._head(header))
        return header

    def _head(self, header: CodesHeader) -> bytes:
        """The bytes before the data: of one length, whatever is only known at the end."""
        longest = header_bytes(self._header.longest().metadata(), self._stored)
        return header_bytes(header.metadata(), self._stored, nbytes=len(longest))


class TensorWriter:
    """The bytes of one tensor on their way to the file: behind what was written last, or from byte `start` on."""

    def __init__(self, file: BinaryIO, start: int | None = None) -> None:
        self._file = file
        self._start = start
        self.digest = hashlib.sha256()
        self.nbytes = 0

    def append(self, codes: NDArray[Any]) -> None:
        """Adds packed codes, or rows of a column (any array in C order)."""
        data = bytes_of(codes)
        if self._start is None:
            write_all(self._file, data)
        else:
            write_at(self._file, self._start + self.nbytes, data)
        self.digest.update(data)
        self.nbytes += len(data)


@contextmanager
def create(path: Path, header: CodesHeader, *, overwrite: bool = False, durable: bool = True) -> Iterator[Writer]:
    """A Writer whose file appears at `path` when the block ends well; `finish` is called for you."""
    with atomic_output(path, overwrite=overwrite, durable=durable, nbytes=header.stored_bytes) as file:
        writer = Writer(file, header)
        yield writer
        writer.finish()
