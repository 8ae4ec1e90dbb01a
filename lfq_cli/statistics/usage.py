"""The statistics of one set of codes, as a record. Definitions, formulas and sources: docs/statistics.md."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ldexp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfq_cli.statistics import registry
from lfq_cli.statistics.profile import Profile, expected_used, miller_madow_bits

MOST_SHOWN = 10


@dataclass(frozen=True)
class BitStatistics:
    """Bits of one code, in channel order, over `count` indices. `both[i, j]`: how often bits i and j were both 1."""

    count: int
    both: NDArray[np.int64]

    @property
    def ones(self) -> NDArray[np.float64]:
        """Share of ones of each bit [bits]; empty if nothing was counted."""
        return np.asarray(np.diagonal(self.both) / self.count) if self.count else np.empty(0)

    @property
    def entropies(self) -> NDArray[np.float64]:
        """Entropy of each bit in bits [bits], at most 1."""
        return _binary_entropy(self.ones)

    @property
    def correlation(self) -> NDArray[np.float64]:
        """Pearson's (phi) coefficient of each pair of bits [bits, bits]; NaN where a bit never changes."""
        if not self.count:
            return np.empty((0, 0))
        share = self.ones
        spread = np.sqrt(share * (1 - share))
        with np.errstate(invalid="ignore", divide="ignore"):
            found = (self.both / self.count - np.outer(share, share)) / np.outer(spread, spread)
        return np.asarray(np.clip(found, -1, 1))

    def strongest_pairs(self, most: int = MOST_SHOWN) -> list[tuple[int, int, float]]:
        """(bit, bit, correlation) of the pairs that are most correlated, strongest first."""
        correlation = self.correlation
        rows, columns = np.triu_indices(len(correlation), 1)
        values = correlation[rows, columns]
        known = np.flatnonzero(~np.isnan(values))
        order = known[np.argsort(-np.abs(values[known]), kind="stable")][:most]
        return [(int(rows[k]), int(columns[k]), float(values[k])) for k in order]


@dataclass(frozen=True)
class Estimate:
    """How a statistic was estimated if exact counts did not fit into memory, and its standard error."""

    method: str
    standard_error: float


@dataclass(frozen=True)
class Usage:
    """How one set of 2^bits codes is used: of a codebook, or of the joint token of all codebooks of a vector."""

    bits: int
    count: int
    profile: Profile
    bit_statistics: BitStatistics | None
    """None for joint tokens that are distinguished by a hash."""
    most_used: tuple[tuple[int, int], ...] = ()
    """(code, count), most used first."""
    least_used: tuple[tuple[int, int], ...] = ()
    """(code, count) of used codes, least used first."""
    estimated: dict[str, Estimate] = field(default_factory=dict)
    """By statistic: `codes_used`, `entropy_bits`; empty if every count is exact."""
    codes_used_estimate: float | None = None
    min_count: int = 1
    """The k of `codes_used_at_least`."""

    def of_hashes(self, bits: int) -> Usage:
        """The same for tokens of `bits` bits that are distinguished by a hash: the codes themselves are unknown."""
        return replace(self, bits=bits, bit_statistics=None, most_used=(), least_used=())

    @property
    def exact(self) -> bool:
        """Whether every code was counted."""
        return not self.estimated

    @property
    def codes_used(self) -> int:
        """Codes that occurred."""
        used = self.profile.used() if self.codes_used_estimate is None else self.codes_used_estimate
        return min(round(used), self.count, 1 << self.bits)

    @property
    def codes_used_at_least(self) -> int:
        """Codes that occurred at least `min_count` times."""
        return min(round(self.profile.used(self.min_count)), self.codes_used)

    @property
    def utilisation(self) -> float:
        """codes_used / 2^bits."""
        return ldexp(self.codes_used, -self.bits)

    @property
    def utilisation_if_uniform(self) -> float:
        """codes_used_if_uniform / 2^bits."""
        return ldexp(self.codes_used_if_uniform, -self.bits)

    @property
    def codes_used_if_uniform(self) -> float:
        """Codes that as many uniform random indices would use on average."""
        return expected_used(self.count, self.bits)

    @property
    def entropy_bits(self) -> float:
        """The entropy of the observed distribution."""
        return min(float(self.bits), self.profile.entropy_bits(self.count))

    @property
    def entropy_bits_corrected(self) -> float:
        """With Miller and Madow's correction for the sample's size; at most `bits`."""
        return min(float(self.bits), self.entropy_bits + miller_madow_bits(self.count, self.codes_used))

    @property
    def entropy_share(self) -> float:
        """entropy_bits / bits."""
        return self.entropy_bits / self.bits

    @property
    def perplexity(self) -> float:
        """2^entropy_bits."""
        return float(2.0**self.entropy_bits)

    @property
    def unseen_probability(self) -> float:
        """The Good-Turing estimate of the probability that the next index is an unseen code: codes seen once / count.

        It is 0 if every code was seen.
        """
        if not self.count or self.codes_used == 1 << self.bits:
            return 1.0 - bool(self.count)
        return min(1.0, self.profile.singletons() / self.count)

    @property
    def ones(self) -> tuple[float, ...]:
        """Share of ones per bit, in channel order; empty if nothing was counted."""
        return () if self.bit_statistics is None else tuple(self.bit_statistics.ones.tolist())

    @property
    def total_correlation_bits(self) -> float | None:
        """The redundancy of the bits: the sum of their entropies minus the entropy of the code."""
        if self.bit_statistics is None or not self.count:
            return None
        return max(0.0, float(self.bit_statistics.entropies.sum()) - self.entropy_bits)

    @property
    def rank_frequency_slope(self) -> float | None:
        """The slope of log count against log rank; None below 3 codes."""
        return self.profile.rank_frequency_slope()

    @property
    def samples_per_code(self) -> float:
        """Indices for each of the 2^bits codes."""
        return ldexp(self.count, -self.bits)

    def as_json(self) -> dict[str, Any]:
        """The JSON object of `lfq stats --json` (docs/statistics.md)."""
        bits = self.bit_statistics
        ranks, counts = self.profile.rank_frequency_curve()
        correlation = [] if bits is None else bits.correlation.tolist()
        return {
            "bits": self.bits,
            "exact": self.exact,
            "estimated": {name: vars(how) for name, how in self.estimated.items()},
            "min_count": self.min_count,
            **registry.values(self),
            "ones": list(self.ones),
            "bit_entropies": [] if bits is None else bits.entropies.tolist(),
            "bit_correlation": [[None if np.isnan(value) else value for value in row] for row in correlation],
            "strongest_pairs": []
            if bits is None
            else [{"bits": [i, j], "correlation": value} for i, j, value in bits.strongest_pairs()],
            "most_used": [{"code": code, "count": count} for code, count in self.most_used],
            "least_used": [{"code": code, "count": count} for code, count in self.least_used],
            "rank_frequency": {"ranks": ranks.astype(np.int64).tolist(), "counts": counts.tolist()},
        }


@dataclass(frozen=True)
class PositionStatistics:
    """One codebook's use at each position of a sequence or image: arrays over `axes`, all index axes but the batch."""

    axes: tuple[int, ...]
    count: int
    """Indices at each position."""
    codes_used: NDArray[np.int64]
    entropy_bits: NDArray[np.float64]
    most_used_share: NDArray[np.float64]
    """Share of the code used most at that position: 1 where it never changes."""

    @property
    def constant(self) -> int:
        """Positions that never change."""
        return int((self.codes_used == 1).sum()) if self.count > 1 else 0

    def as_json(self) -> dict[str, Any]:
        """The JSON object of `--by-position`; arrays are flat, in C order of `axes`."""
        return {
            "axes": list(self.axes),
            "count": self.count,
            "codes_used": self.codes_used.ravel().tolist(),
            "entropy_bits": self.entropy_bits.ravel().tolist(),
            "most_used_share": self.most_used_share.ravel().tolist(),
            "constant": self.constant,
        }


@dataclass(frozen=True)
class TokenUsage:
    """The statistics of one tensor, or of all: by codebook, of the joint token, by position."""

    codebooks: tuple[Usage, ...]
    joint: Usage | None
    """None if there is one codebook, whose code is the token; or if it was not requested."""
    positions: tuple[PositionStatistics, ...] | None = None
    """One for each codebook, if requested."""
    notes: tuple[str, ...] = ()
    """What was requested but is not available, and why."""

    @property
    def token(self) -> Usage | None:
        """The use of whole tokens: the joint one, or that of the only codebook."""
        return self.joint or (self.codebooks[0] if len(self.codebooks) == 1 else None)

    @property
    def bits_stored(self) -> int:
        """Bits of one vector in the codes file."""
        return sum(usage.bits for usage in self.codebooks)

    def as_json(self) -> dict[str, Any]:
        """The JSON objects by codebook, and of the joint token if there are several."""
        entry: dict[str, Any] = {"codebooks": [usage.as_json() for usage in self.codebooks]}
        entry["joint"] = None if self.joint is None else self.joint.as_json()
        if self.positions is not None:
            entry["positions"] = [each.as_json() for each in self.positions]
        return entry | {"notes": list(self.notes)}


def _binary_entropy(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy in bits of coins that show heads with these probabilities."""
    found = np.zeros_like(share)
    for p in (share, 1 - share):
        np.add(found, -p * np.log2(p, where=p > 0, out=np.zeros_like(p)), out=found)
    return np.clip(found, 0, 1)
