"""Redundant bits, which are equal or opposite to others, and codebooks of such bits."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from lfq_cli.statistics.usage import BitStatistics, TokenUsage, Usage

SAME_BITS, STRONG_CORRELATION = 0.9, 0.7
"""|phi| of two bits: at 0.9 they have 0.7 bits in common; at 0.7 one explains half of the other's variance. Around 0.3
is usual."""
CHANCE_DEVIATIONS = 6
"""|phi| of independent bits is about 1 / sqrt(N); among the ten thousand pairs of a joint token none reaches 6 times
that."""


def bits_of_codebooks(usage: TokenUsage) -> list[range]:
    """Which bits of the whole token each codebook has."""
    ends = np.cumsum([codebook.bits for codebook in usage.codebooks]).tolist()
    return [range(end - codebook.bits, end) for end, codebook in zip(ends, usage.codebooks, strict=True)]


def same_bits(usage: TokenUsage, leave_out: Collection[int] = ()) -> list[list[int]]:
    """Groups of bits of the whole token that are equal or opposite; without some codebooks' bits."""
    groups = []
    for first, correlation in _correlations(usage, leave_out):
        groups += [[first + bit for bit in group] for group in _connected(abs(correlation) >= SAME_BITS)]
    return groups


def strong_pairs(usage: TokenUsage, leave_out: Collection[int] = ()) -> list[tuple[int, int, float]]:
    """(bit, bit, correlation) of pairs that are strongly correlated but not equal or opposite, strongest first."""
    pairs = []
    for first, correlation in _correlations(usage, leave_out):
        strong = np.triu((abs(correlation) >= STRONG_CORRELATION) & (abs(correlation) < SAME_BITS), 1)
        pairs += [(first + int(i), first + int(j), float(correlation[i, j])) for i, j in np.argwhere(strong)]
    return sorted(pairs, key=lambda pair: -abs(pair[2]))


def copied_codebooks(usage: TokenUsage, leave_out: Collection[int] = ()) -> list[tuple[int, int]]:
    """(codebook, its copy): every bit of one equals the same bit of the other, or is its opposite."""
    if len(usage.codebooks) == 1:
        return []
    group_of = {bit: number for number, group in enumerate(same_bits(usage, leave_out)) for bit in group}
    places = [[group_of.get(bit) for bit in bits] for bits in bits_of_codebooks(usage)]
    copied: list[tuple[int, int]] = []
    for copy, groups in enumerate(places):
        earlier = [k for k in range(copy) if places[k] == groups]
        if earlier and None not in groups:
            copied.append((earlier[0], copy))
    return copied


def free_bits(usage: Usage) -> int:
    """Bits of a codebook that change and are not equal or opposite to another."""
    if usage.bit_statistics is None:
        return usage.bits
    dead = int((usage.bit_statistics.entropies == 0).sum())
    groups = _connected(abs(_beyond_chance(usage.bit_statistics)) >= SAME_BITS)
    return usage.bits - dead - sum(len(group) - 1 for group in groups)


def _correlations(usage: TokenUsage, leave_out: Collection[int]) -> list[tuple[int, NDArray[np.float64]]]:
    """(first bit, correlations [bits, bits]) of the whole token if its bits were counted, else of every codebook."""
    everyone = bits_of_codebooks(usage)
    found = []
    for first, statistics in _bit_statistics(usage):
        correlation = _beyond_chance(statistics)
        own = range(first, first + len(correlation))
        inside = [bit - first for k in leave_out for bit in everyone[k] if bit in own]
        correlation[inside, :] = correlation[:, inside] = 0
        found.append((first, correlation))
    return found


def _bit_statistics(usage: TokenUsage) -> list[tuple[int, BitStatistics]]:
    if usage.token is not None and usage.token.bit_statistics is not None:
        return [(0, usage.token.bit_statistics)]
    found = zip(bits_of_codebooks(usage), (codebook.bit_statistics for codebook in usage.codebooks), strict=True)
    return [(bits.start, each) for bits, each in found if each is not None]


def _beyond_chance(statistics: BitStatistics) -> NDArray[np.float64]:
    """Correlations [bits, bits] without the diagonal; 0 where they are undefined or explained by chance."""
    found = np.nan_to_num(statistics.correlation)
    np.fill_diagonal(found, 0)
    found[abs(found) * np.sqrt(max(statistics.count, 1)) < CHANCE_DEVIATIONS] = 0
    return found


def _connected(linked: NDArray[np.bool_]) -> list[list[int]]:
    """Groups of two or more that links [n, n] connect, each in ascending order."""
    groups: list[list[int]] = []
    left = set(np.flatnonzero(linked.any(1)).tolist())
    while left:
        pending, group = [min(left)], set()
        while pending:
            here = pending.pop()
            group.add(here)
            pending += set(np.flatnonzero(linked[here]).tolist()) - group
        left -= group
        groups.append(sorted(group))
    return groups
