"""Two sets of codes side by side: `lfq stats A --compare B`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from math import log

from rich.text import Text

from lfq_cli.cli.messages import printable
from lfq_cli.cli.options import Display
from lfq_cli.cli.render.blocks import leaning
from lfq_cli.cli.render.console import note, print_json, print_lines, text_width, wrapped
from lfq_cli.cli.render.grid import PICTURE, grid
from lfq_cli.cli.render.numbers import FORMATS, approximate, digits, percent, signed, whole
from lfq_cli.cli.render.stats import stats_json, stats_lines, tell_failed
from lfq_cli.cli.render.usage import describe, spaced
from lfq_cli.jobs.stats import ComparisonReport, Report
from lfq_cli.statistics.advice import bit_name
from lfq_cli.statistics.comparison import TokenComparison, UsageComparison
from lfq_cli.statistics.registry import BY_KEY, Statistic, shown_for
from lfq_cli.statistics.usage import TokenUsage
from lfq_cli.storage.places import common_folder
from lfq_cli.storage.urlpath import is_url

_FEW_CODEBOOKS = 4
"""Up to this many, every statistic is shown."""
_MOST_BITS = 8
_HALF_BAR = 6
_SEEN_OFTEN = 3
"""Vectors a code from which on the divergence by chance is known."""


def show_comparison(report: ComparisonReport, display: Display) -> None:
    """Every statistic of A, of B and its change; or JSON."""
    tell_failed([*report.a.failed.values(), *report.b.failed.values()])
    if display.json:
        comparison = None if report.comparison is None else report.comparison.as_json()
        print_json({"a": stats_json(report.a), "b": stats_json(report.b), "comparison": comparison})
    elif not display.quiet and (report.a.tensors or report.b.tensors):
        print_lines(comparison_lines(report, verbose=display.verbose, width=text_width()))
        if report.comparison is None:
            note("lfq: A and B have different codebooks: there is nothing to compare")


def comparison_lines(report: ComparisonReport, *, verbose: bool, width: int | None) -> list[Text]:
    """The text output. width: where names are broken; None: nowhere. Everything else is 80 characters wide."""
    names = [_side("A", report.a, width), _side("B", report.b, width)]
    if report.comparison is None:
        sides = [stats_lines(side, verbose=verbose, width=width) for side in (report.a, report.b)]
        return spaced([names[0], sides[0], names[1], sides[1]])
    rows = _named(report.comparison)
    sections: list[Sequence[Text]] = [[*names[0], *names[1]], _divergence_table(rows)]
    few = verbose or len(report.comparison.codebooks) <= _FEW_CODEBOOKS
    if not few:
        sections.append(_short_table(rows))
    for name, compared in rows:
        if few or name == "joint":
            sections.append(_figures_table(name if len(rows) > 1 else "", compared))
    if report.a.overall is not None:
        sections.append(_bits_table(report.a.overall, report.comparison))
    return spaced(sections)


def _named(comparison: TokenComparison) -> list[tuple[str, UsageComparison]]:
    joint = [] if comparison.joint is None else [("joint", comparison.joint)]
    return [*((str(k), compared) for k, compared in enumerate(comparison.codebooks)), *joint]


def _side(letter: str, report: Report, width: int | None) -> list[Text]:
    """A: codes/before.codes.safetensors, 1,797 indices of 10 bits."""
    files = list({item.file for item in report.tensors})
    where = str(files[0]) if len(files) == 1 else f"{len(files)} files"
    if len(files) > 1:
        folder = common_folder(files)
        where += "" if folder is None else f" in {folder if is_url(str(folder)) else os.path.relpath(folder)}"
    what = "different codebooks" if report.overall is None else describe(report.overall)
    return wrapped(f"{printable(where)}; {what}", width, first=f"{letter}: ", style="bold")


def _divergence_table(rows: Sequence[tuple[str, UsageComparison]]) -> list[Text]:
    """How far apart the distributions are, and the codes that only one of them uses."""
    titles = ["codebook", "divergence", "by chance", "only A", "share of A", "only B", "share of B"]
    cells = []
    for name, compared in rows:
        chance = _divergence_by_chance(compared)
        values = [compared.divergence_bits, chance]
        alone = [compared.only_a, compared.share_only_a, compared.only_b, compared.share_only_b]
        shown = [_or_nothing(value, digits) for value in values]
        shown += [_or_nothing(v, percent if k % 2 else whole) for k, v in enumerate(alone)]
        cells.append([name, *shown])
    one = len(rows) == 1
    lines = grid(titles[one:], [row[one:] for row in cells])
    lines.append(Text("divergence: Jensen-Shannon; 0 means equal shares, 1 no code in common"))
    if any(compared.only_a is None for _, compared in rows):
        return [*lines, Text("none where not every code was counted, or there is none")]
    return [*lines, Text("by chance: what two such samples of one source show; twice that is a difference")]


def _divergence_by_chance(compared: UsageComparison) -> float | None:
    """What two samples of one source show on average; None where too few say (docs/statistics.md)."""
    if compared.only_b is None or not compared.a.count or not compared.b.count:
        return None
    used = compared.a.codes_used + compared.only_b
    if used * _SEEN_OFTEN > min(compared.a.count, compared.b.count):
        return None
    return (used - 1) * (1 / compared.a.count + 1 / compared.b.count) / (8 * log(2))


def _or_nothing(value: float | None, show: Callable[[float], str]) -> str:
    return "" if value is None else show(value)


def _short_table(rows: Sequence[tuple[str, UsageComparison]]) -> list[Text]:
    """A row a codebook, for many."""
    titles = ["codebook", "used A", "used B", "entropy A", "entropy B", "change", "relative"]
    cells = []
    for name, compared in rows:
        changes = compared.changes()
        used, entropy = (_cells(compared, BY_KEY[key], *changes[key]) for key in ("codes_used", "entropy_bits"))
        cells.append([name, *used[:2], *entropy, _change_bar(*changes["entropy_bits"])])
    return grid(titles, cells, left=(6,), styles={6: PICTURE})


def _figures_table(name: str, compared: UsageComparison) -> list[Text]:
    """A row for each statistic; the bar leans to the right where B has more, and is full where A has none of it."""
    title = "" if not name else "joint token" if name == "joint" else f"codebook {name}"
    rows = []
    changes = compared.changes()
    for row in shown_for(compared.a):
        values = changes[row.key]
        rows.append(
            [
                row.label.format(min_count=whole(compared.a.min_count)),
                *_cells(compared, row, *values),
                _change_bar(*values),
            ]
        )
    return grid([title, "A", "B", "change", "relative"], rows, left=(0, 4), styles={4: PICTURE})


def _cells(
    compared: UsageComparison, row: Statistic, a: float | None, b: float | None, change: float | None
) -> list[str]:
    """A's, B's and the change as text; estimates marked."""
    show = FORMATS[row.format]
    guessed = [row.is_estimated(compared.a), row.is_estimated(compared.b)]
    texts = [_or_nothing(a, show), _or_nothing(b, show), "" if change is None else signed(show(change))]
    return [
        approximate(text, bool(text) and is_guess)
        for text, is_guess in zip(texts, [*guessed, any(guessed)], strict=True)
    ]


def _change_bar(a: float | None, b: float | None, change: float | None) -> str:
    """The change as a share of the larger of the two."""
    if a is None or b is None or change is None:
        return ""
    largest = max(abs(a), abs(b))
    return leaning(0.5 + change / largest / 2 if largest else 0.5, _HALF_BAR)


def _bits_table(usage: TokenUsage, comparison: TokenComparison) -> list[Text]:
    """The bits whose share of ones changed most; the bar is full for a change of a half."""
    ones = [(a, b) for compared in comparison.codebooks for a, b in zip(compared.a.ones, compared.b.ones, strict=False)]
    order = sorted(range(len(ones)), key=lambda bit: -abs(ones[bit][1] - ones[bit][0]))[:_MOST_BITS]
    rows = [
        [bit_name(usage, bit), f"{a:.1%}", f"{b:.1%}", f"{b - a:+.1%}", leaning(0.5 + b - a, _HALF_BAR)]
        for bit, (a, b) in ((bit, ones[bit]) for bit in order)
    ]
    title = "bits that changed most" if len(ones) > _MOST_BITS else "bit"
    return grid([title, "ones in A", "ones in B", "change", ""], rows, left=(4,), styles={4: PICTURE}) if rows else []
