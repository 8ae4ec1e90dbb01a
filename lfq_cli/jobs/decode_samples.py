"""Codes files of samples -> a tensor file for each sample, named by its key, in its original layout."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Literal

from lfq_cli import backends, codesfile
from lfq_cli.backends import Backend
from lfq_cli.bits import pack, unpack
from lfq_cli.codesfile import CodesFile, CodesTensor
from lfq_cli.errors import CodesFileError, ExistsError, LfqError
from lfq_cli.files import atomic_output, remove_leftovers, write_all
from lfq_cli.floats import FORMATS, Bools, FloatFormat
from lfq_cli.jobs.decode import Backends, DecodeOptions, begins_with, made_of, matching_quantizer
from lfq_cli.jobs.outcome import Outcome, each
from lfq_cli.jobs.plan import Job
from lfq_cli.layout import Geometry, geometry_of, insert_channels
from lfq_cli.pipeline.workers import Progress
from lfq_cli.quantizer import Quantizer
from lfq_cli.regions import bytes_of
from lfq_cli.storage.places import exists
from lfq_cli.tensors import Head, head_for
from lfq_cli.wording import counted

MAX_NAME_BYTES = 255
"""Of a file's or folder's name, on all common file systems."""


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

    If samples cannot be written, the first is named in its file's error, and the others are written. `tell` is called
    with the quantizer that decodes a file.
    """
    backends.tell_unused(options.compute_dtype, quantizer)
    run = _Run(quantizer, folder, suffix, options, Backends(options), progress, tell)
    yield from each(jobs, run.decode, fail_fast=options.fail_fast)


@dataclass(frozen=True)
class _Tensor:
    """One tensor of a file. bounds: where each sample begins, in vectors, and the end; channels: after decoding."""

    info: CodesTensor
    bounds: list[int]
    channels: int

    def shape(self, sample: int) -> tuple[int, ...]:
        """The shape of a decoded sample; raises CodesFileError if its vectors do not fill one."""
        rest = [size for size in self.info.source.positions if size is not None]
        count = self.bounds[sample + 1] - self.bounds[sample]
        positions = tuple(self.info.source.positions)
        if None in positions:
            length, over = divmod(count, prod(rest)) if prod(rest) else (0, count)
            if over:
                raise CodesFileError(
                    f"{self.info.name!r}: sample {sample} has {counted(count, 'vector')}, expected a multiple of"
                    f" {prod(rest):,}"
                )
            positions = (length, *rest)
        return insert_channels(tuple(size or 0 for size in positions), self.channels, self.info.source.channel_axis)

    def geometry(self, sample: int) -> Geometry:
        """A decoded sample as [outer, channels, inner]."""
        return geometry_of(self.shape(sample), self.info.source.channel_axis)

    def values(self, first: int, last: int) -> int:
        """The number of values in the decoded samples `first` to `last`."""
        return self.channels * (self.bounds[last] - self.bounds[first])


@dataclass(frozen=True)
class _Decoder:
    """How the codes of a file become floats. made: the origin of the outputs, for their metadata."""

    codes: CodesFile
    tensors: Sequence[_Tensor]
    backend: Backend
    spec: FloatFormat
    project_out: bool
    kept_bits: Bools | None
    made: str

    def runs(self) -> Iterator[tuple[int, int]]:
        """(first, last) of the samples to decode together: about as many values as the backend's blocks have."""
        count, first = len(self.codes.keys_of_samples), 0
        most = self.backend.block_values(self.spec)
        while first < count:
            last = first + 1
            while last < count and sum(t.values(first, last + 1) for t in self.tensors) <= most:
                last += 1
            yield first, last
            first = last

    def samples(self, first: int, last: int) -> Iterator[tuple[int, list[memoryview]]]:
        """(number, bytes of each tensor) of the decoded samples `first` to `last`, in order."""
        streams = [self._values(tensor, first, last) for tensor in self.tensors]
        for sample in range(first, last):
            yield sample, [next(stream) for stream in streams]

    def _values(self, tensor: _Tensor, first: int, last: int) -> Iterator[memoryview]:
        """The bytes of a tensor in the decoded samples `first` to `last`, one after the other."""
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


@dataclass
class _Written:
    """What became of the samples of a codes file."""

    written: int = 0
    current: int = 0
    errors: list[LfqError] = field(default_factory=list)

    def status(self, *, dry_run: bool) -> Literal["failed", "planned", "written", "up to date"]:
        """The status of the codes file."""
        if self.errors:
            return "failed"
        if dry_run:
            return "planned"
        return "written" if self.written else "up to date"


@dataclass(frozen=True)
class _Run:
    """What all codes files of a run share, and the steps for one of them."""

    quantizer: Quantizer
    folder: Path
    suffix: str
    options: DecodeOptions
    backend_of: Backends
    progress: Progress
    tell: Callable[[Quantizer], None]

    def decode(self, job: Job) -> Outcome:
        """Decodes every sample of one codes file."""
        with codesfile.open_codes(job.source) as codes:
            decoder = self._decoder(codes)
            with decoder.backend.working():
                written = self._write_samples(decoder)
        infos = [tensor.info for tensor in decoder.tensors]
        values = sum(tensor.info.vectors * tensor.channels for tensor in decoder.tensors)
        return Outcome(
            job.source,
            self.folder,
            written.status(dry_run=self.options.dry_run),
            tensors=len(infos),
            vectors=sum(info.vectors for info in infos),
            bytes_in=sum(info.stored_bytes for info in infos),
            bytes_out=values * decoder.spec.itemsize,
            samples=written.written + written.current,
            error=_as_one(job.source, written.errors),
        )

    def _decoder(self, codes: CodesFile) -> _Decoder:
        """Checks the file and chooses what decodes it. Raises CodesFileError for damaged or foreign codes."""
        options = self.options
        if codes.header.samples is None:
            raise CodesFileError(f"{codes.path}: holds no samples to split", "leave --split out")
        stored = matching_quantizer(codes, self.quantizer)
        quantizer = stored if options.levels is None else stored.first_levels(options.levels)
        self.tell(quantizer)
        infos = [codes.header.tensors[name] for name in codes.matching(options.tensors)]
        for info in infos:
            codes[info.name].check_digest()
        channels = quantizer.dim if options.project_out else quantizer.code_dim
        return _Decoder(
            codes=codes,
            tensors=[_Tensor(info, codes.bounds(info.name).tolist(), channels) for info in infos],
            backend=self.backend_of(quantizer),
            spec=FORMATS[options.dtype],
            project_out=options.project_out,
            kept_bits=stored.bits_of_levels(options.levels),
            made=made_of(codes, infos, quantizer, options),
        )

    def _write_samples(self, decoder: _Decoder) -> _Written:
        """Writes every sample of a codes file; a sample that cannot be written does not stop the others."""
        found = _Written()
        cleared: set[Path] = set()
        for first, last in decoder.runs():
            for sample, values in decoder.samples(first, last):
                try:
                    path, head = self._output(decoder, sample)
                    if path.parent not in cleared and not self.options.dry_run:
                        remove_leftovers([path.parent])
                        cleared.add(path.parent)
                    if self._is_current(path, head):
                        found.current += 1
                    else:
                        self._write(path, head, values)
                        found.written += 1
                except LfqError as error:
                    found.errors.append(error)
            self.progress(sum(tensor.bounds[last] - tensor.bounds[first] for tensor in decoder.tensors))
        return found

    def _output(self, decoder: _Decoder, sample: int) -> tuple[Path, Head]:
        """(path, everything before the data) of a sample's file."""
        key = decoder.codes.keys_of_samples[sample]
        path = path_of_key(key, self.folder, self.suffix)
        shapes = {tensor.info.name: tensor.shape(sample) for tensor in decoder.tensors}
        return path, head_for(path, self.options.dtype, shapes, {"lfq": decoder.made, "key": key})

    def _is_current(self, path: Path, head: Head) -> bool:
        """Whether the file is what this run would write. Raises ExistsError if something else has its name."""
        if self.options.overwrite or not exists(path):
            return False
        if not head.tells_origin or not begins_with(path, head):
            raise ExistsError(f"{path}: exists, and is not what this run would make", "--overwrite replaces it")
        return True

    def _write(self, path: Path, head: Head, values: Sequence[memoryview]) -> None:
        if self.options.dry_run:
            return
        with atomic_output(path, overwrite=self.options.overwrite, durable=self.options.durable) as file:
            write_all(file, head.data)
            for part in values:
                write_all(file, part)


def path_of_key(key: str, folder: Path, suffix: str) -> Path:
    """The path of the file of a key's sample. Keys are untrusted: raises LfqError for one that would leave `folder`."""
    parts = key.split("/")
    wrong = None
    if any(part in ("", ".", "..") for part in parts):
        wrong = "is not a path inside the folder"
    elif "\\" in key or "\0" in key:
        wrong = "has a character that file names should not have"
    elif any(len(name.encode()) > MAX_NAME_BYTES for name in (*parts[:-1], parts[-1] + suffix)):
        wrong = f"is longer than a file name may be ({MAX_NAME_BYTES} bytes)"
    if wrong is not None:
        raise LfqError(f"the key {key!r} {wrong}", "decode without --split keeps all samples in one file")
    return folder.joinpath(*parts[:-1], parts[-1] + suffix)


def _as_one(source: Path, errors: Sequence[LfqError]) -> LfqError | None:
    if not errors:
        return None
    more = "" if len(errors) == 1 else f" (and {counted(len(errors) - 1, 'more sample')})"
    return LfqError(f"{source}: {errors[0].message}{more}", errors[0].hint)
