"""Codes files of samples -> a tensor file for each sample, named by its key, in its original layout."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from lfq_cli import backends, codesfile
from lfq_cli.backends import Backend
from lfq_cli.bits import pack, unpack
from lfq_cli.codesfile import CodesFile, CodesTensor
from lfq_cli.errors import CodesFileError, ExistsError, LfqError
from lfq_cli.files import atomic_output, remove_leftovers, write_all
from lfq_cli.floats import FORMATS, Bools, FloatFormat
from lfq_cli.jobs.decode import Backends, DecodeOptions, begins_with, made_of, matching_quantizer
from lfq_cli.jobs.outcome import Outcome, outcome_of, until_failure
from lfq_cli.jobs.plan import Job
from lfq_cli.layout import Geometry, geometry_of, insert_channels
from lfq_cli.pipeline import Progress
from lfq_cli.quantizer import Quantizer
from lfq_cli.regions import bytes_of
from lfq_cli.storage.places import exists
from lfq_cli.tensors import Head, head_for

MAX_NAME_BYTES = 255
"""Of a file's or folder's name, on all file systems that people use."""


def decode_samples(
    quantizer: Quantizer,
    jobs: Sequence[Job],
    folder: Path,
    suffix: str,
    options: DecodeOptions,
    progress: Progress = lambda _: None,
    tell: Callable[[Quantizer], None] = lambda _: None,
) -> Generator[Outcome]:
    """Decodes every sample of the jobs' codes files into `folder`/KEY`suffix`; yields an outcome for each codes file.

    A sample that cannot be written is named in its file's error, and the others are written. `tell` is called with the
    quantizer that decodes a file.
    """
    select = Backends(options)
    backends.tell_unused(options.compute_dtype, quantizer)
    outcomes = (
        outcome_of(job, lambda job: _decode_file(job, quantizer, folder, suffix, options, select, progress, tell))
        for job in jobs
    )
    yield from until_failure(outcomes, fail_fast=options.fail_fast)


@dataclass(frozen=True)
class _Tensor:
    """One tensor of a file: where each sample begins, in vectors, and what is decoded from it."""

    info: CodesTensor
    bounds: list[int]
    channels: int

    def shape(self, sample: int) -> tuple[int, ...]:
        """The shape of a decoded sample; raises CodesFileError where its vectors do not fill one."""
        rest = [size for size in self.info.source.positions if size is not None]
        count = self.bounds[sample + 1] - self.bounds[sample]
        positions = tuple(self.info.source.positions)
        if None in positions:
            length, over = divmod(count, prod(rest)) if prod(rest) else (0, count)
            if over:
                raise CodesFileError(f"{self.info.name!r}: sample {sample} has {count} vectors, no multiple of {rest}")
            positions = (length, *rest)
        return insert_channels(tuple(size or 0 for size in positions), self.channels, self.info.source.channel_axis)

    def geometry(self, sample: int) -> Geometry:
        """A decoded sample as [outer, channels, inner]."""
        return geometry_of(self.shape(sample), self.info.source.channel_axis)


@dataclass(frozen=True)
class _Decoder:
    """How the codes of a file become floats."""

    codes: CodesFile
    backend: Backend
    spec: FloatFormat
    project_out: bool
    kept_bits: Bools | None

    def values(self, tensor: _Tensor, first: int, last: int) -> Iterator[memoryview]:
        """The bytes of the decoded samples `first` to `last`, one after the other."""
        geometries = [tensor.geometry(sample) for sample in range(first, last)]
        together = len({geometry.inner for geometry in geometries}) == 1
        runs = [(first, last)] if together else [(sample, sample + 1) for sample in range(first, last)]
        for begin, end in runs:
            outer = sum(geometry.outer for geometry in geometries[begin - first : end - first])
            inner = geometries[begin - first].inner
            stream = self.codes[tensor.info.name].stream(tensor.bounds[begin], tensor.bounds[end])
            if self.kept_bits is not None:
                stream = pack(unpack(stream, outer * inner, len(self.kept_bits))[:, self.kept_bits])
            raw = self.backend.decode(stream, outer, inner, self.spec, project_out=self.project_out)
            data = memoryview(bytes(bytes_of(raw)))  # the buffer is reused by the next call, perhaps for another tensor
            place = 0
            for geometry in geometries[begin - first : end - first]:
                nbytes = geometry.outer * geometry.channels * geometry.inner * self.spec.itemsize
                yield data[place : place + nbytes]
                place += nbytes


def _decode_file(
    job: Job,
    quantizer: Quantizer,
    folder: Path,
    suffix: str,
    options: DecodeOptions,
    select: Backends,
    progress: Progress,
    tell: Callable[[Quantizer], None],
) -> Outcome:
    with codesfile.open_codes(job.source) as codes:
        if codes.header.samples is None:
            raise CodesFileError(f"{job.source}: holds no samples to split", "leave --split out")
        stored = matching_quantizer(codes, quantizer)
        quantizer = stored if options.levels is None else stored.first_levels(options.levels)
        tell(quantizer)
        infos = [codes.header.tensors[name] for name in codes.matching(options.tensors)]
        for info in infos:
            codes[info.name].check_digest()
        channels = quantizer.dim if options.project_out else quantizer.code_dim
        tensors = [_Tensor(info, codes.bounds(info.name).tolist(), channels) for info in infos]
        backend = select(quantizer)
        decoder = _Decoder(
            codes, backend, FORMATS[options.dtype], options.project_out, stored.bits_of_levels(options.levels)
        )
        made = made_of(codes, infos, quantizer, options)
        with backend.working():
            counts, errors = _write_all(decoder, tensors, folder, suffix, made, options, progress)
        values = sum(info.vectors for info in infos) * channels
        return Outcome(
            job.source,
            folder,
            "failed" if errors else "planned" if options.dry_run else "written" if counts["written"] else "up to date",
            tensors=len(infos),
            vectors=sum(info.vectors for info in infos),
            bytes_in=sum(info.stored_bytes for info in infos),
            bytes_out=values * decoder.spec.itemsize,
            samples=counts["written"] + counts["current"],
            error=_as_one(job.source, errors),
        )


def _write_all(
    decoder: _Decoder,
    tensors: Sequence[_Tensor],
    folder: Path,
    suffix: str,
    made: str,
    options: DecodeOptions,
    progress: Progress,
) -> tuple[dict[str, int], list[LfqError]]:
    """Writes every sample; returns how many were written, how many existed, and why others failed."""
    counts, errors = {"written": 0, "current": 0}, []
    keys = decoder.codes.keys_of_samples
    cleared: set[Path] = set()
    for first, last in _runs(tensors, len(keys), decoder.backend.block_values(decoder.spec)):
        streams = [decoder.values(tensor, first, last) for tensor in tensors]
        for sample in range(first, last):
            values = [next(stream) for stream in streams]
            try:
                path = path_of_key(keys[sample], folder, suffix)
                shapes = {tensor.info.name: tensor.shape(sample) for tensor in tensors}
                head = head_for(path, options.dtype, shapes, {"lfq": made, "key": keys[sample]})
                if path.parent not in cleared and not options.dry_run:
                    remove_leftovers([path.parent])
                    cleared.add(path.parent)
                counts[_write(path, head, values, options)] += 1
            except LfqError as error:
                errors.append(error)
        progress(sum(tensor.bounds[last] - tensor.bounds[first] for tensor in tensors))
    return counts, errors


def _write(path: Path, head: Head, values: Sequence[memoryview], options: DecodeOptions) -> str:
    if not options.overwrite and exists(path):
        if head.tells_origin and begins_with(path, head):
            return "current"
        raise ExistsError(f"{path}: exists, and is not what this run would make", "--overwrite replaces it")
    if not options.dry_run:
        with atomic_output(path, overwrite=options.overwrite, durable=options.durable) as file:
            write_all(file, head.data)
            for part in values:
                write_all(file, part)
    return "written"


def _runs(tensors: Sequence[_Tensor], count: int, block_values: int) -> Iterator[tuple[int, int]]:
    """Runs of samples to decode together, of about so many values."""
    first = 0
    while first < count:
        last = first + 1
        while (
            last < count and sum(t.channels * (t.bounds[last + 1] - t.bounds[first]) for t in tensors) <= block_values
        ):
            last += 1
        yield first, last
        first = last


def _values(tensors: Sequence[_Tensor], first: int, last: int) -> int:
    return sum(tensor.channels * (tensor.bounds[last] - tensor.bounds[first]) for tensor in tensors)


def path_of_key(key: str, folder: Path, suffix: str) -> Path:
    """The path of a key's sample: always below `folder`, though keys are untrusted. Raises LfqError for other keys."""
    parts = key.split("/")
    wrong = None
    if any(part in ("", ".", "..") for part in parts):
        wrong = "leads out of the folder, or nowhere"
    elif "\\" in key or "\0" in key:
        wrong = "has a letter that no file's name should have"
    elif any(len(name.encode()) > MAX_NAME_BYTES for name in (*parts[:-1], parts[-1] + suffix)):
        wrong = f"is longer than a file's name may be ({MAX_NAME_BYTES} bytes)"
    if wrong is not None:
        raise LfqError(f"the key {key!r} {wrong}", "decode without --split keeps all samples in one file")
    return folder.joinpath(*parts[:-1], parts[-1] + suffix)


def _as_one(source: Path, errors: Sequence[LfqError]) -> LfqError | None:
    if not errors:
        return None
    more = "" if len(errors) == 1 else f" (and {len(errors) - 1:,} more samples)"
    return LfqError(f"{source}: {errors[0].message}{more}", errors[0].hint)
