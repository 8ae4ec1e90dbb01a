"""Codes files and saved counts -> how each codebook is used."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from lfq_cli import codesfile, countsfile
from lfq_cli.errors import LfqError, LfqNote, OptionError, OutputError
from lfq_cli.files import atomic_output, refuse_existing, write_all
from lfq_cli.jobs.file_types import described_format
from lfq_cli.jobs.groups import Group, counts_by
from lfq_cli.jobs.outcome import Outcome
from lfq_cli.jobs.plan import refuse_to_replace
from lfq_cli.pipeline.count import count
from lfq_cli.pipeline.workers import Progress, Workers, start_workers
from lfq_cli.statistics import Counter, CountOptions, TokenComparison, TokenCounts, TokenUsage, compare, index_axes
from lfq_cli.storage.places import common_folder

DEFAULTS = CountOptions()
_CSV_ROWS = 1 << 16


@dataclass(frozen=True)
class TensorUsage:
    """How one tensor of one file uses its codes. Saved counts are one tensor, named in their file."""

    file: Path
    name: str
    usage: TokenUsage
    group: Group | None = None
    """Where samples were counted apart: which of them these are; `file` is then the folder of all."""

    @property
    def label(self) -> str:
        """The tensor's name, and the group."""
        return self.name if self.group is None else f"{self.name}, {self.group.by} {self.group.value}"


@dataclass(frozen=True)
class Report:
    """Per tensor, and over all tensors; `overall` is None where their codebooks differ.

    `failed` files are not counted. `counts` are those of all tensors that have the same codebooks.
    """

    tensors: list[TensorUsage]
    overall: TokenUsage | None
    failed: dict[Path, LfqError]
    counts: list[TokenCounts]


@dataclass(frozen=True)
class ComparisonReport:
    """Two reports and their comparison; None where their codebooks differ."""

    a: Report
    b: Report
    comparison: TokenComparison | None


def stats(
    paths: Sequence[Path],
    patterns: Sequence[str] = (),
    options: CountOptions = DEFAULTS,
    progress: Progress = lambda _: None,
    missed: Mapping[Path, LfqError] = MappingProxyType({}),
) -> Report:
    """Counts the indices of every tensor of the files (if there are `patterns`, of those that match).

    Inputs in `missed` could not be listed and count as failed.
    """
    tensors: list[TensorUsage] = []
    totals: list[TokenCounts] = []
    failed: dict[Path, LfqError] = dict(missed)
    with start_workers() as workers:
        for path in paths:
            try:
                for name, counts in _counts_of(path, patterns, options, workers, progress):
                    tensors.append(TensorUsage(path, name, counts.usage()))
                    _add(totals, counts)
            except LfqError as error:
                failed[path] = error
    return Report(tensors, _overall(tensors, totals), failed, totals)


def stats_by(
    by: str,
    paths: Sequence[Path],
    patterns: Sequence[str] = (),
    options: CountOptions = DEFAULTS,
    progress: Progress = lambda _: None,
    missed: Mapping[Path, LfqError] = MappingProxyType({}),
) -> Report:
    """As `stats`, with the samples grouped by their value in the carried column `by`, over all files."""
    with start_workers() as workers:
        groups, failed = counts_by(by, paths, patterns, options, workers, progress)
    counted = [path for path in paths if path not in failed]
    totals: list[TokenCounts] = []
    tensors = []
    for group, counts in groups:
        place = counted[0] if len(counted) == 1 else common_folder([path.parent for path in counted]) or counted[0]
        tensors.append(TensorUsage(place, group.tensor, counts.usage(), group))
        _add(totals, counts)
    return Report(tensors, _overall(tensors, totals), dict(missed) | failed, totals)


def with_counts(
    outcomes: Generator[Outcome], path: Path, expected: int | None, *, overwrite: bool = False
) -> Generator[Outcome]:
    """Passes on the outcomes of an encode, of which there should be `expected`; counts the codes of each output and
    saves the counts at the end.

    Existing codes count as well: an interrupted run that continues saves the counts of all. If an input failed, nothing
    is saved and a note says so. Raises OutputError if other counts exist at `path`.
    """
    totals: list[TokenCounts] = []
    counted = seen = 0
    with start_workers() as workers, closing(outcomes):
        for outcome in outcomes:
            passed_on = outcome
            seen += 1
            if outcome.status in ("written", "up to date"):
                try:
                    for _, counts in _counts_of(outcome.output, (), DEFAULTS, workers, lambda _: None):
                        _add(totals, counts)
                    counted += 1
                except LfqError as error:
                    passed_on = replace(outcome, status="failed", error=error)
            counted += outcome.status == "empty"
            yield passed_on
    left = (seen if expected is None else expected) - counted
    if not left:
        countsfile.write(totals, path, overwrite=overwrite)
    else:
        warnings.warn(f"{path}: not saved: the codes of {left} of the outputs are missing", LfqNote, stacklevel=2)


def refuse_other_file(path: Path, files: Iterable[Path], *, overwrite: bool) -> None:
    """Raises where counts cannot be saved at `path`: it holds something else, or is one of the `files` of the run."""
    if path.suffix != ".safetensors":
        raise OptionError(f"{path}: expected a name that ends in .safetensors")
    if described_format(path) != countsfile.FORMAT:  # the same counts may exist from an earlier run
        refuse_existing(path, overwrite=overwrite)
    refuse_to_replace([path], files)


def save_counts(report: Report, path: Path, *, overwrite: bool = False) -> None:
    """Writes the counts into a counts file."""
    countsfile.write(report.counts, path, overwrite=overwrite)


def write_csv(report: Report, path: Path, *, overwrite: bool = False) -> None:
    """Writes a row for every used code: set (of tensors with the same codebooks), codebook, bits, code, count.

    Raises OutputError if not every code was counted.
    """
    for counts in report.counts:
        if any(counter.sketch is not None for counter in counts.counters()):
            raise OutputError(f"{path}: too many different codes to count each", "--memory gives counting more memory")
    with atomic_output(path, overwrite=overwrite) as file:
        write_all(file, b"set,codebook,bits,code,count\n")
        for number, counts in enumerate(report.counts):
            counters = {str(k): counter for k, counter in enumerate(counts.codebooks)}
            if counts.joint is not None and not counts.is_hashed:
                counters["joint"] = counts.joint
            for name, counter in counters.items():
                for rows in _csv_rows(counter, f"{number},{name},{counter.bits}"):
                    write_all(file, rows)


def _csv_rows(counter: Counter, key: str) -> Iterator[bytes]:
    pairs = counter.exact_pairs()
    assert pairs is not None  # write_csv checked before it began
    codes, counts = pairs
    for first in range(0, codes.size, _CSV_ROWS):
        part = zip(codes[first : first + _CSV_ROWS].tolist(), counts[first : first + _CSV_ROWS].tolist(), strict=True)
        yield "".join(f"{key},{code},{count}\n" for code, count in part).encode()


def compare_stats(a: Report, b: Report) -> ComparisonReport:
    """The comparison of two reports."""
    if a.overall is None or b.overall is None:
        return ComparisonReport(a, b, None)
    (of_a,), (of_b,) = a.counts, b.counts
    same = (of_a.dims, of_a.order) == (of_b.dims, of_b.order)
    return ComparisonReport(a, b, compare(of_a, of_b, a.overall, b.overall) if same else None)


def _counts_of(
    path: Path, patterns: Sequence[str], options: CountOptions, workers: Workers, progress: Progress
) -> Iterator[tuple[str, TokenCounts]]:
    if described_format(path) == countsfile.FORMAT:
        yield from countsfile.read(path, options)
        progress(path.stat().st_size)
        return
    with codesfile.open_codes(path) as codes:
        found = []
        for name in codes.matching(patterns):
            cut = codes[name].cut(options.dims, options.order)
            info = cut.info
            counts = TokenCounts(
                info.codebook_dims, info.bit_order, options, axes=index_axes(info.positions), vectors=info.vectors
            )
            count(cut, counts, workers, progress)
            found.append((name, counts))
    yield from found  # nothing is counted of a file that is damaged anywhere


def _add(totals: list[TokenCounts], counts: TokenCounts) -> None:
    for place, total in enumerate(totals):
        if (total.dims, total.order) == (counts.dims, counts.order):
            if total.total:
                total.merge(counts)
            else:
                totals[place] = counts
            return
    totals.append(counts)


def _overall(tensors: Sequence[TensorUsage], totals: Sequence[TokenCounts]) -> TokenUsage | None:
    if len(totals) != 1:
        return None
    return tensors[0].usage if len(tensors) == 1 else totals[0].usage()
