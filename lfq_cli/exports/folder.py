"""An export's folder: parts appear whole, parts finished by a killed run are kept, lfq.json is written last."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lfq_cli.errors import ExistsError, LfqError, OptionError, OutputError
from lfq_cli.exports.notes import DESCRIPTION, PROGRESS, Files, Notes, described, read_notes, tags_entry
from lfq_cli.exports.objects import ObjectPlace
from lfq_cli.exports.place import LocalPlace, Place, Tags
from lfq_cli.files import atomic_output, write_all
from lfq_cli.storage.places import real_folder
from lfq_cli.storage.remote import content_now
from lfq_cli.storage.urlpath import UrlPath

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
        self._inputs = [str(real_folder(each)) for each in inputs]
        self._place: Place = ObjectPlace(path) if isinstance(path, UrlPath) else LocalPlace(path)
        if path.suffix.lower() in _FILES and not path.is_dir():
            raise OptionError(f"{path}: is the name of a file, expected a folder for an export", f"name it {path.stem}")
        self._done: dict[str, Files] = {}
        self._tags: dict[str, str] = {}
        self._ours: set[str] = set()
        """What exports made in the folder, this one or one that it replaces."""
        self._others_description = False
        self._noted: set[str] = set()
        """Which of the two files of notes are there, so that they may be replaced."""
        for name in (PROGRESS, DESCRIPTION):
            notes = read_notes(path / name)
            if notes is None:
                continue
            if notes.fingerprint == fingerprint:
                self._done = {**notes.parts, **self._done}
                self._tags = {**notes.tags, **self._tags} if self._place.has_tags else {}
            elif not overwrite:
                raise ExistsError(f"{path / name}: belongs to another export", _REPLACES)
            self._others_description |= name == DESCRIPTION and notes.fingerprint != fingerprint
            self._ours |= notes.names
            self._noted.add(name)

    @contextmanager
    def working(self, *, dry_run: bool) -> Iterator[None]:
        """Prepares the folder for writing, unless nothing is to be written. Raises OutputError."""
        if dry_run:
            yield
            return
        with self._place.working():
            yield

    def claim(self, splits: Collection[str], suffix: str, stems: Collection[str]) -> None:
        """Raises ExistsError for files that a reader would mistake for parts of these splits, unless `overwrite`."""
        pattern = re.compile(rf"({'|'.join(map(re.escape, splits))})-\d{{5,}}{re.escape(suffix)}")
        mine = {f"{stem}{suffix}" for stem in stems} | self._ours
        try:
            names = self._place.names()
        except OSError as reason:
            raise self._place.refused("", reason) from reason
        found = sorted(name for name in names if pattern.fullmatch(name) and name not in mine)
        if found and not self._overwrite:
            raise ExistsError(f"{self._path / found[0]}: exists, and would be read as a part of this export", _REPLACES)
        self._ours.update(found)

    def finished(self, stem: str) -> Files | None:
        """The files of an existing, intact part; None if it must be made."""
        files = self._done.get(stem)
        try:
            if files is not None and all(
                self._place.is_intact(name, recorded, self._tags.get(name)) for name, recorded in files.items()
            ):
                return files
        except OSError as reason:
            raise self._place.refused(stem, reason) from reason
        return None

    def make(self, stem: str, write: Callable[[Path, str], None], *, durable: bool) -> Files:
        """Writes a part under a temporary name, then gives it its own.

        Raises ExistsError if a file that no export made has its name, OptionError if that file is an input.
        """
        try:
            with self._place.temporary() as folder:
                write(folder, stem)
                names = sorted(path.name for path in folder.iterdir())
                files = {name: described(folder / name) or {} for name in names}
                taken = self._refuse_others(names)
                if durable:
                    self._place.sync([folder / name for name in names])
                self._ours.update(names)
                self._note()
                if self._others_description:
                    self._place.remove(DESCRIPTION)
                    self._noted.discard(DESCRIPTION)
                    self._others_description = False
                self._tags.update(self._put(folder, names, taken))
        except OSError as reason:
            raise self._place.refused(stem, reason) from reason
        self._done[stem] = files
        self._note()
        return files

    def _put(self, made: Path, names: list[str], taken: list[str]) -> Tags:
        try:
            return self._place.put(made, names, taken)
        except ExistsError:  # someone else has the name since it was looked up
            self._ours.difference_update(names)
            with suppress(LfqError):
                self._note()
            raise

    def _refuse_others(self, names: list[str]) -> list[str]:
        """The names that are taken and may be replaced.

        Raises where a file that belongs to no export has one of the names, or an input would be lost.
        """
        taken = []
        for name in names:
            path = self._path / name
            self._refuse_inputs(path)
            kind = self._place.kind(name)
            if kind is None:
                continue
            taken.append(name)
            if name in self._ours:
                continue
            if kind == "folder":
                raise ExistsError(f"{path}: was not made by an export", "move it away, or name another folder")
            if not self._overwrite:
                raise ExistsError(f"{path}: exists", _REPLACES)
        return taken

    def _refuse_inputs(self, path: Path) -> None:
        """Raises OptionError if an input is at `path`, or in that folder."""
        real = str(real_folder(path))
        lost = next((each for each in self._inputs if each == real or each.startswith(real + os.sep)), None)
        if lost is not None:
            raise OptionError(f"{path}: would replace {lost}, which is one of its inputs", "name another folder")

    def _note(self) -> None:
        """Records which parts are intact, and which files may be incomplete."""
        notes = Notes(self._fingerprint, self._done, frozenset(self._ours), self._tags)
        self._write(PROGRESS, json.dumps(notes.as_json()).encode(), durable=False)

    def _write(self, name: str, data: bytes, *, durable: bool) -> None:
        """Writes a file of notes; it replaces only one that was there when the export began, or is its own."""
        try:
            with atomic_output(self._path / name, overwrite=name in self._noted, durable=durable) as file:
                write_all(file, data)
        except ExistsError:
            if not self._is_there(name, data):
                raise ExistsError(
                    f"{self._path / name}: exists since this export began: another one is writing into the folder",
                    "wait for it, or name another folder",
                ) from None
        self._noted.add(name)

    def _is_there(self, name: str, data: bytes) -> bool:
        """Whether an object has that content, as after an upload whose answer was lost."""
        path = self._path / name
        return isinstance(path, UrlPath) and content_now(path, OutputError) == data

    def finish(self, entry: dict[str, Any], *, durable: bool) -> None:
        """Removes the rest of exports that this one replaces, and writes lfq.json: the export is complete.

        entry: the object of lfq.json, with its "parts".
        """
        try:
            for name in self._ours.difference(*entry["parts"].values()):
                self._refuse_inputs(self._path / name)
                self._place.remove(name)
            tags = {name: self._tags[name] for files in entry["parts"].values() for name in files if name in self._tags}
            changed = self._place.changed(tags)
            if changed is not None:
                raise OutputError(
                    f"{self._path / changed}: changed since it was made: another run is writing into the folder",
                    "wait for it and run the same command again",
                )
            self._write(DESCRIPTION, json.dumps(entry | tags_entry(tags), indent=2).encode() + b"\n", durable=durable)
            self._place.remove(PROGRESS)
        except OSError as reason:
            raise self._place.refused("", reason) from reason
