"""Samples of a codes file, found by key in its sources, encoded again and compared."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from lfq_cli.backends import Backend
from lfq_cli.codesfile import CodesFile, CodesTensor
from lfq_cli.errors import LfqError
from lfq_cli.jobs.plan import sample_inputs
from lfq_cli.jobs.sample_inputs import SampleInput
from lfq_cli.pipeline.compare import Comparison, compare_item
from lfq_cli.pipeline.encode import EncodeTask
from lfq_cli.samples import BadSample, Sample, Selection, sample_of, samples_in, stem_of
from lfq_cli.storage.urlpath import path_of
from lfq_cli.tensors import StoredTensor
from lfq_cli.wording import counted


class SampleSources:
    """The samples in the files that the arguments name.

    A search in files of many samples starts where the last one ended: codes files are verified in the order of their
    making.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments
        self._stacked: bool | None = None
        self._single: dict[str, SampleInput] = {}
        self._many: list[SampleInput] = []
        self._next = 0

    @staticmethod
    def of_file(path: Path) -> SampleSources:
        """The samples of one file of many, with the keys they have where it is encoded alone."""
        sources = SampleSources(())
        sources._many = [SampleInput(str(path), stem_of(path.name), many=True)]
        return sources

    def find(self, keys: Collection[str], selection: Selection, *, stacked: bool) -> Iterator[Sample | BadSample]:
        """The samples with these keys, in any order; keys that no source has are left out.

        stacked: whether axis 0 of tensor files counts samples. Raises LfqError if a source cannot be read.
        """
        self._list(stacked=stacked)
        left = set(keys)  # the caller may remove keys it has received
        for key in tuple(keys):
            item = self._single.get(key)
            if item is not None:
                left.discard(key)
                yield sample_of(item.path, key)
        for number in range(len(self._many)):
            if not left:
                return
            place = (self._next + number) % len(self._many)
            item = self._many[place]
            for sample in samples_in(item.path, item.name, selection):
                if sample.key in left:
                    left.discard(sample.key)
                    yield sample
            self._next = place  # the next file's samples may begin in it

    def _list(self, *, stacked: bool) -> None:
        if not self._arguments or self._stacked == stacked:
            return
        inputs, missed = sample_inputs(self._arguments, stacked=stacked)
        for job in missed:
            if job.error is not None:
                raise job.error
        self._stacked, self._next = stacked, 0
        self._single = {item.name: item for item in inputs if not item.many}
        self._many = [item for item in inputs if item.many]


def compare_samples(
    codes: CodesFile, infos: Sequence[CodesTensor], sources: SampleSources, backend: Backend, sample: int | None
) -> dict[str, Comparison]:
    """Compares every tensor, over all samples or over evenly spaced ones that have about `sample` vectors.

    Raises LfqError for a sample that no source has, or that has changed.
    """
    keys = codes.keys_of_samples
    chosen = _spread(len(keys), sample, max((info.vectors for info in infos), default=0))
    rows = {keys[row]: row for row in chosen}
    bounds = {info.name: codes.bounds(info.name) for info in infos}
    comparisons = {info.name: Comparison.nothing(info.codebook_dims) for info in infos}
    selection = Selection(tensors=tuple(_literal(info.name) for info in infos))
    stacked = codes.header.made_from is not None and bool(codes.header.made_from.options.get("stacked"))
    for found in sources.find(rows.keys(), selection, stacked=stacked):
        if isinstance(found, BadSample):
            raise found.error
        row = rows.pop(found.key)
        for info in infos:
            start, end = (int(bounds[info.name][k]) for k in (row, row + 1))
            task = _task(found, info, backend, end - start)
            compare_item(task, codes[info.name], start, comparisons[info.name])
    if rows:
        more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
        raise LfqError(
            f"{codes.path}: no source has its sample {next(iter(rows))!r}{more}",
            "a key is a path below the folder of the sources: name them as for lfq encode",
        )
    return comparisons


def _spread(count: int, sample: int | None, vectors: int) -> list[int]:
    """Evenly spaced rows, including the first and last, that have about `sample` vectors; None takes all."""
    if sample is None or sample >= vectors:
        return list(range(count))
    wanted = max(-(-sample * count // max(vectors, 1)), 2)
    places = np.linspace(0, count - 1, min(wanted, count)).round().astype(int)
    return [int(place) for place in np.unique(places)]


def _literal(name: str) -> str:
    """A glob that matches only this name."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _task(sample: Sample, info: CodesTensor, backend: Backend, vectors: int) -> EncodeTask:
    tensor = sample.tensors.get(info.name)
    if tensor is None:
        raise LfqError(f"{sample.where}: has no tensor {info.name!r}, from which the codes were made")
    shape, dtype = info.source.shape, info.source.dtype
    axis = info.source.channel_axis
    if not _fits(tensor, shape, dtype) or tensor.shape[axis] != backend.quantizer.dim:
        stated = "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"
        raise LfqError(
            f"{sample.where}: {info.name!r} is {tensor.dtype} {list(tensor.shape)},"
            f" the codes were made from {dtype} {stated}"
        )
    task = EncodeTask(path_of(sample.where), tensor, axis, backend, zero_nan=True)
    if task.geometry.vectors != vectors:
        raise LfqError(
            f"{sample.where}: {info.name!r} has {counted(task.geometry.vectors, 'vector')}, its codes have {vectors:,}"
        )
    return task


def _fits(tensor: StoredTensor, shape: Sequence[int | None], dtype: str) -> bool:
    sizes = zip(tensor.shape, shape, strict=False)
    return tensor.dtype == dtype and len(tensor.shape) == len(shape) and all(b in (a, None) for a, b in sizes)
