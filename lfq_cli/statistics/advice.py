"""What the statistics mean: one line for each problem, and what to do where that is known.

There is no line if nothing is wrong. Formulas and the reasons for most thresholds: docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ldexp, lgamma, log, log2, sqrt

import numpy as np
from numpy.typing import NDArray

from lfq_cli.statistics.profile import expected_used
from lfq_cli.statistics.redundant_bits import (
    CHANCE_DEVIATIONS,
    bits_of_codebooks,
    copied_codebooks,
    free_bits,
    same_bits,
    strong_pairs,
)
from lfq_cli.statistics.usage import PositionStatistics, TokenUsage, Usage
from lfq_cli.wording import counted

FEW_INDICES = 30
"""With fewer indices, a bit is constant or two bits are equal by chance often enough to mislead."""
NEARLY_DEAD_BITS = 0.1
"""Entropy of a bit; its rarer value then has less than 1.3 %."""
COLLAPSED_SHARE = 0.5
"""Share of the entropy of uniform use. Below it half of the bits carry nothing: 16 of 256 codes do the work."""
UNSETTLED = 0.01
"""The Good-Turing probability of an unseen code. Uniform use reaches it at 4.6 vectors per code, with 99 % used."""
UNFILLABLE_BITS = 40
"""Nobody has the 5 * 2^40 vectors that would fill 99 % of the codes."""
UNUSED_SHARE = 0.1
"""Share of the codes that uniform use would reach. Natural data leaves some unused."""
DOMINANT_SHARE, DOMINANT_TIMES = 0.1, 8
"""One code has more than a tenth of all indices, and more than 8 times its share under uniform use."""
COMPRESSIBLE_SHARE = 0.1
"""Share of the stored bits. Below it an entropy coder is hardly worth its time."""
REPEATED_SHARE = 0.1
"""Share of the codebooks' entropies that the joint token lacks. A twentieth is usual."""
_MOST_NAMED = 6
_MANY = 100  # with this many unused codes or more, their number is normally distributed
_CHI_DEVIATIONS = 12  # chi-square has a longer tail than the normal distribution: once in 50,000 with one parameter


def advice(usage: TokenUsage) -> list[str]:
    """A line for every problem, worst first; none if there is no problem or nothing was counted."""
    count = usage.codebooks[0].count if usage.codebooks else 0
    if 0 < count < FEW_INDICES:
        return [f"{counted(count, 'vector')}: too few to say anything about the codes"]
    return [*faults(usage), *_small_sample(usage)] if count else []


def faults(usage: TokenUsage) -> list[str]:
    """The lines of `advice` except those that ask for more samples."""
    count = usage.codebooks[0].count if usage.codebooks else 0
    if count < FEW_INDICES:
        return []
    return [
        *_collapsed(usage),
        *_dominant_codes(usage),
        *_dead_bits(usage),
        *_same_bits(usage),
        *_repeated_codebooks(usage),
        *_unused_codes(usage),
        *_constant_positions(usage),
        *_compressible(usage),
    ]


def bit_name(usage: TokenUsage, bit: int) -> str:
    """The name of a bit of the whole token: 11, or 2:3 for bit 3 of codebook 2 if there are several codebooks."""
    if len(usage.codebooks) == 1:
        return str(bit)
    return next(f"{k}:{bit - bits.start}" for k, bits in enumerate(bits_of_codebooks(usage)) if bit in bits)


def constant_positions(statistics: PositionStatistics) -> NDArray[np.bool_]:
    """Which positions never change [axes]; none if there is only one index at each."""
    found: NDArray[np.bool_] = (statistics.codes_used == 1) & (statistics.count > 1)
    return found


def position_name(index: NDArray[np.intp]) -> str:
    """(0, 15), or 7 if there is one axis."""
    return str(int(index[0])) if len(index) == 1 else f"({', '.join(map(str, index.tolist()))})"


def is_settled(usage: Usage) -> bool:
    """Whether the sample has shown nearly all codes that it ever would."""
    return usage.unseen_probability <= UNSETTLED


def is_collapsed(usage: Usage) -> bool:
    """Whether few codes dominate, whatever the sample's size."""
    reachable = log2(max(1.0, usage.codes_used_if_uniform))
    return usage.bits > 1 and usage.entropy_bits_corrected < COLLAPSED_SHARE * reachable


def _collapsed(usage: TokenUsage) -> list[str]:
    found = _which_collapsed(usage)
    if not found:
        return []
    spread = [usage.codebooks[k].perplexity for k in found]
    codes = {usage.codebooks[k].bits for k in found}
    of = f"{2 ** max(codes):,}" if max(codes) <= 16 else f"2^{max(codes)}"
    worth = f"{min(spread):,.1f}" if len(found) == 1 else f"{min(spread):,.1f} to {max(spread):,.1f}"
    whose = "its" if len(found) == 1 else "their"
    return [
        f"{_codebooks(usage, found)} collapsed: {whose} indices are as varied as {worth} equally used codes, "
        f"not {of}; in training, give the entropy of the batch (diversity) more weight"
    ]


def _which_collapsed(usage: TokenUsage) -> list[int]:
    return [k for k, codebook in enumerate(usage.codebooks) if is_collapsed(codebook)]


def _dominant_codes(usage: TokenUsage) -> list[str]:
    several = len(usage.codebooks) > 1
    found = [
        _dominant_code(codebook, f" of codebook {k}" if several else "")
        for k, codebook in enumerate(usage.codebooks)
        if not is_collapsed(codebook)
    ]
    if usage.joint is not None and not any(found):
        found = [_dominant_code(usage.joint, " of the joint token")]
    return [line for line in found if line]


def _dominant_code(usage: Usage, whose: str) -> str:
    """A line on a code that dominates; empty if there is none."""
    code, times = usage.most_used[0] if usage.most_used else (0, 0)
    share = times / usage.count
    if times < FEW_INDICES or share <= max(DOMINANT_SHARE, ldexp(DOMINANT_TIMES, -usage.bits)):
        return ""
    return f"code {code}{whose} is {_share(share)} of all: padding, silence or background in the inputs?"


def _dead_bits(usage: TokenUsage) -> list[str]:
    dead, weak = [], []
    for codebook, bits in zip(usage.codebooks, bits_of_codebooks(usage), strict=True):
        entropies = _entropies(codebook)
        if is_collapsed(codebook) and all(entropy < NEARLY_DEAD_BITS for entropy in entropies):
            continue  # the collapse covers it
        dead += [bit for bit, entropy in zip(bits, entropies, strict=True) if entropy == 0]
        weak += [bit for bit, entropy in zip(bits, entropies, strict=True) if 0 < entropy < NEARLY_DEAD_BITS]
    lines = []
    if dead:
        verb, each = ("is", "it halves") if len(dead) == 1 else ("are", "each halves")
        lines.append(
            f"{_bits(usage, dead)} {verb} constant: {each} the codes that can be used; "
            "look for a bias or a one-sided activation before the quantizer"
        )
    if weak:
        lines.append(f"{_bits(usage, weak)} {'is' if len(weak) == 1 else 'are'} nearly constant")
    return lines


def _same_bits(usage: TokenUsage) -> list[str]:
    lines: list[str] = []
    collapsed = _which_collapsed(usage)
    copies = {copy for _, copy in copied_codebooks(usage, collapsed)}
    ours = {bit for k, bits in enumerate(bits_of_codebooks(usage)) if k not in copies for bit in bits}
    groups = [[bit for bit in group if bit in ours] for group in same_bits(usage, collapsed)]
    groups = [group for group in groups if len(group) > 1]
    if groups:
        named = "; ".join(_bits(usage, group) for group in groups[:_MOST_NAMED]) + _and_more(len(groups) - _MOST_NAMED)
        them = "them" if len(groups) == 1 else "each"
        lines.append(f"{named} say the same or the opposite: one of {them} would do")
    pairs = [pair for pair in strong_pairs(usage, collapsed) if pair[0] in ours and pair[1] in ours]
    if pairs:
        shown = [f"{bit_name(usage, i)} and {bit_name(usage, j)} ({r:+.2f})" for i, j, r in pairs[:_MOST_NAMED]]
        named = ", ".join(shown) + _and_more(len(pairs) - len(shown))
        lines.append(f"bits {named} are strongly correlated: fewer bits would say as much")
    return lines


def _repeated_codebooks(usage: TokenUsage) -> list[str]:
    copied = copied_codebooks(usage, _which_collapsed(usage))
    if copied:
        named = ", ".join(f"codebook {copy} repeats codebook {k}" for k, copy in copied[:_MOST_NAMED])
        return [f"{named}{_and_more(len(copied) - _MOST_NAMED)}, bit by bit: one of them would do"]
    if usage.joint is None or not all(is_settled(found) for found in (*usage.codebooks, usage.joint)):
        return []
    apart = sum(codebook.entropy_bits for codebook in usage.codebooks)
    if apart - _entropy_at_most(usage.joint) <= REPEATED_SHARE * apart:
        return []
    together = usage.joint.entropy_bits_corrected
    return [
        f"the codebooks repeat each other: one by one they have {apart:.1f} bits of entropy, together {together:.1f}"
    ]


def _unused_codes(usage: TokenUsage) -> list[str]:
    found, shares = [], []
    for k, codebook in enumerate(usage.codebooks):
        bits = free_bits(codebook)
        if bits and is_settled(codebook) and not is_collapsed(codebook):
            size, expected = 2.0**bits, expected_used(codebook.count, bits)
            share = 1 - codebook.codes_used / expected
            if share > UNUSED_SHARE and not _is_chance(size - codebook.codes_used, size - expected, expected):
                found.append(k)
                shares.append(share)
    if not found:
        return []
    verb = "leaves" if len(found) == 1 else "leave"
    return [
        f"{_codebooks(usage, found)} {verb} {_shares(shares)} of the codes unused that uniform use would reach: "
        "dead codes; more weight on the entropy of the batch, or fewer bits"
    ]


def _is_chance(unused: float, mean_unused: float, mean_used: float) -> bool:
    """Whether uniform use would leave as many codes unused more often than once in a million."""
    if mean_unused > _MANY:
        return unused - mean_unused < CHANCE_DEVIATIONS * sqrt(min(mean_unused, mean_used))
    return mean_unused > 0 and unused * log(mean_unused) - lgamma(unused + 1) > log(1e-6)  # Poisson's tail


def _constant_positions(usage: TokenUsage) -> list[str]:
    if not usage.positions or usage.positions[0].count < FEW_INDICES:
        return []
    each = [constant_positions(statistics) for statistics in usage.positions]
    whole = np.all(each, 0)
    lines = []
    if whole.any():
        names = [position_name(index) for index in np.argwhere(whole)[:_MOST_NAMED]]
        named = ", ".join(names) + _and_more(int(whole.sum()) - len(names))
        of = f"{int(whole.sum()):,} of {whole.size:,} positions"
        change, they = ("changes", "it need") if whole.sum() == 1 else ("change", "they need")
        lines.append(f"{of} never {change}: {named}; {they} not be stored or predicted")
    more = [k for k, constant in enumerate(each) if constant.sum() > whole.sum()]
    if more:
        most = max(int(constant.sum()) for constant in each)
        verb = "does not change at" if len(more) == 1 else "do not change at up to"
        lines.append(f"{_codebooks(usage, more)} {verb} {most:,} of {whole.size:,} positions")
    return lines


def _compressible(usage: TokenUsage) -> list[str]:
    known = sum(_entropy_known(codebook) for codebook in usage.codebooks)
    if usage.joint is not None and is_settled(usage.joint):
        known = min(known, _entropy_at_most(usage.joint))
    saved = 1 - known / usage.bits_stored
    if saved < COMPRESSIBLE_SHARE:
        return []
    return [
        f"compressible by {_share(saved)}: the {usage.bits_stored} bits stored hold at most {known:.1f} bits of "
        "information; an entropy coder would save the rest, or fewer bits would do"
    ]


def _small_sample(usage: TokenUsage) -> list[str]:
    found = [k for k, c in enumerate(usage.codebooks) if not is_settled(c) and not is_collapsed(c)]
    if not found:
        return []
    fewest = min((usage.codebooks[k] for k in found), key=lambda codebook: codebook.samples_per_code)
    if fewest.bits >= UNFILLABLE_BITS:
        return [f"no sample fills 2^{fewest.bits} codes: utilisation and entropy say little here, the bits say more"]
    unseen = max(usage.codebooks[k].unseen_probability for k in found)
    equal_sizes = len({codebook.bits for codebook in usage.codebooks}) == 1
    where = "" if equal_sizes else f" in {_codebooks(usage, found)}"
    return [
        f"{_few(fewest.samples_per_code)} vectors a code{where}: utilisation is limited by the sample, "
        f"{_share(unseen)} of further codes would be new; count more"
    ]


def _share(share: float) -> str:
    return f"{share:.0%}" if 0.0995 <= share <= 0.995 else f"{share:.1%}"


def _shares(shares: Sequence[float]) -> str:
    least, most = _share(min(shares)), _share(max(shares))
    return least if least == most else f"{least} to {most}"


def _few(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _entropy_known(usage: Usage) -> float:
    """An upper bound on the codebook's entropy in bits: small samples say more about single bits than about codes."""
    bounds = [float(usage.bits)]
    if usage.bit_statistics is not None:
        bounds.append(float(usage.bit_statistics.entropies.sum()) + _lost_by_chance(usage.bits, usage.count))
    if is_settled(usage):
        bounds.append(_entropy_at_most(usage))
    return min(bounds)


def _entropy_at_most(usage: Usage) -> float:
    return min(float(usage.bits), usage.entropy_bits + _lost_by_chance(usage.codes_used - 1, usage.count))


def _lost_by_chance(parameters: int, count: int) -> float:
    """An upper bound on the bias of a sample's entropy, in bits, for a distribution with so many free parameters.

    2 N ln 2 times the bias is chi-square distributed, with mean `parameters` and variance twice that (Wilks).
    """
    return (parameters + _CHI_DEVIATIONS * sqrt(2 * parameters)) / (2 * count * log(2))


def _entropies(usage: Usage) -> list[float]:
    return [] if usage.bit_statistics is None else usage.bit_statistics.entropies.tolist()


def _codebooks(usage: TokenUsage, numbers: Sequence[int]) -> str:
    """The codebook; codebook 2 of 4; codebooks 1 and 2 of 4; both codebooks; all 4 codebooks."""
    total = len(usage.codebooks)
    if total == 1:
        return "the codebook"
    if len(numbers) == total:
        return "both codebooks" if total == 2 else f"all {total} codebooks"
    return f"{_listed('codebook', map(str, numbers))} of {total}"


def _bits(usage: TokenUsage, bits: Sequence[int]) -> str:
    """Bit 3; bits 3 and 11; bits 0:3 and 2:11."""
    return _listed("bit", [bit_name(usage, bit) for bit in bits])


def _listed(noun: str, names: Iterable[str]) -> str:
    every = list(names)
    if len(every) == 1:
        return f"{noun} {every[0]}"
    if len(every) > _MOST_NAMED:
        return f"{noun}s {', '.join(every[:_MOST_NAMED])}{_and_more(len(every) - _MOST_NAMED)}"
    return f"{noun}s {', '.join(every[:-1])} and {every[-1]}"


def _and_more(number: int) -> str:
    return f" and {number:,} more" if number > 0 else ""
