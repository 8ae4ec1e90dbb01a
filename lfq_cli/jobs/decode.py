"""Codes files -> tensor files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from lfq_cli import backends, codesfile
from lfq_cli.codesfile import CodesFile, CodesTensor
from lfq_cli.container import read_header
from lfq_cli.errors import CodesFileError, OutputError, TensorError
from lfq_cli.files import atomic_output, write_all
from lfq_cli.floats import FORMATS
from lfq_cli.jobs.outcome import Outcome, each, refuse_older
from lfq_cli.jobs.plan import Job
from lfq_cli.layout import insert_channels
from lfq_cli.pipeline import DecodeTask, Progress, start_workers, write_decoded
from lfq_cli.quantizer import Quantizer
from lfq_cli.regions import InputFile
from lfq_cli.tensors import Head, head_for


@dataclass(frozen=True)
class DecodeOptions:
    """How to decode; the defaults are the command line's. `dtype` is safetensors' name."""

    dtype: str = "F32"
    project_out: bool = True
    tensors: tuple[str, ...] = ()
    device: str = "auto"
    compute_dtype: str = "float32"
    overwrite: bool = False
    durable: bool = True
    dry_run: bool = False


def decode(
    quantizer: Quantizer, jobs: Sequence[Job], options: DecodeOptions, progress: Progress = lambda _: None
) -> Iterator[Outcome]:
    """Decodes every job's codes into float tensors; an input that cannot be is an Outcome with its error."""
    yield from each(jobs, lambda job: _decode_file(job, quantizer, options, progress))


def _decode_file(job: Job, quantizer: Quantizer, options: DecodeOptions, progress: Progress) -> Outcome:
    with codesfile.open_codes(job.source) as codes:
        quantizer = matching_quantizer(codes, quantizer)
        quantizer.require("codebook_scale", "spherical")
        infos = [codes.header.tensors[name] for name in codes.matching(options.tensors)]
        channels = quantizer.dim if options.project_out else quantizer.bits_per_vector
        shapes = {info.name: insert_channels(info.positions, channels, info.source.layout) for info in infos}
        head = head_for(job.output, options.dtype, shapes, {"lfq": _made_of(codes, infos, options)})
        spec = FORMATS[options.dtype]
        outcome = Outcome(
            job.source,
            job.output,
            "written",
            tensors=len(infos),
            vectors=sum(info.vectors for info in infos),
            bytes_in=sum(info.stored_bytes for info in infos),
            bytes_out=sum(prod(shape) for shape in shapes.values()) * spec.itemsize,
        )
        if not options.overwrite and _is_current(job, head):
            progress(outcome.bytes_in)
            return replace(outcome, status="up to date")
        if options.dry_run:
            return replace(outcome, status="planned")
        backend = backends.select(options.device, quantizer, options.compute_dtype, decoding=True)
        with (
            atomic_output(job.output, overwrite=options.overwrite, durable=options.durable) as file,
            start_workers(backend.threads) as workers,
        ):
            write_all(file, head.data)
            for info in infos:
                intact = workers.start(codes[info.name].check_digest)
                start = head.starts[info.name]
                task = DecodeTask(codes[info.name], file, start, channels, backend, spec, options.project_out)
                write_decoded(task, workers, progress)
                intact()  # the file gets its name only if this does not raise
    return outcome


def matching_quantizer(codes: CodesFile, quantizer: Quantizer) -> Quantizer:
    """The quantizer that decodes `codes`: `quantizer`, with facts it leaves unknown taken from the file's header.

    Raises CodesFileError where the codes were made by another checkpoint.
    """
    header = codes.header
    stated = {fact: header.quantizer[fact] for fact in quantizer.unknown - header.unknown if fact in header.quantizer}
    quantizer = replace(quantizer, **stated, unknown=quantizer.unknown - set(stated))
    digest = quantizer.forget(header.unknown).digest
    if digest != header.checkpoint_sha256:
        raise CodesFileError(
            f"{codes.path}: made by another checkpoint (sha256 {header.checkpoint_sha256[:12]}…, this one's is"
            f" {digest[:12]}…), or with other options",
            "decode with the checkpoint and options that encoded it; lfq inspect shows both",
        )
    return quantizer


def _made_of(codes: CodesFile, infos: Sequence[CodesTensor], options: DecodeOptions) -> str:
    """Where decoded tensors come from, for their file's metadata: tells an output that is current from any other."""
    value: dict[str, Any] = {
        "format": "lfq-decoded",
        "version": 1,
        "checkpoint_sha256": codes.header.checkpoint_sha256,
        "compute_dtype": options.compute_dtype,
        "project_out": options.project_out,
        "codes_sha256": {info.name: info.sha256 for info in infos},
    }
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _is_current(job: Job, head: Head) -> bool:
    """Whether the output begins as this run's would. Raises OutputError where something else is in its place."""
    if not job.output.exists():
        return False
    if not head.tells_origin or not _begins_with(job.output, head):
        raise OutputError(f"{job.output}: exists, and is not what this run would make", "--overwrite replaces it")
    refuse_older(job)
    return True


def _begins_with(path: Path, head: Head) -> bool:
    try:
        file = InputFile(path, TensorError)
    except TensorError:
        return False
    try:
        read_header(file, TensorError)  # a whole file, not one that was cut off
        return file.size >= len(head.data) and file.read(0, len(head.data)) == head.data
    except TensorError:
        return False
    finally:
        file.close()
