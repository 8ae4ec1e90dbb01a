"""Counts of samples by the value of a carried column: a label, a flag, a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lfq_cli import codesfile
from lfq_cli.bits import BitOrder
from lfq_cli.codesfile import CodesFile
from lfq_cli.errors import CodesUnreadableError, LfqError
from lfq_cli.pipeline.count import count_ranges
from lfq_cli.pipeline.workers import Progress, Workers
from lfq_cli.statistics import CountOptions, TokenCounts, index_axes

Value: TypeAlias = int | float | bool | str
_TABLE_BITS = 20
"""A codebook with more codes seldom has a table of all of them."""


@dataclass(frozen=True)
class Group:
    """The samples of one tensor with one value in the column `by`."""

    tensor: str
    by: str
    value: Value


class _BrokenFileError(Exception):
    """A file that could not be read to the end, and why."""

    def __init__(self, path: Path, error: LfqError) -> None:
        super().__init__(path)
        self.path = path
        self.error = error


_Rows: TypeAlias = dict[Value, NDArray[np.int64]]
"""Value -> the samples that have it."""
_Key: TypeAlias = tuple[str, tuple[int, ...], BitOrder, Value]
_Counters: TypeAlias = dict[_Key, TokenCounts]


def counts_by(
    by: str,
    paths: Sequence[Path],
    patterns: Sequence[str],
    options: CountOptions,
    workers: Workers,
    progress: Progress,
) -> tuple[list[tuple[Group, TokenCounts]], dict[Path, LfqError]]:
    """The counts of every group over all files, by tensor and rising value; and the files left out."""
    counting = _Counting(by, patterns, options, workers, progress)
    rows, failed = counting.rows(paths)
    while True:
        try:
            counted = list(counting.groups(rows))
        except _BrokenFileError as broken:  # nothing of it counts: start again without it
            failed[broken.path] = broken.error
            del rows[broken.path]
        else:
            return sorted(counted, key=lambda item: (item[0].tensor, *_order(item[0].value))), failed


@dataclass(frozen=True)
class _Counting:
    by: str
    patterns: Sequence[str]
    options: CountOptions
    workers: Workers
    progress: Progress

    def rows(self, paths: Sequence[Path]) -> tuple[dict[Path, _Rows], dict[Path, LfqError]]:
        """The samples of each value in each file, and the files that do not say."""
        found, failed = {}, {}
        for path in paths:
            try:
                with codesfile.open_codes(path) as codes:
                    codes.matching(self.patterns)
                    found[path] = _rows_by_value(codes, self.by)
            except LfqError as error:
                failed[path] = error
        return found, failed

    def groups(self, rows: Mapping[Path, _Rows]) -> Iterator[tuple[Group, TokenCounts]]:
        """The counts of all groups: for as many values at a time as fit in memory, in one pass over all files each."""
        left = sorted({value for found in rows.values() for value in found}, key=_order)
        while left:
            counters: _Counters = {}
            at_once = len(left)
            for path, found in rows.items():
                try:
                    with codesfile.open_codes(path) as codes:
                        at_once = min(at_once, self._values_at_once(codes))
                        self._count(
                            codes, {value: found[value] for value in left[:at_once] if value in found}, counters
                        )
                except LfqError as error:
                    raise _BrokenFileError(path, error) from error
            taken = set(left[:at_once])
            yield from (
                (Group(key[0], self.by, key[-1]), counts) for key, counts in counters.items() if key[-1] in taken
            )
            left = left[at_once:]

    def _values_at_once(self, codes: CodesFile) -> int:
        """For how many values the tables of this file's codebooks fit in memory."""
        names = codes.matching(self.patterns)
        dims = [dim for name in names for dim in codes[name].cut(self.options.dims).info.codebook_dims]
        return max(1, self.options.memory_bytes // sum(8 << min(dim, _TABLE_BITS) for dim in dims))

    def _count(self, codes: CodesFile, rows: _Rows, counters: _Counters) -> None:
        for name in codes.matching(self.patterns):
            cut, bounds = codes[name].cut(self.options.dims, self.options.order), codes.bounds(name)
            info = cut.info
            axes = index_axes(info.positions) if info.offsets is None else ()
            for value, samples in rows.items():
                key = (name, info.codebook_dims, info.bit_order, value)
                if key not in counters:
                    counters[key] = TokenCounts(info.codebook_dims, info.bit_order, self.options, axes=axes)
                count_ranges(cut, counters[key], _ranges(samples, bounds), self.workers, self.progress)


def _rows_by_value(codes: CodesFile, by: str) -> _Rows:
    """Value -> its samples. Raises CodesUnreadableError unless there is a single value for each sample."""
    samples = codes.header.samples
    if samples is None or by not in (*samples.carried, *samples.texts):
        held = ", ".join(map(repr, () if samples is None else (*samples.carried, *samples.texts)))
        raise CodesUnreadableError(f"{codes.path}: carries no {by!r}", f"it carries {held or 'nothing'}")
    column: Any = np.array(codes.texts(by), object) if by in samples.texts else codes.column(by)
    if column.ndim != 1:
        raise CodesUnreadableError(
            f"{codes.path}: {by!r} is {list(column.shape)}, expected one value per sample, [{samples.count}]"
        )
    values, inverse = np.unique(column, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    ends = np.cumsum(np.bincount(inverse, minlength=len(values)))
    parts = np.split(order, ends[:-1]) if len(values) else []
    return dict(zip(values.tolist(), parts, strict=True))


def _order(value: Value) -> tuple[bool, Any]:
    """Numbers in rising order, texts in alphabetical order."""
    return isinstance(value, str), value


def _ranges(samples: NDArray[np.int64], bounds: NDArray[np.int64]) -> list[range]:
    """The vectors of these samples, which are in rising order; adjacent samples are read together."""
    if not len(samples):
        return []
    breaks = np.flatnonzero(np.diff(samples) != 1) + 1
    firsts, lasts = samples[np.r_[0, breaks]], samples[np.r_[breaks - 1, len(samples) - 1]]
    return [range(begin, end) for begin, end in zip(bounds[firsts].tolist(), bounds[lasts + 1].tolist(), strict=True)]
