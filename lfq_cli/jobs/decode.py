"""Codes files -> tensor files."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from lfq_cli import backends, codesfile
from lfq_cli.backends import Backend
from lfq_cli.codesfile import CodesFile, CodesHeader, CodesTensor
from lfq_cli.container import read_header
from lfq_cli.errors import CheckpointError, CodesFileError, ExistsError, OtherCheckpointError, TensorError
from lfq_cli.files import atomic_output, write_all
from lfq_cli.floats import FORMATS
from lfq_cli.jobs.outcome import Outcome, clear_leftovers, each, outcome_of, settle_output, until_failure
from lfq_cli.jobs.plan import Job
from lfq_cli.jobs.side_by_side import are_small_objects, at_once
from lfq_cli.layout import insert_channels
from lfq_cli.pipeline.decode import DecodeTask, write_decoded
from lfq_cli.pipeline.workers import Progress, Workers, start_workers
from lfq_cli.quantizer import LAYOUT_KEYS, OPTIONS, Quantizer, bits_of_size
from lfq_cli.storage.places import exists
from lfq_cli.storage.remote import open_input
from lfq_cli.tensors import Head, head_for


@dataclass(frozen=True)
class DecodeOptions:
    """How to decode; the defaults are the command line's. `dtype` is safetensors' name."""

    dtype: str = "F32"
    project_out: bool = True
    tensors: tuple[str, ...] = ()
    device: str = "auto"
    compute_dtype: str = "float32"
    levels: int | None = None
    """Decode only so many of a residual quantizer's levels."""
    overwrite: bool = False
    durable: bool = True
    dry_run: bool = False
    fail_fast: bool = False
    tidy: bool = True
    """Whether what killed runs left where the outputs go is removed first."""


def decode(
    quantizer: Quantizer,
    jobs: Sequence[Job],
    options: DecodeOptions,
    progress: Progress = lambda _: None,
    tell: Callable[[Quantizer], None] = lambda _: None,
) -> Generator[Outcome]:
    """Decodes every job's codes into float tensors; an input that cannot be decoded is an Outcome with its error.

    `tell` is called with the quantizer that decodes a file, before it is decoded.
    """
    backends.tell_unused(options.compute_dtype, quantizer)
    if options.tidy and not options.dry_run:
        clear_leftovers(jobs)
    with start_workers() as workers:
        run = _Run(options, Backends(options), workers, progress, tell)

        def work(job: Job) -> Outcome:
            return _decode_file(job, quantizer, run)

        if are_small_objects(jobs):
            with closing(at_once(lambda job: outcome_of(job, work), jobs)) as done:
                yield from until_failure(done, fail_fast=options.fail_fast)
        else:
            yield from each(jobs, work, fail_fast=options.fail_fast)


class Backends:
    """The backend of a quantizer, rebuilt only where the quantizer differs from the last file's."""

    def __init__(self, options: DecodeOptions) -> None:
        self._options = options
        self._made: tuple[dict[str, Any], Backend] | None = None

    def __call__(self, quantizer: Quantizer) -> Backend:
        """The backend that decodes the quantizer's codes."""
        config = quantizer.full_config()  # of one checkpoint, so the weights are the same
        if self._made is None or self._made[0] != config:
            options = self._options
            self._made = config, backends.select(options.device, quantizer, options.compute_dtype, decoding=True)
        return self._made[1]


@dataclass(frozen=True)
class _Run:
    """What all files of a run share."""

    options: DecodeOptions
    select: Callable[[Quantizer], Backend]
    workers: Workers
    progress: Progress
    tell: Callable[[Quantizer], None]


@dataclass(frozen=True)
class _Plan:
    """One file's decoding, before any code is read."""

    job: Job
    codes: CodesFile
    infos: list[CodesTensor]
    stored: Quantizer
    """That of all levels in the file."""
    quantizer: Quantizer
    """That of the levels that are decoded."""
    channels: int
    head: Head
    outcome: Outcome
    """What becomes of the job if its output is written."""


def _decode_file(job: Job, quantizer: Quantizer, run: _Run) -> Outcome:
    with codesfile.open_codes(job.source) as codes:
        plan = _planned(job, codes, quantizer, run.options)
        run.tell(plan.quantizer)
        return settle_output(
            plan.outcome,
            overwrite=run.options.overwrite,
            dry_run=run.options.dry_run,
            is_current=lambda: _is_current(job, plan.head),
            write=lambda: _write(plan, run),
            progress=run.progress,
        )


def _planned(job: Job, codes: CodesFile, quantizer: Quantizer, options: DecodeOptions) -> _Plan:
    stored = matching_quantizer(codes, quantizer)
    decoding = stored if options.levels is None else stored.first_levels(options.levels)
    infos = [codes.header.tensors[name] for name in codes.matching(options.tensors)]
    channels = decoding.dim if options.project_out else decoding.code_dim
    shapes = {info.name: insert_channels(info.positions, channels, info.channel_axis) for info in infos}
    head = head_for(job.output, options.dtype, shapes, {"lfq": made_of(codes, infos, decoding, options)})
    outcome = Outcome(
        job.source,
        job.output,
        "written",
        tensors=len(infos),
        vectors=sum(info.vectors for info in infos),
        bytes_in=sum(info.stored_bytes for info in infos),
        bytes_out=sum(prod(shape) for shape in shapes.values()) * FORMATS[options.dtype].itemsize,
    )
    return _Plan(job, codes, infos, stored, decoding, channels, head, outcome)


def _write(plan: _Plan, run: _Run) -> None:
    options, backend = run.options, run.select(plan.quantizer)
    nbytes = len(plan.head.data) + plan.outcome.bytes_out
    with (
        backend.working(),
        atomic_output(plan.job.output, overwrite=options.overwrite, durable=options.durable, nbytes=nbytes) as file,
    ):
        write_all(file, plan.head.data)
        for task in _tasks(plan, options, backend):
            intact = run.workers.start(task.codes.check_digest)
            write_decoded(task, file, run.workers, run.progress)
            intact()  # the file is renamed to its final name only if this does not raise


def _tasks(plan: _Plan, options: DecodeOptions, backend: Backend) -> Iterator[DecodeTask]:
    for info in plan.infos:
        yield DecodeTask(
            codes=plan.codes[info.name],
            start=plan.head.starts[info.name],
            channels=plan.channels,
            backend=backend,
            spec=FORMATS[options.dtype],
            project_out=options.project_out,
            kept_bits=plan.stored.bits_of_levels(options.levels),
        )


def matching_quantizer(codes: CodesFile, quantizer: Quantizer) -> Quantizer:
    """The quantizer that decodes `codes`: `quantizer`, with the facts it only assumes taken from the file's header.

    Raises CodesFileError if the codes were made by another checkpoint.
    """
    header = codes.header
    levels = header.quantizer.get("num_quantizers")
    if type(levels) is int and quantizer.is_residual and 1 <= levels <= (quantizer.num_quantizers or 1):
        quantizer = quantizer.first_levels(levels)
    quantizer = _cut_as_stored(codes.header, quantizer)
    stated_facts = quantizer.assumed - set(header.assumed)
    stated: dict[str, Any] = {fact: header.quantizer.get(fact) for fact in stated_facts - {"factorized_bits"}}
    quantizer = replace(quantizer, **stated, assumed=quantizer.assumed - stated_facts)
    agreed = quantizer.assuming(set(header.assumed) & set(OPTIONS))
    digest = agreed.digest
    if digest != header.checkpoint_sha256:
        raise OtherCheckpointError(
            f"{codes.path}: made by another checkpoint (sha256 {header.checkpoint_sha256[:12]}…, this one's is"
            f" {digest[:12]}…), or with other options",
            "decode with the checkpoint and options that encoded it; lfq inspect shows both",
        )
    _check_header(codes, agreed)
    return quantizer


def _cut_as_stored(header: CodesHeader, quantizer: Quantizer) -> Quantizer:
    """The quantizer with bits grouped as in the codes, since any grouping decodes the same; unchanged if that is
    impossible.

    Regrouping changes its digest.
    """
    if quantizer.is_residual:
        return quantizer
    cut = header.quantizer.get("factorized_bits", header.assumed.get("factorized_bits"))
    try:
        quantizer = quantizer.cut(
            tuple(cut) if isinstance(cut, list) else cut,
            bits_of_size(header.quantizer.get("codebook_size")),
            header.quantizer.get("num_codebooks", 1),
        )
        return replace(quantizer, keep_num_codebooks_dim=header.quantizer.get("keep_num_codebooks_dim"))
    except CheckpointError:
        return quantizer


def _check_header(codes: CodesFile, quantizer: Quantizer) -> None:
    """Raises CodesFileError if the header contradicts the checkpoint whose digest it names."""
    recorded, known = codes.header.quantizer, quantizer.config()
    differing = {key for key in {*recorded, *known} - set(LAYOUT_KEYS) if recorded.get(key) != known.get(key)}
    for info in codes.header.tensors.values():
        if info.codebook_dims != quantizer.codebook_dims:
            differing.add(f"codebook_dims of {info.name!r}")
        if "bit_order" not in quantizer.open and info.bit_order != quantizer.bit_order:
            differing.add(f"bit_order of {info.name!r}")
        if info.source.shape[info.source.channel_axis] != quantizer.dim:
            differing.add(f"source of {info.name!r}")
    if differing:
        raise CodesFileError(
            f"{codes.path}: contradicts the checkpoint that it names: {', '.join(sorted(differing))}",
            "it is damaged or was changed; encode its source again",
        )


def made_of(codes: CodesFile, infos: Sequence[CodesTensor], quantizer: Quantizer, options: DecodeOptions) -> str:
    """The origin of decoded tensors, for their file's metadata: it shows whether an output is current."""
    value: dict[str, Any] = {
        "format": "lfq-decoded",
        "version": 1,
        "checkpoint_sha256": codes.header.checkpoint_sha256,
        "quantizer": quantizer.full_config(),
        "compute_dtype": backends.computed_in(quantizer, options.compute_dtype),
        "project_out": options.project_out,
        **({} if options.levels is None else {"levels": options.levels}),
        "codes_sha256": {info.name: info.sha256 for info in infos},
    }
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _is_current(job: Job, head: Head) -> bool:
    """Whether the output begins as this run's would. Raises ExistsError if something else is in its place."""
    if not exists(job.output):
        return False
    if not head.tells_origin:
        raise ExistsError(
            f"{job.output}: exists, and a {job.output.suffix} file does not say what it was made from",
            "--overwrite replaces it",
        )
    if not begins_with(job.output, head):
        raise ExistsError(f"{job.output}: exists, and is not what this run would make", "--overwrite replaces it")
    return True


def begins_with(path: Path, head: Head) -> bool:
    """Whether a complete file exists that begins with the head."""
    try:
        file = open_input(path, TensorError)
    except TensorError:
        return False
    try:
        read_header(file, TensorError)  # a complete file, not a truncated one
        return file.size >= len(head.data) and file.read(0, len(head.data)) == head.data
    except TensorError:
        return False
    finally:
        file.close()
