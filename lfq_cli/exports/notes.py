"""What an export records in its folder: which files belong to which part, and their sizes and digests.

lfq.json lies beside a complete export, .lfq-export.json beside an incomplete one. Neither is trusted: a name in them
that is a path could lead out of the folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from lfq_cli.errors import LfqError, OutputError
from lfq_cli.jobs.side_by_side import at_once
from lfq_cli.storage.places import files_below
from lfq_cli.storage.ranges import RANGE_BYTES
from lfq_cli.storage.remote import content_now, open_input
from lfq_cli.storage.urlpath import UrlPath

FORMAT = "lfq-export"
DESCRIPTION = "lfq.json"
PROGRESS = ".lfq-export.json"
_READ_BYTES = 1 << 20

Files: TypeAlias = dict[str, dict[str, Any]]
"""Name in the folder -> {"bytes": size, "sha256": digest}; of a folder of files the digest is one of all of them."""


@dataclass(frozen=True)
class Notes:
    """fingerprint: of codes and options. parts: stem -> its files. replaces: names that may be removed, made by another
    export or a killed run.
    """

    fingerprint: str = ""
    parts: Mapping[str, Files] = field(default_factory=dict)
    replaces: frozenset[str] = frozenset()
    tags: Mapping[str, str] = field(default_factory=dict)
    """Name in the folder -> a digest of what the store says of it, in an object store."""

    @property
    def names(self) -> frozenset[str]:
        """Every name in the folder that belongs to an export."""
        return self.replaces.union(*self.parts.values())

    def as_json(self) -> dict[str, Any]:
        """The object of .lfq-export.json."""
        noted = {"fingerprint": self.fingerprint, "parts": self.parts, "replaces": sorted(self.replaces)}
        return noted | tags_entry(self.tags)


def tags_entry(tags: Mapping[str, str]) -> dict[str, Any]:
    """The tags' part of .lfq-export.json and lfq.json; a local folder has none."""
    return {"objects": dict(tags)} if tags else {}


def read_notes(path: Path) -> Notes | None:
    """The notes in a file; None if there is no file. Invalid content belongs to no export: Notes().

    Raises OutputError if a store refuses to say.
    """
    try:
        recorded = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError):
        return Notes()
    return _notes(recorded) or Notes()


def read_json(path: Path) -> Any:
    """The content of lfq.json or .lfq-export.json. Raises OSError, ValueError or RecursionError.

    For an object, a refusal of the store is an OutputError.
    """
    if not isinstance(path, UrlPath):
        return json.loads(path.read_text(encoding="utf-8"))
    data = content_now(path, OutputError)
    if data is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return json.loads(data.decode("utf-8"))


def _notes(recorded: Any) -> Notes | None:
    if not isinstance(recorded, dict):
        return None
    parts, replaces, tags = recorded.get("parts", {}), recorded.get("replaces", []), recorded.get("objects", {})
    if not isinstance(parts, dict) or not isinstance(replaces, list) or not isinstance(tags, dict):
        return None
    if not all(isinstance(files, dict) and all(map(_is_name, files)) for files in parts.values()):
        return None
    if not all(map(_is_name, replaces)):
        return None
    return Notes(str(recorded.get("fingerprint", "")), parts, frozenset(replaces), tags)


def _is_name(name: Any) -> bool:
    """Whether it names an entry of the folder, and not a hidden one."""
    return isinstance(name, str) and bool(name) and "/" not in name and "\0" not in name and not name.startswith(".")


def described(path: Path) -> dict[str, Any] | None:
    """Size and digest of a file, or of all files below a folder: sha256 of a line "sha256  path" for each, sorted.

    None if it does not exist, or cannot be read.
    """
    if isinstance(path, UrlPath):
        return _described_objects(path)
    if not path.is_dir():
        return _described_file(path)
    return _described_folder(path, zip(files := files_below(path), map(_described_file, files), strict=True))


def _described_folder(folder: Path, files: Iterable[tuple[Path, dict[str, Any] | None]]) -> dict[str, Any] | None:
    lines, total = [], 0
    for path, entry in files:
        if entry is None:
            return None
        total += entry["bytes"]
        lines.append(f"{entry['sha256']}  {'/'.join(path.parts[len(folder.parts) :])}\n")
    return {"bytes": total, "sha256": hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()}


def _described_objects(path: UrlPath) -> dict[str, Any] | None:
    """The same of an object, or of all below a prefix: small ones many at once, since each waits for the network."""
    try:
        if not path.is_dir():
            return _described_object(path)
        files = files_below(path)
        small = [each for each in files if each.stat().st_size <= RANGE_BYTES]
    except OSError:
        return None
    with closing(at_once(_described_object, small)) as entries:
        found = dict(zip(small, entries, strict=True))
    for each in files:
        if each not in found:
            found[each] = _described_object(each)
    return _described_folder(path, ((each, found[each]) for each in files))


def _described_object(path: Path) -> dict[str, Any] | None:
    digest = hashlib.sha256()
    try:
        file = open_input(path, OutputError, known=True)
    except LfqError:
        return None
    try:
        for position in range(0, file.size, _READ_BYTES):
            digest.update(file.read(position, min(_READ_BYTES, file.size - position)))
    except LfqError:
        return None
    finally:
        file.close()
    return {"bytes": file.size, "sha256": digest.hexdigest()}


def _described_file(path: Path) -> dict[str, Any] | None:
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb", buffering=0) as file:
            while data := file.read(_READ_BYTES):
                digest.update(data)
                size += len(data)
    except OSError:
        return None
    return {"bytes": size, "sha256": digest.hexdigest()}
