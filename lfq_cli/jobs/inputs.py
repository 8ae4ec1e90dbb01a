"""Which files a command's arguments name: files, folders with all that lies below, and globs.

A folder's files are sorted by name. Names that begin with a dot are passed over, of files and folders alike. A link to
a folder is followed, but no folder is read twice: a link that leads back adds nothing. A folder that the system does
not let us read is an input with an error, so that nothing is missed without a word.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from lfq_cli.errors import LfqError, OptionError

Accepts = Callable[[Path], bool]


class Input(NamedTuple):
    """A file, and where it lies: `below` the folder `root`, from which its mirrored path starts ("" for `root` itself).

    error: why it, a folder, cannot be read.
    """

    path: Path
    root: Path
    below: str = ""
    named: bool = False
    """Whether the user named the file itself."""
    error: LfqError | None = None


def find_inputs(arguments: Sequence[str], accepts: Accepts, error: type[LfqError]) -> list[Input]:
    """The files that the arguments name, in order, each once. `accepts` chooses among the files of a folder.

    Raises `error` where an argument names a folder or glob without any such file.
    """
    found: dict[str, Input] = {}
    for argument in arguments:
        for folder, items in _expand(argument, accepts, error):
            real = os.path.realpath(folder)
            for item in items:
                found.setdefault(f"{real}/{item.path.name}", item)
    return list(found.values())


def sorted_out(found: Sequence[Input]) -> tuple[list[Path], dict[Path, LfqError]]:
    """The files among the inputs, and the folders that could not be read with the reason why."""
    paths = [item.path for item in found if item.error is None]
    return paths, {item.path: item.error for item in found if item.error is not None}


def _expand(argument: str, accepts: Accepts, error: type[LfqError]) -> Iterator[tuple[Path, list[Input]]]:
    """The folders in which the argument names files, and those files."""
    path = Path(argument)
    if not argument:
        raise OptionError("an input is named '', which is no path")
    if os.path.isdir(argument):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
        root, nothing = path, error(f"{path}: no file in this folder is one to read")
        walk = _Walk(error)
        found = walk.folders(path)
    elif os.path.lexists(argument) or not glob.has_magic(argument):
        yield path.parent, [Input(path, path.parent, named=True)]  # if it is not there, its own job says so
        return
    else:
        root, nothing = _static_part(argument), error(f"{argument}: no file matches")
        walk = _Walk(error)
        found = walk.matching(root, path.parts[len(root.parts) :])
    any_found = False
    for folder, files in found:
        below = os.path.relpath(folder, root)
        items = [Input(file, root, "" if below == "." else below) for file in files if accepts(file)]
        any_found = any_found or bool(items)
        yield folder, items
    if not any_found and not walk.unread:
        raise nothing
    for folder, reason in walk.unread.items():
        yield folder.parent, [Input(folder, root, error=reason)]


class _Walk:
    """Walks folders, each once. `unread`: those that could not be read, and why."""

    def __init__(self, error: type[LfqError], unread: dict[Path, LfqError] | None = None) -> None:
        self._error = error
        self._seen: set[tuple[int, int]] = set()
        self.unread: dict[Path, LfqError] = {} if unread is None else unread

    def folders(self, top: Path) -> Iterator[tuple[Path, list[Path]]]:
        """`top` and every folder below it, with the files in it; links are followed once all others were walked."""
        links = [top]
        while links:
            pending = [links.pop(0)]
            while pending:
                folder = pending.pop()
                if not self._is_new(folder):
                    continue
                below, files = self._split(folder)
                yield folder, files
                pending += [each for each in reversed(below) if not each.is_symlink()]
                links += [each for each in below if each.is_symlink()]

    def matching(self, folder: Path, pattern: Sequence[str]) -> Iterator[tuple[Path, list[Path]]]:
        """The folders below `folder`, and those files in them whose path matches the parts of a glob.

        `**` stands for any folders, or none.
        """
        part, rest = pattern[0], pattern[1:]
        if part == "**":
            for each, files in _Walk(self._error, self.unread).folders(folder):
                if rest:
                    yield from self.matching(each, rest)
                else:
                    yield each, files
            return
        folders, files = self._split(folder, hidden=part.startswith("."))
        if not rest:
            yield folder, [each for each in files if fnmatchcase(each.name, part)]
            return
        for each in folders:
            if fnmatchcase(each.name, part):
                yield from self.matching(each, rest)

    def _is_new(self, folder: Path) -> bool:
        try:
            told = folder.stat()
        except OSError as reason:
            self._miss(folder, reason)
            return False
        key = told.st_dev, told.st_ino
        new = key not in self._seen
        self._seen.add(key)
        return new

    def _split(self, folder: Path, *, hidden: bool = False) -> tuple[list[Path], list[Path]]:
        """(folders, files) in a folder, sorted; those whose names begin with a dot only if they are `hidden` files."""
        folders: list[Path] = []
        files: list[Path] = []
        try:
            with os.scandir(folder) as entries:
                found = sorted((entry for entry in entries if entry.name.startswith(".") == hidden), key=_name)
        except (FileNotFoundError, NotADirectoryError):  # nothing there, so nothing missed
            return folders, files
        except OSError as reason:
            self._miss(folder, reason)
            return folders, files
        for entry in found:
            path = folder / entry.name
            try:
                (folders if entry.is_dir() else files).append(path)
            except OSError as reason:  # a link to where we may not look
                self._miss(path, reason)
        return folders, files

    def _miss(self, folder: Path, reason: OSError) -> None:
        self.unread[folder] = self._error(
            f"{folder}: cannot be read: {reason.strerror or reason}", "nothing that lies in it was read"
        )


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _static_part(pattern: str) -> Path:
    parts = Path(pattern).parts
    static = next(k for k, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:static]) if static else Path()
