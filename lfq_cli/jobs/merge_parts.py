"""Codes files of parts -> the codes file of the whole, bit for bit what a single run makes.

Parts belong to one whole if their headers name the same source, checkpoint and options. Together they must hold every
row exactly once. Only the counts of NaN encoded as zero differ between parts; they are added up.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lfq_cli import codesfile
from lfq_cli.codesfile import CodesFile, CodesHeader, CodesTensor
from lfq_cli.codesfile.reader import Stored
from lfq_cli.errors import CodesFileError, ExistsError, LfqError
from lfq_cli.jobs.agreement import require_same_whole
from lfq_cli.jobs.current import REPLACES, existing_header
from lfq_cli.jobs.merge import MergeOptions, settle_merge
from lfq_cli.jobs.outcome import Outcome, clear_leftovers, outcome_of, until_failure
from lfq_cli.jobs.parts import whole_path
from lfq_cli.jobs.plan import Job, plan_wholes
from lfq_cli.jobs.regroup import reopened
from lfq_cli.pipeline.merge import PartsJoiner, StoredReader
from lfq_cli.pipeline.workers import Progress, start_workers
from lfq_cli.storage.places import exists


@dataclass(frozen=True)
class PartFile:
    """A part: its tensors, where their bytes lie, and how many NaN in it were encoded as zero."""

    path: Path
    state: tuple[int, ...]
    tensors: dict[str, CodesTensor]
    stored: dict[str, Stored]
    zeroed: int


def holds_parts(path: Path) -> bool:
    """Whether a codes file holds parts of tensors; False if it cannot be read."""
    try:
        with codesfile.open_codes(path) as codes:
            return codes.header.is_part
    except LfqError:
        return False


def name_wholes(arguments: Sequence[str], output: Path) -> list[Job]:
    """A job for every part that the arguments name: the part, and the whole it goes into.

    `output` is the name of the only whole, or a folder in which the tree of the parts is mirrored. Parts belong
    together if their names differ only in the part number. Raises OptionError and CodesFileError as `plan_jobs` does.
    """
    return plan_wholes(arguments, output, lambda name: (whole_path(Path(name)) or Path(name)).name)


def merge_parts(jobs: Sequence[Job], options: MergeOptions, progress: Progress = lambda _: None) -> Generator[Outcome]:
    """Makes the wholes one after the other; yields their outcomes. A whole with damaged or missing parts fails."""
    groups: dict[Path, list[Path]] = {}
    for job in jobs:
        groups.setdefault(job.output, []).append(job.source)
    wholes = [Job(paths[0], output) for output, paths in groups.items()]
    if not options.dry_run:
        clear_leftovers(wholes)
    with start_workers() as workers:
        merger = _Merger(options, StoredReader(workers, progress), progress)
        yield from until_failure(
            (outcome_of(job, partial(merger.make, paths=groups[job.output])) for job in wholes),
            fail_fast=options.fail_fast,
        )


class _Merger:
    def __init__(self, options: MergeOptions, reader: StoredReader, progress: Progress) -> None:
        self._options = options
        self._reader = reader
        self._progress = progress

    def make(self, job: Job, paths: Sequence[Path]) -> Outcome:
        """Makes the job's output from the parts. Raises LfqError if it cannot be made."""
        header, parts = read_parts(paths)
        return settle_merge(
            job,
            header,
            self._options,
            self._progress,
            bytes_in=sum(info.stored_bytes for part in parts for info in part.tensors.values()),
            inputs=len(parts),
            is_current=lambda: _is_current(job.output, header),
            write=lambda: self._write(job.output, header, parts),
        )

    def _write(self, path: Path, header: CodesHeader, parts: Sequence[PartFile]) -> None:
        options = self._options
        with codesfile.create(path, header, overwrite=options.overwrite, durable=options.durable) as writer:
            for name in header.stored:
                with writer.tensor(name) as out:
                    joiner = PartsJoiner(out, self._reader)
                    for part in _in_order(parts, name):
                        with reopened(part.path, part.state, part.stored) as source:
                            joiner.add(source, part.tensors[name])
                    joiner.finish()


def read_parts(paths: Iterable[Path]) -> tuple[CodesHeader, list[PartFile]]:
    """The header of the whole, without its digests, and its parts, from their headers.

    Raises CodesFileError if a file is not a part, or is a part of something else, and if rows are missing or
    occur twice.
    """
    parts: list[PartFile] = []
    like: CodesHeader | None = None
    for path in paths:
        with codesfile.open_codes(path) as codes:
            header = codes.header.without_digests(keep_origin=True)
            _require_part(codes)
            if like is None:
                like = header
            else:
                require_same_whole(path, header, parts[0].path, like)
            parts.append(_part_of(codes))
    assert like is not None
    tensors = _all_tensors(parts)
    for name in tensors:
        require_all_rows(_in_order(parts, name), name)
    assert like.made_from is not None
    made_from = replace(like.made_from, zeroed=sum(part.zeroed for part in parts))
    return replace(like, tensors={name: _whole(info) for name, info in tensors.items()}, made_from=made_from), parts


def require_all_rows(parts: Sequence[PartFile], name: str) -> None:
    """Raises CodesFileError unless the parts, in order, hold all rows of a tensor, each once."""
    end, before = 0, parts[0]
    of = parts[0].tensors[name].part
    for part in parts:
        rows = part.tensors[name].part
        assert rows is not None
        if rows.first > end:
            raise _missing(part.path, name, end, rows.first, rows.of)
        if rows.first < end or (part is not before and rows.last == 0):
            raise CodesFileError(
                f"{before.path} and {part.path} both hold row {rows.first:,} of {name!r}",
                "parts with different --part-rows are mixed: name those of one run",
            )
        end, before = rows.last, part
    if of is not None and end < of.of:
        raise _missing(before.path, name, end, of.of, of.of)


def _missing(path: Path, name: str, first: int, last: int, of: int) -> CodesFileError:
    return CodesFileError(
        f"{path}: no part has rows {first:,} to {last:,} of the {of:,} of {name!r}",
        "encode again with the same --part-rows, which makes the missing parts; --status lists them",
    )


def _require_part(codes: CodesFile) -> None:
    if not codes.header.is_part:
        raise CodesFileError(
            f"{codes.path}: holds no part of a tensor, but others do",
            "name parts only: files that lfq encode --part-rows made",
        )


def _part_of(codes: CodesFile) -> PartFile:
    made_from = codes.header.made_from
    assert made_from is not None
    return PartFile(codes.path, codes.state, codes.header.tensors, codes.stored, made_from.zeroed)


def _all_tensors(parts: Sequence[PartFile]) -> dict[str, CodesTensor]:
    """The tensors of the whole, in order: those of the first part, which has all of them."""
    first = min(parts, key=lambda part: min(_first(info) for info in part.tensors.values()))
    for part in parts:
        for name in part.tensors:
            if name not in first.tensors:
                raise CodesFileError(
                    f"{part.path}: holds rows of {name!r}, and {first.path} holds none of it",
                    "the part with the first rows is missing, or they were encoded with different --tensor",
                )
    return first.tensors


def _in_order(parts: Sequence[PartFile], name: str) -> list[PartFile]:
    return sorted((part for part in parts if name in part.tensors), key=lambda part: _first(part.tensors[name]))


def _first(info: CodesTensor) -> int:
    assert info.part is not None
    return info.part.first


def _whole(info: CodesTensor) -> CodesTensor:
    assert info.part is not None
    rows = info.part.of
    source = replace(info.source, shape=(rows, *info.source.shape[1:]))
    whole = replace(info, shape=(rows, *info.shape[1:]), source=source, part=None)
    return replace(whole, sha256=codesfile.NO_DIGEST)


def _is_current(path: Path, header: CodesHeader) -> bool:
    """Whether the whole already exists, whoever made it. Raises ExistsError if something else is in its place."""
    if not exists(path):
        return False
    found = existing_header(path)
    if found.without_digests(keep_origin=True) != header:
        raise ExistsError(f"{path}: exists, and is not what these parts make", REPLACES)
    return True
