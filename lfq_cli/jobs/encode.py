"""Tensor files -> codes files."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

from lfq_cli import backends, codesfile
from lfq_cli.backends import Backend
from lfq_cli.codesfile import CodesHeader, CodesTensor, MadeFrom, SourceInfo
from lfq_cli.errors import TensorError
from lfq_cli.fingerprint import WHOLE_BYTES, fingerprint, whole_fingerprint
from lfq_cli.floats import FORMATS
from lfq_cli.jobs.current import is_current
from lfq_cli.jobs.outcome import Outcome, clear_leftovers, lost, outcome_of, settle_output, until_failure
from lfq_cli.jobs.parts import Cut, cuts_of
from lfq_cli.jobs.plan import Job
from lfq_cli.jobs.processes import LOOKED_AT, are_many_and_small, in_processes
from lfq_cli.jobs.side_by_side import are_small_objects, at_once
from lfq_cli.layout import Layout, positions_shape
from lfq_cli.matching import select_tensors
from lfq_cli.pipeline.encode import EncodeTask, Encoding
from lfq_cli.pipeline.workers import Progress, Workers, start_workers
from lfq_cli.quantizer import Quantizer
from lfq_cli.storage.places import version
from lfq_cli.storage.ranges import RANGE_BYTES
from lfq_cli.storage.remote import read_ahead, read_whole, stage
from lfq_cli.storage.urlpath import UrlPath
from lfq_cli.tensors import Source, open_bytes, open_source


@dataclass(frozen=True)
class EncodeOptions:
    """How to encode; the defaults are the command line's."""

    packing: str = "bits"
    index_dtype: str | None = None
    zero_nan: bool = False
    tensors: tuple[str, ...] = ()
    layout: Layout | int | None = None
    """Where the features are, by name or number of the axis."""
    part_rows: int | None = None
    """Rows of a part, of jobs that make parts."""
    device: str = "auto"
    compute_dtype: str = "float32"
    overwrite: bool = False
    durable: bool = True
    dry_run: bool = False
    by_header: bool = False
    """Whether an output is up to date by its header, and by size and age of its input, which is not read."""
    fail_fast: bool = False
    tidy: bool = True
    """Whether what killed runs left where the outputs go is removed first."""

    @property
    def nan_policy(self) -> str:
        """The NaN policy, as a codes file records it."""
        return "zero" if self.zero_nan else "error"


def require_certain_bits(quantizer: Quantizer) -> None:
    """Raises CheckpointError if a rotation may follow a soft clamp of unknown strength: all bits depend on it."""
    if quantizer.has_rotation:
        quantizer.require("soft_clamp_input_value")
        if quantizer.soft_clamp_input_value is not None:
            quantizer.require("cosine_sim_project_in_scale")


def encode(
    quantizer: Quantizer, jobs: Sequence[Job], options: EncodeOptions, progress: Progress = lambda _: None
) -> Generator[Outcome]:
    """Encodes every job's tensors into a codes file; an input that cannot be encoded is an Outcome with its error.

    Raises CheckpointError as `require_certain_bits` does.
    """
    require_certain_bits(quantizer)
    if not jobs:
        return
    backend = backends.select(options.device, quantizer, options.compute_dtype, decoding=False)
    backends.tell_unused(options.compute_dtype, quantizer)
    if options.tidy and not options.dry_run:
        clear_leftovers(jobs)
    with backend.working():
        yield from _encode(backend, jobs, options, progress)


def _are_many_and_small(jobs: Sequence[Job]) -> bool:
    return are_many_and_small(len(jobs), [job.source for job in jobs[:: max(1, len(jobs) // LOOKED_AT)]])


def _encode(backend: Backend, jobs: Sequence[Job], options: EncodeOptions, progress: Progress) -> Generator[Outcome]:

    @contextmanager
    def working(progress: Progress) -> Iterator[Callable[[Job], list[Outcome]]]:
        with start_workers() as workers:
            yield lambda job: [outcome_of(job, lambda job: _encode_file(job, options, backend, workers, progress))]

    if are_small_objects(jobs):
        with working(progress) as work, closing(at_once(work, jobs)) as done:
            yield from until_failure((outcome for (outcome,) in done), fail_fast=options.fail_fast)
        return
    if not (backend.forks and _are_many_and_small(jobs)):
        with working(progress) as work:
            yield from until_failure((outcome for job in jobs for outcome in work(job)), fail_fast=options.fail_fast)
        return
    made = in_processes(jobs, partial(working, lambda _: None), lost, waits=options.durable)
    with closing(made):
        for outcome in until_failure(made, fail_fast=options.fail_fast):
            progress(outcome.bytes_in)
            yield outcome


class _Input:
    """An open input: a small one is read whole, a large one in blocks, so it may change meanwhile."""

    def __init__(self, path: Path, workers: Workers) -> None:
        self._path = path
        self._workers = workers
        self._data = read_whole(os.fspath(path), WHOLE_BYTES, TensorError)
        self._state: tuple[int, ...] | None = None
        if self._data is None or isinstance(path, UrlPath):
            self._state = version(path, known=True)
        self.nbytes = _size_of(path) if self._data is None else len(self._data)

    def open(self) -> Source:
        """Its tensors."""
        if self._data is not None:
            return open_bytes(self._path, self._data)
        return open_source(self._path, known=True)  # `origin` asks the store whether that was still so

    def origin(self) -> Callable[[], tuple[int, str]]:
        """A function to call when all was read: size and fingerprint. Raises TensorError if it changed since."""
        if isinstance(self._path, UrlPath):
            return self._object_as_it_was
        if self._data is not None:
            data = self._data
            return lambda: (len(data), whole_fingerprint(data))
        found = self._workers.start(partial(fingerprint, self._path, TensorError))

        def unchanged() -> tuple[int, str]:
            self._refuse_change()
            size_and_fingerprint = found()
            self._refuse_change()  # it may have changed during the fingerprint
            return size_and_fingerprint

        return unchanged

    def _object_as_it_was(self) -> tuple[int, str]:
        origin = fingerprint(self._path, TensorError)  # asks the store again
        self._refuse_change(known=True)
        return origin

    def _refuse_change(self, *, known: bool = False) -> None:
        if version(self._path, known=known) != self._state:
            raise TensorError(f"{self._path}: changed while it was read", "run again when nothing is writing to it")


def _encode_file(job: Job, options: EncodeOptions, backend: Backend, workers: Workers, progress: Progress) -> Outcome:
    found = _Input(job.source, workers)
    with found.open() as source:
        selection = select_tensors(source, backend.quantizer, patterns=options.tensors, layout=options.layout)
        cuts = cuts_of(job.source, selection.chosen, job.part, options.part_rows)
        header = _header(backend, cuts, options, found.nbytes)
        outcome = Outcome(
            job.source,
            job.output,
            "written",
            tensors=len(cuts),
            vectors=sum(info.vectors for info in header.tensors.values()),
            bytes_in=sum(_float_bytes(cut) for cut in cuts),
            bytes_out=sum(info.stored_bytes for info in header.tensors.values()),
            left_alone=selection.left_alone,
            part=job.part,
            assumptions=selection.assumptions(),
        )
        tasks = [
            EncodeTask(
                job.source, cut.tensor, cut.axis.number, backend, zero_nan=options.zero_nan, first_row=cut.first_row
            )
            for cut in cuts
        ]
        return settle_output(
            outcome,
            overwrite=options.overwrite,
            dry_run=options.dry_run,
            is_current=lambda: is_current(job, header, by_header=options.by_header),
            write=lambda: _write(job, header, tasks, options, workers, progress, found),
            progress=progress,
        )


def _write(
    job: Job,
    header: CodesHeader,
    tasks: Sequence[EncodeTask],
    options: EncodeOptions,
    workers: Workers,
    progress: Progress,
    found: _Input,
) -> None:
    nan_values = 0
    with codesfile.create(job.output, header, overwrite=options.overwrite, durable=options.durable) as writer:
        origin = found.origin()
        _prepare_reading(tasks)
        for task in tasks:
            encoding = Encoding(task, header.tensors[task.tensor.name], workers, progress)
            with writer.tensor(task.tensor.name) as out, closing(encoding.runs()) as runs:
                for codes in runs:
                    out.append(codes)
            nan_values += encoding.nan_values
        nbytes, digest = origin()
        writer.made_from = MadeFrom(nbytes, options.nan_policy, nan_values, digest)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # opening it reports why


def _prepare_reading(tasks: Sequence[EncodeTask]) -> None:
    """Starts fetching objects: ahead from the first tensor, or staged where each block would be read in many small runs
    that lie far apart.
    """
    for task in tasks:
        item_bytes = task.geometry.channels * task.geometry.inner * task.spec.itemsize
        if task.geometry.inner > 1 and item_bytes > RANGE_BYTES:
            stage(task.tensor.region)
    for task in tasks[:1]:
        read_ahead(task.tensor.region)


def _header(backend: Backend, cuts: Sequence[Cut], options: EncodeOptions, source_bytes: int) -> CodesHeader:
    """The header before any value is read: without digests, fingerprint and count of NaN."""
    quantizer = backend.quantizer
    dims = quantizer.codebook_dims
    dtype = codesfile.stored_dtype(options.packing, dims, options.index_dtype)
    tensors = {
        cut.tensor.name: CodesTensor(
            name=cut.tensor.name,
            shape=positions_shape(cut.tensor.shape, cut.axis.number) + quantizer.index_tail,
            codebook_dims=dims,
            bit_order=quantizer.bit_order,
            packing=options.packing,
            dtype=dtype,
            source=SourceInfo(cut.tensor.shape, cut.tensor.dtype, cut.axis.number, cut.axis.is_assumed),
            part=cut.part,
        )
        for cut in cuts
    }
    return CodesHeader(
        quantizer.config(),
        quantizer.digest,
        backend.compute_dtype,
        tensors,
        quantizer.assumptions(),
        MadeFrom(source_bytes, options.nan_policy),
    )


def _float_bytes(cut: Cut) -> int:
    return prod(cut.tensor.shape) * FORMATS[cut.tensor.dtype].itemsize
