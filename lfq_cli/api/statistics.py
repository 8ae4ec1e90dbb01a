"""`stats`: how codes use their codebooks, as a record that can display itself."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from lfq_cli.api.tokens import Tokens
from lfq_cli.bits import stream_to_indices
from lfq_cli.cli.render.stats import stats_json, stats_lines
from lfq_cli.errors import CodesFileError, LfqError
from lfq_cli.jobs.file_types import is_counted_file
from lfq_cli.jobs.inputs import find_inputs, sorted_out
from lfq_cli.jobs.stats import Report, TensorUsage
from lfq_cli.jobs.stats import stats as count_files
from lfq_cli.statistics import CountOptions, TokenCounts, index_axes
from lfq_cli.statistics.usage import TokenUsage


class Statistics:
    """The report of `lfq stats`; displays itself in a terminal and a notebook."""

    def __init__(self, report: Report) -> None:
        self._report = report

    @property
    def usage(self) -> TokenUsage | None:
        """The statistics over all tensors; None where their codebooks differ."""
        return self._report.overall

    @property
    def tensors(self) -> list[TensorUsage]:
        """The statistics of each tensor."""
        return self._report.tensors

    def as_json(self) -> dict[str, Any]:
        """The object of `lfq stats --json` (docs/statistics.md)."""
        return stats_json(self._report)

    def plot(self, path: str | Path) -> None:
        """Plots the statistics to .png, .svg or .pdf; needs lfq-cli[plot]."""
        from lfq_cli.report.plot import check_plot, write_plot

        check_plot(Path(path), overwrite=True)
        items = [(item.label, item.usage) for item in self._report.tensors]
        overall = self._report.overall
        write_plot(items if overall is None else [(f"all {len(items)}", overall)], Path(path), overwrite=True)

    def __str__(self) -> str:
        return "\n".join(line.plain for line in stats_lines(self._report, verbose=False, width=80))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def stats(
    codes: str | Path | Tokens | Sequence[str | Path],
    *,
    joint: bool = True,
    by_position: bool = False,
    dims: tuple[int, ...] | None = None,
) -> Statistics:
    """How the codebook is used in codes files, folders, globs or tokens: see docs/statistics.md.

    dims: regroups bits into other indices. Raises LfqError if a file cannot be counted.
    """
    options = CountOptions(joint=joint, by_position=by_position, dims=dims)
    if isinstance(codes, Tokens):
        return Statistics(_of_tokens(codes, options))
    arguments = [str(path) for path in ([codes] if isinstance(codes, str | Path) else codes)]
    paths, missed = sorted_out(find_inputs(arguments, is_counted_file, CodesFileError))
    report = count_files(paths, (), options, missed=missed)
    for error in report.failed.values():
        raise LfqError(error.message, error.hint) if type(error) is LfqError else error
    return Statistics(report)


def _of_tokens(tokens: Tokens, options: CountOptions) -> Report:
    found = tokens if options.dims is None else tokens.cut(options.dims)
    counts = TokenCounts(found.dims, found.order, options, axes=index_axes(found.positions), vectors=found.vectors)
    indices = stream_to_indices(found.packed, found.vectors, found.dims, found.order, found.indices.dtype)
    counts.take(counts.tally(indices, lambda: found.packed, 0))
    usage = counts.usage()
    return Report([TensorUsage(Path("tokens"), "tokens", usage)], usage, {}, [counts])
