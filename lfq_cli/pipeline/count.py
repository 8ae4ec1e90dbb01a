"""Codes -> counts."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lfq_cli.bits import Indices, StreamJoiner, stream_to_indices
from lfq_cli.codesfile import TensorCodes
from lfq_cli.cpus import threads
from lfq_cli.packings import PACKINGS
from lfq_cli.pipeline.workers import Progress, Workers

if TYPE_CHECKING:  # encode and decode do without them
    from lfq_cli.statistics import FieldsTally, Tally, TokenCounts

_COUNTED_INDICES = 1 << 21  # D = 18: 340 M indices/s; with 2^20 and 2^17 below 280; 240 M indices, two cores
_UNPACKED_VECTORS = 1 << 18

_buffers = threading.local()


def count(codes: TensorCodes, counts: TokenCounts, workers: Workers, progress: Progress) -> None:
    """Feeds the counters with all indices of the tensor; workers tally runs, the caller adds them up."""
    info = codes.info
    at_once = max(1, _COUNTED_INDICES // len(info.codebook_dims))
    runs = (range(first, min(first + at_once, info.vectors)) for first in range(0, info.vectors, at_once))
    start = workers.start if threads() > 1 else None
    with closing(workers.in_order(partial(_tally, codes, counts), runs)) as done:
        for vectors, tallies in done:
            counts.take(tallies, start)
            progress(vectors * info.bits_per_vector // 8)


def count_ranges(
    codes: TensorCodes, counts: TokenCounts, ranges: Sequence[range], workers: Workers, progress: Progress
) -> None:
    """Feeds the counters with only these vectors of the tensor. Each range covers whole items of the first axis."""
    info = codes.info
    runs = _in_runs(ranges, prod(info.positions[1:]), max(1, _COUNTED_INDICES // len(info.codebook_dims)))
    with closing(workers.in_order(partial(_tally_ranges, codes, counts), runs)) as done:
        for vectors, tallies in done:
            counts.take(tallies)
            progress(vectors * info.bits_per_vector // 8)


def _in_runs(ranges: Sequence[range], item: int, at_once: int) -> Iterator[list[range]]:
    """The ranges in runs of about `at_once` vectors; long ones are split at whole items."""
    run: list[range] = []
    vectors = 0
    step = max(at_once // max(item, 1), 1) * max(item, 1)
    for each in ranges:
        for first in range(each.start, each.stop, step):
            run.append(range(first, min(first + step, each.stop)))
            vectors += len(run[-1])
            if vectors >= at_once:
                yield run
                run, vectors = [], 0
    if run:
        yield run


def _tally_ranges(codes: TensorCodes, counts: TokenCounts, run: list[range]) -> tuple[int, list[Tally]]:
    info, joiner = codes.info, StreamJoiner()
    parts = [joiner.join(codes.stream(each.start, each.stop), len(each) * info.bits_per_vector) for each in run]
    stream, vectors = np.concatenate([*parts, joiner.finish()]), sum(map(len, run))
    indices = stream_to_indices(stream, vectors, info.codebook_dims, info.bit_order, codes.dtype)
    return vectors, counts.tally(indices, lambda: stream, 0)


def _tally(
    codes: TensorCodes, counts: TokenCounts, run: range
) -> tuple[int, list[Tally | FieldsTally]] | tuple[int, list[Tally]]:
    if PACKINGS[codes.info.packing].is_stream and counts.counts_fields:
        return len(run), counts.tally_fields(codes.stream(run.start, run.stop), len(run))
    indices = _indices(codes, run)
    return len(run), counts.tally(indices, partial(codes.stream, run.start, run.stop), run.start)


def _indices(codes: TensorCodes, run: range) -> Indices:
    """The indices of a run of vectors in this thread's buffer, unpacked in pieces that stay in cache."""
    columns = len(codes.info.codebook_dims)
    buffer: NDArray[Any] | None = getattr(_buffers, "indices", None)
    if buffer is None or buffer.size < len(run) * columns:
        buffer = _buffers.indices = np.empty(len(run) * columns, np.int64)
    indices = buffer[: len(run) * columns].view(codes.dtype).reshape(len(run), columns)
    for part in _parts(run):
        indices[part.start - run.start : part.stop - run.start] = codes.indices(part.start, part.stop, codes.dtype)
    return indices


def _parts(run: range) -> Iterator[range]:
    for first in range(run.start, run.stop, _UNPACKED_VECTORS):
        yield range(first, min(first + _UNPACKED_VECTORS, run.stop))
