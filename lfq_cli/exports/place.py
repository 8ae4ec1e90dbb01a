"""Where the files of an export lie, and how they get there: a local folder, or a prefix of an object store."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Protocol

from lfq_cli.errors import OutputError
from lfq_cli.exports.notes import described
from lfq_cli.exports.temporary import remove_abandoned, temporary_folder
from lfq_cli.files import NO_LOCKS, output_error, remove_leftovers

Kind = Literal["file", "folder"]
Tags = Mapping[str, str]
"""Name in the folder -> what a store says of its version, of a folder of all objects below it."""


class Place(Protocol):
    """A folder of an export. Methods raise OSError for refusals of the system or store, OutputError for the rest."""

    has_tags: bool
    """Whether it says something of every file's version."""

    def working(self) -> AbstractContextManager[None]:
        """Prepares the folder for writing, and removes temporary files of killed runs."""
        ...

    def temporary(self) -> AbstractContextManager[Path]:
        """An empty local folder for a part, removed at the end."""
        ...

    def names(self) -> list[str]:
        """What is in the folder."""
        ...

    def kind(self, name: str) -> Kind | None:
        """What has the name now; None if it is free."""
        ...

    def is_intact(self, name: str, recorded: dict[str, Any], tag: str | None) -> bool:
        """Whether a file, or folder of files, is as it was recorded when it was made."""
        ...

    def sync(self, paths: list[Path]) -> None:
        """Flushes what was made to the disk, if that makes it last."""
        ...

    def put(self, made: Path, names: list[str], taken: Collection[str]) -> Tags:
        """Gives final names to files or folders in the folder `made`. taken: those of the names that are replaced."""
        ...

    def remove(self, name: str) -> None:
        """Removes a file, or a folder with its content; does nothing if there is none."""
        ...

    def changed(self, tags: Tags) -> str | None:
        """One of the names that is no longer what was put there, as far as the place can tell cheaply."""
        ...

    def refused(self, name: str, reason: OSError) -> OutputError:
        """An error of the system or store in one line."""
        ...


class LocalPlace:
    """A local folder. One run at a time writes to it: it holds a lock, which the system releases when the process
    ends.
    """

    has_tags = False

    def __init__(self, path: Path) -> None:
        """Raises OutputError if something else is there."""
        self._path = path
        if os.path.lexists(path) and not path.is_dir():
            raise OutputError(f"{path}: is a file, expected a folder for an export")

    @contextmanager
    def working(self) -> Iterator[None]:
        """Makes the folder, locks it and removes temporary files of killed runs. Raises OutputError."""
        try:
            missing = [each for each in (self._path, *self._path.parents) if not each.exists()]
            self._path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDONLY)
        except OSError as reason:
            raise output_error(self._path, reason) from reason
        try:
            if self._lock(descriptor):
                remove_abandoned(self._path)
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

    def temporary(self) -> AbstractContextManager[Path]:
        """A folder beside the final names, so that they can be given by renaming."""
        return temporary_folder(self._path)

    def names(self) -> list[str]:
        """What is in the folder."""
        try:
            return [path.name for path in self._path.iterdir()]
        except FileNotFoundError:
            return []

    def kind(self, name: str) -> Kind | None:
        """What has the name; a link counts as a file."""
        path = self._path / name
        if not os.path.lexists(path):
            return None
        return "folder" if path.is_dir() and not path.is_symlink() else "file"

    def is_intact(self, name: str, recorded: dict[str, Any], tag: str | None) -> bool:
        """Whether size and digest are those recorded."""
        return described(self._path / name) == recorded

    def sync(self, paths: list[Path]) -> None:
        """Flushes files and folders to the disk."""
        for path in paths:
            for each in [*path.rglob("*"), path] if path.is_dir() else [path]:
                descriptor = os.open(each, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    def put(self, made: Path, names: list[str], taken: Collection[str]) -> Tags:
        """Renames."""
        for name in names:
            self._give_name(made / name, name)
        return {}

    def _give_name(self, made: Path, name: str) -> None:
        self.remove(name)
        made.rename(self._path / name)

    def remove(self, name: str) -> None:
        """Removes a file, a link or a folder with its content."""
        path = self._path / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def changed(self, tags: Tags) -> str | None:
        """None: the lock keeps other runs away."""
        return None

    def refused(self, name: str, reason: OSError) -> OutputError:
        """An error of the system in one line."""
        return output_error(self._path / name, reason)
