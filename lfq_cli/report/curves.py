"""The curves of a report that are computed, not counted: coverage by sample size, and what uniform use would show.

Works on numbers of codes and on counts of counts; draws nothing.
"""

from __future__ import annotations

from math import lgamma, log, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from lfq_cli.statistics.profile import Profile, curve_ranks, expected_used

Numbers = NDArray[np.float64]

COVERAGE_STEPS = 64
_MOST_COUNTS = 1 << 16  # distinct counts that coverage sums exactly: 64 steps take 0.3 s
_POISSON_MEAN = 1000.0  # above this mean the normal distribution is within a thousandth
_MOST_BITS = 1000  # 2.0**1024 is not a float; more bits make no difference


def sample_sizes(total: int, *, log: bool) -> Numbers:
    """At most COVERAGE_STEPS integers from 1 to `total`, evenly spaced or so by logarithm; empty if `total` is 0."""
    if total < 1:
        return np.empty(0)
    space = np.geomspace if log else np.linspace
    sizes: Numbers = np.unique(np.round(space(1.0, float(total), COVERAGE_STEPS)))
    return sizes


def coverage(profile: Profile, total: int, sizes: Numbers) -> Numbers:
    """The mean number of distinct codes in a sample of each size, drawn from the `total` indices without replacement.

    Rarefaction: the sum over codes of 1 - C(N - c, n) / C(N, n), where c is a code's count, N the total and n a size.
    At n = N this is the number of codes seen. For n much smaller than N it approaches the sum of 1 - (1 - c/N)^n for
    independent draws, which at n = N would miss a third of the codes seen once. Sources: Hurlbert 1971, The nonconcept
    of species diversity; Good 1953 for the sum.
    """
    counts, codes = _coarse(profile)
    return np.array([float(codes @ -np.expm1(_log_chance_of_none(counts, size, total))) for size in sizes])


def uniform_coverage(sizes: Numbers, bits: int) -> Numbers:
    """The mean number of distinct codes among uniform random indices of 2^bits codes, for each sample size."""
    return np.array([expected_used(int(size), bits) for size in sizes])


def uniform_rank_frequency_curve(total: int, bits: int) -> tuple[Numbers, Numbers]:
    """(ranks, counts) of the expected rank-frequency curve of `total` uniform random indices of 2^bits codes.

    By chance it falls, and the more so the fewer indices there are per code. The count at rank r is the one that r - ½
    of the 2^bits codes are expected to reach: a quantile of the Poisson distribution, or, for many indices per code, of
    the normal distribution.
    """
    codes = 2.0 ** min(bits, _MOST_BITS)
    used = round(expected_used(total, bits))
    if not used:
        return np.empty(0), np.empty(0)
    ranks = curve_ranks(used)
    mean = total / codes
    counts_at = _poisson_counts if mean <= _POISSON_MEAN else _normal_counts
    counts = counts_at(ranks, mean, codes)
    return ranks, np.where(counts < 1, 1.0, counts)


def _coarse(profile: Profile) -> tuple[Numbers, Numbers]:
    """(counts, codes) of a profile; if there are very many distinct counts, neighbouring large ones are merged."""
    counts, codes = profile.counts.astype(np.float64), profile.codes
    if len(counts) <= _MOST_COUNTS:
        return counts, codes
    edges = np.geomspace(counts[0] + 1, counts[-1], _MOST_COUNTS)
    places = np.searchsorted(-edges, -counts, side="right")
    together: Numbers = np.bincount(places, codes).astype(np.float64)
    sums: Numbers = np.bincount(places, counts * codes).astype(np.float64)
    there = together > 0
    return sums[there] / together[there], together[there]


def _log_chance_of_none(counts: Numbers, size: float, total: int) -> Numbers:
    """log(C(N - c, n) / C(N, n)), for counts c [codes], n = size and N = total: that a code is not among n indices.

    Uses Stirling's formula for log Γ of N - c + 1, N - n + 1, N + 1 and N - c - n + 1. The first two of these add up to
    as much as the last two, so the large terms cancel algebraically, and no digits are lost even with 10^12 indices.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        few, many = np.minimum(counts, size), np.maximum(counts, size)  # the formula is symmetric
        whole = float(total) + 1
        without = whole - many
        both = without - few
        found = (
            (whole - few - 0.5) * np.log1p(-few / whole)
            + few * np.log1p(-many / whole)
            - (both - 0.5) * np.log1p(-few / without)
            + _stirling_rest(whole - few)
            + _stirling_rest(without)
            - _stirling_rest(np.array([whole]))
            - _stirling_rest(both)
        )
    return np.where(counts + size > total, -np.inf, np.minimum(found, 0))


_SMALL = np.array([lgamma(k) - (k - 0.5) * log(k) + k - 0.5 * log(2 * np.pi) for k in range(1, 16)])


def _stirling_rest(values: Numbers) -> Numbers:
    """log Γ(x) - ((x - 1/2) log x - x + log(2π)/2) for integers x >= 1; meaningless for smaller values."""
    large = np.maximum(values, len(_SMALL))
    series = 1 / (12 * large) - 1 / (360 * large**3) + 1 / (1260 * large**5)
    small = _SMALL[np.clip(values, 1, len(_SMALL)).astype(np.int64) - 1]
    rest: Numbers = np.where(values < len(_SMALL), small, series)
    return rest


def _poisson_counts(ranks: Numbers, mean: float, codes: float) -> Numbers:
    values = np.arange(int(mean + 12 * sqrt(mean)) + 60)
    logs = np.array([-mean + value * log(mean) - lgamma(value + 1) for value in values])
    at_least = np.cumsum(np.exp(logs)[::-1])[::-1]  # P(count >= value), summed from the smallest: accurate in the tail
    return np.searchsorted(-codes * at_least, -(ranks - 0.5), side="right").astype(np.float64) - 1


def _normal_counts(ranks: Numbers, mean: float, codes: float) -> Numbers:
    spread = sqrt(mean * (1 - 1 / codes))
    normal = NormalDist()
    return np.array([mean - spread * normal.inv_cdf((rank - 0.5) / codes) for rank in ranks.tolist()])
