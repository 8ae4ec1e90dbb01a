"""Codes files -> how each codebook is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lfq_cli import codesfile
from lfq_cli.bits import BitOrder
from lfq_cli.errors import LfqError
from lfq_cli.pipeline import Progress, count
from lfq_cli.stats import Counter, Usage


@dataclass(frozen=True)
class TensorUsage:
    """How one tensor of one codes file uses each codebook."""

    file: Path
    name: str
    codebooks: tuple[Usage, ...]


@dataclass(frozen=True)
class Report:
    """Per tensor, and per codebook over all tensors; `overall` is None where their codebooks differ.

    `failed` files are not counted.
    """

    tensors: list[TensorUsage]
    overall: tuple[Usage, ...] | None
    failed: dict[Path, LfqError]


def stats(paths: Sequence[Path], patterns: Sequence[str] = (), progress: Progress = lambda _: None) -> Report:
    """Counts the indices of every tensor of the codes files (those that match `patterns`, if there are any)."""
    tensors: list[TensorUsage] = []
    totals: dict[tuple[tuple[int, ...], BitOrder], list[Counter]] = {}
    failed: dict[Path, LfqError] = {}
    for path in paths:
        try:
            counted = _count_file(path, patterns, progress)
        except LfqError as error:
            failed[path] = error
            continue
        for info, counters in counted:
            usages = tuple(counter.usage(info.bit_order) for counter in counters)
            tensors.append(TensorUsage(path, info.name, usages))
            _add(totals, (info.codebook_dims, info.bit_order), counters)
    overall = None
    if len(totals) == 1:
        (((_, order), counters),) = totals.items()
        overall = tuple(counter.usage(order) for counter in counters)
    return Report(tensors, overall, failed)


def _count_file(
    path: Path, patterns: Sequence[str], progress: Progress
) -> list[tuple[codesfile.CodesTensor, list[Counter]]]:
    with codesfile.open_codes(path) as codes:
        names = codes.matching(patterns)
        return [(codes.header.tensors[name], count(codes[name], progress)) for name in names]


def _add(
    totals: dict[tuple[tuple[int, ...], BitOrder], list[Counter]],
    key: tuple[tuple[int, ...], BitOrder],
    counters: list[Counter],
) -> None:
    if key not in totals:
        totals[key] = counters
        return
    for total, counter in zip(totals[key], counters, strict=True):
        total.merge(counter)
