"""The statistics of one set of codes: one row each, read by every output. Formulas and sources: docs/statistics.md.

Each is a property of `Usage` with the same name. A row says what people see; the terminal and the page decide how each
format is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

Format = Literal["whole", "tenths", "number", "bits", "share", "signed"]
"""whole: 1,234. tenths: 177.5. number: a few significant digits. bits: 7.471. share: 93.4 %. signed: -0.12."""


class Counted(Protocol):
    """Other properties of a `Usage` that statistics need."""

    @property
    def min_count(self) -> int:
        """The k of --min-count."""

    @property
    def estimated(self) -> Mapping[str, object]:
        """By key: how it was estimated."""


@dataclass(frozen=True)
class Statistic:
    """One number, or None if it is undefined, of a set of codes."""

    key: str
    """Its name in JSON, and the property of `Usage` that computes it."""
    label: str
    """Its name for people."""
    column: str
    """The label above a narrow column."""
    unit: Literal["indices", "codes", "bits", ""]
    format: Format
    definition: str
    error_of: Literal["codes_used", "entropy_bits"] | None = None
    """The estimate that it depends on if not every code was counted; None if it stays exact."""
    share_of: str | None = None
    """The key of the statistic that this one gives as a share of all codes, or of all bits."""

    def of(self, usage: Counted) -> float | None:
        """The value."""
        value: float | None = getattr(usage, self.key)
        return value

    def is_estimated(self, usage: Counted) -> bool:
        """Whether the value is an estimate."""
        return self.error_of in usage.estimated


STATISTICS: tuple[Statistic, ...] = (
    Statistic("count", "indices", "indices", "indices", "whole", "How many indices were counted: N."),
    Statistic(
        "codes_used",
        "codes used",
        "used",
        "codes",
        "whole",
        "How many of the K = 2^D codes occur. It grows with the number of indices: compare it with uniform use.",
        error_of="codes_used",
    ),
    Statistic(
        "codes_used_at_least",
        "used at least {min_count}×",
        "used {min_count}+",
        "codes",
        "whole",
        "Codes that occur at least --min-count times: without those that were hit by chance.",
        error_of="entropy_bits",
    ),
    Statistic(
        "codes_used_if_uniform",
        "codes used if uniform",
        "if uniform",
        "codes",
        "whole",
        "How many codes as many uniform random indices would use: K (1 − (1 − 1/K)^N). In the pictures it is "
        "the dashed line.",
    ),
    Statistic(
        "utilisation",
        "utilisation",
        "utilisation",
        "",
        "share",
        "Codes used, as a share of all codes. Compare it with uniform use, never with 100 %.",
        error_of="codes_used",
        share_of="codes_used",
    ),
    Statistic(
        "utilisation_if_uniform",
        "utilisation if uniform",
        "uniform",
        "",
        "share",
        "What the utilisation of as many uniform random indices would be.",
        share_of="codes_used_if_uniform",
    ),
    Statistic(
        "samples_per_code",
        "indices for each code",
        "N / K",
        "",
        "number",
        "Indices divided by codes: N / K. Below 3, get more samples before judging a codebook.",
    ),
    Statistic(
        "perplexity",
        "perplexity",
        "perplexity",
        "codes",
        "tenths",
        "2^H: the number of equally used codes with the same entropy.",
        error_of="entropy_bits",
    ),
    Statistic(
        "entropy_bits",
        "entropy",
        "entropy bits",
        "bits",
        "bits",
        "H = −Σ p log2 p: the information that a code carries on average.",
        error_of="entropy_bits",
    ),
    Statistic(
        "entropy_bits_corrected",
        "entropy, corrected",
        "corrected",
        "bits",
        "bits",
        "The entropy of a sample is biased low. Miller and Madow's correction adds (codes used − 1) / (2 N ln 2) bits. "
        "Where it adds much, the truth is higher still.",
        error_of="entropy_bits",
    ),
    Statistic(
        "entropy_share",
        "entropy per stored bit",
        "of stored",
        "",
        "share",
        "H divided by the bits of a code. 80 % means that a coder that takes indices one at a time could save 20 %.",
        error_of="entropy_bits",
        share_of="entropy_bits",
    ),
    Statistic(
        "unseen_probability",
        "unseen probability",
        "unseen",
        "",
        "share",
        "How likely the next index is a code not seen yet: the share of indices whose code occurs once (Good and "
        "Turing). Below 1 % the statistics have settled.",
        error_of="entropy_bits",
    ),
    Statistic(
        "total_correlation_bits",
        "total correlation",
        "total corr.",
        "bits",
        "bits",
        "The sum of the bits' entropies less that of the code: what the bits spend on repeating each other. With few "
        "indices it is too high.",
        error_of="entropy_bits",
    ),
    Statistic(
        "rank_frequency_slope",
        "rank-frequency slope",
        "slope",
        "",
        "signed",
        "How steeply usage falls from the code used most to the rarest, on log axes: 0 where all are used equally "
        "often, −1 for Zipf's law.",
        error_of="entropy_bits",
    ),
)
"""In display order."""

BY_KEY = {statistic.key: statistic for statistic in STATISTICS}


def shown_for(usage: Counted) -> list[Statistic]:
    """The statistics that apply to these codes; those of codes used at least k times only with --min-count."""
    return [row for row in STATISTICS if row.key != "codes_used_at_least" or usage.min_count > 1]


def values(usage: Counted) -> dict[str, float | None]:
    """The value of every statistic, by key."""
    return {row.key: row.of(usage) for row in STATISTICS}
