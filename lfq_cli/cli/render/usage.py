"""The statistics of tokens as lines, section by section; bits and positions have modules of their own."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from lfq_cli.cli.render.bits import bit_lines, pair_lines, strip
from lfq_cli.cli.render.blocks import along_logs, bar, chart, heights
from lfq_cli.cli.render.console import wrapped
from lfq_cli.cli.render.grid import GAP, PICTURE, WIDTH, flow, grid, width_of
from lfq_cli.cli.render.numbers import codes, percent, whole, written
from lfq_cli.cli.render.positions import position_lines
from lfq_cli.statistics.registry import BY_KEY, Statistic, shown_for
from lfq_cli.statistics.usage import TokenUsage, Usage
from lfq_cli.wording import counted

_FEW_CODEBOOKS = 8
"""Up to this many, every statistic is shown; beyond that one row each."""
_STRIP_IN_TABLE = 11
"""Bits whose letters fit in the row of a codebook."""
_CARD_BAR, _CHART_WIDTH, _CHART_ROWS = 20, 60, 3
_FEW_EXTREMES = 5
_BEFORE_EXTREMES = len("codebook  least  ")
_WIDEST_BAR, _NARROWEST_BAR = 16, 4
_SHORTEST_CURVE = len("count by rank")
_MOST_CURVE = 32

Rows = Sequence[tuple[str, Usage]]


def usage_lines(usage: TokenUsage, *, verbose: bool) -> list[Text]:
    """Every section, separated by empty lines."""
    if not usage.codebooks[0].count:
        return [Text("there are no indices")]
    few = verbose or len(usage.codebooks) <= _FEW_CODEBOOKS
    if len(usage.codebooks) == 1:
        sections = [_card(usage.codebooks[0]), _rank_chart(usage.codebooks[0])]
    elif few:
        sections = [_codes_table(named(usage)), _sample_table(named(usage))]
    else:
        sections = [_short_table(usage)]
    strips = few or not _has_strips_in_table(usage)
    sections += [bit_lines(usage, verbose=verbose, strips=strips), pair_lines(usage)]
    if few:
        sections += [_extremes(usage)]
    if usage.positions is not None:
        sections += [position_lines(usage.positions, verbose=verbose)]
    sections += [_estimates(usage)]
    return spaced(sections)


def spaced(sections: Sequence[Sequence[Text]]) -> list[Text]:
    """The lines of all sections that have any, separated by empty lines."""
    lines: list[Text] = []
    for section in sections:
        if section and lines:
            lines.append(Text())
        lines += section
    return lines


def named(usage: TokenUsage) -> Rows:
    """The codebooks by number, and the joint token."""
    joint = [] if usage.joint is None else [("joint", usage.joint)]
    return [*((str(k), codebook) for k, codebook in enumerate(usage.codebooks)), *joint]


def describe(usage: TokenUsage) -> str:
    """1,797 vectors of 40 bits, 5 codebooks of 8 bits."""
    count = usage.codebooks[0].count
    if len(usage.codebooks) == 1:
        return f"{counted(count, 'index')} of {counted(usage.bits_stored, 'bit')}"
    dims = [codebook.bits for codebook in usage.codebooks]
    each = f"{dims[0]}" if len(set(dims)) == 1 else "+".join(map(str, dims))
    if len(each) > 20:
        each = f"{min(dims)} to {max(dims)}"
    each += " bit" if set(dims) == {1} else " bits"
    return f"{counted(count, 'vector')} of {usage.bits_stored} bits: {len(dims)} codebooks of {each}"


_SUMMARY = ("codes_used", "utilisation", "utilisation_if_uniform", "perplexity", "entropy_bits")
"""The statistics of the first table; the second one has those that are neither here nor drawn as a bar."""
CODES_TITLES = (BY_KEY["codes_used"].column, "of", *(BY_KEY[key].column for key in _SUMMARY[1:]))


def codes_cells(usage: Usage) -> list[str]:
    """The cells of a row under CODES_TITLES."""
    used, *others = (written(BY_KEY[key], usage) for key in _SUMMARY)
    return [used, codes(usage.bits), *others[:-1], f"{others[-1]} of {usage.bits}"]


def _codes_table(rows: Rows) -> list[Text]:
    """Codes used and entropy: a row each, with a bar for the entropy if there is room."""
    cells = [[name, *codes_cells(usage)] for name, usage in rows]
    return _with_bars(["codebook", *CODES_TITLES], cells, [usage.entropy_bits / usage.bits for _, usage in rows])


def _with_bars(titles: Sequence[str], rows: Sequence[Sequence[str]], shares: Sequence[float]) -> list[Text]:
    """The grid with a bar for each row's share at its end, as wide as there is room."""
    room = min(_WIDEST_BAR, WIDTH - GAP - width_of(titles, rows))
    if room < _NARROWEST_BAR:
        return grid(titles, rows)
    barred = [[*row, bar(share, room)] for row, share in zip(rows, shares, strict=True)]
    return grid([*titles, ""], barred, left=(len(titles),), styles={len(titles): PICTURE})


def _sample_table(rows: Rows) -> list[Text]:
    """What the sample implies beyond what it shows, and the curve of counts by rank."""
    shown = [row for row in shown_for(rows[0][1]) if row.key not in _BESIDE_SAMPLE]
    titles = ["codebook", *(_column(row, rows[0][1]) for row in shown)]
    cells = [[name, *(written(row, usage) for row in shown)] for name, usage in rows]
    room = min(_MOST_CURVE, WIDTH - GAP - width_of(titles, cells))
    if room < _SHORTEST_CURVE:
        return grid(titles, cells)
    curves = [[*row, heights(_curve(usage, room))] for row, (_, usage) in zip(cells, rows, strict=True)]
    last = len(titles)
    return grid([*titles, "count by rank"], curves, left=(last,), styles={last: PICTURE})


_BESIDE_SAMPLE = {*_SUMMARY, "count", "codes_used_if_uniform", "samples_per_code", "entropy_share"}
"""Statistics of the first table, and what can be read from it."""


def _column(row: Statistic, usage: Usage) -> str:
    return row.column.format(min_count=whole(usage.min_count))


def _least_title(rows: Rows) -> list[str]:
    least = rows[0][1].min_count
    return [_column(_AT_LEAST, rows[0][1])] if least > 1 else []


def _least_cell(usage: Usage) -> list[str]:
    """Codes that are used often enough, if requested."""
    return [written(_AT_LEAST, usage)] if usage.min_count > 1 else []


_AT_LEAST = BY_KEY["codes_used_at_least"]


def _has_strips_in_table(usage: TokenUsage) -> bool:
    """Whether a row of the short table has room for a character per bit."""
    return max(codebook.bits for codebook in usage.codebooks) <= _STRIP_IN_TABLE and usage.codebooks[0].min_count == 1


def _short_table(usage: TokenUsage) -> list[Text]:
    """One row per codebook, where there are many."""
    rows, strips = named(usage), _has_strips_in_table(usage)
    titles = ["codebook", "used", *_least_title(rows), "utilisation", "uniform"]
    titles += [*(["ones by bit"] if strips else []), "entropy bits"]
    cells = []
    for name, codebook in rows:
        used, _, utilisation, uniform, _, entropy = codes_cells(codebook)
        letters = [strip(codebook) if name != "joint" else ""] if strips else []
        cells.append([name, used, *_least_cell(codebook), utilisation, uniform, *letters, entropy])
    return _with_bars(titles, cells, [found.entropy_bits / found.bits for _, found in rows])


def _card(usage: Usage) -> list[Text]:
    """A line for each statistic of the only codebook, with a bar where it is a share."""
    rows = [_card_row(row, usage) for row in shown_for(usage)[1:] if row.share_of is None and row.of(usage) is not None]
    return grid([""] * 5, rows, left=(0, 2, 3), styles={3: PICTURE})


def _card_row(row: Statistic, usage: Usage) -> list[str]:
    """[label, value, what it is a share of, bar, share]."""
    label = row.label.format(min_count=whole(usage.min_count))
    value, estimated = row.of(usage) or 0.0, row.is_estimated(usage)
    if row.format == "share":
        return [label, "", "", *_drawn(value, estimated)]
    if row.unit == "codes":
        share = value / 2.0**usage.bits
        return [label, written(row, usage), f"of {codes(usage.bits)}", *_drawn(share, estimated)]
    if row.unit == "bits":
        of_bits = f"of {counted(usage.bits, 'bit')}"
        return [label, written(row, usage), of_bits, *_drawn(value / usage.bits, estimated)]
    return [label, written(row, usage), "", "", ""]


def _drawn(share: float, estimated: bool = False) -> list[str]:
    return [bar(share, _CARD_BAR), percent(share, estimated=estimated)]


def _curve(usage: Usage, width: int) -> list[float]:
    """Log counts by log rank [width], as shares of the log of the largest count."""
    ranks, counts = usage.profile.rank_frequency_curve()
    if not len(ranks) or counts[0] == 1:
        return [0.0] * (width if len(ranks) else 0)
    logs = along_logs(ranks, counts.astype(float), width)
    return [float(value) for value in logs / logs[0]]


def _rank_chart(usage: Usage) -> list[Text]:
    """Counts by rank on log axes."""
    ranks, counts = usage.profile.rank_frequency_curve()
    slope = written(BY_KEY["rank_frequency_slope"], usage)
    if not slope:
        return []
    if counts[0] == 1:
        return [Text("no code occurs twice" if usage.exact else "no code of those that are known occurs twice")]
    most = whole(counts[0])
    label = max(len(most), 5)
    rows = chart(_curve(usage, _CHART_WIDTH), _CHART_ROWS)
    names = [most, *[""] * (_CHART_ROWS - 2), "1"]
    lines = [Text(f"count by rank, both on log axes; slope {slope}", "bold")]
    for name, row in zip(names, rows, strict=True):
        lines.append(Text(f"{name:>{label}} ").append(row.rstrip(), PICTURE))
    last = whole(ranks[-1])
    axis = f"{'rank':>{label}} 1{last:>{_CHART_WIDTH - 1}}"
    return [*lines, Text(axis)]


def _extremes(usage: TokenUsage) -> list[Text]:
    """The most used codes and, for few codebooks, the least used; none where all were used once."""
    rows = [(name, found) for name, found in named(usage) if found.most_used and found.most_used[0][1] > 1]
    several = len(usage.codebooks) > 1
    cells = []
    for name, found in rows:
        least = [found.least_used] if len(rows) <= _FEW_EXTREMES and found.exact else []
        for kind, pairs in zip(("most", "least"), (found.most_used, *least), strict=False):
            shown = flow([f"{code}: {whole(count)}" for code, count in pairs], WIDTH - _BEFORE_EXTREMES)
            cells.append([*([name if kind == "most" else ""] if several else []), kind, shown])
    titles = [*(["codebook"] if several else []), "used", "code: times"]
    return grid(titles, cells, left=(len(titles) - 2, len(titles) - 1)) if cells else []


def _estimates(usage: TokenUsage) -> list[Text]:
    """How every estimate was made, and its error."""
    lines = []
    for name, found in named(usage):
        whose = " of the joint token" if name == "joint" else f" of codebook {name}"
        if len(usage.codebooks) == 1:
            whose = ""
        for key, how in found.estimated.items():
            row = BY_KEY[key]
            value = row.of(found) or 0.0
            error = percent(how.standard_error / max(value, 1)) if row.unit == "codes" else f"{how.standard_error:.2g}"
            what = row.key.replace("_", " ")
            lines += wrapped(f"{written(row, found)} ± {error}: {what}{whose}, by {how.method}", WIDTH)
    return lines
