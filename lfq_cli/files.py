"""Outputs that are whole or not there: a temporary name in the target folder, fsync, then the final name. What goes to
an object store is made in the temporary folder and uploaded.

Knows bytes and names, not formats. Nothing is ever written under a final name. Who writes a temporary file holds a lock
on it, which ends with the process however it ends: one that is not locked is left over from a dead run.
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
"""What a file system without locks answers."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a file system answers that has less room than it is asked for."""
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE: the file is as long as what is written, not what was asked for
_RESERVED_BYTES = 4 << 20  # smaller files are written in one go


@contextmanager
def atomic_output(path: Path, *, overwrite: bool = False, durable: bool = True, nbytes: int = 0) -> Iterator[BinaryIO]:
    """A file open for writing whose content appears at `path` when the block ends well, and never otherwise.

    `durable` waits for the disk (fsync of file and folder). `nbytes`: how much will be written at least, for which room
    is set aside. Raises ExistsError where something is at `path` at the end and may not be replaced, OutputError for
    whatever the system refuses.
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
        with suppress(OSError):  # whatever signal came wherever, the name is known
            partial.unlink(missing_ok=True)
        with suppress(OSError):  # another run may have come to use them
            for each in made:
                each.rmdir()
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise OutputError(f"{path}: cannot be written: {folder} is, or lies in, a file") from error
        if isinstance(error, OSError) and isinstance(path, UrlPath) and error.errno in _NO_ROOM:
            raise _no_room(path, folder, error) from error
        if isinstance(error, OSError):
            raise output_error(path, error) from error
        raise


def remove_leftovers(folders: Iterable[Path]) -> int:
    """Removes what runs that were killed left in these folders, and nothing of a run that lives. How many it were."""
    count = 0
    for folder in folders:
        for name in _names(folder):
            if name.startswith(PARTIAL_PREFIX) and name.endswith(PARTIAL_SUFFIX):
                count += _remove_if_dead(folder / name)
    return count


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names are enough
    except OSError:  # not there yet, or not to be read: what is done there will say so
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
    except OSError:  # without locks nobody knows who is alive
        return False
    finally:
        os.close(descriptor)
    return True


def _make_folders(folder: Path) -> list[Path]:
    """Makes a folder and what is missing above it; those that were made, lowest first."""
    if os.path.isdir(folder):  # noqa: PTH112 - for each of many files
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
    """A new temporary file, locked: of this run as long as it lives."""
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
        file.close()  # another run took it for a leftover before it was locked
        partial.unlink(missing_ok=True)


def _set_aside(file: BinaryIO, nbytes: int) -> None:
    """Room for `nbytes` on the disk, where the file system can: a full disk is found before any work.

    Blocks that several threads write side by side then need no new room each: `benchmarks --only "decode ?n, 18?"` has
    1.1 to 1.2 of the write loop, 0.8 without (ext4, two cores of an AMD EPYC). Not by os.posix_fallocate, which writes
    to every page where the file system cannot. Raises OSError where there is no room.
    """
    if nbytes < _RESERVED_BYTES or sys.platform != "linux":
        return
    fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if fallocate is None:
        return
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if fallocate(file.fileno(), _KEEP_SIZE, 0, nbytes) != 0 and ctypes.get_errno() in _NO_ROOM:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _lock(descriptor: int) -> bool:
    """Takes the lock that marks a file as being written; False where another process holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _give_name(partial: Path, path: Path, *, overwrite: bool) -> None:
    """The final name; without `overwrite` only if nothing has it, whatever another run does at the same moment."""
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
    """Writes all of `data` (bytes), however little the system takes at a time."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def write_at(file: BinaryIO, position: int, data: memoryview) -> None:
    """Writes all of `data` (bytes) from byte `position` of the file on; from any thread."""
    while data:
        count = os.pwrite(file.fileno(), data, position)
        data, position = data[count:], position + count


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raises OutputError where something stands at `path` and may not be replaced; OSError for an impossible name."""
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
    """The system's refusal in one line."""
    return OutputError(f"{path}: cannot be written: {error.strerror or error}")


def _no_room(path: Path, folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path}: cannot be made in {folder}, from where it is uploaded: {error.strerror}",
        "TMPDIR names another temporary folder",
    )


def _exists(path: Path) -> ExistsError:
    return ExistsError(f"{path}: exists", "--overwrite replaces it")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
