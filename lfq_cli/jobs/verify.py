"""Whether codes files are intact, and whether a checkpoint still makes the same codes of their sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from lfq_cli import backends, codesfile
from lfq_cli.backends import Backend
from lfq_cli.codesfile import CodesFile, CodesTensor
from lfq_cli.errors import CodesFileError, CodesUnreadableError, LfqError, OtherCheckpointError
from lfq_cli.jobs.decode import matching_quantizer
from lfq_cli.jobs.file_types import is_tensor_file
from lfq_cli.jobs.merge_parts import holds_parts, read_parts
from lfq_cli.jobs.parts import whole_path
from lfq_cli.jobs.plan import source_jobs
from lfq_cli.jobs.verify_samples import SampleSources, compare_samples
from lfq_cli.pipeline.compare import Comparison, check_indices, compare
from lfq_cli.pipeline.encode import EncodeTask
from lfq_cli.pipeline.survey import check_keys, check_texts
from lfq_cli.pipeline.workers import Progress
from lfq_cli.quantizer import Quantizer
from lfq_cli.storage.places import real_path
from lfq_cli.tensors import Source, StoredTensor, open_source


@dataclass(frozen=True)
class VerifyOptions:
    """How to verify. sample: number of vectors of each tensor to encode again, evenly spaced; None: all."""

    tensors: tuple[str, ...] = ()
    sample: int | None = None
    device: str = "auto"
    compute_dtype: str | None = None
    """None: as the file says."""


@dataclass(frozen=True)
class Sources:
    """What codes were made from. paired: codes file, as `real_path` names it -> the file encoded into it alone."""

    paired: Mapping[Path, Path]
    samples: SampleSources
    """Samples of many inputs together, by key."""
    all_are_paired: bool
    """Whether every source has a codes file of its own, so that one that is not there is missed."""


@dataclass(frozen=True)
class Verdict:
    """What was found in one codes file. `comparisons` by tensor, where its source was encoded again."""

    path: Path
    status: Literal["whole", "same", "different", "damaged", "failed"]
    tensors: int = 0
    vectors: int = 0
    nbytes: int = 0
    source: Path | None = None
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    error: LfqError | None = None


def verify(
    paths: Sequence[Path],
    options: VerifyOptions,
    quantizer: Quantizer | None = None,
    sources: Sources | None = None,
    progress: Progress = lambda _: None,
    missed: Mapping[Path, LfqError] = MappingProxyType({}),
) -> Iterator[Verdict]:
    """The verdict on every codes file: structure and sha256; with a quantizer, that it made the file; with sources,
    that encoding them again gives the same codes. Inputs in `missed` could not be listed and count as failed.
    """
    for path, error in missed.items():
        yield Verdict(path, "failed", error=error)
    for path, source in sorted(sources.paired.items()) if sources and sources.all_are_paired else ():
        missing = _missing(path, source, paths)
        if missing is not None:
            yield Verdict(path, "failed", error=missing)
    for path in paths:
        yield _verdict(path, options, quantizer, sources, progress)


def _missing(path: Path, source: Path, paths: Sequence[Path]) -> LfqError | None:
    """Why the codes of a source, in one file or in parts, are incomplete; None if they are complete."""
    if path.exists():
        return None
    parts = [each for each in paths if whole_path(real_path(each)) == path and holds_parts(each)]
    if not parts:
        return LfqError(f"{path}: is not there, but its source {source} is")
    try:
        read_parts(parts)
    except LfqError as error:
        return error
    return None


def _verdict(
    path: Path,
    options: VerifyOptions,
    quantizer: Quantizer | None,
    sources: Sources | None,
    progress: Progress,
) -> Verdict:
    try:
        return _verify_file(path, options, quantizer, sources, progress)
    except (CodesUnreadableError, OtherCheckpointError) as error:
        return Verdict(path, "failed", error=error)
    except CodesFileError as error:
        return Verdict(path, "damaged", error=error)
    except LfqError as error:
        return Verdict(path, "failed", error=error)
    except OSError as reason:
        refused = LfqError(f"{reason.filename or path}: {reason.strerror or reason}")
        return Verdict(path, "failed", error=refused)


def sources_of(arguments: Sequence[str], inputs: Sequence[str], paths: Sequence[Path]) -> Sources:
    """The sources that the arguments name, for the codes files `paths`, which `inputs` named."""
    jobs = source_jobs(arguments, inputs, paths, is_tensor_file)
    paired = {job.output: job.source for job in jobs if job.error is None}
    found = [path for path in map(real_path, paths) if path in paired or whole_path(path) in paired]
    return Sources(paired, SampleSources(arguments), all_are_paired=bool(found) or not any(map(_holds_samples, paths)))


def _verify_file(
    path: Path,
    options: VerifyOptions,
    quantizer: Quantizer | None,
    sources: Sources | None,
    progress: Progress,
) -> Verdict:
    with codesfile.open_codes(path) as codes:
        infos = [codes.header.tensors[name] for name in codes.matching(options.tensors)]
        for info in infos:
            codes[info.name].check_digest()
            check_indices(codes[info.name])
            progress(info.stored_bytes)
        check_samples(codes)
        comparisons: dict[str, Comparison] = {}
        source = None
        if quantizer is not None:
            quantizer = matching_quantizer(codes, quantizer)
            if sources is not None and codes.header.samples is None:
                source = _source_of(path, sources)
                comparisons = _compare(codes, infos, source, quantizer, options)
            elif sources is not None:
                comparisons = _compare_samples(codes, infos, sources, quantizer, options)
        same = all(not comparison.differing_bits for comparison in comparisons.values())
        return Verdict(
            path,
            ("same" if same else "different") if comparisons else "whole",
            tensors=len(infos),
            vectors=sum(info.vectors for info in infos),
            nbytes=codes.nbytes,
            source=source,
            comparisons=comparisons,
        )


def check_samples(codes: CodesFile) -> None:
    """Raises CodesFileError unless columns have their sha256, texts and offsets are consistent and keys are unique."""
    samples = codes.header.samples
    if samples is None:
        return
    for name in samples.columns:
        codes.check_column(name)
    check_keys(codes)
    for name in samples.texts:
        check_texts(codes, name)
    for name in codes:
        codes.bounds(name)


def _holds_samples(path: Path) -> bool:
    try:
        with codesfile.open_codes(path) as codes:
            return codes.header.samples is not None
    except LfqError:  # its own verdict reports it
        return False


def _source_of(path: Path, sources: Sources) -> Path:
    source = sources.paired.get(real_path(path)) or sources.paired.get(whole_path(real_path(path)) or path)
    if source is None:
        raise LfqError(f"{path}: none of the sources would be encoded into it", "name the folder that it was made from")
    return source


def _compare(
    codes: CodesFile, infos: Sequence[CodesTensor], path: Path, quantizer: Quantizer, options: VerifyOptions
) -> dict[str, Comparison]:
    backend = _backend(codes, quantizer, options)
    with open_source(path) as source, backend.working():
        return {info.name: compare(_task(source, info, backend), codes[info.name], options.sample) for info in infos}


def _compare_samples(
    codes: CodesFile, infos: Sequence[CodesTensor], sources: Sources, quantizer: Quantizer, options: VerifyOptions
) -> dict[str, Comparison]:
    backend = _backend(codes, quantizer, options)
    own = sources.paired.get(real_path(codes.path))
    samples = sources.samples if own is None else sources.samples.of_file(own)
    with backend.working():
        return compare_samples(codes, infos, samples, backend, options.sample)


def _backend(codes: CodesFile, quantizer: Quantizer, options: VerifyOptions) -> Backend:
    compute_dtype = options.compute_dtype or codes.header.compute_dtype
    return backends.select(options.device, quantizer, compute_dtype, decoding=False)


def _task(source: Source, info: CodesTensor, backend: Backend) -> EncodeTask:
    tensor = source.tensors.get(info.name)
    if tensor is None:
        raise LfqError(f"{source.path}: has no tensor {info.name!r}, from which the codes were made")
    part = info.part
    shape = info.source.shape if part is None else (part.of, *info.source.shape[1:])
    was, found = (shape, info.source.dtype), (tensor.shape, tensor.dtype)
    if was != found:
        raise LfqError(
            f"{source.path}: {info.name!r} is {_described(tensor)}, the codes were made from {was[1]} {list(was[0])}"
        )
    axis = info.source.channel_axis
    if tensor.shape[axis] != backend.quantizer.dim:
        raise LfqError(f"{source.path}: {info.name!r} has {tensor.shape[axis]} features on axis {axis}")
    if part is None:
        return EncodeTask(source.path, tensor, axis, backend, zero_nan=True)
    rows = tensor.rows(part.first, part.last)
    return EncodeTask(source.path, rows, axis, backend, zero_nan=True, first_row=part.first)


def _described(tensor: StoredTensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"


def as_json(verdict: Verdict) -> dict[str, Any]:
    """The JSON object of `lfq verify --json` for one file."""
    fields: dict[str, Any] = {
        "path": str(verdict.path),
        "status": verdict.status,
        "tensors": verdict.tensors,
        "vectors": verdict.vectors,
        "bytes": verdict.nbytes,
    }
    if verdict.source is not None:
        fields["source"] = str(verdict.source)
    if verdict.comparisons:
        fields["comparisons"] = {name: comparison.as_json() for name, comparison in verdict.comparisons.items()}
    if verdict.error is not None:
        fields |= {"error": verdict.error.message, "hint": verdict.error.hint}
    return fields
