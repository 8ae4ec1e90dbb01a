"""The folder of an export: parts appear whole, parts finished by a killed run are kept, lfq.json is written last.

One run at a time writes to it: the run holds a lock on the folder, which the system releases when the process ends.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lfq_cli.errors import ExistsError, OptionError, OutputError
from lfq_cli.exports.notes import DESCRIPTION, PROGRESS, Files, Notes, described, read_notes
from lfq_cli.files import NO_LOCKS, atomic_output, output_error, remove_leftovers, write_all

_PARTIAL = ".lfq-export-"
_REPLACES = "--overwrite replaces it; or name another folder"
_FILES = (".bin", ".idx", ".tar", ".parquet", ".mds", ".npy", ".json", ".safetensors")


class ExportFolder:
    """An export into a folder. `fingerprint`: what its bytes depend on. `inputs`: files it reads, never replaced."""

    def __init__(self, path: Path, fingerprint: str, *, overwrite: bool, inputs: Collection[Path] = ()) -> None:
        """Raises ExistsError if the folder holds another export and `overwrite` is false, OptionError if the path is
        the name of a file.
        """
        self._path = path
        self._fingerprint = fingerprint
        self._overwrite = overwrite
        self._inputs = [os.path.realpath(each) for each in inputs]
        if os.path.lexists(path) and not path.is_dir():
            raise OutputError(f"{path}: is a file, expected a folder for an export")
        if path.suffix.lower() in _FILES and not path.is_dir():
            raise OptionError(f"{path}: is the name of a file, expected a folder for an export", f"name it {path.stem}")
        self._done: dict[str, Files] = {}
        self._ours: set[str] = set()
        """What exports made in the folder, this one or one that it replaces."""
        self._others_description = False
        for name in (PROGRESS, DESCRIPTION):
            notes = read_notes(path / name)
            if notes is None:
                continue
            if notes.fingerprint == fingerprint:
                self._done |= notes.parts
            elif not overwrite:
                raise ExistsError(f"{path / name}: belongs to another export", _REPLACES)
            self._others_description |= name == DESCRIPTION and notes.fingerprint != fingerprint
            self._ours |= notes.names

    @contextmanager
    def working(self, *, dry_run: bool) -> Iterator[None]:
        """Makes the folder, locks it and removes temporary files of killed runs. Raises OutputError."""
        if dry_run:
            yield
            return
        try:
            missing = [each for each in (self._path, *self._path.parents) if not each.exists()]
            self._path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDONLY)
        except OSError as reason:
            raise output_error(self._path, reason) from reason
        try:
            if self._lock(descriptor):
                for left in self._path.glob(f"{_PARTIAL}*"):
                    shutil.rmtree(left, ignore_errors=True)
            remove_leftovers([self._path])
            yield
        finally:
            os.close(descriptor)
            with suppress(OSError):  # it is not empty
                for each in missing:
                    each.rmdir()

    def _lock(self, descriptor: int) -> bool:
        """Whether the folder is locked by this process; False if its file system has no locks."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"{self._path}: another export is writing into it", "wait for it, or name another folder"
            ) from None
        except OSError as reason:
            if reason.errno in NO_LOCKS or reason.errno == errno.EBADF:  # NFS locks only files open for writing
                return False
            raise output_error(self._path, reason) from reason
        return True

    def claim(self, splits: Collection[str], suffix: str, stems: Collection[str]) -> None:
        """Raises ExistsError for files that a reader would mistake for parts of these splits, unless `overwrite`."""
        pattern = re.compile(rf"({'|'.join(map(re.escape, splits))})-\d{{5,}}{re.escape(suffix)}")
        mine = {f"{stem}{suffix}" for stem in stems} | self._ours
        found = sorted(path.name for path in self._entries() if pattern.fullmatch(path.name) and path.name not in mine)
        if found and not self._overwrite:
            raise ExistsError(f"{self._path / found[0]}: exists, and would be read as a part of this export", _REPLACES)
        self._ours.update(found)

    def _entries(self) -> list[Path]:
        try:
            return list(self._path.iterdir())
        except FileNotFoundError:
            return []
        except OSError as reason:
            raise output_error(self._path, reason) from reason

    def finished(self, stem: str) -> Files | None:
        """The files of an existing, intact part; None if it must be made."""
        files = self._done.get(stem)
        if files is None or any(described(self._path / name) != recorded for name, recorded in files.items()):
            return None
        return files

    def make(self, stem: str, write: Callable[[Path, str], None], *, durable: bool) -> Files:
        """Writes a part under a temporary name, then renames it.

        Raises ExistsError if a file that no export made has its name, OptionError if that file is an input.
        """
        try:
            with _temporary(self._path) as folder:
                write(folder, stem)
                names = sorted(path.name for path in folder.iterdir())
                files = {name: described(folder / name) or {} for name in names}
                self._refuse_others(names)
                if durable:
                    _sync([folder / name for name in names])
                self._ours.update(names)
                self._note()
                if self._others_description:
                    (self._path / DESCRIPTION).unlink(missing_ok=True)
                    self._others_description = False
                for name in names:
                    self._give_name(folder / name, self._path / name)
        except OSError as reason:
            raise output_error(self._path / stem, reason) from reason
        self._done[stem] = files
        self._note()
        return files

    def _refuse_others(self, names: list[str]) -> None:
        """Raises where a file that belongs to no export has one of the names, or an input would be lost."""
        for name in names:
            path = self._path / name
            self._refuse_inputs(path)
            if not os.path.lexists(path) or name in self._ours:
                continue
            if path.is_dir() and not path.is_symlink():
                raise ExistsError(f"{path}: was not made by an export", "move it away, or name another folder")
            if not self._overwrite:
                raise ExistsError(f"{path}: exists", _REPLACES)

    def _refuse_inputs(self, path: Path) -> None:
        """Raises OptionError if an input is at `path`, or in that folder."""
        real = os.path.realpath(path)
        lost = next((each for each in self._inputs if each == real or each.startswith(real + os.sep)), None)
        if lost is not None:
            raise OptionError(f"{path}: would replace {lost}, which is one of its inputs", "name another folder")

    @staticmethod
    def _give_name(made: Path, path: Path) -> None:
        _remove(path)
        made.rename(path)

    def _note(self) -> None:
        """Records which parts are intact, and which files may be incomplete."""
        notes = Notes(self._fingerprint, self._done, frozenset(self._ours))
        with atomic_output(self._path / PROGRESS, overwrite=True, durable=False) as file:
            write_all(file, json.dumps(notes.as_json()).encode())

    def finish(self, entry: dict[str, Any], *, durable: bool) -> None:
        """Removes the rest of exports that this one replaces, and writes lfq.json: the export is complete.

        entry: the object of lfq.json, with its "parts".
        """
        try:
            for name in self._ours.difference(*entry["parts"].values()):
                self._refuse_inputs(self._path / name)
                _remove(self._path / name)
        except OSError as reason:
            raise output_error(self._path, reason) from reason
        with atomic_output(self._path / DESCRIPTION, overwrite=True, durable=durable) as file:
            write_all(file, json.dumps(entry, indent=2).encode() + b"\n")
        (self._path / PROGRESS).unlink(missing_ok=True)


def _remove(path: Path) -> None:
    """Removes a file, a link or a folder with its content; does nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _temporary(parent: Path) -> Iterator[Path]:
    """An empty folder that is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=parent))
    try:
        folder.chmod(0o777 & ~_umask())
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _sync(paths: list[Path]) -> None:
    """Flushes to the disk."""
    for path in paths:
        for each in [*path.rglob("*"), path] if path.is_dir() else [path]:
            descriptor = os.open(each, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
