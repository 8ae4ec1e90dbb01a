"""Samples of many inputs -> codes files that hold many samples each.

A file's position in the data set decides its content: a fixed number of samples, good or bad, from where the previous
file ended. Each file records its inputs; a repeated run skips files that are intact and made from the same inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from lfq_cli import backends, codesfile
from lfq_cli.codesfile import FROM_CODES, CodesHeader, MadeFrom
from lfq_cli.codesfile.builder import Coding
from lfq_cli.errors import ExistsError, OptionError, TensorError
from lfq_cli.files import remove_leftovers
from lfq_cli.fingerprint import fingerprint
from lfq_cli.jobs.current import REPLACES, existing_header
from lfq_cli.jobs.draft import Draft, Limits
from lfq_cli.jobs.encode import EncodeOptions, encode, require_certain_bits
from lfq_cli.jobs.keys import KeySet
from lfq_cli.jobs.outcome import Outcome, clear_leftovers
from lfq_cli.jobs.plan import Job, holds_many
from lfq_cli.jobs.reading import Cursor, Known, Stream
from lfq_cli.jobs.sample_inputs import SampleInput
from lfq_cli.jobs.shards import Shard
from lfq_cli.pipeline.samples import SampleOptions
from lfq_cli.pipeline.workers import Progress
from lfq_cli.quantizer import Quantizer
from lfq_cli.samples import stem_of
from lfq_cli.storage.places import exists

_NAMES_AT_ONCE = 1 << 12


@dataclass(frozen=True)
class PackOptions:
    """How to pack; the defaults are the command line's. Give at most one of samples_per_file and file_bytes."""

    samples: SampleOptions = field(default_factory=SampleOptions)
    samples_per_file: int | None = None
    file_bytes: int | None = None
    stacked: bool = False
    append: bool = False
    skip_bad: bool = False
    packing: str = "bits"
    index_dtype: str | None = None
    device: str = "auto"
    compute_dtype: str = "float32"
    overwrite: bool = False
    durable: bool = True
    dry_run: bool = False
    fail_fast: bool = False
    tidy: bool = True
    """Whether what killed runs left where the outputs go is removed first."""
    shard: Shard | None = None
    """Which of the files are made; None: all."""

    @property
    def nan_policy(self) -> str:
        """The NaN policy, as a codes file records it."""
        return "zero" if self.samples.zero_nan else "error"

    def recorded(self) -> dict[str, Any]:
        """What decides a file's content, for its header: equal inputs and equal options give equal files."""
        options = {name: getattr(self.samples, name) for name in ("tensors", "layout", "carry", "carry_text", "ragged")}
        options |= {name: getattr(self, name) for name in ("samples_per_file", "file_bytes", "stacked", "skip_bad")}
        given = {name: value for name, value in options.items() if value not in ((), None, False) or type(value) is int}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}


def pack(
    quantizer: Quantizer,
    inputs: Sequence[SampleInput],
    folder: Path,
    options: PackOptions,
    progress: Progress = lambda _: None,
    missed: Sequence[Job] = (),
) -> Generator[Outcome]:
    """Packs the samples of all inputs into files of `folder`, 00000.codes.safetensors, ...; yields an outcome for each.

    Inputs in `missed` could not be listed and count as failed.

    Raises OptionError if two inputs have the same name, ExistsError if files cannot be appended to.
    """
    _refuse_equal_names(inputs)
    for job in missed:
        yield Outcome(job.source, folder, "failed", error=job.error)
    number, files = 0, None
    packer = _Packer(quantizer, inputs, options, progress)
    if options.append:
        number = packer.append_to(folder)
    if options.shard is not None:
        number, files = _files_of(options.shard, inputs, options)
    if not options.dry_run:
        remove_leftovers([folder])
    begin = 0 if files is None else number * (options.samples_per_file or 1)
    yield from packer.run(lambda k: folder / f"{number + k:05}{codesfile.SUFFIX}", begin=begin, files=files)


def _files_of(shard: Shard, inputs: Sequence[SampleInput], options: PackOptions) -> tuple[int, int]:
    """(number of the first file, number of files) that a shard makes: each file as it is without shards.

    Raises OptionError if the samples of each file are known only after reading.
    """
    each = options.samples_per_file
    if each is None or options.append or any(item.many for item in inputs):
        raise OptionError(
            "--shard needs files of one sample each and --samples-per-file N: otherwise it is unknown which samples"
            " are in a file before all earlier samples are read",
            "without --samples-per-file every shard or stack becomes a codes file, and lfq merge joins them",
        )
    count = -(-len(inputs) // each)
    ours = shard.run([each] * count)
    return ours.start, ours.stop - ours.start


def encode_each(
    quantizer: Quantizer,
    jobs: Sequence[Job],
    alone: EncodeOptions,
    packed: PackOptions,
    progress: Progress = lambda _: None,
) -> Generator[Outcome]:
    """Makes a codes file of every input: of samples where it holds many, else of its tensors unchanged."""
    many = [job for job in jobs if holds_many(job, stacked=packed.stacked)]
    rest = [job for job in jobs if job not in many]
    if rest:
        for outcome in encode(quantizer, rest, alone, progress):
            yield outcome
            if alone.fail_fast and outcome.error is not None:
                return
    if many:
        clear_leftovers(many if packed.tidy and not packed.dry_run else [])
        packed = replace(packed, samples_per_file=None, file_bytes=None)
    for job in many:
        item = SampleInput(str(job.source), stem_of(job.source.name), many=True)
        for outcome in _Packer(quantizer, [item], packed, progress).run(_always(job.output)):
            yield outcome
            if packed.fail_fast and outcome.error is not None:
                return


def _always(path: Path) -> Callable[[int], Path]:
    return lambda _: path


def _refuse_equal_names(inputs: Sequence[SampleInput]) -> None:
    """Raises OptionError if two files of one sample would have the same key."""
    seen = KeySet()
    items = (item for item in inputs if not item.many)
    while some := list(islice(items, _NAMES_AT_ONCE)):
        twice = seen.add([item.name for item in some])
        if any(twice):
            second = some[twice.index(True)]
            first = next(item for item in inputs if item.name == second.name)
            raise OptionError(
                f"{first.where} and {second.where} would both have the key {second.name!r}", "rename one of them"
            )


class _Packer:
    """One run over all inputs: skips the files that are current, makes the others."""

    def __init__(
        self, quantizer: Quantizer, inputs: Sequence[SampleInput], options: PackOptions, progress: Progress
    ) -> None:
        self.inputs = inputs
        self.options = options
        self.progress = progress
        require_certain_bits(quantizer)
        self._backend = backends.select(options.device, quantizer, options.compute_dtype, decoding=False)
        backends.tell_unused(options.compute_dtype, quantizer)
        self._keys = KeySet()
        self._there = KeySet()
        """Keys of samples that are in files already, to which others are added."""
        self._stream: Stream | None = None
        self.coding = Coding(
            quantizer.config(),
            quantizer.digest,
            self._backend.compute_dtype,
            quantizer.assumptions(),
            quantizer.codebook_dims,
            quantizer.index_tail,
            quantizer.bit_order,
            options.packing,
            options.index_dtype,
        )

    def append_to(self, folder: Path) -> int:
        """Skips the samples already in the folder's files; returns the number of the first file to add.

        Raises ExistsError if an existing file was made differently.
        """
        number = 0
        for path in sorted(folder.glob(f"*{codesfile.SUFFIX}")):
            difference = self.difference(existing_header(path), beside=True)
            if difference is not None:
                raise ExistsError(f"{path}: exists, {difference}", "append with the same checkpoint and options")
            with codesfile.open_codes(path) as codes:
                self._there.add(codes.keys_of_samples)
            stem = path.name.removesuffix(codesfile.SUFFIX)
            number = max(number, int(stem) + 1 if stem.isdecimal() else 0)
        self.inputs = [item for item in self.inputs if item.many or item.name not in self._there]
        return number

    def run(self, path_of: Callable[[int], Path], *, begin: int = 0, files: int | None = None) -> Generator[Outcome]:
        """Makes the files one after the other; path_of: number -> output path. begin: the first input of the first
        file; files: how many to make, None for all.
        """
        cursor, number = Cursor(begin), 0
        with ExitStack() as block:
            block.enter_context(self._backend.working())
            block.callback(self._stop)
            while cursor.index < len(self.inputs) and (files is None or number < files):
                outcome, cursor = self._next(path_of(number), cursor)
                number += 1
                if outcome is None:
                    continue
                yield outcome
                if outcome.status == "refused" or (self.options.fail_fast and outcome.error is not None):
                    return

    def _next(self, path: Path, cursor: Cursor) -> tuple[Outcome | None, Cursor]:
        """The outcome of the file that begins at the cursor, and where the next begins; None at the end of the data
        set.
        """
        if exists(path) and not self.options.overwrite:
            self._stop()
            return self._there_already(path, cursor)
        if self._stream is None:
            each = self.options.samples_per_file
            self._stream = Stream(
                self.inputs, cursor, self._backend, self.options.samples, each=each, passed_over=self._there
            )
        options = self.options
        limits = Limits(options.samples_per_file, options.file_bytes)
        with Draft(self.coding, path, self.inputs[cursor.index].path, limits, self._keys) as draft:
            end = draft.fill(self._stream, self.inputs, cursor, self.progress)
            if draft.is_empty:
                return None, end
            made_from = self._made_from(cursor, end, self._stream.known, draft)
            self._stream.known.forget(end.index)
            outcome = draft.finish(
                made_from,
                skip_bad=options.skip_bad,
                overwrite=options.overwrite,
                durable=options.durable,
                dry_run=options.dry_run,
            )
            return outcome, end

    def _stop(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _made_from(self, begin: Cursor, end: Cursor, known: Known, draft: Draft) -> MadeFrom:
        """What the file between two cursors is made from."""
        last = end.index + (end.offset > 0)
        nbytes, digest = self._digest(range(begin.index, last), known)
        return MadeFrom(
            nbytes,
            self.options.nan_policy,
            draft.zeroed,
            digest,
            inputs=last - begin.index,
            begin=begin.offset,
            end=end.offset or None,
            skipped=len(draft.bad),
            options=self.options.recorded(),
        )

    def _digest(self, indices: range, known: Known) -> tuple[int, str]:
        """(bytes, digest) of the inputs: sha256 of a line with the name, size and fingerprint of each."""
        total, digest = 0, hashlib.sha256()
        for index in indices:
            item = self.inputs[index]
            try:
                nbytes, own = known.get(index) or fingerprint(item.path, TensorError)
            except TensorError:
                nbytes, own = 0, "unreadable"
            total += nbytes
            digest.update(f"{item.name}\0{nbytes}\0{own}\n".encode("utf-8", "surrogateescape"))
        return total, digest.hexdigest()

    # files that exist already

    def _there_already(self, path: Path, cursor: Cursor) -> tuple[Outcome, Cursor]:
        """The outcome of an existing file: up to date, and the next begins after it; or refused, which ends the run."""
        first = self.inputs[cursor.index].path
        try:
            header, after = self._current(path, cursor)
        except ExistsError as error:
            return Outcome(first, path, "refused", error=error), cursor
        assert header.samples is not None
        assert header.made_from is not None
        self.progress(header.made_from.nbytes)
        infos = header.tensors.values()
        outcome = Outcome(
            first,
            path,
            "up to date",
            tensors=len(infos),
            vectors=sum(info.vectors for info in infos),
            bytes_in=header.made_from.nbytes,
            bytes_out=header.stored_bytes,
            inputs=header.made_from.inputs,
            samples=header.samples.count,
            skipped=header.made_from.skipped,
        )
        return outcome, after

    def _current(self, path: Path, cursor: Cursor) -> tuple[CodesHeader, Cursor]:
        """The header of an existing file if this run would write the same, and where the next begins. Raises
        ExistsError.
        """
        header = existing_header(path)
        made_from, difference = header.made_from, self.difference(header)
        if difference is None and made_from is not None:
            last = cursor.index + made_from.inputs
            if made_from.begin != cursor.offset or last > len(self.inputs):
                difference = "made from other samples"
            elif self._digest(range(cursor.index, last), Known())[1] != made_from.fingerprint:
                difference = "made from inputs of other names or with other content"
            elif last < len(self.inputs) and made_from.end is None and self._could_hold_more(header):
                difference = "made when there were fewer inputs"
        if difference is not None or made_from is None:
            raise ExistsError(f"{path}: exists, {difference}", f"{REPLACES}; --append leaves it and adds what is new")
        return header, Cursor(last) if made_from.end is None else Cursor(last - 1, made_from.end)

    def _could_hold_more(self, header: CodesHeader) -> bool:
        """Whether a file ended with the data set, and not because it was full."""
        assert header.samples is not None
        assert header.made_from is not None
        each = self.options.samples_per_file
        return each is not None and header.samples.count + header.made_from.skipped < each

    def difference(self, header: CodesHeader, *, beside: bool = False) -> str | None:
        """How a file's making differs from this run's, whatever its content; None if it does not.

        beside: the file stays and others are added to it, so it may have another size, or have been merged.
        """
        coding, made_from = self.coding, header.made_from
        if made_from is None or header.samples is None:
            return "and holds no samples"
        dtype = codesfile.stored_dtype(coding.packing, coding.codebook_dims, coding.index_dtype)
        found = {
            "the checkpoint, or the options for what it does not say": (header.checkpoint_sha256, dict(header.assumed)),
            "--compute-dtype": header.compute_dtype,
            "--nan": made_from.nan,
            "--packing": {(tensor.packing, tensor.dtype) for tensor in header.tensors.values()},
            "other options": _of_samples(made_from.options) if beside else made_from.options,
        }
        wanted = {
            "the checkpoint, or the options for what it does not say": (coding.checkpoint_sha256, dict(coding.assumed)),
            "--compute-dtype": coding.compute_dtype,
            "--nan": self.options.nan_policy,
            "--packing": {(coding.packing, dtype)},
            "other options": _of_samples(self.options.recorded()) if beside else self.options.recorded(),
        }
        if beside and made_from.options == FROM_CODES:
            del wanted["other options"]
        other = [name for name in wanted if found[name] != wanted[name]]
        return f"made with another value of {', '.join(other)}" if other else None


def _of_samples(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that decide how a sample is encoded, without those that decide how many are in a file."""
    return {name: value for name, value in options.items() if name not in ("samples_per_file", "file_bytes")}
