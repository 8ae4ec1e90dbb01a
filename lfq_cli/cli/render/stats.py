"""What `lfq stats` found: a row for each tensor, then every overall statistic, then advice; or JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.text import Text

from lfq_cli.cli.messages import error_lines, printable
from lfq_cli.cli.options import Display
from lfq_cli.cli.render.console import MOST_ROWS, note, print_json, print_lines, text_width, wrapped
from lfq_cli.cli.render.grid import WIDTH, grid, width_of
from lfq_cli.cli.render.numbers import whole
from lfq_cli.cli.render.usage import CODES_TITLES, codes_cells, describe, named, spaced, usage_lines
from lfq_cli.errors import LfqError
from lfq_cli.jobs.stats import Report, TensorUsage
from lfq_cli.statistics.advice import advice, faults
from lfq_cli.statistics.usage import TokenUsage, Usage
from lfq_cli.storage.places import below, common_folder
from lfq_cli.wording import counted

_FEW_APART = 3
"""Up to this many tensors without common codebooks are still shown in full."""
_MOST_ADVICE = 10


def show_stats(report: Report, display: Display) -> None:
    """A row for each tensor, every overall statistic, advice; or JSON."""
    if len(report.failed) + len({item.file for item in report.tensors}) > 1:
        tell_failed(report.failed.values())
    if display.json:
        print_json(stats_json(report))
    elif not display.quiet and report.tensors:
        print_lines(stats_lines(report, verbose=display.verbose, width=text_width()))
        for text in _notes(report, display):
            note(f"lfq: {text}")


def tell_failed(errors: Iterable[LfqError]) -> None:
    """The errors of files that were not counted."""
    for error in errors:
        note(error_lines(error))


def stats_json(report: Report) -> dict[str, Any]:
    """The JSON object of a report (docs/statistics.md)."""
    return {
        "tensors": [
            {"file": str(item.file), "tensor": item.name, **_group_json(item), **_usage_json(item.usage)}
            for item in report.tensors
        ],
        "overall": None if report.overall is None else _usage_json(report.overall),
        "failed": {str(path): error.message for path, error in report.failed.items()},
    }


def _group_json(item: TensorUsage) -> dict[str, Any]:
    return {} if item.group is None else {"by": item.group.by, "value": item.group.value}


def _usage_json(usage: TokenUsage) -> dict[str, Any]:
    return {**usage.as_json(), "advice": advice(usage)}


def stats_lines(report: Report, *, verbose: bool, width: int | None) -> list[Text]:
    """The text output. width: where names and sentences are broken; None: nowhere. Everything else is 80 characters
    wide.
    """
    sections: list[Sequence[Text]] = []
    labels = labels_of(report)
    if len(report.tensors) > 1:
        sections.append(_tensors_table(report, labels, verbose=verbose, width=width))
    for name, usage in _in_full(report, labels, verbose=verbose):
        sections += [wrapped(f"{name}: {describe(usage)}", width, style="bold"), usage_lines(usage, verbose=verbose)]
    sections.append(_advice_lines(report, labels, verbose=verbose, width=width))
    return spaced(sections)


def labels_of(report: Report) -> list[str]:
    """The tensors' names; with several files, also their files' paths from their common folder on."""
    files = {item.file: item.file.absolute() for item in report.tensors}
    if len(files) <= 1:
        return [printable(item.label) for item in report.tensors]
    folder = common_folder(file.parent for file in files.values())
    named = {
        file: (str(file) if folder is None else below(absolute, folder))
        .removesuffix(".safetensors")
        .removesuffix(".codes")
        for file, absolute in files.items()
    }
    return [printable(f"{named[item.file]}: {item.label}") for item in report.tensors]


def _in_full(report: Report, labels: Sequence[str], *, verbose: bool) -> list[tuple[str, TokenUsage]]:
    """What is shown in full: all tensors together; each one, if requested or if they are few without common
    codebooks.
    """
    single = [(name, item.usage) for name, item in zip(labels, report.tensors, strict=True)]
    if len(single) == 1:
        return single
    shown = single if verbose or (report.overall is None and len(single) <= _FEW_APART) else []
    return shown if report.overall is None else [*shown, (f"all {len(single)} {_what(report)}", report.overall)]


def _what(report: Report) -> str:
    return "groups" if any(item.group is not None for item in report.tensors) else "tensors"


def _notes(report: Report, display: Display) -> list[str]:
    """What is not shown, and why."""
    usages = [item.usage for item in report.tensors] + ([report.overall] if report.overall is not None else [])
    lines = list(dict.fromkeys(text for usage in usages for text in usage.notes))
    if report.overall is None:
        lines.append("the files have different codebooks: no overall statistics")
    few = len(report.tensors) <= (MOST_ROWS if report.overall is not None else _FEW_APART)
    if not few and not display.verbose:
        lines.append(f"-v shows every {_what(report)[:-1]}")
    return lines


def _tensors_table(report: Report, labels: Sequence[str], *, verbose: bool, width: int | None) -> list[Text]:
    """A row for every codebook of every tensor, or only for the weakest of each where they are many; and the
    overall rows.
    """
    rows = [(name, item.usage) for name, item in zip(labels, report.tensors, strict=True)]
    if len(rows) > MOST_ROWS and not verbose:
        rows = []
    if report.overall is not None:
        rows.append((f"all {len(report.tensors)}", report.overall))
    if not rows:
        return []
    every = verbose or sum(len(named(usage)) for _, usage in rows) <= MOST_ROWS
    picked = [(name, named(usage) if every else [_weakest(usage)]) for name, usage in rows]
    lines = _rows(picked, width)
    return lines if every else [*lines, Text("of each tensor the codebook with the least entropy; -v shows all")]


def _weakest(usage: TokenUsage) -> tuple[str, Usage]:
    numbered = [(str(k), codebook) for k, codebook in enumerate(usage.codebooks)]
    return min(numbered, key=lambda item: item[1].entropy_bits / item[1].bits)


def _rows(tensors: Sequence[tuple[str, Sequence[tuple[str, Usage]]]], width: int | None) -> list[Text]:
    """A table with the names in a column, or on lines of their own where that is too wide."""
    several = any(len(usages) > 1 or usages[0][0] != "0" for _, usages in tensors)
    titles = [*(["codebook"] if several else []), *CODES_TITLES]
    cells = [
        [[*([number] if several else []), *codes_cells(usage)] for number, usage in usages] for _, usages in tensors
    ]
    counts = [whole(usages[0][1].count) for _, usages in tensors]
    wide = [
        [*((name, count) if not k else ("", "")), *row]
        for (name, _), count, rows in zip(tensors, counts, cells, strict=True)
        for k, row in enumerate(rows)
    ]
    if width_of(["tensor", "indices", *titles], wide) <= max(WIDTH, width or 0):
        return grid(["tensor", "indices", *titles], wide, left=(0,))
    head, *lines = grid(titles, [row for rows in cells for row in rows])
    shown = [head]
    for (name, usages), rows in zip(tensors, cells, strict=True):
        shown += wrapped(f"{name}: {counted(usages[0][1].count, 'index')}", width)
        shown += [lines.pop(0) for _ in rows]
    return shown


def _advice_lines(report: Report, labels: Sequence[str], *, verbose: bool, width: int | None) -> list[Text]:
    """What to look at: advice on all tensors together, then further faults of single ones."""
    overall = advice(report.overall) if report.overall is not None else []
    advised = list(overall)
    if len(report.tensors) > 1:
        for name, item in zip(labels, report.tensors, strict=True):
            own = advice(item.usage) if report.overall is None else faults(item.usage)
            advised += [f"{name}: {text}" for text in own if text not in overall]
    if not advised:
        return []
    most = len(advised) if verbose else max(_MOST_ADVICE, len(overall))
    lines = [Text("advice", "bold")]
    for text in advised[:most]:
        lines += wrapped(text, width, first="- ")
    return [*lines, Text(f"- and {len(advised) - most:,} more; -v shows all")] if len(advised) > most else lines
