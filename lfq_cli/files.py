"""Outputs that are whole or not there: a temporary name in the target folder, fsync, then the final name.

Knows bytes and names, not formats. Nothing is ever written under a final name.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from lfq_cli.errors import OutputError

PARTIAL_PREFIX = ".lfq-"
PARTIAL_SUFFIX = ".partial"


@contextmanager
def atomic_output(path: Path, *, overwrite: bool = False, durable: bool = True) -> Iterator[BinaryIO]:
    """A file open for writing whose content appears at `path` when the block ends well, and never otherwise.

    `durable` waits for the disk (fsync of file and folder). Raises OutputError for whatever the system refuses.
    """
    partial = path.parent / f"{PARTIAL_PREFIX}{secrets.token_hex(8)}{PARTIAL_SUFFIX}"
    try:
        refuse_existing(path, overwrite=overwrite)
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("xb", buffering=0) as file:  # mode 0o666 & ~umask, as for any new file
            yield file
            if durable:
                os.fsync(file.fileno())
        refuse_existing(path, overwrite=overwrite)
        partial.replace(path)
        if durable:
            _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise OutputError(f"{path}: cannot be written: {path.parent} is, or lies in, a file") from error
        if isinstance(error, OSError):
            raise output_error(path, error) from error
        raise


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
    """Raises OutputError where something stands at `path` and may not be replaced."""
    if path.is_dir():
        raise OutputError(f"{path}: is a folder, expected a name for the output file")
    if not overwrite and os.path.lexists(path):
        raise OutputError(f"{path}: exists", "--overwrite replaces it")


def output_error(path: Path, error: OSError) -> OutputError:
    """The system's refusal in one line."""
    return OutputError(f"{path}: cannot be written: {error.strerror or error}")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
