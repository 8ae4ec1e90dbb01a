"""Whether an export's folder matches its lfq.json: every part by its digest, and no extra shards."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lfq_cli.errors import OutputError
from lfq_cli.exports.notes import DESCRIPTION, FORMAT, PROGRESS, described, read_json, read_notes
from lfq_cli.jobs.verify import Verdict
from lfq_cli.pipeline.workers import Progress
from lfq_cli.storage.places import files_below
from lfq_cli.storage.remote import refused
from lfq_cli.storage.urlpath import UrlPath


def is_export(path: Path) -> bool:
    """Whether a folder is an export by `lfq export`, complete or not."""
    if isinstance(path, UrlPath) and not path.store.scheme.lists:
        return False
    try:
        if not path.is_dir():
            return False
        if (path / PROGRESS).is_file():
            return True
        description = read_json(path / DESCRIPTION)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(description, dict) and description.get("format") == FORMAT


def size_of(folder: Path) -> int:
    """Bytes of the existing parts: what `verify` reads. In a store, as recorded, without a request for each."""
    notes = read_notes(folder / DESCRIPTION)
    noted = {name: noted for files in notes.parts.values() for name, noted in files.items()} if notes else {}
    if isinstance(folder, UrlPath):
        sizes = [each.get("bytes") for each in noted.values() if isinstance(each, dict)]
        return sum(size for size in sizes if isinstance(size, int))
    paths = [folder / name for name in noted]
    total = 0
    with suppress(OSError):
        for path in paths:
            total += sum(each.stat().st_size for each in files_below(path))
    return total


def verify(folder: Path, progress: Progress = lambda _: None) -> Iterator[Verdict]:
    """The verdict on every file or folder of every part, and on files that a reader would mistake for a part."""
    try:
        yield from _verdicts(folder, progress)
    except OSError as reason:
        yield Verdict(folder, "failed", error=refused(folder, reason, OutputError))


def _verdicts(folder: Path, progress: Progress) -> Iterator[Verdict]:
    if (folder / PROGRESS).is_file():
        hint = "run the same lfq export again: it makes the rest"
        yield Verdict(folder, "failed", error=OutputError(f"{folder}: the export in it is not finished", hint))
    notes = read_notes(folder / DESCRIPTION)
    if notes is None:
        return
    for name, noted in sorted((name, noted) for files in notes.parts.values() for name, noted in files.items()):
        path, found = folder / name, described(folder / name)
        if found is None:
            yield Verdict(path, "damaged", error=OutputError(f"{path}: does not exist, or cannot be read"))
        elif found != noted:
            yield Verdict(path, "damaged", nbytes=found["bytes"], error=_differs(path, noted, found))
        else:
            yield Verdict(path, "whole", nbytes=found["bytes"])
        progress(found["bytes"] if found else 0)
    for path in _strangers(folder, frozenset(name for files in notes.parts.values() for name in files)):
        error = OutputError(f"{path}: is not part of the export, but is named as if it were")
        yield Verdict(path, "different", error=error)


def _differs(path: Path, noted: object, found: dict[str, object]) -> OutputError:
    sizes = noted.get("bytes") if isinstance(noted, dict) else None, found["bytes"]
    what = f"has {sizes[1]} bytes, expected {sizes[0]}" if sizes[0] != sizes[1] else "has another sha256 than when made"
    return OutputError(f"{path}: is damaged: it {what}", "run the same lfq export again: it makes the part again")


def _strangers(folder: Path, names: frozenset[str]) -> list[Path]:
    """Files with names like the export's shards that do not belong to it."""
    shards = {found[1] for name in names if (found := re.fullmatch(r"(.+-)\d{5,}\.\w+", name))}
    pattern = re.compile(rf"({'|'.join(map(re.escape, shards))})\d{{5,}}\.\w+") if shards else None
    if pattern is None:
        return []
    return [path for path in sorted(folder.iterdir()) if pattern.fullmatch(path.name) and path.name not in names]
