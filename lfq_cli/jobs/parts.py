"""Large inputs in parts: a codes file for every N rows of axis 0, always cut at multiples of N.

The part files of `a.npy` are `a.00000.codes.safetensors`, `a.00001.codes.safetensors`, ... Part k holds rows k * N up
to (k + 1) * N of every tensor that has them. Part 0 holds every tensor, even those without rows, and so lists all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from lfq_cli.codesfile import SUFFIX, PartRows
from lfq_cli.container import tensor_bytes
from lfq_cli.errors import ExistsError, LfqError, TensorError
from lfq_cli.jobs.plan import Job
from lfq_cli.layout import Layout
from lfq_cli.matching import ChannelAxis, select_tensors
from lfq_cli.quantizer import Quantizer
from lfq_cli.samples import container_of
from lfq_cli.storage.places import is_taken
from lfq_cli.tensors import StoredTensor, open_source
from lfq_cli.wording import counted

_NUMBERED = re.compile(r"(.+)\.\d{5,}" + re.escape(SUFFIX), re.DOTALL)


@dataclass(frozen=True)
class Cut:
    """A tensor to encode, or some rows of it, as `part` says."""

    tensor: StoredTensor
    axis: ChannelAxis
    part: PartRows | None = None

    @property
    def first_row(self) -> int:
        """Its first row, counted in the whole tensor."""
        return 0 if self.part is None else self.part.first


def part_path(output: Path, number: int) -> Path:
    """The part file `number` of a codes file that would be called `output`."""
    stem = output.name.removesuffix(SUFFIX).removesuffix(".safetensors")
    return output.with_name(f"{stem}.{number:05}{SUFFIX}")


def whole_path(path: Path) -> Path | None:
    """The codes file that a file is a part of, judged by its name; None if the name has no number."""
    found = _NUMBERED.fullmatch(path.name)
    return None if found is None else path.with_name(found[1] + SUFFIX)


def cut_jobs(
    jobs: Sequence[Job],
    quantizer: Quantizer,
    rows: int,
    *,
    tensors: Sequence[str] = (),
    layout: Layout | int | None = None,
) -> list[Job]:
    """The jobs of all parts; an input that cannot be cut is one failed job. Reads the headers of all inputs.

    `tensors` and `layout` are as in `select_tensors`.
    """
    cut: list[Job] = []
    for job in jobs:
        try:
            cut += [job] if job.error is not None else _parts_of(job, quantizer, rows, tensors, layout)
        except LfqError as error:
            cut.append(replace(job, error=error))
    return cut


def cuts_of(
    path: Path, chosen: Sequence[tuple[StoredTensor, ChannelAxis]], number: int | None, rows: int | None
) -> list[Cut]:
    """What part `number` holds of the tensors in the file at `path`; without a number, all of them.

    Raises TensorError if a tensor cannot be cut, and if there is no such part, or no longer.
    """
    if number is None or rows is None:
        return [Cut(tensor, axis) for tensor, axis in chosen]
    _require_rows(path, chosen)
    cuts = [Cut(*_rows_of(tensor, axis, number, rows)) for tensor, axis in chosen if _has(tensor, number, rows)]
    if not cuts:
        raise TensorError(f"{path}: has no row {number * rows:,} any more", "run again when nothing is writing to it")
    return cuts


def _parts_of(
    job: Job, quantizer: Quantizer, rows: int, tensors: Sequence[str], layout: Layout | int | None
) -> Iterator[Job]:
    if container_of(job.source.name) is not None:
        raise TensorError(
            f"{job.source}: holds samples, which --part-rows does not cut", "--samples-per-file N packs samples"
        )
    with open_source(job.source) as source:
        chosen = select_tensors(source, quantizer, patterns=tensors, layout=layout).chosen
    _require_rows(job.source, chosen)
    count = max(1, *(-(-tensor.shape[0] // rows) for tensor, _ in chosen))
    behind = part_path(job.output, count)
    if is_taken(behind):
        raise ExistsError(
            f"{behind}: exists, although {job.source} has only {counted(count, 'part')}",
            "it was made with another --part-rows, or of other content: name another output, or remove those parts",
        )
    for number in range(count):
        nbytes = sum(_bytes_of(tensor, number, rows) for tensor, _ in chosen)
        yield replace(job, output=part_path(job.output, number), part=number, nbytes=nbytes)


def _require_rows(path: Path, chosen: Sequence[tuple[StoredTensor, ChannelAxis]]) -> None:
    """Raises TensorError if axis 0 holds the features: a vector is never cut in two."""
    for tensor, axis in chosen:
        if axis.number == 0:
            raise TensorError(
                f"{path}: {tensor.name!r} has its features on axis 0 (shape {'×'.join(map(str, tensor.shape))}),"
                " along which --part-rows would cut",
                "leave --part-rows out, or choose other tensors with --tensor GLOB",
            )


def _has(tensor: StoredTensor, number: int, rows: int) -> bool:
    return number == 0 or number * rows < tensor.shape[0]


def _span(tensor: StoredTensor, number: int, rows: int) -> tuple[int, int]:
    return min(number * rows, tensor.shape[0]), min((number + 1) * rows, tensor.shape[0])


def _rows_of(
    tensor: StoredTensor, axis: ChannelAxis, number: int, rows: int
) -> tuple[StoredTensor, ChannelAxis, PartRows]:
    first, last = _span(tensor, number, rows)
    return tensor.rows(first, last), axis, PartRows(first, last, tensor.shape[0])


def _bytes_of(tensor: StoredTensor, number: int, rows: int) -> int:
    first, last = _span(tensor, number, rows)
    return (last - first) * tensor_bytes(tensor.dtype, tensor.shape[1:]) if prod(tensor.shape) else 0
