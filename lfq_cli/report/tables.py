"""The statistics of a set of tokens as tables of a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lfq_cli.report.markup import Html, folded, items, table, tag, text
from lfq_cli.report.text import codes_text, count_text, number_text, share_text, signed_text
from lfq_cli.statistics.advice import NEARLY_DEAD_BITS
from lfq_cli.statistics.registry import BY_KEY, Format, Statistic, shown_for
from lfq_cli.statistics.usage import MOST_SHOWN, BitStatistics, PositionStatistics, TokenUsage, Usage

_MOST_INDEX_BITS = 64
_MOST_BESIDE = 4
"""Columns of a table that shares its row of the page."""
_MOST_UNFOLDED = 24
"""Rows of a table that is not folded away."""

Named = list[tuple[str, Usage]]


FORMATS: dict[Format, Callable[[float], str]] = {
    "whole": count_text,
    "tenths": number_text,
    "number": number_text,
    "bits": number_text,
    "share": share_text,
    "signed": signed_text,
}
"""How a page writes each format of a statistic."""


def named_usages(tokens: TokenUsage) -> Named:
    """Every codebook by its name, and the joint token."""
    if len(tokens.codebooks) == 1:
        return [("codebook", tokens.codebooks[0])]
    found = [(f"codebook {k}", usage) for k, usage in enumerate(tokens.codebooks)]
    return found if tokens.joint is None else [*found, ("joint", tokens.joint)]


def tables_of(tokens: TokenUsage) -> Html:
    """All tables: statistics, codes, pairs, bits, positions; each only where there is something in it."""
    usages = named_usages(tokens)
    parts = [_figure_table(usages), *_code_tables(usages), _pair_table(usages), _bit_table(usages)]
    if tokens.positions:
        parts += _position_tables(tokens.positions)
    return tag("div", *parts, class_="tables")


def written(key: str, usage: Usage) -> str:
    """A statistic with ≈ before it where it is an estimate; a dash where it is not defined."""
    row = BY_KEY[key]
    value = row.of(usage)
    shown = "–" if value is None else FORMATS[row.format](value)
    return f"≈ {shown}" if row.is_estimated(usage) else shown


def _figure_table(usages: Named) -> Html:
    first = max((usage for _, usage in usages), key=lambda usage: usage.min_count)
    rows = [
        [text(_label(row, first)), *(text(written(row.key, usage)) for _, usage in usages)] for row in shown_for(first)
    ]
    rows.insert(1, [text("codes there are"), *(text(codes_text(usage.bits)) for _, usage in usages)])
    columns = ["", *(name for name, _ in usages)]
    caption = "Statistics of the codebook" if len(usages) == 1 else "Statistics of every codebook"
    class_ = "wide" if len(columns) > _MOST_BESIDE else ""
    return tag("div", table(caption, columns, rows), _estimates(usages), class_=class_)


def _label(row: Statistic, usage: Usage) -> str:
    unit = ", bits" if row.unit == "bits" else ""
    return row.label.format(min_count=count_text(usage.min_count)) + unit


def _estimates(usages: Named) -> Html:
    """How the values marked ≈ were estimated, and that long tokens are distinguished by a hash."""
    notes = []
    for name, usage in usages:
        hows = [
            f"{key.removesuffix('_bits').replace('_', ' ')} by {how.method}, "
            f"standard error {number_text(how.standard_error, 2)}"
            for key, how in usage.estimated.items()
        ]
        if hows:
            notes.append(f"≈ {name}: {'; '.join(hows)}. What follows from them is estimated too.")
        if usage.bits > _MOST_INDEX_BITS:
            notes.append(f"{name}: tokens of {usage.bits} bits are distinguished by a hash of {_MOST_INDEX_BITS} bits.")
    return items(map(text, notes), class_="notes quiet") if notes else Html("")


def _code_tables(usages: Named) -> list[Html]:
    return [
        _code_table("Most used codes", [(name, usage, usage.most_used) for name, usage in usages]),
        _code_table("Least used codes", [(name, usage, usage.least_used) for name, usage in usages]),
    ]


def _code_table(title: str, usages: Sequence[tuple[str, Usage, Sequence[tuple[int, int]]]]) -> Html:
    rows = [
        (name, [tag("code", text(str(code))), text(count_text(count)), text(share_text(count / usage.count))])
        for name, usage, codes in usages
        for code, count in codes
    ]
    return _titled(title, ["code", "times", "share"], rows)


def _pair_table(usages: Named) -> Html:
    rows = [
        (name, [text(f"{i} and {j}"), text(signed_text(value))])
        for name, usage in usages
        if usage.bit_statistics is not None
        for i, j, value in usage.bit_statistics.strongest_pairs()
    ]
    return _titled("Strongest pairs of bits", ["bits", "correlation"], rows)


def _bit_table(usages: Named) -> Html:
    """The joint token's bits are the codebooks'."""
    books = [
        (name, usage.bit_statistics) for name, usage in usages if name != "joint" and usage.bit_statistics is not None
    ]
    rows = [(name, cells) for name, statistics in books for cells in _bit_rows(statistics)]
    return _titled("Bits", ["bit", "ones", "entropy, bits", ""], rows)


def _bit_rows(statistics: BitStatistics) -> list[list[Html]]:
    return [
        [text(str(bit)), text(share_text(share)), text(number_text(entropy)), text(_state(entropy))]
        for bit, (share, entropy) in enumerate(
            zip(statistics.ones.tolist(), statistics.entropies.tolist(), strict=True)
        )
    ]


def _state(entropy: float) -> str:
    return "dead" if entropy == 0 else "nearly dead" if entropy < NEARLY_DEAD_BITS else ""


def _position_tables(positions: Sequence[PositionStatistics]) -> list[Html]:
    names = ["codebook"] if len(positions) == 1 else [f"codebook {k}" for k in range(len(positions))]
    counted = [
        (name, statistics)
        for name, statistics in zip(names, positions, strict=True)
        if statistics.axes and statistics.codes_used.size
    ]
    columns = [
        "positions",
        "indices at each",
        "never change",
        "least entropy, bits",
        "mean",
        "most",
        "fewest codes",
        "most",
    ]
    least = ["position", "entropy, bits", "codes", "most used"]
    return [
        _titled("Positions", columns, [(name, _position_row(statistics)) for name, statistics in counted]),
        _titled(
            "Positions that vary least",
            least,
            [(name, row) for name, statistics in counted for row in _least_varied(statistics)],
        ),
    ]


def _position_row(statistics: PositionStatistics) -> list[Html]:
    entropy, used = statistics.entropy_bits, statistics.codes_used
    return [
        text(" × ".join(map(count_text, statistics.axes))),
        text(count_text(statistics.count)),
        text(count_text(statistics.constant)),
        *(text(number_text(float(value))) for value in (entropy.min(), entropy.mean(), entropy.max())),
        *(text(count_text(int(value))) for value in (used.min(), used.max())),
    ]


def _least_varied(statistics: PositionStatistics) -> list[list[Html]]:
    order = np.argsort(statistics.entropy_bits, axis=None, kind="stable")[:MOST_SHOWN]
    places = np.stack(np.unravel_index(order, statistics.axes), axis=1).tolist()
    return [
        [
            text(", ".join(map(str, place))),
            text(number_text(float(statistics.entropy_bits.flat[k]))),
            text(count_text(int(statistics.codes_used.flat[k]))),
            text(share_text(float(statistics.most_used_share.flat[k]))),
        ]
        for place, k in zip(places, order.tolist(), strict=True)
    ]


def _titled(title: str, columns: Sequence[str], rows: Sequence[tuple[str, list[Html]]]) -> Html:
    """A table of rows (name, cells): the names are a column where there are several, long tables are folded away."""
    if not rows:
        return Html("")
    whole: Sequence[list[Html]] = [cells for _, cells in rows]
    if len({name for name, _ in rows}) > 1:
        columns, whole = ["", *columns], [[text(name), *cells] for name, cells in rows]
    content = table(title, columns, whole, "wide" if len(columns) > _MOST_BESIDE else "")
    return folded(f"{title} ({len(rows)})", content) if len(rows) > _MOST_UNFOLDED else content
