"""Whether an existing codes file is the one that a run would write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lfq_cli import codesfile
from lfq_cli.codesfile import CodesHeader, MadeFrom, PartRows, SourceInfo
from lfq_cli.errors import CodesFileError, ExistsError, TensorError
from lfq_cli.fingerprint import WHOLE_BYTES, fingerprint
from lfq_cli.jobs.plan import Job
from lfq_cli.storage.places import exists
from lfq_cli.storage.urlpath import UrlPath

_SECOND = 1_000_000_000
REPLACES = "--overwrite replaces it"


def existing_header(path: Path) -> CodesHeader:
    """The header of the codes file in an output's place. Raises ExistsError if something else is there."""
    try:
        with codesfile.open_codes(path) as existing:
            return existing.header
    except CodesFileError as error:
        raise ExistsError(f"{path}: exists and is not a whole codes file", REPLACES) from error


def is_current(job: Job, header: CodesHeader, *, by_header: bool = False) -> bool:
    """Whether the job's output has this header and was made from the current input; False if it does not exist.

    header: before any value is read. by_header: compare only size and age of the input; it is read only if it is newer
    than its output. Raises ExistsError if something else is in the output's place.
    """
    if not exists(job.output):
        return False
    found = existing_header(job.output)
    if found.made_from is None:
        raise ExistsError(
            f"{job.output}: exists, and does not say what it was made from: an older lfq wrote it",
            f"{REPLACES}; lfq verify --source checks whether it matches its source",
        )
    if found.without_digests() != header:
        difference = next(_differences(found, header), "made with other options for what the checkpoint does not say")
        raise ExistsError(f"{job.output}: exists, {difference}", REPLACES)
    if not by_header or isinstance(job.source, UrlPath) or _is_older(job):  # an object is asked for its tag, not read
        _refuse_other_values(job, found.made_from)
    return True


def _refuse_other_values(job: Job, made_from: MadeFrom) -> None:
    nbytes, digest = fingerprint(job.source, TensorError)
    if digest != made_from.fingerprint:
        raise ExistsError(f"{job.output}: exists, made from other content than {job.source} has now", REPLACES)
    # written to since, perhaps between the blocks that were compared
    if nbytes > WHOLE_BYTES and not isinstance(job.source, UrlPath) and _is_older(job):
        raise ExistsError(f"{job.output}: exists and is older than {job.source}", REPLACES)


def _is_older(job: Job) -> bool:
    """Whether the output was written before its input."""
    written = job.output.stat().st_mtime_ns
    if isinstance(job.output, UrlPath):
        written += _SECOND  # stores report whole seconds
    return written < job.source.stat().st_mtime_ns


def _differences(found: CodesHeader, wanted: CodesHeader) -> Iterator[str]:
    """How the existing codes differ from those that the run would make."""
    if found.checkpoint_sha256 != wanted.checkpoint_sha256:
        yield "made by another checkpoint, or with other options for what it does not say"
    if found.compute_dtype != wanted.compute_dtype:
        yield f"computed in {found.compute_dtype}, not {wanted.compute_dtype}"
    assert found.made_from is not None
    assert wanted.made_from is not None
    if found.made_from.nan != wanted.made_from.nan:
        yield f"made with --nan {found.made_from.nan}, not {wanted.made_from.nan}"
    if set(found.tensors) != set(wanted.tensors):
        yield f"with the tensors {', '.join(map(repr, found.tensors))}, not {', '.join(map(repr, wanted.tensors))}"
    for name in set(wanted.tensors) & set(found.tensors):
        tensor, other = wanted.tensors[name], found.tensors[name]
        if other.part != tensor.part:
            yield f"{name!r} holds {_rows(other.part)}, this run would write {_rows(tensor.part)}"
        if other.source != tensor.source:
            yield f"{name!r} made from {_described(other.source)}, the input has {_described(tensor.source)}"
        if (other.packing, other.dtype) != (tensor.packing, tensor.dtype):
            yield f"{name!r} packed as {other.packing} ({other.dtype}), not {tensor.packing} ({tensor.dtype})"
    if found.made_from.nbytes != wanted.made_from.nbytes:
        yield f"made from a file of {found.made_from.nbytes:,} bytes, the input has {wanted.made_from.nbytes:,}"


def _rows(part: PartRows | None) -> str:
    return "the whole tensor" if part is None else f"rows {part.first:,} to {part.last:,} of {part.of:,}"


def _described(source: SourceInfo) -> str:
    return f"{source.dtype} {list(source.shape)} with features on axis {source.channel_axis}"
