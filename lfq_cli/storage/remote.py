"""An object as an input file: read by ranges, or staged, which means copied to a local temporary folder."""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import tempfile
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from lfq_cli.errors import LfqError
from lfq_cli.regions import FileRegion, InputFile, Region, bytes_of, read_small
from lfq_cli.storage.ranges import AHEAD, RANGE_BYTES, ReadAhead
from lfq_cli.storage.stores import RangesIgnoredError
from lfq_cli.storage.urlpath import UrlPath, is_url, path_of

_log = logging.getLogger(__name__)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def open_input(
    path: Path,
    error: type[LfqError],
    unreadable: type[LfqError] | None = None,
    *,
    staged: bool = False,
    known: bool = False,
) -> InputFile:
    """The file at a place, open for reading; errors as in InputFile.

    staged: its reader needs random access or a local file, so an object is copied to a temporary folder first. known:
    accept what a listing said of an object, without asking again.
    """
    if not isinstance(path, UrlPath):
        return InputFile(path, error, unreadable)
    file = RemoteFile(path, error, unreadable, known=known)
    if staged:
        with file.closed_on_error():
            file.stage()
    return file


def read_whole(place: str, most: int, error: type[LfqError]) -> bytes | None:
    """All bytes of a file or object of at most `most` bytes; None for a larger one. Raises `error`."""
    if not is_url(place):
        return read_small(place, most, error)
    file = RemoteFile(path_of(place), error, known=True)
    try:
        return None if file.size > most else file.read_all()
    finally:
        file.close()


def content_now(path: UrlPath, error: type[LfqError]) -> bytes | None:
    """All bytes of a small object, as it is now; None if there is none. Raises `error`."""
    try:
        found = path.store.find(str(path))
    except OSError as reason:
        raise refused(path, reason, error) from reason
    if found is None or found.is_folder:
        return None
    file = RemoteFile(path, error, known=True)
    try:
        return file.read_all()
    finally:
        file.close()


def stage(region: Region) -> None:
    """Stages the object that holds a region; does nothing for any other region."""
    if isinstance(region, FileRegion) and isinstance(region.file, RemoteFile):
        region.file.stage()


def read_ahead(region: Region) -> None:
    """Starts fetching the object that holds a region, from the region on; does nothing for any other region."""
    if isinstance(region, FileRegion) and isinstance(region.file, RemoteFile):
        region.file.start_reading(region.start)


def origin_of(path: Path, error: type[LfqError]) -> tuple[int, str] | None:
    """(size in bytes, sha256 of the size and the store's tag) of an object now; None if there is no tag.

    The size is hashed as 8 bytes, little-endian.
    """
    if not isinstance(path, UrlPath):
        return None
    try:
        status = path.store.fresh(str(path))
    except OSError as reason:
        raise refused(path, reason, error) from reason
    if status.tag is None or status.size is None:
        return None
    return status.size, tag_digest(status.size, status.tag)


def tag_digest(size: int, tag: str) -> str:
    """The fingerprint of an object that was not read in full."""
    return hashlib.sha256(size.to_bytes(8, "little") + b"tag\0" + tag.encode()).hexdigest()


class RemoteFile(InputFile):
    """An object open for reading."""

    def __init__(
        self, path: Path, error: type[LfqError], unreadable: type[LfqError] | None = None, *, known: bool = False
    ) -> None:
        assert isinstance(path, UrlPath)
        self.path: UrlPath = path
        self._error = error
        self._unreadable = unreadable or error
        self._url = str(path)
        self._staged: IO[bytes] | None = None
        try:
            self._status = path.store.known(self._url) if known else path.store.fresh(self._url)
        except OSError as reason:
            raise self.refused(reason) from reason
        if self._status.is_folder:
            raise self._unreadable(f"{path}: is a folder, expected a file")
        self.size = 0
        if self._status.size is None:  # a server that streams: the size is known only at the end
            self.stage()
        else:
            self.size = self._status.size
        self._ahead = ReadAhead(self._start_range, self._fetch_range, self.size)

    def _start_range(self, start: int, count: int) -> Future[bytes]:
        return self.path.store.start_range(self._url, start, count)

    def _fetch_range(self, start: int, count: int) -> bytes:
        return self.path.store.range(self._url, start, count)

    def start_reading(self, position: int) -> None:
        """Starts fetching from byte `position` on, unless it is staged."""
        if self._staged is None:
            self._ahead.start(position)

    def read_into(self, position: int, view: memoryview) -> None:
        """Fills `view` (bytes) from byte `position` of the object; a shorter object is an error."""
        if position + len(view) > self.size:
            raise self._error(f"{self.path}: ends {position + len(view) - self.size} bytes early")
        try:
            if self._staged is None:
                try:
                    return self._ahead.read_into(position, view)
                except RangesIgnoredError:
                    self.stage()
            assert self._staged is not None
            while view:
                count = os.preadv(self._staged.fileno(), [view], position)
                view, position = view[count:], position + count
        except OSError as reason:
            raise self.refused(reason) from reason

    def read_rows(self, positions: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """As in InputFile; each row by a range of its own, many at once: each waits for the network."""
        done = self._fetch_rows(positions, out) if self._staged is None else 0
        for row, position in zip(out[done:], positions[done:].tolist(), strict=True):
            self.read_into(position, bytes_of(row))

    def _fetch_rows(self, positions: NDArray[np.int64], out: NDArray[np.uint8]) -> int:
        """Fetches each row by its range; returns how many there were before a server ignored one: then it is staged."""
        pending = [self._start_range(position, out.shape[1]) for position in positions.tolist()]
        try:
            for k, data in enumerate(pending):
                out[k] = np.frombuffer(data.result(), np.uint8)
        except RangesIgnoredError:
            self.stage()
            return k
        except OSError as reason:
            raise self.refused(reason) from reason
        finally:
            for each in pending:
                each.cancel()
        return len(pending)

    def read(self, position: int, count: int) -> bytes:
        """`count` bytes of the object from byte `position` on."""
        data = bytearray(count)
        self.read_into(position, memoryview(data))
        return bytes(data)

    def read_all(self) -> bytes:
        """All of it, in one request."""
        if self._staged is not None or self.size == 0:
            return self.read(0, self.size)
        try:
            return self.path.store.range(self._url, 0, self.size)
        except OSError as reason:
            raise self.refused(reason) from reason

    def stage(self) -> None:
        """Copies the object to a temporary folder, which is read from now on. Raises the file's errors."""
        if self._staged is not None:
            return
        _log.info("%s: copied into %s, since it cannot be read in order", self.path, tempfile.gettempdir())
        try:
            with suppress(RangesIgnoredError):
                self._staged = self._copy_by_ranges() if self._status.size is not None else self._copy_in_one()
            if self._staged is None:
                self._staged = self._copy_in_one()
        except OSError as reason:
            raise self._staging_failed(reason) from reason

    def _copy_by_ranges(self) -> IO[bytes]:
        file = tempfile.TemporaryFile(prefix="lfq-")  # noqa: SIM115 - closed with this file
        try:
            pending: deque[tuple[int, Future[bytes]]] = deque()
            starts = iter(range(0, self.size, RANGE_BYTES))
            for start in starts:
                pending.append((start, self._start_range(start, min(RANGE_BYTES, self.size - start))))
                if len(pending) == AHEAD:
                    _write_at(file, *pending.popleft())
            while pending:
                _write_at(file, *pending.popleft())
        except BaseException:
            for _, each in pending:
                each.cancel()
            file.close()
            raise
        return file

    def _copy_in_one(self) -> IO[bytes]:
        with tempfile.TemporaryDirectory(prefix="lfq-") as folder:
            copy = Path(folder, "object")
            self.path.store.download(self._url, str(copy))
            file = copy.open("rb", buffering=0)  # it stays readable after its name is removed
        found = os.fstat(file.fileno()).st_size
        if self._status.size is not None and found != self._status.size:
            file.close()
            raise self._error(f"{self.path}: {found} bytes came, the server said {self._status.size}")
        self.size = found
        return file

    def _staging_failed(self, reason: OSError) -> LfqError:
        if reason.errno in _NO_ROOM:
            folder = tempfile.gettempdir()
            return self._unreadable(
                f"{self.path}: its {self.size / 1e9:.3g} GB do not fit into {folder}: {reason.strerror}",
                "set TMPDIR to a folder with more space",
            )
        return self.refused(reason)

    @cached_property
    def file(self) -> IO[bytes]:  # type: ignore[override]
        """The object as a file object that reads ahead; the local copy where it is staged."""
        if self._staged is not None:
            return self._staged
        return io.BufferedReader(_Stream(self), 1 << 20)

    def refused(self, reason: OSError) -> LfqError:
        """The refusal in one line."""
        return refused(self.path, reason, self._unreadable)

    @property
    def state(self) -> tuple[int, ...]:
        """What changes when the object is written again."""
        return self._status.version

    def close(self) -> None:
        """Stops fetching, and removes the local copy."""
        if hasattr(self, "_ahead"):
            self._ahead.close()
        if self._staged is not None:
            self._staged.close()


def refused(path: Path, reason: OSError, error: type[LfqError]) -> LfqError:
    """A store's refusal in one line."""
    cause = reason.strerror or str(reason)
    if isinstance(reason, FileNotFoundError):
        more = "" if str(path).partition("://")[2] in cause else f" ({cause})"
        return error(f"{path}: no such file or folder{more}")
    hint = "the store refuses these credentials" if isinstance(reason, PermissionError) else None
    return error(f"{path}: cannot be read: {cause}", hint)


class _Stream(io.RawIOBase):
    """A file object over an object's ranges."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}[whence]
        if base + offset < 0:
            raise ValueError("a position before the file")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer)[: max(self._file.size - self._position, 0)]
        self._file.read_into(self._position, view)
        self._position += len(view)
        return len(view)


def _write_at(file: IO[bytes], start: int, data: Future[bytes]) -> None:
    view = memoryview(data.result())
    while view:
        count = os.pwrite(file.fileno(), view, start)
        view, start = view[count:], start + count
