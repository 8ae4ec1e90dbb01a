"""What a report shows of one set of tokens: each panel a title, what it comes to in words, and how to draw it.

Knows records and axes; where panels stand is the page's or the picture's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from lfq_cli.report import canvas, curves, maps
from lfq_cli.report.curves import Numbers
from lfq_cli.report.maps import codebook_ticks, nice_step, whole_ticks
from lfq_cli.report.text import codes_text, count_text, list_text, share_words, short_text, signed_text
from lfq_cli.statistics.advice import NEARLY_DEAD_BITS
from lfq_cli.statistics.usage import BitStatistics, PositionStatistics, TokenUsage, Usage

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NAMED = 8
"""Codebooks that have a colour and a word in the legend each."""
_MOST_REFERENCES = 3
_LINEAR_FACTOR = 20
"""Codes used that differ by more are not to be seen on one linear axis."""
_SATURATED = 10
"""Indices for each code from which on the beginning of a coverage curve is what there is to see of it."""
_WIDE_BITS = 32
_COLOURS = (
    canvas.BLUE,
    canvas.ORANGE,
    canvas.GREEN,
    canvas.PURPLE,
    canvas.SKY,
    canvas.VERMILION,
    canvas.YELLOW,
    canvas.NOT_DEFINED,
)

_Points = Callable[[Usage], tuple[Numbers, Numbers]]
_Books = Sequence[tuple[str, BitStatistics]]
"""(name, bits) of each codebook that has bit statistics."""


@dataclass(frozen=True)
class Panel:
    """One diagram. `takeaway`: its result in words. `draw` fills axes; it may attach a colour bar at their right."""

    name: Literal["rank", "coverage", "balance", "correlation", "position"]
    title: str
    takeaway: str
    draw: Callable[[Axes], None]
    legend_rows: int = 0
    """Lines of the legend above the axes."""
    many: bool = False
    """Whether it needs all the width there is."""
    has_colour_bar: bool = False

    @property
    def description(self) -> str:
        """The description for people who cannot see it."""
        return f"{self.title}. {self.takeaway}."


@dataclass(frozen=True)
class _Line:
    usage: Usage
    label: str | None
    colour: str
    width: float = 1.8
    alpha: float = 1.0


def panels_of(tokens: TokenUsage) -> list[Panel]:
    """The panels that have something to show, in order; none where nothing was counted."""
    if not any(usage.count for usage in tokens.codebooks):
        return []
    books = [(str(k), usage.bit_statistics) for k, usage in enumerate(tokens.codebooks)]
    counted = [(name, statistics) for name, statistics in books if statistics is not None and statistics.count]
    panels = [_rank_panel(tokens), _coverage_panel(tokens)]
    if counted:
        panels.append(_balance_panel(counted))
        if tokens.bits_stored > 1:
            panels.append(_joint_correlation_panel(tokens) or _correlation_panel(counted))
    if tokens.positions and tokens.positions[0].axes and tokens.positions[0].entropy_bits.size:
        panels.append(_position_panel(tokens.positions, min(usage.bits for usage in tokens.codebooks)))
    return panels


def bit_places(dims: Sequence[int]) -> list[str]:
    """The name of each bit of a vector: "bit 3", or "codebook 1 bit 3" where there are several."""
    if len(dims) == 1:
        return [f"bit {bit}" for bit in range(dims[0])]
    return [f"codebook {k} bit {bit}" for k, bits in enumerate(dims) for bit in range(bits)]


def _rank_panel(tokens: TokenUsage) -> Panel:
    def observed(usage: Usage) -> tuple[Numbers, Numbers]:
        ranks, counts = usage.profile.rank_frequency_curve()
        return ranks, counts.astype(np.float64)

    def draw(axes: Axes) -> None:
        _draw_lines(axes, tokens, observed, lambda usage: curves.uniform_rank_frequency_curve(usage.count, usage.bits))
        axes.set(xlabel="rank of the code", ylabel="times used")
        _log_axis(axes, "x")
        _log_axis(axes, "y")

    return Panel("rank", "Usage by rank", _rank_takeaway(tokens), draw, _line_legend_rows(tokens))


def _rank_takeaway(tokens: TokenUsage) -> str:
    usage = tokens.token
    if usage is None:
        most = max(map(_heaviest_share, tokens.codebooks))
        return f"The most used code of any codebook is {share_words(most)} of its indices"
    slope = usage.profile.rank_frequency_slope()
    what = "code" if tokens.joint is None else "token"
    sentence = f"The most used {what} is {share_words(_heaviest_share(usage))} of all"
    return sentence if slope is None else f"{sentence}; slope {signed_text(slope)}"


def _heaviest_share(usage: Usage) -> float:
    return int(usage.profile.counts[0]) / usage.count if usage.count and len(usage.profile.counts) else 0.0


def _coverage_panel(tokens: TokenUsage) -> Panel:
    used = [line.usage.profile.used() for line in _lines(tokens) if line.usage.count]
    log_y = max(used) > _LINEAR_FACTOR * min(used)
    log_x = log_y or max(usage.samples_per_code for usage in tokens.codebooks) >= _SATURATED

    def observed(usage: Usage) -> tuple[Numbers, Numbers]:
        sizes = curves.sample_sizes(usage.count, log=log_x)
        return sizes, curves.coverage(usage.profile, usage.count, sizes)

    def uniform(usage: Usage) -> tuple[Numbers, Numbers]:
        sizes = curves.sample_sizes(usage.count, log=log_x)
        return sizes, curves.uniform_coverage(sizes, usage.bits)

    def draw(axes: Axes) -> None:
        _draw_lines(axes, tokens, observed, uniform)
        axes.set(xlabel="indices counted", ylabel="different codes")
        _log_axis(axes, "x") if log_x else _linear_axis(axes, "x")
        _log_axis(axes, "y") if log_y else _linear_axis(axes, "y")

    title = "Coverage against samples"
    return Panel("coverage", title, _coverage_takeaway(tokens), draw, _line_legend_rows(tokens))


def _coverage_takeaway(tokens: TokenUsage) -> str:
    usage = tokens.token
    if usage is None:
        used = [book.codes_used for book in tokens.codebooks]
        return f"{count_text(min(used))} to {count_text(max(used))} codes of a codebook used"
    what = "codes" if tokens.joint is None else "tokens"
    about = "" if usage.exact else "About "
    uniform = count_text(usage.codes_used_if_uniform)
    return f"{about}{count_text(usage.codes_used)} of {codes_text(usage.bits)} {what} used; uniform use: {uniform}"


def _lines(tokens: TokenUsage) -> list[_Line]:
    """A line for each codebook, and one for the joint token."""
    books, joint = tokens.codebooks, tokens.joint
    if len(books) == 1:
        lines = [_Line(books[0], "observed", canvas.BLUE, 2.2)]
    elif len(books) <= _MOST_NAMED:
        lines = [_Line(usage, _legend_name(k), _COLOURS[k]) for k, usage in enumerate(books)]
    else:
        lines = [
            _Line(usage, None if k else f"{len(books)} codebooks", canvas.BLUE, 1.2, 0.4)
            for k, usage in enumerate(books)
        ]
    return lines if joint is None else [*lines, _Line(joint, "joint", canvas.INK, 2.2)]


def _legend_name(codebook: int) -> str:
    return f"codebook {codebook}" if codebook == 0 else str(codebook)  # the word once for all of a row


def _line_legend_rows(tokens: TokenUsage) -> int:
    return canvas.legend_rows(sum(line.label is not None for line in _lines(tokens)) + 1)


def _references(tokens: TokenUsage) -> list[Usage]:
    """One of the usages of each number of bits: what uniform use would show depends on it only."""
    found = {usage.bits: usage for usage in reversed(tokens.codebooks)}
    shown = list(found.values())[-_MOST_REFERENCES:]
    return shown if tokens.joint is None else [*shown, tokens.joint]


def _draw_lines(axes: Axes, tokens: TokenUsage, observed: _Points, uniform: _Points) -> None:
    """Both curves of every usage; what uniform use would show is dashed."""
    for line in _lines(tokens):
        x, y = observed(line.usage)
        marker = "o" if len(x) == 1 else None
        axes.plot(x, y, color=line.colour, linewidth=line.width, alpha=line.alpha, label=line.label, marker=marker)
    for k, usage in enumerate(_references(tokens)):
        label = None if k else "uniform random use" if len(tokens.codebooks) <= 2 else "uniform"
        axes.plot(*uniform(usage), color=canvas.MUTED, linewidth=1.2, dashes=(3, 2.2), label=label, zorder=2.5)
    canvas.draw_legend(axes)


def _balance_panel(books: _Books) -> Panel:
    shares = np.concatenate([statistics.ones for _, statistics in books])
    entropies = np.concatenate([statistics.entropies for _, statistics in books])
    dead = entropies == 0
    nearly = (entropies < NEARLY_DEAD_BITS) & ~dead
    edges = [0, *np.cumsum([len(statistics.both) for _, statistics in books]).tolist()]
    groups = (
        (~dead & ~nearly, canvas.BLUE, None, "o"),
        (nearly, canvas.ORANGE, "nearly dead", "s"),
        (dead, canvas.VERMILION, "dead", "X"),
    )

    def draw(axes: Axes) -> None:
        size = float(np.clip(260 / len(shares), 1.5, 5.5))
        for chosen, colour, label, marker in groups:
            places = np.flatnonzero(chosen)
            larger = size if label is None else 1.4 * size
            if len(places):
                axes.vlines(places, 0.5, shares[places], color=colour, linewidth=size / 2.2, alpha=0.55)
                axes.plot(places, shares[places], marker, color=colour, markersize=larger, label=label, mew=0)
        axes.axhline(0.5, color=canvas.MUTED, linewidth=1.0, zorder=1.5)
        _balance_axes(axes, edges, [name for name, _ in books])
        if not groups[0][0].all():
            canvas.draw_legend(axes)

    places = bit_places([len(statistics.both) for _, statistics in books])
    named = [(word, [places[k] for k in np.flatnonzero(chosen)]) for chosen, _, word, _ in reversed(groups[1:])]
    takeaway = _balance_takeaway(shares, named)
    return Panel("balance", "Share of ones per bit", takeaway, draw, legend_rows=1, many=len(shares) > _WIDE_BITS)


def _balance_axes(axes: Axes, edges: Sequence[int], names: Sequence[str]) -> None:
    bits = edges[-1]
    axes.set(xlim=(-0.7, bits - 0.3), ylim=(-0.04, 1.04), ylabel="ones (%)")
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100"])
    axes.grid(visible=False, axis="x")
    if len(names) == 1:
        axes.set_xticks(whole_ticks(bits, 16))
        axes.set_xlabel("bit")
        return
    for edge in edges[1:-1]:
        axes.axvline(edge - 0.5, color=canvas.RULE, linewidth=1.0, zorder=0.5)
    axes.set_xticks(*codebook_ticks(edges, names))
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("bits of codebook")


def _balance_takeaway(shares: Numbers, named: Sequence[tuple[str | None, list[str]]]) -> str:
    sentence = "; ".join(f"{word}: {list_text(names, 4)}" for word, names in named if names)
    if sentence:
        return sentence[0].upper() + sentence[1:]
    return f"Between {share_words(float(shares.min()))} and {share_words(float(shares.max()))}, no dead bit"


def _correlation_panel(books: _Books) -> Panel:
    """A tile for each codebook."""
    pairs = [(name, *pair) for name, statistics in books for pair in statistics.strongest_pairs(1)]
    strongest = max(pairs, key=lambda pair: abs(pair[3]), default=None)
    takeaway = "No two bits that change"
    if strongest is not None:
        name, i, j, value = strongest
        where = "" if len(books) == 1 else f"codebook {name} "
        takeaway = f"Strongest: {where}bits {i} and {j}, {signed_text(value)}"

    def draw(axes: Axes) -> None:
        maps.draw_correlations(axes, [statistics.correlation for _, statistics in books], [name for name, _ in books])

    title = "Correlation between bits" if len(books) == 1 else "Correlation between bits, by codebook"
    return Panel("correlation", title, takeaway, draw, legend_rows=1, has_colour_bar=True)


def _joint_correlation_panel(tokens: TokenUsage) -> Panel | None:
    """All bits of a vector, where they were counted together."""
    statistics = None if tokens.joint is None else tokens.joint.bit_statistics
    if statistics is None or not statistics.count:
        return None
    dims = [usage.bits for usage in tokens.codebooks]
    places = bit_places(dims)
    takeaway = "No two bits that change"
    for i, j, value in statistics.strongest_pairs(1):
        takeaway = f"Strongest: {places[i]} and {places[j]}, {signed_text(value)}"

    def draw(axes: Axes) -> None:
        maps.draw_correlations(axes, [statistics.correlation], ["joint"], edges=[0, *np.cumsum(dims).tolist()])

    title = "Correlation between bits, all codebooks"
    return Panel("correlation", title, takeaway, draw, legend_rows=1, has_colour_bar=True)


def _position_panel(positions: Sequence[PositionStatistics], most: int) -> Panel:
    """most: bits of entropy that a position can have at most, however many indices there are."""
    axes_count = len(positions[0].axes)
    takeaway = _position_takeaway(positions)
    if axes_count == 1:
        named = len(positions) <= _MOST_NAMED
        colours = list(_COLOURS[: len(positions)]) if named else [canvas.BLUE] * len(positions)
        labels = [_legend_name(k) if named and len(positions) > 1 else None for k in range(len(positions))]
        rows = canvas.legend_rows(sum(label is not None for label in labels) + 2)

        def draw_lines(axes: Axes) -> None:
            maps.draw_position_lines(axes, positions, colours, labels, most=most)

        return Panel("position", "Entropy by position", takeaway, draw_lines, rows, many=True)

    def draw_maps(axes: Axes) -> None:
        maps.draw_position_maps(axes, positions)

    tiles = ", by index of the first axes" if axes_count > 2 else ", by codebook" if len(positions) > 1 else ""
    title = f"Entropy by position{tiles}"
    return Panel("position", title, takeaway, draw_maps, legend_rows=1, has_colour_bar=True)


def _position_takeaway(positions: Sequence[PositionStatistics]) -> str:
    if positions[0].count < 2:
        return "Too few indices at each to vary"
    places, count = count_text(positions[0].entropy_bits.size), count_text(positions[0].count)
    never = max(statistics.constant for statistics in positions)
    sentence = f"{'Up to ' if len(positions) > 1 else ''}{count_text(never)} of {places} never change"
    return f"{sentence if never else f'All {places} change'}; {count} indices at each"


def _values(axes: Axes, name: Literal["x", "y"]) -> Numbers:
    """All x or y of the lines."""
    return np.concatenate([np.asarray(line.get_data()[name == "y"], np.float64) for line in axes.get_lines()])


def _linear_axis(axes: Axes, name: Literal["x", "y"]) -> None:
    """From 0 to a little above the highest value, with a few ticks."""
    top = float(_values(axes, name).max())
    step = nice_step(top, 6)
    ticks = step * np.arange(int(top / step) + 1)
    labels = [short_text(tick) for tick in ticks]
    if name == "x":
        axes.set_xlim(-0.02 * top, 1.04 * top)
        axes.set_xticks(ticks, labels)
    else:
        axes.set_ylim(-0.02 * top, 1.06 * top)
        axes.set_yticks(ticks, labels)


def _log_axis(axes: Axes, name: Literal["x", "y"]) -> None:
    """A log scale from a whole decade on, over at least one, with ticks at decades."""
    values = _values(axes, name)
    bottom = float(np.floor(np.log10(values.min()) + 1e-6))
    top = max(float(np.log10(values.max())) + 0.08, bottom + 1)
    step = 1 if top - bottom < 7 else 2 if top - bottom < 14 else 4
    ticks = 10.0 ** np.arange(bottom, top + 0.01, step)
    below = 0.03 * (top - bottom)
    if name == "x":
        axes.set_xscale("log")
        axes.set_xlim(10 ** (bottom - below), 10**top)
        axes.set_xticks(ticks, [short_text(tick) for tick in ticks])
    else:
        axes.set_yscale("log")
        axes.set_ylim(10 ** (bottom - below), 10**top)
        axes.set_yticks(ticks, [short_text(tick) for tick in ticks])
    axes.minorticks_off()
