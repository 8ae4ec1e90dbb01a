"""What the figures mean, in a sentence each: the short form of docs/statistics.md."""

from __future__ import annotations

MEANING = (
    (
        "Codes used, utilisation",
        "How many of the 2^D codes occur, and their share of all codes. Compare it with uniform use, never "
        "with 100 %: it grows with the number of indices.",
    ),
    (
        "If uniform",
        "What as many uniform random indices would show: K (1 − (1 − 1/K)^N) of K codes after N indices. In "
        "the pictures it is the dashed line.",
    ),
    (
        "Entropy, perplexity",
        "H = −Σ p log2 p: the information that a code carries on average. Perplexity is 2^H, the number of "
        "equally used codes with that entropy.",
    ),
    (
        "Entropy, corrected",
        "H of a sample is too low. Miller and Madow's correction adds (codes used − 1) / (2 N ln 2) bits. "
        "Where it adds much, the truth is higher still.",
    ),
    (
        "Entropy of the bits stored",
        "H divided by the bits of a code. 80 % means that a coder that takes indices one at a time could save 20 %.",
    ),
    (
        "Unseen probability",
        "How likely the next index is a code not seen yet: the share of indices whose code occurs once (Good "
        "and Turing). Below 1 % the figures have settled.",
    ),
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
        "Total correlation",
        "The sum of the bits' entropies less that of the code: what the bits spend on repeating each other. "
        "With few indices it is too high.",
    ),
    (
        "Rank-frequency slope",
        "How steeply usage falls from the code used most to the rarest, on log axes: 0 where all are used "
        "alike, −1 for Zipf's law.",
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
