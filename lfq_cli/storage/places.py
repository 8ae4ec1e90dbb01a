"""Questions about any place, local or not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lfq_cli.errors import OptionError
from lfq_cli.regions import state_of
from lfq_cli.storage.schemes import REQUESTS_AT_ONCE
from lfq_cli.storage.urlpath import UrlPath, is_url


def exists(path: Path) -> bool:
    """Whether something exists there now."""
    return path.exists() if isinstance(path, UrlPath) else os.path.exists(path)  # noqa: PTH110 - a name too long


def is_taken(path: Path) -> bool:
    """Whether the name is taken, even by a dangling link."""
    return path.exists() if isinstance(path, UrlPath) else os.path.lexists(path)


def is_folder(path: Path) -> bool:
    """Whether it is a folder; in an object store, whether anything lies below it."""
    return path.is_dir() if isinstance(path, UrlPath) else os.path.isdir(path)  # noqa: PTH112 - a name too long


def is_file(path: Path) -> bool:
    """Whether it is a file or object."""
    return path.is_file() if isinstance(path, UrlPath) else os.path.isfile(path)  # noqa: PTH113 - a name too long


def real_path(path: Path) -> Path:
    """A unique name for a file, however its folder was named: absolute, without `..` or links to folders."""
    return path if isinstance(path, UrlPath) else Path(os.path.realpath(path.parent), path.name)


def real_folder(path: Path) -> Path:
    """A unique name for a folder: absolute, without `..` or links."""
    return path if isinstance(path, UrlPath) else Path(os.path.realpath(path))


def common_folder(folders: Iterable[Path]) -> Path | None:
    """The deepest folder that holds all of them; None if there is none, as in two stores."""
    names = {str(folder): folder for folder in folders}
    schemes = {folder.scheme if isinstance(folder, UrlPath) else "" for folder in names.values()}
    if len(schemes) > 1:
        return None
    if schemes == {""}:
        return Path(os.path.commonpath([os.path.abspath(name) for name in names]))  # noqa: PTH100 - resolves ".."
    return UrlPath(os.path.commonpath(names))


def deepest(folders: Sequence[Path]) -> Path:
    """The deepest folder that holds all of them. Raises OptionError if there is none."""
    found = common_folder(folders)
    if found is None:
        raise OptionError(
            f"{folders[0]} and the other inputs are in different places", "name inputs from one place at a time"
        )
    return found


def below(folder: Path, top: Path) -> str:
    """The relative path from `top` down to `folder`; "" for `top` itself."""
    if isinstance(folder, UrlPath):
        return "/".join(folder.parts[len(top.parts) :])
    way = os.path.relpath(folder, top)
    return "" if way == "." else way


def files_below(path: Path) -> list[Path]:
    """All files below a folder, sorted by the parts of their paths; of a file itself."""
    if isinstance(path, UrlPath):
        return [path.joinpath(*parts) for parts in sorted(path.store.below(str(path)))] or [path]
    return [each for each in sorted(path.rglob("*")) if each.is_file()] if path.is_dir() else [path]


def version(path: Path, *, known: bool = False) -> tuple[int, ...] | None:
    """A state that changes when a file is written to, replaced or removed; None if it does not exist.

    known: for an object, use its last known state.
    """
    try:
        if isinstance(path, UrlPath):
            return (path.store.known(str(path)) if known else path.store.fresh(str(path))).version
        return state_of(os.stat(path))  # noqa: PTH116 - Path.stat takes twice as long
    except OSError:
        return None


def chosen(places: Iterable[str], accepts: Callable[[str], bool]) -> list[bool]:
    """Whether each place is accepted. Objects are checked many at once, since each check waits for the network."""
    places = list(places)
    if not places or not is_url(places[0]):
        return [accepts(place) for place in places]
    with ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="lfq-looks") as pool:
        return list(pool.map(accepts, places))
