"""How often codes occur, but not which: counts of counts, and every statistic that needs nothing else.

Formulas with sources are in docs/statistics.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import expm1, log, log1p

import numpy as np
from numpy.typing import NDArray

from lfq_cli import kernels
from lfq_cli.statistics.tables import Table

STEPS_PER_OCTAVE = 4
_FEW_COUNTS = 1 << 20
_NEVER_TWICE_BITS = 200  # no sample is so large that a random code of this many bits occurs twice


@dataclass(frozen=True)
class Profile:
    """`codes[i]` codes occurred `counts[i]` times each; counts are distinct, positive and in descending order.

    `codes` are integers for exact counts, and estimates for a sample of codes.
    """

    counts: NDArray[np.int64]
    codes: NDArray[np.float64]

    @property
    def total(self) -> int:
        """The number of indices counted."""
        return round(float(self.counts @ self.codes))

    def used(self, at_least: int = 1) -> float:
        """The number of codes that occurred at least this often."""
        return float(self.codes[self.counts >= at_least].sum())

    def entropy_bits(self, total: int) -> float:
        """-Σ p log2 p over the codes' shares p = count / total.

        For a sample of codes: log2 N - Σ n log2 n / N, which uses the known total.
        """
        if not total:
            return 0.0
        if self.total != total:
            return max(0.0, float(np.log2(total) - self.codes @ (self.counts * np.log2(self.counts)) / total))
        shares = self.counts / total
        return max(0.0, -float((self.codes * shares) @ np.log2(shares)))

    def singletons(self) -> float:
        """The number of codes that occurred once."""
        return float(self.codes[self.counts == 1].sum())

    def rank_frequency_curve(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """(ranks, counts): rank 1 is the most used code; four ranks per octave, and the last."""
        used = int(self.used())
        if not used:
            return np.empty(0), np.empty(0, np.int64)
        ranks = curve_ranks(used)
        places = np.searchsorted(np.cumsum(self.codes), ranks - 0.5)
        return ranks, self.counts[np.minimum(places, len(self.counts) - 1)]

    def rank_frequency_slope(self) -> float | None:
        """The slope of log count against log rank by least squares, over `rank_frequency_curve`; None below 3 codes."""
        ranks, counts = self.rank_frequency_curve()
        if self.used() < 3:
            return None
        x, y = np.log(ranks), np.log(counts)
        x -= x.mean()
        return float(x @ (y - y.mean()) / (x @ x))


def curve_ranks(used: int) -> NDArray[np.float64]:
    """Ranks 1 to `used`, at least 1, of the rank-frequency curve: four per octave, and the last."""
    steps = int(np.log2(used) * STEPS_PER_OCTAVE) + 1
    return np.unique(np.append(np.round(2.0 ** (np.arange(steps) / STEPS_PER_OCTAVE)), used))


def profile_of(counts: Table, weights: NDArray[np.float64] | None = None) -> Profile:
    """The profile of counts [codes], each of which stands for `weights` codes. Zeros are left out."""
    if weights is None and counts.size and counts.max() <= max(counts.size, _FEW_COUNTS):
        codes = _codes_by_count(counts)  # for a large table, a tenth of the time of sorting
        values = np.flatnonzero(codes)
        codes = codes[values]
    elif weights is None:
        values, codes = np.unique(counts, return_counts=True)
    else:
        values, places = np.unique(counts, return_inverse=True)
        codes = np.bincount(places, weights, minlength=len(values))
    seen = values > 0
    return Profile(values[seen][::-1].astype(np.int64), codes[seen][::-1].astype(np.float64))


def _codes_by_count(counts: Table) -> NDArray[np.int64]:
    """How many of the counts are 0, 1, and so on."""
    if not kernels.counts_fields(8):
        return np.bincount(counts)
    lowest = np.zeros(256, np.int64)  # counting the lowest bytes takes a sixth of the time
    octets = np.ascontiguousarray(counts).view(np.uint8)  # kernels are for little-endian machines
    kernels.count(octets, 0, 8 * counts.itemsize, 8, "msb", counts.size, lowest)
    larger = counts[counts > 255]
    found = np.bincount(larger, minlength=256)
    found[:256] += lowest - np.bincount(larger & 255, minlength=256)
    return found


def expected_used(total: int, bits: int) -> float:
    """Codes of 2^bits that `total` uniform random indices would use: K (1 - (1 - 1/K)^N)."""
    if bits > _NEVER_TWICE_BITS:
        return float(total)
    codes = 2.0**bits
    return -codes * expm1(total * log1p(-1 / codes))


def miller_madow_bits(total: int, used: float) -> float:
    """The expected bias of the entropy of `total` samples, to first order: (used - 1) / (2 N ln 2)."""
    return max(0.0, used - 1) / (2 * total * log(2)) if total else 0.0
