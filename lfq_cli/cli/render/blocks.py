"""Pictures of one or a few lines from block characters; shares in, text of a fixed width out.

Every character used here has an ASCII replacement in cli/messages.py, for terminals that cannot show it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_HEIGHTS = " ▁▂▃▄▅▆▇█"
_SHADES = "░▒▓█"


def bar(share: float, width: int) -> str:
    """[width]: filled from the left; any share above 0 is visible."""
    eighths = max(round(share * width * 8), int(share > 0))
    full, rest = divmod(min(eighths, width * 8), 8)
    return ("█" * full + _EIGHTHS[rest].strip()).ljust(width)


def leaning(share: float, half: int) -> str:
    """[2 half + 1]: filled from the middle, which is one half, to the left (less) or the right (more)."""
    steps = round(abs(share - 0.5) * 4 * half)  # half a cell each: no eighths exist that fill from the right
    full, rest = divmod(min(steps, 2 * half), 2)
    if share < 0.5:
        return ("▐" * rest + "█" * full).rjust(half) + "│" + " " * half
    return " " * half + "│" + ("█" * full + "▌" * rest).ljust(half)


def heights(shares: Sequence[float]) -> str:
    """[len(shares)]: one column each, at least an eighth high."""
    return "".join(_HEIGHTS[min(8, max(1, round(share * 8)))] for share in shares)


def chart(shares: Sequence[float], rows: int) -> list[str]:
    """[rows] lines of [len(shares)]: columns, the first line on top."""
    tall = [max(1, round(share * rows * 8)) for share in shares]
    return ["".join(_HEIGHTS[min(8, max(0, t - 8 * row))] for t in tall) for row in reversed(range(rows))]


SHADES = (0.5, 0.75, 0.9)
"""Where one shade ends and the next begins: a healthy map, whose shares are all near 1, is calm."""


def shade(share: float) -> str:
    """One character, darker for more."""
    return _SHADES[sum(share >= end for end in SHADES)]


def along_logs(x: NDArray[np.float64], y: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """log y [width] at points spread evenly over log x; x rises from 1."""
    at = np.linspace(0, np.log(x[-1]), width)
    found: NDArray[np.float64] = np.interp(at, np.log(x), np.log(y))
    return found
