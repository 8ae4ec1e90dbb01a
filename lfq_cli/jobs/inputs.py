"""Which files a command's arguments name: files, folders with everything below them, and globs.

A folder's files are sorted by name. Files and folders whose names begin with a dot are skipped. Links to folders are
followed, but no folder is read twice: a link that leads back adds nothing. A folder without read permission is an
input with an error, so nothing is skipped silently.
"""

from __future__ import annotations

import glob
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, TypeVar, overload

from lfq_cli.errors import CodesFileError, LfqError, OptionError, TensorError
from lfq_cli.samples import CONTAINERS
from lfq_cli.storage.places import Files, accepted_files, accepted_objects, below, real_folder
from lfq_cli.storage.remote import refused
from lfq_cli.storage.urlpath import UrlPath, path_of
from lfq_cli.tensors import FORMATS

PathT = TypeVar("PathT", bound=Path)

Accepts = Callable[[str], bool]
"""Whether a file of a folder, by its path, is one to read."""

_WANTED = {
    TensorError: f"expected {', '.join(FORMATS)} or samples in {', '.join(CONTAINERS)}",
    CodesFileError: "expected codes files, which lfq encode makes",
}
"""The error for a folder without files to read -> what it should hold."""


class Input(NamedTuple):
    """A file, and its place: `below` the folder `root`, where its mirrored path starts ("" for `root` itself).

    error: why it cannot be read, if it is a folder.
    """

    path: Path
    root: Path
    below: str = ""
    named: bool = False
    """Whether the user named the file itself."""
    error: LfqError | None = None


class Folder(NamedTuple):
    """Inputs in one folder, with the fields of Input. Only their names are kept: there may be millions."""

    path: Path
    root: Path
    names: list[str]
    below: str = ""
    named: bool = False
    error: LfqError | None = None


class Inputs(Sequence[Input]):
    """Inputs in order, kept by folder; an Input is made on demand."""

    def __init__(self, folders: Sequence[Folder]) -> None:
        self.folders = folders
        self._ends = list(accumulate(len(folder.names) for folder in folders))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Input: ...

    @overload
    def __getitem__(self, index: slice) -> list[Input]: ...

    def __getitem__(self, index: int | slice) -> Input | list[Input]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        number, place = self.locate(index)
        folder = self.folders[number]
        return Input(folder.path / folder.names[place], folder.root, folder.below, folder.named, folder.error)

    def locate(self, index: int) -> tuple[int, int]:
        """(index of its folder, index among the folder's names) of an input."""
        index = range(len(self))[index]
        number = bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)


def find_inputs(arguments: Sequence[str], accepts: Accepts, error: type[LfqError]) -> Inputs:
    """The files that the arguments name, in order, each once. `accepts` chooses among a folder's files.

    Raises `error` if an argument names a folder or glob without any accepted file.
    """
    folders: list[Folder] = []
    seen: dict[str, set[str]] = {}
    for argument in arguments:
        for folder in _expand(argument, accepts, error):
            real = str(real_folder(folder.path))
            before = seen.get(real)
            if before is None:
                is_seen_once = len(arguments) == 1 and not glob.has_magic(argument)
                seen[real] = set() if is_seen_once else set(folder.names)
            else:
                folder = folder._replace(names=[name for name in folder.names if name not in before])  # noqa: PLW2901
                before.update(folder.names)
            if folder.names:
                folders.append(folder)
    return Inputs(folders)


def sorted_out(found: Sequence[Input]) -> tuple[list[Path], dict[Path, LfqError]]:
    """The files among the inputs, and the folders that could not be read, with the reason."""
    paths = [item.path for item in found if item.error is None]
    return paths, {item.path: item.error for item in found if item.error is not None}


def _expand(argument: str, accepts: Accepts, error: type[LfqError]) -> Iterator[Folder]:
    """The folders in which the argument names files."""
    if not argument:
        raise OptionError("an input is named '', which is not a path")
    path = path_of(argument)
    if isinstance(path, UrlPath):
        yield from _expand_url(path, accepts, error)
        return
    if os.path.isdir(argument):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
        root, nothing = path, error(f"{path}: no file in this folder has a format that lfq reads", _WANTED.get(error))
        walk = _Walk(error)
        found = walk.folders(path)
    elif os.path.lexists(argument) or not glob.has_magic(argument):
        yield Folder(path.parent, path.parent, [path.name], named=True)  # if it does not exist, its own job reports it
        return
    else:
        root, nothing = _static_part(path), error(f"{argument}: no file matches")
        walk = _Walk(error)
        found = walk.matching(root, path.parts[len(root.parts) :])
    yield from _folders(root, accepted_files(found, accepts), walk, nothing)


def _expand_url(path: UrlPath, accepts: Accepts, error: type[LfqError]) -> Iterator[Folder]:
    """The prefixes of the objects that a URL names."""
    try:
        if path.store.scheme.lists and glob.has_magic(str(path)) and not path.is_file():
            root, nothing = _static_part(path), error(f"{path}: no object matches")
            pattern = path.parts[len(root.parts) :]
        elif path.store.scheme.lists and path.is_dir():
            root, nothing = path, error(f"{path}: no object below it has a format that lfq reads", _WANTED.get(error))
            pattern = ("**",)
        else:
            yield Folder(path.parent, path.parent, [path.parts[-1]], named=True)
            return
        found = list(_objects(root, pattern))
    except OSError as reason:
        raise refused(path, reason, error) from reason
    yield from _folders(root, accepted_objects(found, accepts), _Walk(error), nothing)


def _objects(root: UrlPath, pattern: Sequence[str]) -> Iterator[tuple[Path, list[str]]]:
    """Every prefix below `root`, with the names of its objects whose path matches the parts of a glob."""
    folders: dict[tuple[str, ...], list[str]] = {}
    for *folder, name in root.store.below(str(root)):
        if _matches((*folder, name), pattern) and all(part not in ("", ".", "..") for part in (*folder, name)):
            folders.setdefault(tuple(folder), []).append(name)
    for parts in sorted(folders):
        yield root.joinpath(*parts), sorted(folders[parts])


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path matches the parts of a glob, as in `_Walk.matching`."""
    if not pattern:
        return False
    if pattern[0] == "**":
        if len(pattern) == 1:
            return not any(part.startswith(".") for part in parts)
        tails = range(len(parts))
        return any(
            _matches(parts[k:], pattern[1:]) and not any(part.startswith(".") for part in parts[:k]) for k in tails
        )
    if not parts or parts[0].startswith(".") != pattern[0].startswith(".") or not fnmatchcase(parts[0], pattern[0]):
        return False
    return len(parts) == 1 if len(pattern) == 1 else _matches(parts[1:], pattern[1:])


def _folders(root: Path, accepted: Iterable[Files], walk: _Walk, nothing: LfqError) -> Iterator[Folder]:
    """The folders with their accepted files; raises `nothing` if there are none."""
    any_found = False
    for folder, names in accepted:
        any_found = any_found or bool(names)
        yield Folder(folder, root, names, below(folder, root))
    if not any_found and not walk.unread:
        raise nothing
    for folder, reason in walk.unread.items():
        yield Folder(folder.parent, root, [folder.name], error=reason)


class _Walk:
    """Walks folders, each once. `unread`: those that could not be read, and why."""

    def __init__(self, error: type[LfqError], unread: dict[Path, LfqError] | None = None) -> None:
        self._error = error
        self._seen: set[tuple[int, int]] = set()
        self.unread: dict[Path, LfqError] = {} if unread is None else unread

    def folders(self, top: Path) -> Iterator[tuple[Path, list[str]]]:
        """`top` and every folder below it, with the names of its files; links are followed after all real folders."""
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

    def matching(self, folder: Path, pattern: Sequence[str]) -> Iterator[tuple[Path, list[str]]]:
        """The folders below `folder`, with the names of their files whose path matches the parts of a glob.

        `**` stands for any number of folders, including none.
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
            yield folder, [name for name in files if fnmatchcase(name, part)]
            return
        for each in folders:
            if fnmatchcase(each.name, part):
                yield from self.matching(each, rest)

    def _is_new(self, folder: Path) -> bool:
        try:
            status = folder.stat()
        except OSError as reason:
            self._miss(folder, reason)
            return False
        key = status.st_dev, status.st_ino
        new = key not in self._seen
        self._seen.add(key)
        return new

    def _split(self, folder: Path, *, hidden: bool = False) -> tuple[list[Path], list[str]]:
        """(folders, names of files) in a folder, sorted; with `hidden`, files whose names begin with a dot are
        included.
        """
        folders: list[str] = []
        files: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith(".") != hidden:
                        continue
                    try:
                        (folders if entry.is_dir() else files).append(entry.name)
                    except OSError as reason:  # a link to a folder without permission
                        self._miss(folder / entry.name, reason)
        except (FileNotFoundError, NotADirectoryError):  # it does not exist, so nothing is missed
            return [], []
        except OSError as reason:
            self._miss(folder, reason)
            return [], []
        return [folder / name for name in sorted(folders)], sorted(files)

    def _miss(self, folder: Path, reason: OSError) -> None:
        self.unread[folder] = self._error(
            f"{folder}: cannot be read: {reason.strerror or reason}", "nothing in it was read"
        )


def _static_part(pattern: PathT) -> PathT:
    static = next(k for k, part in enumerate(pattern.parts) if glob.has_magic(part))
    return type(pattern)(*pattern.parts[:static])
