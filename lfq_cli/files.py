"""Atomic outputs: written under a temporary name in the target folder, synced to disk, then renamed.

An output for an object store is written in the temporary folder and then uploaded. Knows bytes and names, not formats.
Nothing is ever written under a final name. A process holds a lock on the temporary file that it writes; the lock goes
away with the process, however that ends, so a temporary file without a lock is a leftover.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from lfq_cli.errors import ExistsError, OutputError
from lfq_cli.rename import rename_new
from lfq_cli.storage.outputs import refuse_existing_object, upload, work_folder
from lfq_cli.storage.urlpath import UrlPath

PARTIAL_PREFIX = ".lfq-"
PARTIAL_SUFFIX = ".partial"
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
"""Errors of a file system without locks."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a file system that is out of space."""
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE: reserving space does not change the file's length
_RESERVED_BYTES = 4 << 20  # smaller files are written in one go


@contextmanager
def atomic_output(path: Path, *, overwrite: bool = False, durable: bool = True, nbytes: int = 0) -> Iterator[BinaryIO]:
    """A file open for writing, whose content appears at `path` if the block ends without an exception.

    durable: wait for the disk (fsync of the file and its folder). nbytes: the least that will be written; space for it
    is reserved. Raises ExistsError if `path` exists at the end and may not be replaced, OutputError for anything that
    the system refuses.
    """
    folder = work_folder(path)
    partial = folder / f"{PARTIAL_PREFIX}{secrets.token_hex(8)}{PARTIAL_SUFFIX}"
    made: list[Path] = []
    try:
        refuse_existing(path, overwrite=overwrite)
        made = _make_folders(folder)
        durable = durable and folder == path.parent
        with _create_locked(partial) as file:  # mode 0o666 & ~umask, as for any new file
            _set_aside(file, nbytes)
            yield file
            size = os.fstat(file.fileno()).st_size
            if size < nbytes:
                raise ValueError(f"{path}: {size} of {nbytes} bytes were written")
            if durable:
                os.fsync(file.fileno())
            if isinstance(path, UrlPath):
                upload(partial, path, overwrite=overwrite)
                partial.unlink()
            else:
                _give_name(partial, path, overwrite=overwrite)
        if durable:
            _sync_folder(folder)
    except BaseException as error:
        with suppress(OSError):  # the name is known whenever a signal arrives
            partial.unlink(missing_ok=True)
        with suppress(OSError):  # another run may use them by now
            for each in made:
                each.rmdir()
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise OutputError(f"{path}: cannot be written: {folder} is a file, or inside one") from error
        if isinstance(error, OSError) and isinstance(path, UrlPath) and error.errno in NO_ROOM:
            raise no_room(path, folder, error) from error
        if isinstance(error, OSError):
            raise output_error(path, error) from error
        raise


def remove_leftovers(folders: Iterable[Path]) -> int:
    """Removes the temporary files of killed runs from these folders, keeps those of running processes; -> how many."""
    count = 0
    for folder in folders:
        for name in _names(folder):
            if name.startswith(PARTIAL_PREFIX) and name.endswith(PARTIAL_SUFFIX):
                count += _remove_if_dead(folder / name)
    return count


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names are enough
    except OSError:  # missing or unreadable: writing there will report it
        return []


def _remove_if_dead(partial: Path) -> bool:
    try:
        descriptor = os.open(partial, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if not _lock(descriptor):
            return False
        partial.unlink()
    except OSError:  # without locks nobody knows whether its process still runs
        return False
    finally:
        os.close(descriptor)
    return True


def _make_folders(folder: Path) -> list[Path]:
    """Makes a folder and its missing parents; returns those that were made, the innermost first."""
    if os.path.isdir(folder):  # noqa: PTH112 - faster than Path, and called for each of many files
        return []
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    return missing


def _create_locked(partial: Path) -> BinaryIO:
    """A new temporary file, locked for as long as this process runs."""
    while True:
        file = partial.open("x+b", buffering=0)
        try:
            if _lock(file.fileno()) and os.fstat(file.fileno()).st_nlink:
                return file
        except OSError as error:
            if error.errno in NO_LOCKS:
                return file
            file.close()
            raise
        file.close()  # another run removed it as a leftover before it was locked
        partial.unlink(missing_ok=True)


def _set_aside(file: BinaryIO, nbytes: int) -> None:
    """Reserves `nbytes` on the disk if the file system supports it, so a full disk is reported before any work is done.

    It also helps threads that write blocks side by side, since no block has to be allocated on the way:
    `benchmarks --only "decode ?n, 18?"` is at 1.1 to 1.2 of the write loop, against 0.8 without (ext4, two cores of an
    AMD EPYC). os.posix_fallocate will not do: where the file system cannot reserve, it writes to every page. Raises
    OSError if there is not enough space.
    """
    if nbytes < _RESERVED_BYTES or sys.platform != "linux":
        return
    fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if fallocate is None:
        return
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if fallocate(file.fileno(), _KEEP_SIZE, 0, nbytes) != 0 and ctypes.get_errno() in NO_ROOM:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _lock(descriptor: int) -> bool:
    """Takes the lock that marks a file as being written; False if another process holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _give_name(partial: Path, path: Path, *, overwrite: bool) -> None:
    """Gives the file its final name; without `overwrite` atomically, and only if the name is free."""
    if overwrite:
        refuse_existing(path, overwrite=True)
        partial.replace(path)
        return
    try:
        rename_new(partial, path)
    except FileExistsError as error:
        refuse_existing(path, overwrite=False)
        raise _exists(path) from error


def write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """Writes all of `data` (bytes), in as many calls as the system needs."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def write_at(file: BinaryIO, position: int, data: memoryview) -> None:
    """Writes all of `data` (bytes) at byte `position` of the file; may be called from any thread."""
    while data:
        count = os.pwrite(file.fileno(), data, position)
        data, position = data[count:], position + count


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raises OutputError if `path` exists and may not be replaced, OSError for a name that cannot exist."""
    if isinstance(path, UrlPath):
        refuse_existing_object(path, overwrite=overwrite)
        return
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    if path.is_dir():
        raise OutputError(f"{path}: is a folder, expected a name for the output file")
    if not overwrite:
        raise _exists(path)


def output_error(path: Path, error: OSError) -> OutputError:
    """An error of the system in one line."""
    return OutputError(f"{path}: cannot be written: {error.strerror or error}")


def no_room(path: Path, folder: Path, error: OSError) -> OutputError:
    """No space for an object's local copy."""
    return OutputError(
        f"{path}: cannot be written to {folder} before it is uploaded: {error.strerror}",
        "set TMPDIR to a folder with more space",
    )


def _exists(path: Path) -> ExistsError:
    return ExistsError(f"{path}: exists", "--overwrite replaces it")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
