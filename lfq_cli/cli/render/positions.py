"""Statistics by position: a map of the sequence or image, and the constant positions."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from lfq_cli.cli.messages import shape
from lfq_cli.cli.render.blocks import SHADES, heights, shade
from lfq_cli.cli.render.console import wrapped
from lfq_cli.cli.render.grid import PICTURE, WIDTH, flow
from lfq_cli.cli.render.numbers import digits
from lfq_cli.statistics.advice import constant_positions, position_name
from lfq_cli.statistics.usage import PositionStatistics
from lfq_cli.wording import counted

_MARGIN = "  "
_LINE, _MOST_LINES = 64, 4
"""Letters of a sequence on a line."""
_MOST_ROWS, _MOST_COLUMNS = 16, 36
"""Of a map, whose cells are two letters wide."""
_CONSTANT = "·"
_MOST_NAMED = 50


def position_lines(positions: Sequence[PositionStatistics], *, verbose: bool) -> list[Text]:
    """A map of the entropy at each position, averaged over codebooks and, if verbose, of each; and constant
    positions.
    """
    if not positions or not positions[0].entropy_bits.size:
        return []
    lines = _map_lines(f", mean of {len(positions)} codebooks" if len(positions) > 1 else "", positions)
    if verbose and len(positions) > 1:
        for k, statistics in enumerate(positions):
            lines += [Text(), *_map_lines(f", codebook {k}", [statistics])]
    return [*lines, *_constant_lines(positions)]


def _map_lines(whose: str, positions: Sequence[PositionStatistics]) -> list[Text]:
    axes, count = positions[0].axes, positions[0].count
    places = f"{shape(axes)} {'position' if prod(axes) == 1 else 'positions'}"
    title = f"entropy by position{whose}: {places}, {counted(count, 'index')} each"
    entropy = np.mean([statistics.entropy_bits for statistics in positions], 0)
    constant = np.all([constant_positions(statistics) for statistics in positions], 0)
    plane, still, blur = _as_plane(entropy, constant)
    top = max(float(plane.max()), np.finfo(float).tiny)
    is_line = plane.shape[0] == 1
    drawn = _line(plane[0], still[0], top) if is_line else _map(plane, still, top)
    key = f"█ {digits(top)} bits" if is_line else _shade_key(top)
    key += f"   {_CONSTANT} never changes" if still.any() else ""
    return [*wrapped(title, WIDTH, style="bold"), *drawn, Text(_MARGIN + key), *(Text(_MARGIN + text) for text in blur)]


def _line(entropy: NDArray[np.float64], still: NDArray[np.bool_], top: float) -> list[Text]:
    letters = "".join(_CONSTANT if s else heights([value / top]) for value, s in zip(entropy, still, strict=True))
    return [Text(_MARGIN).append(letters[k : k + _LINE], PICTURE) for k in range(0, len(letters), _LINE)]


def _map(entropy: NDArray[np.float64], still: NDArray[np.bool_], top: float) -> list[Text]:
    lines = []
    for row, marks in zip(entropy, still, strict=True):
        letters = [2 * (_CONSTANT if s else shade(value / top)) for value, s in zip(row, marks, strict=True)]
        lines.append(Text(_MARGIN).append("".join(letters), PICTURE))
    return lines


def _shade_key(top: float) -> str:
    ends = [*(f"< {digits(top * end)}" for end in SHADES), f"to {digits(top)} bits"]
    return "   ".join(f"{shade(end)} {label}" for end, label in zip((0, *SHADES), ends, strict=True))


def _as_plane(
    entropy: NDArray[np.float64], constant: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], list[str]]:
    """(mean entropy, whether all are constant) by row and column, reduced to fit; and notes on how they were
    reduced.
    """
    notes = []
    rows, columns = entropy.shape[-2:] if entropy.ndim > 1 else (1, entropy.size)
    if entropy.ndim > 2:
        notes.append(f"mean over all but the last 2 of {entropy.ndim} axes")
    entropy = entropy.reshape(-1, rows, columns).mean(0)
    constant = np.all(constant.reshape(-1, rows, columns), 0)
    is_line = rows == 1
    step = (
        -(-columns // (_LINE * _MOST_LINES)) if is_line else max(-(-rows // _MOST_ROWS), -(-columns // _MOST_COLUMNS))
    )
    if step == 1:
        return entropy, constant, notes
    notes.append(f"each letter the mean of {step} positions" if is_line else f"each cell the mean of {step}×{step}")
    tall = 1 if is_line else step
    return _means(entropy, tall, step), _means(constant.astype(float), tall, step) == 1, notes


def _means(values: NDArray[np.float64], tall: int, wide: int) -> NDArray[np.float64]:
    """Means of blocks; those at the end may be smaller."""
    rows, columns = values.shape
    padded = np.full((-(-rows // tall) * tall, -(-columns // wide) * wide), np.nan)
    padded[:rows, :columns] = values
    blocks = padded.reshape(padded.shape[0] // tall, tall, padded.shape[1] // wide, wide)
    found: NDArray[np.float64] = np.nanmean(blocks, (1, 3))
    return found


def _constant_lines(positions: Sequence[PositionStatistics]) -> list[Text]:
    """The number of constant positions, and the first of them; for single codebooks, how many more."""
    each = [constant_positions(statistics) for statistics in positions]
    whole = np.all(each, 0)
    lines = _named_positions("positions that never change", whole)
    if len(positions) > 1:
        more = [f"{k} ({int(c.sum()):,})" for k, c in enumerate(each) if c.sum() > whole.sum()]
        title = "more of them in codebook"
        lines += [Text(f"{title}: {flow(more, WIDTH - len(title) - 2)}")] if more else []
    return lines


def _named_positions(title: str, constant: NDArray[np.bool_]) -> list[Text]:
    if not constant.any():
        return []
    start = f"{title}: {int(constant.sum()):,} of {constant.size:,}  "
    names = [position_name(index) for index in np.argwhere(constant)[:_MOST_NAMED]]
    return [Text(start + flow(names, WIDTH - len(start), gap=1))]
