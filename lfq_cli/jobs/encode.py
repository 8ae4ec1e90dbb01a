"""Tensor files -> codes files."""

from __future__ import annotations

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
from lfq_cli.fingerprint import WHOLE_BYTES, fingerprint
from lfq_cli.floats import FORMATS
from lfq_cli.jobs.current import is_current
from lfq_cli.jobs.outcome import Outcome, clear_leftovers, lost, outcome_of, settle_output, until_failure
from lfq_cli.jobs.plan import Job
from lfq_cli.jobs.processes import LOOKED_AT, are_many_and_small, in_processes
from lfq_cli.layout import Layout, positions_shape
from lfq_cli.matching import ChannelAxis, select_tensors
from lfq_cli.pipeline import EncodeTask, Encoding, Progress, Workers, start_workers
from lfq_cli.quantizer import Quantizer
from lfq_cli.tensors import StoredTensor, open_source


@dataclass(frozen=True)
class EncodeOptions:
    """How to encode; the defaults are the command line's."""

    packing: str = "bits"
    index_dtype: str | None = None
    zero_nan: bool = False
    tensors: tuple[str, ...] = ()
    layout: Layout | int | None = None
    """Where the features are, by name or number of the axis."""
    device: str = "auto"
    compute_dtype: str = "float32"
    overwrite: bool = False
    durable: bool = True
    dry_run: bool = False
    fail_fast: bool = False

    @property
    def nan_policy(self) -> str:
        """What is done about NaN, as a codes file says it."""
        return "zero" if self.zero_nan else "error"


def encode(
    quantizer: Quantizer, jobs: Sequence[Job], options: EncodeOptions, progress: Progress = lambda _: None
) -> Generator[Outcome]:
    """Encodes every job's tensors into a codes file; an input that cannot be is an Outcome with its error.

    Raises CheckpointError where a clamp that nobody told would be followed by a rotation: no bit would be sure.
    """
    if quantizer.has_rotation:
        quantizer.require("soft_clamp_input_value")
        if quantizer.soft_clamp_input_value is not None:
            quantizer.require("cosine_sim_project_in_scale")
    backend = backends.select(options.device, quantizer, options.compute_dtype, decoding=False)
    backends.tell_unused(options.compute_dtype, quantizer)
    if not options.dry_run:
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

    if not (backend.forks and _are_many_and_small(jobs)):
        with working(progress) as work:
            yield from until_failure((outcome for job in jobs for outcome in work(job)), fail_fast=options.fail_fast)
        return
    made = in_processes(jobs, partial(working, lambda _: None), lost, waits=options.durable)
    with closing(made):
        for outcome in until_failure(made, fail_fast=options.fail_fast):
            progress(outcome.bytes_in)
            yield outcome


def _encode_file(job: Job, options: EncodeOptions, backend: Backend, workers: Workers, progress: Progress) -> Outcome:
    before = _state_of(job.source)
    source_bytes = 0 if before is None else before[2]
    with open_source(job.source) as source:
        selection = select_tensors(source, backend.quantizer, patterns=options.tensors, layout=options.layout)
        header = _header(backend, selection.chosen, options, source_bytes)
        outcome = Outcome(
            job.source,
            job.output,
            "written",
            tensors=len(selection.chosen),
            vectors=sum(info.vectors for info in header.tensors.values()),
            bytes_in=sum(_float_bytes(tensor) for tensor, _ in selection.chosen),
            bytes_out=sum(info.stored_bytes for info in header.tensors.values()),
            left_alone=selection.left_alone,
            assumptions=selection.assumptions(),
        )
        tasks = [
            EncodeTask(job.source, tensor, axis.number, backend, zero_nan=options.zero_nan)
            for tensor, axis in selection.chosen
        ]
        return settle_output(
            outcome,
            overwrite=options.overwrite,
            dry_run=options.dry_run,
            is_current=lambda: is_current(job, header),
            write=lambda: _write(job, header, tasks, options, workers, progress, before),
            progress=progress,
        )


def _write(
    job: Job,
    header: CodesHeader,
    tasks: Sequence[EncodeTask],
    options: EncodeOptions,
    workers: Workers,
    progress: Progress,
    before: tuple[int, ...] | None,
) -> None:
    nan_values = 0
    with codesfile.create(job.output, header, overwrite=options.overwrite, durable=options.durable) as writer:
        found: Callable[[], tuple[int, str]] = partial(fingerprint, job.source, TensorError)
        if before is not None and before[2] > WHOLE_BYTES:  # a small file is not worth a thread's time
            found = workers.start(found)
        for task in tasks:
            encoding = Encoding(task, header.tensors[task.tensor.name], workers, progress)
            with writer.tensor(task.tensor.name) as out, closing(encoding.runs()) as runs:
                for codes in runs:
                    out.append(codes)
            nan_values += encoding.nan_values
        _refuse_change(job.source, before)
        nbytes, digest = found()
        _refuse_change(job.source, before)  # while the fingerprint was taken
        writer.made_from = MadeFrom(nbytes, options.nan_policy, nan_values, digest)


def _refuse_change(path: Path, before: tuple[int, ...] | None) -> None:
    if _state_of(path) != before:
        raise TensorError(f"{path}: changed while it was read", "run again when nothing writes to it")


def _state_of(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is written to, replaced or removed; None where it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _header(
    backend: Backend,
    chosen: Sequence[tuple[StoredTensor, ChannelAxis]],
    options: EncodeOptions,
    source_bytes: int,
) -> CodesHeader:
    """The header as it is before any value is read: without digests, fingerprint and number of NaN."""
    quantizer = backend.quantizer
    dims = quantizer.codebook_dims
    dtype = codesfile.stored_dtype(options.packing, dims, options.index_dtype)
    tensors = {
        tensor.name: CodesTensor(
            name=tensor.name,
            shape=positions_shape(tensor.shape, axis.number) + quantizer.index_tail,
            codebook_dims=dims,
            bit_order=quantizer.bit_order,
            packing=options.packing,
            dtype=dtype,
            source=SourceInfo(tensor.shape, tensor.dtype, axis.number, axis.is_assumed),
        )
        for tensor, axis in chosen
    }
    return CodesHeader(
        quantizer.config(),
        quantizer.digest,
        backend.compute_dtype,
        tensors,
        quantizer.assumptions(),
        MadeFrom(source_bytes, options.nan_policy),
    )


def _float_bytes(tensor: StoredTensor) -> int:
    return prod(tensor.shape) * FORMATS[tensor.dtype].itemsize
