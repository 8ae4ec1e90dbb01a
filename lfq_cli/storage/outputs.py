"""Objects that are complete or absent: made locally, then uploaded on the condition that their name is free.

Never through an fsspec file object: one whose block an exception leaves commits what was written so far.
"""

from __future__ import annotations

import errno
import os
import secrets
import tempfile
import threading
import warnings
from contextlib import suppress
from pathlib import Path

from lfq_cli.errors import ExistsError, LfqNote, OutputError
from lfq_cli.storage.stores import Store
from lfq_cli.storage.urlpath import UrlPath

_lock = threading.Lock()
_PROBE_PREFIX = ".lfq-"
_PROBE_SUFFIX = ".probe"


def work_folder(path: Path) -> Path:
    """Where an output is made: beside its final name, or for an object in the temporary folder."""
    return Path(tempfile.gettempdir()) if isinstance(path, UrlPath) else path.parent


def room_for(path: Path) -> Path:
    """An existing folder on the disk where an output at `path` is made."""
    work = work_folder(path).absolute()
    return next(folder for folder in (work, *work.parents) if folder.is_dir())


def upload(local: Path, path: UrlPath, *, overwrite: bool) -> None:
    """Renames or uploads a complete file to `path`; without `overwrite` only if the name is free.

    Raises ExistsError if it is taken, OutputError for any other refusal.
    """
    store = path.store
    try:
        if not overwrite and not _has_conditions(store, path) and store.find(str(path)) is not None:
            raise FileExistsError(errno.EEXIST, "exists")
        store.upload(local, str(path), new=not overwrite)
    except FileExistsError as reason:
        raise ExistsError(f"{path}: exists", "--overwrite replaces it") from reason
    except OSError as reason:
        raise refused_output(path, reason) from reason


def refuse_existing_object(path: UrlPath, *, overwrite: bool) -> None:
    """Raises OutputError if the output is impossible, or exists and may not be replaced."""
    refuse_read_only(path)
    try:
        found = None if overwrite else path.store.find(str(path))
    except OSError as reason:
        raise refused_output(path, reason) from reason
    if found is not None and not found.is_folder:
        raise ExistsError(f"{path}: exists", "--overwrite replaces it")


def refuse_read_only(path: Path) -> None:
    """Raises OutputError for an output where lfq can only read."""
    if isinstance(path, UrlPath) and not path.store.scheme.writes:
        raise OutputError(f"{path}: cannot be written: {path.scheme}:// is read-only", "name a folder or a bucket")


def require_writable(folder: UrlPath) -> None:
    """Raises OutputError if the store refuses to write below the prefix, as far as an empty object shows."""
    refuse_read_only(folder)
    try:
        _has_conditions(folder.store, folder / "object")
    except OSError as reason:
        raise refused_output(folder, reason) from reason


def refused_output(path: Path, reason: OSError) -> OutputError:
    """A store's refusal in one line."""
    hint = "the store refuses these credentials" if isinstance(reason, PermissionError) else None
    return OutputError(f"{path}: cannot be written: {reason.strerror or reason}", hint)


def _has_conditions(store: Store, path: UrlPath) -> bool:
    """Whether the store refuses to replace an object on upload: tested once for each bucket."""
    bucket = path.parts[1]
    with _lock:
        if bucket not in store.has_conditions:
            store.has_conditions[bucket] = _refuses_second(store, path.parent)
        return store.has_conditions[bucket]


def _refuses_second(store: Store, folder: Path) -> bool:
    """Uploads an empty object twice on the condition that nothing is there, and removes it."""
    probe = f"{folder}/{_PROBE_PREFIX}{secrets.token_hex(8)}{_PROBE_SUFFIX}"
    empty = Path(os.devnull)  # nothing of a killed run is left here
    store.upload(empty, probe, new=True)
    try:
        store.upload(empty, probe, new=True)
    except FileExistsError:
        return True
    finally:
        with suppress(OSError):
            store.remove(probe)
    warnings.warn(
        f"{folder}: this store ignores the condition that the name is free: if two runs write one"
        " object at the same moment, both may win",
        LfqNote,
        stacklevel=2,
    )
    return False
