"""Codes files of samples -> codes files of other numbers of samples, without encoding again.

The samples of all inputs are one data set, in the order of the inputs; keys must be unique. Each output begins where
the previous one ended. Its `made_from` is derived from its inputs:

- `bytes`: the total size of the codes files that its samples come from; `inputs`: their number; `begin` and `end`: how
  many samples of the first are in earlier outputs, and how many of the last are in this output or earlier ones.
- `fingerprint`: sha256 of a line for each of those files with its `header_sha256`, which covers keys, codes and
  everything else in it. It has no names, so equal inputs give equal bytes wherever they are.
- `nan` and `skipped`: the sums over the inputs. Nobody knows which sample a count belongs to, so if the samples of a
  file go into several outputs, its counts go with its first sample: the sums over a data set stay the same, however
  often it is split and merged. The policy is "zero" if that of any input is.
- `options`: `{"from": "codes"}`, which no other command writes, so `lfq encode` never takes such a file for its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from lfq_cli import codesfile
from lfq_cli.codesfile import FROM_CODES, CodesHeader, CodesTensor, MadeFrom
from lfq_cli.codesfile.header import Samples
from lfq_cli.errors import CodesFileError, ExistsError, LfqError, OptionError
from lfq_cli.jobs.current import REPLACES, existing_header
from lfq_cli.jobs.draft import Limits
from lfq_cli.jobs.file_types import is_codes_file
from lfq_cli.jobs.inputs import find_inputs, sorted_out
from lfq_cli.jobs.outcome import Outcome, clear_leftovers, outcome_of, settle_output, until_failure
from lfq_cli.jobs.plan import Job, refuse_to_replace
from lfq_cli.jobs.regroup import Group, regroup, reopened
from lfq_cli.pipeline.merge import SamplesJoiner, StoredFile, StoredReader
from lfq_cli.pipeline.workers import Progress, start_workers
from lfq_cli.samples import CONTAINERS
from lfq_cli.storage.places import exists, is_folder, is_taken
from lfq_cli.tensors import FORMATS


@dataclass(frozen=True)
class MergeOptions:
    """How to merge or split; the defaults are the command line's. Without limits everything goes into one file."""

    limits: Limits = field(default_factory=Limits)
    overwrite: bool = False
    durable: bool = True
    dry_run: bool = False
    fail_fast: bool = False


@dataclass(frozen=True)
class Outputs:
    """Where the outputs go: numbered files in the folder `place`, or a single output in the file `place`."""

    place: Path
    is_folder: bool = True

    def path(self, number: int) -> Path:
        """The place of output `number`."""
        return self.place / f"{number:05}{codesfile.SUFFIX}" if self.is_folder else self.place


def name_codes(arguments: Sequence[str], output: Path, limits: Limits) -> tuple[list[Path], Outputs]:
    """The codes files that the arguments name, and where the outputs go: to the file `output` if that is the name of a
    file and there is a single output, else into the folder `output`.

    Raises OptionError if `output` is neither, CodesFileError if a folder cannot be read: samples would be missed.
    """
    paths, missed = sorted_out(find_inputs(arguments, is_codes_file, CodesFileError))
    for error in missed.values():
        raise error
    alone = limits == Limits()
    expected = "a folder or a name in .safetensors" if alone else "a folder for files of so many samples"
    if is_folder(output):
        return paths, Outputs(output)
    if alone and output.suffix == ".safetensors":
        return paths, Outputs(output, is_folder=False)
    if output.suffix in (*FORMATS, *CONTAINERS):
        raise OptionError(f"{output}: is the name of a file, expected {expected}")
    if is_taken(output):
        raise OptionError(f"{output}: is a file, expected {expected}")
    return paths, Outputs(output)


def merge(
    paths: Sequence[Path], outputs: Outputs, options: MergeOptions, progress: Progress = lambda _: None
) -> Generator[Outcome]:
    """Makes the outputs one after the other; yields their outcomes. An output whose inputs are damaged is not made.

    Raises CodesFileError if an input cannot be read, is incompatible with the others or repeats a key, OptionError if
    an output would replace an input, ExistsError if the folder has other codes files than the run would write: their
    samples would become part of the data set.
    """
    groups = regroup(paths, options.limits)
    jobs = [Job(group.pieces[0].member.path, outputs.path(k)) for k, group in enumerate(groups)]
    refuse_to_replace([job.output for job in jobs], paths)
    if outputs.is_folder:
        _refuse_others(outputs.place, {job.output for job in jobs})
    if not options.dry_run:
        clear_leftovers(jobs)
    with start_workers() as workers:
        merger = _Merger(options, StoredReader(workers, progress), progress)
        yield from until_failure(
            (outcome_of(job, partial(merger.make, group=group)) for job, group in zip(jobs, groups, strict=True)),
            fail_fast=options.fail_fast,
        )


def _refuse_others(folder: Path, outputs: set[Path]) -> None:
    others = sorted(set(folder.glob(f"*{codesfile.SUFFIX}")) - outputs)
    if others:
        more = f" (and {len(others) - 1:,} more)" if len(others) > 1 else ""
        raise ExistsError(
            f"{others[0]}{more}: is in the output folder, and would not be replaced by this run",
            "name an empty folder, or remove it: the folder would hold samples twice",
        )


class _Merger:
    """Makes outputs. Remembers which of the inputs that go into several outputs are intact."""

    def __init__(self, options: MergeOptions, reader: StoredReader, progress: Progress) -> None:
        self._options = options
        self._reader = reader
        self._progress = progress
        self._checked: dict[Path, LfqError | None] = {}

    def make(self, job: Job, group: Group) -> Outcome:
        """Makes the job's output. Raises LfqError if it cannot be made."""
        header = _header(group)
        return settle_merge(
            job,
            header,
            self._options,
            self._progress,
            bytes_in=header.stored_bytes,
            inputs=len(group.pieces),
            is_current=lambda: _is_current(job.output, header),
            write=lambda: self._write(job.output, header, group),
            samples=group.count,
        )

    def _write(self, path: Path, header: CodesHeader, group: Group) -> None:
        options = self._options
        with codesfile.create(path, header, overwrite=options.overwrite, durable=options.durable) as writer:
            joiner = SamplesJoiner(header, writer.side_by_side(), self._reader)
            for piece in group.pieces:
                member = piece.member
                with reopened(member.path, member.state, member.stored) as source:
                    if not piece.part.is_whole:
                        self._require_whole(source)
                    joiner.add(source, piece.part)
            joiner.finish()

    def _require_whole(self, source: StoredFile) -> None:
        """Raises CodesFileError if a file of which not all is read for one output is damaged; reads it once."""
        path = source.file.path
        if path not in self._checked:
            try:
                self._reader.check(source)
                self._checked[path] = None
            except LfqError as error:
                self._checked[path] = error
        damage = self._checked[path]
        if damage is not None:
            raise damage


def settle_merge(
    job: Job,
    header: CodesHeader,
    options: MergeOptions,
    progress: Progress,
    *,
    bytes_in: int,
    inputs: int,
    is_current: Callable[[], bool],
    write: Callable[[], None],
    samples: int | None = None,
) -> Outcome:
    """The outcome of making an output with this header of codes files, as `settle_output` has it."""
    infos = header.tensors.values()
    outcome = Outcome(
        job.source,
        job.output,
        "written",
        tensors=len(infos),
        vectors=sum(info.vectors for info in infos),
        bytes_in=bytes_in,
        bytes_out=header.stored_bytes,
        inputs=inputs,
        samples=samples,
    )
    return settle_output(
        outcome,
        overwrite=options.overwrite,
        dry_run=options.dry_run,
        is_current=is_current,
        write=write,
        progress=progress,
    )


def _header(group: Group) -> CodesHeader:
    """The header of an output, but for the digests."""
    lengths = {
        name: sum(piece.part.extents[name][1] - piece.part.extents[name][0] for piece in group.pieces)
        for name in group.pieces[0].part.extents
    }
    like, count = group.like, group.count
    assert like.samples is not None
    return replace(
        like,
        tensors={name: _tensor(tensor, count, lengths.get(name)) for name, tensor in like.tensors.items()},
        samples=_samples(like.samples, count, lengths),
        made_from=_made_from(group),
    )


def _tensor(tensor: CodesTensor, count: int, vectors: int | None) -> CodesTensor:
    return replace(tensor, shape=(count if vectors is None else vectors, *tensor.shape[1:]), samples=count)


def _samples(samples: Samples, count: int, text_bytes: dict[str, int]) -> Samples:
    rows: dict[str, int] = dict.fromkeys(samples.carried, count)
    rows |= {name: text_bytes[name] for name in (samples.keys, *samples.texts)}
    columns = {
        name: replace(column, shape=(rows.get(name, count + 1), *column.shape[1:]))
        for name, column in samples.columns.items()
    }
    return replace(samples, count=count, columns=columns)


def _made_from(group: Group) -> MadeFrom:
    first, last = group.pieces[0], group.pieces[-1]
    members = [piece.member for piece in group.pieces]
    begun = [piece.member.made_from for piece in group.pieces if piece.part.first == 0]
    return MadeFrom(
        sum(member.nbytes for member in members),
        "zero" if any(member.made_from.nan == "zero" for member in members) else "error",
        sum(each.zeroed for each in begun),
        hashlib.sha256("".join(f"{member.digest}\n" for member in members).encode()).hexdigest(),
        inputs=len(members),
        begin=first.part.first,
        end=last.part.last if last.part.last < last.member.count else None,
        skipped=sum(each.skipped for each in begun),
        options=dict(FROM_CODES),
    )


def _is_current(path: Path, header: CodesHeader) -> bool:
    """Whether the output is there. Raises ExistsError if something else is in its place."""
    if not exists(path):
        return False
    found = existing_header(path)
    if found.made_from is None or found.made_from.options != FROM_CODES:
        raise ExistsError(f"{path}: exists, and was not made by lfq merge or split", REPLACES)
    if found.made_from != header.made_from:
        raise ExistsError(f"{path}: exists, made from other codes files, or from other samples of them", REPLACES)
    if found.without_digests() != header.without_digests():
        raise ExistsError(f"{path}: exists, and is not what this run would make", REPLACES)
    return True
