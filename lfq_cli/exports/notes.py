"""What an export records in its folder: which files belong to which part, and their sizes and digests.

lfq.json lies beside a complete export, .lfq-export.json beside an incomplete one. Neither is trusted: a name in them
that is a path could lead out of the folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

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

    @property
    def names(self) -> frozenset[str]:
        """Every name in the folder that belongs to an export."""
        return self.replaces.union(*self.parts.values())

    def as_json(self) -> dict[str, Any]:
        """The object of .lfq-export.json."""
        return {"fingerprint": self.fingerprint, "parts": self.parts, "replaces": sorted(self.replaces)}


def read_notes(path: Path) -> Notes | None:
    """The notes in a file; None if there is no file. Invalid content belongs to no export: Notes()."""
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError):
        return Notes()
    return _notes(recorded) or Notes()


def _notes(recorded: Any) -> Notes | None:
    if not isinstance(recorded, dict):
        return None
    parts, replaces = recorded.get("parts", {}), recorded.get("replaces", [])
    if not isinstance(parts, dict) or not isinstance(replaces, list):
        return None
    if not all(isinstance(files, dict) and all(map(_is_name, files)) for files in parts.values()):
        return None
    if not all(map(_is_name, replaces)):
        return None
    return Notes(str(recorded.get("fingerprint", "")), parts, frozenset(replaces))


def _is_name(name: Any) -> bool:
    """Whether it names an entry of the folder, and not a hidden one."""
    return isinstance(name, str) and bool(name) and "/" not in name and "\0" not in name and not name.startswith(".")


def described(path: Path) -> dict[str, Any] | None:
    """Size and digest of a file, or of all files below a folder: sha256 of a line "sha256  path" for each, sorted.

    None if it does not exist, or cannot be read.
    """
    if not path.is_dir():
        return _described_file(path)
    lines, total = [], 0
    for each in sorted(path.rglob("*")):
        if each.is_file():
            entry = _described_file(each)
            if entry is None:
                return None
            total += entry["bytes"]
            lines.append(f"{entry['sha256']}  {each.relative_to(path).as_posix()}\n")
    return {"bytes": total, "sha256": hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()}


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
