"""Reading files by position into the caller's buffers.

Files are never mapped: if a mapped file shrinks, the process is killed.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lfq_cli import kernels
from lfq_cli.errors import LfqError


def bytes_of(array: NDArray[Any]) -> memoryview:
    """The bytes of an array in C order; a view, writable if the array is, where the array is C-contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


class Region(Protocol):
    """The bytes of one tensor."""

    @property
    def seekable(self) -> bool:
        """Whether the bytes can be read in any order and from several threads."""
        ...

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fills `view` (bytes) from byte `offset` of the tensor."""
        ...


class InputFile:
    """A regular file open for reading. Errors of the system are raised as `error`, with the path in the message."""

    def __init__(self, path: Path, error: type[LfqError], unreadable: type[LfqError] | None = None) -> None:
        """error: for faults of the file. unreadable: for refusals of the system; unset: the same as `error`."""
        self.path = path
        self._error = error
        self._unreadable = unreadable or error
        try:
            mode = path.stat().st_mode
            if not stat.S_ISREG(mode):  # opening a FIFO would block
                raise error(f"{path}: {'is a folder, expected a file' if stat.S_ISDIR(mode) else 'not a regular file'}")
            self.file: IO[bytes] = path.open("rb", buffering=0)
            with self.closed_on_error():
                self.size = os.fstat(self.file.fileno()).st_size
        except OSError as reason:
            raise self.refused(reason) from reason

    def read_into(self, position: int, view: memoryview) -> None:
        """Fills `view` (bytes) from byte `position` of the file; raises the error if the file ends before that."""
        try:
            while view:
                count = os.preadv(self.file.fileno(), [view], position)
                if count == 0:
                    raise self._error(f"{self.path}: ends {len(view)} bytes early: it shrank while it was read")
                view = view[count:]
                position += count
        except OSError as reason:
            raise self.refused(reason) from reason

    def read(self, position: int, count: int) -> bytes:
        """`count` bytes from byte `position` of the file."""
        try:
            data = os.pread(self.file.fileno(), count, position)
        except OSError as reason:
            raise self.refused(reason) from reason
        if len(data) == count:  # otherwise there is more to read, or an error to report
            return data
        rest = bytearray(count)
        self.read_into(position, memoryview(rest))
        return bytes(rest)

    def read_rows(self, positions: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Fills each row of out [n, bytes], C-contiguous, from its position in the file."""
        for k in range(kernels.read_rows(self.file.fileno(), positions, out), len(out)):
            self.read_into(int(positions[k]), bytes_of(out[k]))

    def refused(self, reason: OSError) -> LfqError:
        """An error of the system in one line."""
        if isinstance(reason, FileNotFoundError):
            return self._unreadable(f"{self.path}: no such file or folder")
        return self._unreadable(f"{self.path}: cannot be read: {reason.strerror or reason}")

    @property
    def state(self) -> tuple[int, ...]:
        """A value that identifies the file and changes when it is written to."""
        try:
            return state_of(os.fstat(self.file.fileno()))
        except OSError as reason:
            raise self.refused(reason) from reason

    def close(self) -> None:
        """Closes the file."""
        self.file.close()

    @contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """Closes the file if the block raises; otherwise it stays open for its new owner."""
        try:
            yield
        except BaseException:
            self.close()
            raise


def state_of(found: os.stat_result) -> tuple[int, ...]:
    """A value that identifies a file and changes when it is written to."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def read_small(path: str, most: int, error: type[LfqError]) -> bytes | None:
    """All bytes of a regular file of at most `most` bytes; None for a larger one. Raises `error` like InputFile.

    Takes three system calls instead of InputFile's seven, for data sets of many small files.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO without a writer does not block
    except OSError:
        InputFile(Path(path), error).close()  # raises with a message
        raise
    try:
        status = os.fstat(descriptor)
        size = status.st_size
        if size > most or not stat.S_ISREG(status.st_mode):
            return None
        data = os.read(descriptor, size + 1)
    except OSError as reason:
        raise error(f"{path}: cannot be read: {reason.strerror or reason}") from reason
    finally:
        os.close(descriptor)
    if len(data) != size:
        raise error(f"{path}: changed while it was read", "run again when nothing is writing to it")
    return data


class MemoryFile(InputFile):
    """Bytes in memory as a file: a member of an archive, or a file read as a whole. `path` is used in messages."""

    def __init__(self, path: Path, data: bytes, error: type[LfqError]) -> None:
        self.path = path
        self.data = data
        self.size = len(data)
        self._error = error
        self._unreadable = error

    @cached_property
    def file(self) -> IO[bytes]:  # type: ignore[override]
        """The bytes as a file object."""
        return io.BytesIO(self.data)

    def read_into(self, position: int, view: memoryview) -> None:
        """Fills `view` from byte `position`."""
        part = memoryview(self.data)[position : position + len(view)]
        if len(part) < len(view):
            raise self._error(f"{self.path}: ends {len(view) - len(part)} bytes early")
        view[:] = part

    def read(self, position: int, count: int) -> bytes:
        """`count` bytes from byte `position`."""
        data = self.data[position : position + count]
        if len(data) < count:
            raise self._error(f"{self.path}: ends {count - len(data)} bytes early")
        return data

    def read_rows(self, positions: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Fills each row of `out` from its position."""
        for k, position in enumerate(positions.tolist()):
            self.read_into(position, bytes_of(out[k]))

    def close(self) -> None:
        """Does nothing: no file is open."""


@dataclass(frozen=True)
class FileRegion:
    """A run of bytes of a file."""

    file: InputFile
    start: int
    seekable: bool = True

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fills `view` from byte `offset` of the region."""
        self.file.read_into(self.start + offset, view)


@dataclass(frozen=True)
class RestRegion:
    """A region without its first `start` bytes."""

    region: Region
    start: int

    @property
    def seekable(self) -> bool:
        """As for the region."""
        return self.region.seekable

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fills `view` from byte `start + offset` of the region."""
        self.region.read_into(self.start + offset, view)


@dataclass(frozen=True)
class MemoryRegion:
    """Bytes that are already in memory."""

    data: memoryview
    seekable: bool = True

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fills `view` from byte `offset`."""
        view[:] = self.data[offset : offset + len(view)]
