"""What a page's words mean, in a sentence each: the short form of docs/statistics.md."""

from __future__ import annotations

from lfq_cli.statistics.registry import STATISTICS

MEANING = (
    *((row.label.format(min_count="k").capitalize(), row.definition) for row in STATISTICS),
    (
        "Dead, nearly dead",
        "A bit that never changes; one whose entropy is below 0.1 bits.",
    ),
    (
        "Correlation",
        "Pearson's coefficient of two bits: 1 where they are equal, −1 where they are opposite. By chance it "
        "reaches about 3 / √N. It is not defined for a bit that never changes.",
    ),
    (
        "Coverage",
        "How many different codes a part of these indices, drawn at random, shows on average (Hurlbert's "
        "rarefaction). Where the curve still rises at its end, more data will show more codes.",
    ),
    (
        "Joint token",
        "All codebooks' indices of a vector taken as one code: what a model that predicts whole tokens sees.",
    ),
    (
        "Entropy by position",
        "H of the indices at one position over the whole batch. It cannot be more than log2 of how many there are.",
    ),
)
"""(name, sentence)."""
