"""The figures of a set of tokens as tables of a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ldexp

import numpy as np

from lfq_cli.report.markup import Html, folded, items, table, tag, text
from lfq_cli.report.text import codes_text, count_text, number_text, share_text, signed_text
from lfq_cli.statistics.advice import NEARLY_DEAD_BITS
from lfq_cli.statistics.usage import MOST_SHOWN, BitFigures, PositionFigures, TokenUsage, Usage

_MOST_INDEX_BITS = 64
_MOST_BESIDE = 4
"""Columns of a table that shares its row of the page."""
_MOST_UNFOLDED = 24
"""Rows of a table that is not folded away."""

Named = list[tuple[str, Usage]]


@dataclass(frozen=True)
class Figure:
    """A row of the table of figures. `estimated_by`: the estimate it comes from where not every code was counted."""

    label: str
    show: Callable[[Usage], str]
    estimated_by: str | None = None


def _optional(value: float | None, show: Callable[[float], str]) -> str:
    return "–" if value is None else show(value)


_FIGURES = (
    Figure("indices", lambda usage: count_text(usage.count)),
    Figure("codes there are", lambda usage: codes_text(usage.bits)),
    Figure("codes used", lambda usage: count_text(usage.codes_used), "codes_used"),
    Figure("codes used if uniform", lambda usage: count_text(usage.codes_used_if_uniform)),
    Figure("utilisation", lambda usage: share_text(usage.utilisation), "codes_used"),
    Figure("utilisation if uniform", lambda usage: share_text(ldexp(usage.codes_used_if_uniform, -usage.bits))),
    Figure("indices for each code", lambda usage: number_text(usage.samples_per_code)),
    Figure("entropy, bits", lambda usage: number_text(usage.entropy_bits), "entropy_bits"),
    Figure("entropy, corrected, bits", lambda usage: number_text(usage.entropy_bits_corrected), "entropy_bits"),
    Figure("entropy of the bits stored", lambda usage: share_text(usage.entropy_bits / usage.bits), "entropy_bits"),
    Figure("perplexity", lambda usage: number_text(usage.perplexity), "entropy_bits"),
    Figure("unseen probability", lambda usage: share_text(usage.unseen_probability), "entropy_bits"),
    Figure(
        "total correlation, bits", lambda usage: _optional(usage.total_correlation_bits, number_text), "entropy_bits"
    ),
    Figure(
        "rank-frequency slope",
        lambda usage: _optional(usage.profile.rank_frequency_slope(), signed_text),
        "entropy_bits",
    ),
)


def named_usages(tokens: TokenUsage) -> Named:
    """Every codebook by its name, and the joint token."""
    if len(tokens.codebooks) == 1:
        return [("codebook", tokens.codebooks[0])]
    found = [(f"codebook {k}", usage) for k, usage in enumerate(tokens.codebooks)]
    return found if tokens.joint is None else [*found, ("joint", tokens.joint)]


def tables_of(tokens: TokenUsage) -> Html:
    """All tables: figures, codes, pairs, bits, positions; each only where there is something in it."""
    usages = named_usages(tokens)
    parts = [_figure_table(usages), *_code_tables(usages), _pair_table(usages), _bit_table(usages)]
    if tokens.positions:
        parts += _position_tables(tokens.positions)
    return tag("div", *parts, class_="tables")


def estimated(shown: str, usage: Usage, by: str | None) -> str:
    """A figure with ≈ before it where it comes from an estimate."""
    return f"≈ {shown}" if by in usage.estimated else shown


def _figure_table(usages: Named) -> Html:
    figures = list(_FIGURES)
    least = max(usage.min_count for _, usage in usages)
    if least > 1:
        label = f"codes used at least {count_text(least)} times"
        figures.insert(3, Figure(label, lambda usage: count_text(usage.codes_used_at_least), "codes_used"))
    rows = [
        [text(figure.label), *(text(estimated(figure.show(usage), usage, figure.estimated_by)) for _, usage in usages)]
        for figure in figures
    ]
    columns = ["", *(name for name, _ in usages)]
    caption = "Figures of the codebook" if len(usages) == 1 else "Figures of every codebook"
    class_ = "wide" if len(columns) > _MOST_BESIDE else ""
    return tag("div", table(caption, columns, rows), _estimates(usages), class_=class_)


def _estimates(usages: Named) -> Html:
    """How what bears a ≈ was estimated, and that long tokens are told apart by a hash."""
    told = []
    for name, usage in usages:
        hows = [
            f"{figure.removesuffix('_bits').replace('_', ' ')} by {how.method}, "
            f"standard error {number_text(how.standard_error, 2)}"
            for figure, how in usage.estimated.items()
        ]
        if hows:
            told.append(f"≈ {name}: {'; '.join(hows)}. What follows from them is estimated too.")
        if usage.bits > _MOST_INDEX_BITS:
            told.append(f"{name}: tokens of {usage.bits} bits are told apart by a hash of {_MOST_INDEX_BITS} bits.")
    return items(map(text, told), class_="notes quiet") if told else Html("")


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
        if usage.bit_figures is not None
        for i, j, value in usage.bit_figures.strongest_pairs()
    ]
    return _titled("Strongest pairs of bits", ["bits", "correlation"], rows)


def _bit_table(usages: Named) -> Html:
    """The joint token's bits are the codebooks'."""
    books = [(name, usage.bit_figures) for name, usage in usages if name != "joint" and usage.bit_figures is not None]
    rows = [(name, cells) for name, figures in books for cells in _bit_rows(figures)]
    return _titled("Bits", ["bit", "ones", "entropy, bits", ""], rows)


def _bit_rows(figures: BitFigures) -> list[list[Html]]:
    return [
        [text(str(bit)), text(share_text(share)), text(number_text(entropy)), text(_state(entropy))]
        for bit, (share, entropy) in enumerate(zip(figures.ones.tolist(), figures.entropies.tolist(), strict=True))
    ]


def _state(entropy: float) -> str:
    return "dead" if entropy == 0 else "nearly dead" if entropy < NEARLY_DEAD_BITS else ""


def _position_tables(positions: Sequence[PositionFigures]) -> list[Html]:
    names = ["codebook"] if len(positions) == 1 else [f"codebook {k}" for k in range(len(positions))]
    told = [
        (name, figures)
        for name, figures in zip(names, positions, strict=True)
        if figures.axes and figures.codes_used.size
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
        _titled("Positions", columns, [(name, _position_row(figures)) for name, figures in told]),
        _titled(
            "Positions that vary least",
            least,
            [(name, row) for name, figures in told for row in _least_varied(figures)],
        ),
    ]


def _position_row(figures: PositionFigures) -> list[Html]:
    entropy, used = figures.entropy_bits, figures.codes_used
    return [
        text(" × ".join(map(count_text, figures.axes))),
        text(count_text(figures.count)),
        text(count_text(figures.constant)),
        *(text(number_text(float(value))) for value in (entropy.min(), entropy.mean(), entropy.max())),
        *(text(count_text(int(value))) for value in (used.min(), used.max())),
    ]


def _least_varied(figures: PositionFigures) -> list[list[Html]]:
    order = np.argsort(figures.entropy_bits, axis=None, kind="stable")[:MOST_SHOWN]
    places = np.stack(np.unravel_index(order, figures.axes), axis=1).tolist()
    return [
        [
            text(", ".join(map(str, place))),
            text(number_text(float(figures.entropy_bits.flat[k]))),
            text(count_text(int(figures.codes_used.flat[k]))),
            text(share_text(float(figures.most_used_share.flat[k]))),
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
    told = table(title, columns, whole, "wide" if len(columns) > _MOST_BESIDE else "")
    return folded(f"{title} ({len(rows)})", told) if len(rows) > _MOST_UNFOLDED else told
