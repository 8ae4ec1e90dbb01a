"""A URL as a path. `Path("s3://bucket/key")` would lose a slash and look for a local folder."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Any

from lfq_cli.errors import OptionError

if TYPE_CHECKING:
    from lfq_cli.storage.stores import Store

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)


class UrlPath(PosixPath):
    """An object, or everything below a prefix, as a path: `/`, `name`, `suffix` and `parent` work as for any other.

    The store answers what other paths ask the file system. Made only by `path_of`.
    """

    @property
    def scheme(self) -> str:
        """The scheme, before "://"."""
        return self.parts[0].rstrip(":")

    @property
    def store(self) -> Store:
        """The store that it lies in, of this process."""
        from lfq_cli.storage.stores import store_of

        return store_of(self.scheme, os.getpid())

    @property
    def name(self) -> str:
        """The last part; for a web page without its query."""
        name = super().name
        return name.partition("?")[0] if self.scheme in ("http", "https") else name

    def __str__(self) -> str:
        return f"{self.scheme}://{'/'.join(self.parts[1:])}"

    def __fspath__(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return f"UrlPath({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return path_of, (str(self),)

    def absolute(self) -> UrlPath:
        """Itself."""
        return self

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Kind, size and time, as reported by the store or a listing. Raises OSError if nothing exists."""
        status = self.store.known(str(self))
        mode = stat.S_IFDIR if status.is_folder else stat.S_IFREG
        times = {"st_mtime_ns": int(status.modified * 1e9)}
        return os.stat_result((mode, 0, 0, 1, 0, 0, status.size or 0, 0, int(status.modified), 0), times)

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether an object exists now, or any below it. Raises OSError if the store does not answer."""
        return self.store.find(str(self)) is not None

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether an object is there."""
        found = self.store.find(str(self))
        return found is not None and not found.is_folder

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether objects lie below it, and none has this name itself."""
        found = self.store.find(str(self))
        return found is not None and found.is_folder

    def is_symlink(self) -> bool:
        """Never."""
        return False

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes the object. Raises OSError."""
        try:
            self.store.remove(str(self))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def iterdir(self) -> Iterator[UrlPath]:  # type: ignore[override]
        """The direct children. Raises OSError."""
        return (self / name for name in self.store.children(str(self)))


def is_url(text: str) -> bool:
    """Whether it is a URL."""
    return _URL.match(text) is not None


def path_of(place: str | os.PathLike[str]) -> Path:
    """The path for a text or path. Raises OptionError for a URL that lfq cannot reach or split into parts."""
    if isinstance(place, UrlPath):
        return place
    text = os.fspath(place)
    found = _URL.match(text) if "://" in text else None
    if found is None:
        return place if isinstance(place, Path) else Path(text)
    from lfq_cli.storage.schemes import SCHEMES

    scheme, rest = found[1].lower(), found[2].rstrip("/")
    if scheme not in SCHEMES:
        raise OptionError(
            f"{text}: lfq does not support {scheme}://",
            f"it reads local paths, {', '.join(f'{each}://' for each in SCHEMES)}",
        )
    if not rest or rest.startswith("/"):
        raise OptionError(f"{text}: names no {'server' if scheme.startswith('http') else 'bucket'}")
    odd = next((part for part in rest.split("/") if part in ("", ".", "..")), None)
    if odd is not None:
        raise OptionError(f"{text}: has a part {odd!r}, which no path can have", "rename the object")
    return UrlPath(f"{scheme}:/{rest}")
