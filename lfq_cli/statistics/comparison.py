"""Two sets of codes of the same quantizer side by side, as records. Formulas: docs/statistics.md."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np

from lfq_cli.statistics.counter import Counter
from lfq_cli.statistics.registry import STATISTICS
from lfq_cli.statistics.tables import Codes, Counts
from lfq_cli.statistics.tokens import TokenCounts
from lfq_cli.statistics.usage import TokenUsage, Usage


@dataclass(frozen=True)
class UsageComparison:
    """One codebook, or the joint token, in A and in B."""

    a: Usage
    b: Usage
    divergence_bits: float | None
    """The Jensen-Shannon divergence: 0 (equal shares) to 1 (no code in common); None if not every code was counted."""
    only_a: int | None
    """Codes that A uses and B does not; None as above."""
    only_b: int | None
    share_only_a: float | None
    """Share of A's indices whose codes B does not use."""
    share_only_b: float | None

    @property
    def divergence_bits_if_same(self) -> float | None:
        """The expected divergence of two samples of these sizes from one distribution, to first order, at most 1.

        It is (U - 1) (1/N_a + 1/N_b) / (8 ln 2), where U codes are used by either.
        """
        if self.only_a is None:
            return None
        either = self.only_a + self.b.codes_used
        return min(1.0, (either - 1) * (1 / self.a.count + 1 / self.b.count) / (8 * log(2)))

    def changes(self) -> dict[str, tuple[float | None, float | None, float | None]]:
        """By statistic: A's, B's, and B's minus A's; None where undefined."""
        found = {}
        for row in STATISTICS:
            x, y = row.of(self.a), row.of(self.b)
            found[row.key] = (x, y, None if x is None or y is None else y - x)
        return found

    def as_json(self) -> dict[str, Any]:
        """The JSON object of `lfq stats A --compare B`."""
        return {
            "bits": self.a.bits,
            "figures": {name: {"a": x, "b": y, "change": change} for name, (x, y, change) in self.changes().items()},
            "ones_change": [y - x for x, y in zip(self.a.ones, self.b.ones, strict=False)],
            "divergence_bits": self.divergence_bits,
            "divergence_bits_if_same": self.divergence_bits_if_same,
            "codes_only_a": self.only_a,
            "codes_only_b": self.only_b,
            "share_only_a": self.share_only_a,
            "share_only_b": self.share_only_b,
        }


@dataclass(frozen=True)
class TokenComparison:
    """All codebooks, and the joint token if there are several."""

    codebooks: tuple[UsageComparison, ...]
    joint: UsageComparison | None

    def as_json(self) -> dict[str, Any]:
        """The JSON objects by codebook, and of the joint token."""
        return {
            "codebooks": [comparison.as_json() for comparison in self.codebooks],
            "joint": None if self.joint is None else self.joint.as_json(),
        }


def compare(a: TokenCounts, b: TokenCounts, ours: TokenUsage, theirs: TokenUsage) -> TokenComparison:
    """Two counts of the same codebooks, whose statistics are `ours` and `theirs`."""
    pairs = zip(a.codebooks, b.codebooks, ours.codebooks, theirs.codebooks, strict=True)
    joint = None
    if a.joint is not None and b.joint is not None and ours.joint is not None and theirs.joint is not None:
        joint = _compare(a.joint, b.joint, ours.joint, theirs.joint)
    return TokenComparison(tuple(_compare(*pair) for pair in pairs), joint)


def _compare(a: Counter, b: Counter, usage_a: Usage, usage_b: Usage) -> UsageComparison:
    ours, theirs = a.exact_pairs(), b.exact_pairs()
    if ours is None or theirs is None or not usage_a.count or not usage_b.count:
        return UsageComparison(usage_a, usage_b, None, None, None, None, None)
    here, there = _aligned(ours, theirs)
    only_a, only_b = there == 0, here == 0
    return UsageComparison(
        usage_a,
        usage_b,
        divergence_bits=_jensen_shannon_bits(here, there),
        only_a=int(only_a.sum()),
        only_b=int(only_b.sum()),
        share_only_a=float(here[only_a].sum() / here.sum()),
        share_only_b=float(there[only_b].sum() / there.sum()),
    )


def _aligned(a: tuple[Codes, Counts], b: tuple[Codes, Counts]) -> tuple[Counts, Counts]:
    """Counts of the codes that either uses, in the same order."""
    codes = np.union1d(a[0].astype(np.uint64, copy=False), b[0].astype(np.uint64, copy=False))
    found = []
    for used, counts in (a, b):
        aligned = np.zeros(codes.size, np.int64)
        aligned[np.searchsorted(codes, used.astype(np.uint64, copy=False))] = counts
        found.append(aligned)
    return found[0], found[1]


def _jensen_shannon_bits(a: Counts, b: Counts) -> float:
    """The entropy of the mean distribution minus the mean entropy, 0 to 1. Source: Lin 1991."""
    p, q = a / a.sum(), b / b.sum()
    middle = (p + q) / 2
    divergence = sum(float((x[x > 0] * np.log2(x[x > 0] / middle[x > 0])).sum()) for x in (p, q)) / 2
    return min(1.0, max(0.0, divergence))
