"""Whether an export's folder holds what its lfq.json says: every part by its digest, and no shard too many."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from lfq_cli.errors import OutputError
from lfq_cli.exports.notes import DESCRIPTION, FORMAT, PROGRESS, described, read_notes
from lfq_cli.jobs.verify import Verdict
from lfq_cli.pipeline import Progress


def is_export(path: Path) -> bool:
    """Whether a folder is one of `lfq export`, finished or not."""
    if not path.is_dir():
        return False
    if (path / PROGRESS).is_file():
        return True
    try:
        told = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(told, dict) and told.get("format") == FORMAT


def size_of(folder: Path) -> int:
    """Bytes of the parts, as far as they are there: what `verify` reads."""
    notes = read_notes(folder / DESCRIPTION)
    paths = [folder / name for files in notes.parts.values() for name in files] if notes else []
    every = [each for path in paths for each in (path.rglob("*") if path.is_dir() else [path])]
    return sum(each.stat().st_size for each in every if each.is_file())


def verify(folder: Path, progress: Progress = lambda _: None) -> Iterator[Verdict]:
    """The verdict on every file or folder of every part; on what else a reader would take for a part."""
    if (folder / PROGRESS).is_file():
        hint = "run the same lfq export again: it makes the rest"
        yield Verdict(folder, "failed", error=OutputError(f"{folder}: the export into it is not finished", hint))
    notes = read_notes(folder / DESCRIPTION)
    if notes is None:
        return
    for name, told in sorted((name, told) for files in notes.parts.values() for name, told in files.items()):
        path, found = folder / name, described(folder / name)
        if found is None:
            yield Verdict(path, "damaged", error=OutputError(f"{path}: is not there, or cannot be read"))
        elif found != told:
            yield Verdict(path, "damaged", nbytes=found["bytes"], error=_differs(path, told, found))
        else:
            yield Verdict(path, "whole", nbytes=found["bytes"])
        progress(found["bytes"] if found else 0)
    for path in _strangers(folder, frozenset(name for files in notes.parts.values() for name in files)):
        error = OutputError(f"{path}: is not part of the export, but is named as if it were")
        yield Verdict(path, "different", error=error)


def _differs(path: Path, told: object, found: dict[str, object]) -> OutputError:
    sizes = told.get("bytes") if isinstance(told, dict) else None, found["bytes"]
    what = f"has {sizes[1]} bytes, expected {sizes[0]}" if sizes[0] != sizes[1] else "has another sha256 than when made"
    return OutputError(f"{path}: is damaged: it {what}", "run the same lfq export again: it makes the part anew")


def _strangers(folder: Path, names: frozenset[str]) -> list[Path]:
    """Files that are called like shards of the export, and are not of it."""
    shards = {found[1] for name in names if (found := re.fullmatch(r"(.+-)\d{5,}\.\w+", name))}
    pattern = re.compile(rf"({'|'.join(map(re.escape, shards))})\d{{5,}}\.\w+") if shards else None
    every = sorted(folder.iterdir())
    return [path for path in every if pattern and pattern.fullmatch(path.name) and path.name not in names]
