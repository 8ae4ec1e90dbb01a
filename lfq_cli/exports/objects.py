"""The folder of an export in an object store.

There is no lock: every object of a part is uploaded on the condition that its name is free, after what it replaces was
removed. What a store says of an object (its size and ETag or generation) tells whether it is still the one that was
uploaded, so nothing is read to skip intact parts.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from lfq_cli.errors import ExistsError, OutputError
from lfq_cli.exports.notes import described
from lfq_cli.exports.place import Kind, Tags
from lfq_cli.exports.temporary import remove_abandoned, temporary_folder
from lfq_cli.files import NO_ROOM, no_room, remove_leftovers
from lfq_cli.jobs.side_by_side import at_once
from lfq_cli.storage.outputs import refuse_read_only, refused_output, require_writable, upload
from lfq_cli.storage.places import files_below
from lfq_cli.storage.ranges import RANGE_BYTES
from lfq_cli.storage.remote import tag_digest
from lfq_cli.storage.stores import ObjectStatus
from lfq_cli.storage.urlpath import UrlPath

T = TypeVar("T")


class ObjectPlace:
    """A prefix of an object store."""

    has_tags = True

    def __init__(self, path: UrlPath) -> None:
        """Raises OutputError if it cannot be written to, or is an object."""
        refuse_read_only(path)
        self._path = path
        self._store = path.store
        try:
            if path.is_file():
                raise OutputError(f"{path}: is a file, expected a folder for an export")
            self._listed = self._store.children(str(path))
        except OSError as reason:
            raise refused_output(path, reason) from reason

    @contextmanager
    def working(self) -> Iterator[None]:
        """Tries whether objects can be written, before any work; removes temporary files of killed runs."""
        require_writable(self._path)
        remove_abandoned(_work_folder())
        remove_leftovers([_work_folder()])
        yield

    def temporary(self) -> AbstractContextManager[Path]:
        """A folder in the temporary folder of this machine."""
        return temporary_folder(_work_folder())

    def names(self) -> list[str]:
        """The objects and prefixes that were there when the export began."""
        return list(self._listed)

    def kind(self, name: str) -> Kind | None:
        """What has the name. A prefix without objects, as some stores keep it, is free."""
        url = str(self._path / name)
        found = self._store.find(url)
        if found is None or (found.is_folder and not any(self._store.below(url))):
            return None
        return "folder" if found.is_folder else "file"

    def is_intact(self, name: str, recorded: dict[str, Any], tag: str | None) -> bool:
        """Whether the store says of it what it said when it was uploaded."""
        return tag is not None and self._tag(name, self._listed.get(name)) == tag

    def sync(self, paths: list[Path]) -> None:
        """Does nothing: what lasts is in the store."""

    def put(self, made: Path, names: list[str], taken: Collection[str]) -> Tags:
        """Uploads, and removes what was uploaded if that fails or is interrupted."""
        for name in taken:
            self.remove(name)
        uploaded: list[UrlPath] = []

        def give(local: Path) -> None:
            path = self._path.joinpath(*local.relative_to(made).parts)
            if _upload(local, path):
                uploaded.append(path)

        files = [each for name in names for each in files_below(made / name)]
        try:
            _for_each(give, [each for each in files if each.stat().st_size > RANGE_BYTES], parallel=False)
            _for_each(give, [each for each in files if each.stat().st_size <= RANGE_BYTES])
        except BaseException:
            with suppress(OSError):
                _for_each(_delete, uploaded)
            raise
        tags = {name: self._tag(name, self._store.fresh(str(self._path / name))) for name in names}
        return {name: tag for name, tag in tags.items() if tag is not None}

    def remove(self, name: str) -> None:
        """Removes an object, or all below a prefix."""
        path = self._path / name
        found = self._store.find(str(path))
        if found is not None:
            _for_each(_delete, files_below(path) if found.is_folder else [path])

    def changed(self, tags: Tags) -> str | None:
        """One of the names that the store says something else of than when it was put there."""
        now = self._store.children(str(self._path))
        return next((name for name, tag in tags.items() if self._tag(name, now.get(name)) != tag), None)

    def refused(self, name: str, reason: OSError) -> OutputError:
        """An error of the system or store in one line."""
        if reason.errno in NO_ROOM:
            return no_room(self._path / name, _work_folder(), reason)
        return refused_output(self._path / name, reason)

    def _tag(self, name: str, status: ObjectStatus | None) -> str | None:
        """A digest of size and tag of an object, or of the lines "digest  path" of all objects below a prefix."""
        if status is None or not status.is_folder:
            return _tag_of(status)
        digest = hashlib.sha256()
        for path in files_below(self._path / name):
            relative = "/".join(path.parts[len(self._path.parts) :])
            digest.update(f"{_tag_of(self._store.known(str(path)))}  {relative}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def _tag_of(status: ObjectStatus | None) -> str | None:
    if status is None or status.size is None or status.tag is None:
        return None
    return tag_digest(status.size, status.tag)


def _upload(local: Path, path: UrlPath) -> bool:
    """Whether the file was uploaded: not if the same is there, as after an upload whose answer was lost.

    Raises ExistsError if something else has the name.
    """
    try:
        upload(local, path, overwrite=False)
    except ExistsError:
        if described(path) != described(local):
            raise
        return False
    return True


def _delete(path: Path) -> None:
    path.unlink(missing_ok=True)


def _for_each(work: Callable[[T], object], items: Sequence[T], *, parallel: bool = True) -> None:
    """work(item) for every item, many at once: each waits for the network."""
    if not parallel:
        for item in items:
            work(item)
        return
    with closing(at_once(work, items)) as running:
        for _ in running:
            pass


def _work_folder() -> Path:
    return Path(tempfile.gettempdir())
