"""Renames a file only if the new name is free, without a race against other processes."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_UNABLE = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL)
"""Errors of a system or file system that does not support the call, or hard links."""


def rename_new(source: Path, target: Path) -> None:
    """Renames the file `source` to `target`. Raises FileExistsError if the name is taken, OSError for other failures.

    Uses the first method that the file system supports. Only the last of them is not atomic: a process killed in the
    middle of it leaves an empty file under the name.
    """
    for way in (_rename_without_replacing, _link, _claim):
        try:
            way(source, target)
        except OSError as error:
            if error.errno not in _UNABLE or way is _claim:
                raise
        else:
            return


def _rename_without_replacing(source: Path, target: Path) -> None:
    """renameat2 of Linux 3.15 and newer; ENOSYS elsewhere. Some file systems do not support it (NFS, some FUSE)."""
    rename = _renameat2()
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if rename(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


@cache
def _renameat2() -> Any:
    if sys.platform != "linux":
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return function


def _link(source: Path, target: Path) -> None:
    os.link(source, target)
    source.unlink()


def _claim(source: Path, target: Path) -> None:
    """Creates an empty file exclusively, which claims the name, and replaces it."""
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        source.replace(target)
    except BaseException:
        with suppress(OSError):
            if target.stat().st_size == 0:
                target.unlink()
        raise
