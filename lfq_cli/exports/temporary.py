"""Temporary folders in which parts of an export are made. A lock shows that their process still runs."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = ".lfq-export-"


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """An empty folder that is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        _lock(descriptor)
        folder.chmod(0o777 & ~_umask())
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def remove_abandoned(parent: Path) -> None:
    """Removes the temporary folders of killed runs from `parent`; keeps those of running processes."""
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if _lock(descriptor):
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether the folder is locked by this process now; False if another has it, or its file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
