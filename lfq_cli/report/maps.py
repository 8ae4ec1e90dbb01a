"""Heat maps: correlations of bits, and entropy over positions; with a single axis of positions, lines.

Colours are translucent: zeros and the space between tiles let the background through, whether it is white or black.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import ceil, floor, log10
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from lfq_cli.report import canvas
from lfq_cli.report.text import number_text
from lfq_cli.statistics.usage import PositionStatistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = NDArray[np.float64]
Image = NDArray[np.float64]
"""[height, width, 4]: red, green, blue and opacity, 0 to 1."""

_MOST_LABELLED_TILES = 64
_LABEL_INCHES = 0.16
_MOST_PIXELS = 1024
_MOST_POINTS = 1500
_MOST_TICKS = 16


_LEAST_LIMIT = 0.1


def draw_correlations(
    axes: Axes, matrices: Sequence[Numbers], labels: Sequence[str], edges: Sequence[int] = ()
) -> None:
    """Correlations [bits, bits] of each codebook as a tile: blue below 0, vermilion above, grey where undefined.

    The diagonal, always 1, is left out. The colour scale ends at the strongest pair, but not below 0.1, so weak
    correlations do not look strong. edges [codebooks + 1]: where each codebook begins in a single matrix, and its end.
    """
    apart = [np.where(np.eye(len(matrix), dtype=bool) & ~np.isnan(matrix), 0, matrix) for matrix in matrices]
    strongest = max((float(np.nanmax(np.abs(matrix), initial=0)) for matrix in apart), default=0)
    limit = max(strongest, _LEAST_LIMIT)
    _draw_tiles(axes, [_signed_colours(matrix, limit) for matrix in apart], labels, "codebook")
    if edges:
        _mark_codebooks(axes, edges)
    _colour_bar(axes, _signed_colours(np.linspace(-limit, limit, 129), limit), (-limit, 0, limit))
    if any(np.isnan(matrix).any() for matrix in apart):
        axes.plot([], [], "s", color=canvas.NOT_DEFINED, label="a bit never changes")
        canvas.draw_legend(axes)


def _mark_codebooks(axes: Axes, edges: Sequence[int]) -> None:
    """Draws lines between codebooks, and labels the axes with codebooks instead of bits."""
    for edge in edges[1:-1]:
        axes.axvline(edge - 0.5, color=canvas.MUTED, linewidth=0.7)
        axes.axhline(edge - 0.5, color=canvas.MUTED, linewidth=0.7)
    ticks, names = codebook_ticks(edges, [str(k) for k in range(len(edges) - 1)])
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names)
    axes.set_xlabel("bits of codebook")


def draw_position_maps(axes: Axes, positions: Sequence[PositionStatistics]) -> None:
    """Entropy over the last two axes, one tile per codebook; positions that never change are vermilion.

    With more than two axes: the mean over codebooks, one tile per index of the axes before the last two.
    """
    height, width = positions[0].axes[-2:]
    entropies = [statistics.entropy_bits for statistics in positions]
    constant = [_constant(statistics) for statistics in positions]
    name = "codebook"
    if len(positions[0].axes) > 2:
        entropies = list(np.mean(entropies, axis=0).reshape(-1, height, width))
        constant = list(np.all(constant, axis=0).reshape(-1, height, width))
        name = "index"
    top = float(np.max(entropies)) or 1.0
    tiles = [_ramp(_fewer(values) / top) for values in entropies]
    for tile, never in zip(tiles, constant, strict=True):
        tile[_fewer(never.astype(np.float64)) == 1] = _rgba(canvas.VERMILION)
    _draw_tiles(axes, tiles, [str(k) for k in range(len(tiles))], name, sizes=(height, width))
    _colour_bar(axes, _ramp(np.linspace(0, 1, 129)), (0, top / 2, top), " bits")
    if any(never.any() for never in constant):
        axes.plot([], [], "s", color=canvas.VERMILION, label="never changes")
        canvas.draw_legend(axes)


def draw_position_lines(
    axes: Axes,
    positions: Sequence[PositionStatistics],
    colours: Sequence[str],
    labels: Sequence[str | None],
    *,
    most: int,
) -> None:
    """Entropy along one axis, a line for each codebook; marks at 0 for positions that never change."""
    for statistics, colour, label in zip(positions, colours, labels, strict=True):
        places, values = _thinned(statistics.entropy_bits)
        style = "o" if len(places) == 1 else "-"
        faint = 1 if label or len(positions) == 1 else 0.4
        axes.plot(places, values, style, color=colour, linewidth=1.3, alpha=faint, label=label)
    never = np.flatnonzero(np.all([_constant(statistics) for statistics in positions], axis=0))
    if len(never):
        axes.plot(never, np.zeros(len(never)), "|", color=canvas.VERMILION, ms=9, label="never changes")
    reach = min(float(most), float(np.log2(max(positions[0].count, 1))))
    if reach > 0:
        axes.axhline(reach, color=canvas.MUTED, linewidth=1.0, dashes=(3, 2.2), label="most possible", zorder=1.5)
    top = max(reach, 0.1, *(float(statistics.entropy_bits.max()) for statistics in positions))
    axes.set(xlabel="position", ylabel="entropy (bits)", ylim=(-0.04 * top, 1.1 * top))
    size = positions[0].entropy_bits.size
    axes.set_xlim(-0.5 - 0.01 * size, size - 0.5 + 0.01 * size)
    canvas.draw_legend(axes)


def nice_step(span: float, most: int) -> float:
    """The smallest step of 1, 2 or 5 times a power of ten that divides `span` into at most `most` parts."""
    power = 10.0 ** floor(log10(span / most))
    return next(power * digit for digit in (1.0, 2.0, 5.0, 10.0) if span <= 1.000001 * power * digit * most)


def codebook_ticks(edges: Sequence[int], names: Sequence[str]) -> tuple[list[float], list[str]]:
    """(centres, names) of the codebooks between edges [codebooks + 1]; if they are many, of every second, third, ..."""
    middles = [(low + high - 1) / 2 for low, high in pairwise(edges)]
    step = -(-len(middles) // _MOST_TICKS)
    return middles[::step], list(names[::step])


def whole_ticks(count: int, most: int) -> list[int]:
    """About `most` evenly spaced integers from 0 to below `count`."""
    return list(range(0, count, max(1, round(nice_step(count, most)))))


def _constant(statistics: PositionStatistics) -> NDArray[np.bool_]:
    never: NDArray[np.bool_] = (statistics.codes_used == 1) & (statistics.count > 1)
    return never


def _thinned(values: Numbers) -> tuple[Numbers, Numbers]:
    """(positions, values); of very many values, the minimum and maximum of each stretch, so no outlier is lost."""
    flat = values.ravel()
    if flat.size <= _MOST_POINTS:
        return np.arange(flat.size, dtype=np.float64), flat
    edges = np.linspace(0, flat.size, _MOST_POINTS // 2 + 1).astype(np.int64)[:-1]
    places = np.repeat(edges, 2).astype(np.float64)
    return places, np.stack([np.minimum.reduceat(flat, edges), np.maximum.reduceat(flat, edges)], axis=1).ravel()


def _fewer(values: Numbers) -> Numbers:
    """An image of at most _MOST_PIXELS in each direction: the minimum over groups of rows and columns."""
    for axis in (0, 1):
        step = -(-values.shape[axis] // _MOST_PIXELS)
        if step > 1:
            values = np.minimum.reduceat(values, np.arange(0, values.shape[axis], step), axis=axis)
    return values


def _draw_tiles(
    axes: Axes, tiles: Sequence[Image], labels: Sequence[str], name: str, sizes: tuple[int, int] | None = None
) -> None:
    """Draws tiles in rows, with labels unless there are too many; a single tile has ticks instead.

    sizes: (height, width) that the ticks of a single tile count, if it has fewer pixels than that.
    """
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_anchor("NW")
    if len(tiles) == 1:
        height, width = sizes or tiles[0].shape[:2]
        axes.spines[:].set(visible=True, color=canvas.RULE)
        _show(axes, tiles[0], (-0.5, width - 0.5, height - 0.5, -0.5))
        axes.set_xticks(whole_ticks(width, 9))
        axes.set_yticks(whole_ticks(height, 9))
        return
    image, corners = _mosaic(tiles, _inches(axes))
    _show(axes, image, None)
    axes.set_xticks([])
    axes.set_yticks([])
    if len(tiles) <= _MOST_LABELLED_TILES:
        for (top, left), label in zip(corners, labels, strict=True):
            text = f"{name} {label}" if len(tiles) <= 4 else label
            size = 8 if len(tiles) <= 16 else 6
            axes.text(left - 0.5, top - 0.6, text, fontsize=size, va="bottom", ha="left", color=canvas.MUTED)


def _show(axes: Axes, image: Image, extent: tuple[float, float, float, float] | None) -> None:
    aspect: Literal["equal", "auto"] = "equal" if 1 / 8 < image.shape[0] / image.shape[1] < 8 else "auto"
    axes.imshow(image, interpolation="nearest", extent=extent, aspect=aspect)


def _inches(axes: Axes) -> tuple[float, float]:
    """Width and height of the axes in inches."""
    box, dots_per_inch = axes.get_window_extent(), axes.figure.dpi
    return float(box.width / dots_per_inch), float(box.height / dots_per_inch)


def _mosaic(tiles: Sequence[Image], room: tuple[float, float]) -> tuple[Image, list[tuple[int, int]]]:
    """(tiles in rows with clear gaps, (top, left) of each), as large as `room` (width, height in inches) allows."""
    height: int = max(tile.shape[0] for tile in tiles)
    width: int = max(tile.shape[1] for tile in tiles)

    def pixels_per_inch(columns: int) -> float:
        rows = ceil(len(tiles) / columns)
        return max(1.07 * columns * width / room[0], rows * height / max(room[1] - rows * _LABEL_INCHES, 0.1))

    columns = min(range(1, len(tiles) + 1), key=pixels_per_inch)
    gap = max(1, ceil(0.06 * width))
    above = ceil(_LABEL_INCHES * pixels_per_inch(columns))
    rows = ceil(len(tiles) / columns)
    image = np.zeros((rows * (height + above), columns * (width + gap) - gap, 4))
    corners = []
    for k, tile in enumerate(tiles):
        row, column = divmod(k, columns)
        top, left = row * (height + above) + above, column * (width + gap)
        image[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        corners.append((top, left))
    return image, corners


def _colour_bar(axes: Axes, colours: Image, ticks: Sequence[float], unit: str = "") -> None:
    """A colour bar to the right of the picture; `colours` [129, 4] run from the lowest tick to the highest."""
    bar = axes.inset_axes((1.04, 0.0, 0.045, 1.0))
    bar.grid(visible=False)
    bar.spines[:].set_visible(False)
    low, high = ticks[0], ticks[-1]
    bar.imshow(colours[::-1, np.newaxis], extent=(0, 1, low, high), aspect="auto", interpolation="nearest")
    bar.set_xticks([])
    bar.yaxis.tick_right()
    bar.set_yticks(list(ticks), [f"{number_text(tick, 2)}{unit if tick == high else ''}" for tick in ticks])
    bar.tick_params(length=0)


def _signed_colours(values: Numbers, limit: float) -> Image:
    """Values from -limit to limit -> colours that are transparent at 0 and grey for NaN."""
    image = np.empty((*values.shape, 4))
    image[...] = _rgba(canvas.BLUE)
    image[values > 0] = _rgba(canvas.VERMILION)
    image[..., 3] = np.clip(np.abs(values) / limit, 0, 1)
    image[np.isnan(values)] = _rgba(canvas.NOT_DEFINED)
    return image


def _ramp(values: Numbers) -> Image:
    """Values from 0 to 1 -> colours of increasing lightness."""
    from matplotlib import colormaps

    return np.asarray(colormaps["viridis"](values), np.float64)


def _rgba(colour: str) -> tuple[float, float, float, float]:
    from matplotlib.colors import to_rgba

    return to_rgba(colour)
