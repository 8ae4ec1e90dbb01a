"""A slow second opinion on docs/statistics.md: every statistic from its definition, one code or bit at a time.

Knows: bits -> codes of codebooks and of the joint token, and what is defined for them. Does not know: the package
under test (it imports nothing of it), files, hashes. Codes are Python ints, so that tokens may have any number of bits;
bits are rows of 0/1 (or bool) in channel order, one row for each index.
"""

import math
from collections import Counter

import pytest

CLOSE = {"rel": 1e-9, "abs": 1e-9}
MOST_SHOWN = 10
HASHED_ABOVE = 64
COMPARED = (
    "count", "codes_used", "codes_used_at_least", "codes_used_if_uniform", "utilisation", "utilisation_if_uniform",
    "samples_per_code", "perplexity",
    "entropy_bits", "entropy_bits_corrected", "entropy_share", "unseen_probability", "total_correlation_bits",
    "rank_frequency_slope",
)  # fmt: skip


# Bits to codes


def columns_of(bits, codebook_dims):
    """bits [n][B] -> a list of [n][D], one for each codebook. Raises ValueError unless B is the sum of the dims."""
    rows = [[int(bit) for bit in row] for row in bits]
    if any(len(row) != sum(codebook_dims) for row in rows):
        raise ValueError(f"rows of {len(rows[0])} bits for codebooks of {codebook_dims}")
    pieces, start = [], 0
    for d in codebook_dims:
        pieces.append([row[start : start + d] for row in rows])
        start += d
    return pieces


def code_of(row, bit_order):
    """Bits in channel order -> int; "msb": the first is the most significant, "lsb": the least."""
    if bit_order not in ("msb", "lsb"):
        raise ValueError(f"bit_order {bit_order!r}")
    code = 0
    for bit in row if bit_order == "msb" else reversed(row):
        code = 2 * code + bit
    return code


def codes_of(bits, codebook_dims, bit_order):
    """bits [n][B] -> a list of n ints for each codebook."""
    return [[code_of(row, bit_order) for row in piece] for piece in columns_of(bits, codebook_dims)]


def joint_codes(bits):
    """bits [n][B] -> n ints: the joint token, its first bit most significant whatever the order of the indices."""
    return [code_of([int(bit) for bit in row], "msb") for row in bits]


# Statistics of counts


def entropy_bits(counts):
    """-Σ p log2 p of positive counts; 0 where there are none."""
    total = sum(counts)
    return math.fsum(-n / total * math.log2(n / total) for n in counts) if total else 0.0


def used_if_uniform(total, bits):
    """K (1 - (1 - 1/K)^N), with K = 2^bits."""
    if bits == 1:
        return 2.0 * (1 - 0.5**total)
    if bits < 1000:
        return -(2.0**bits) * math.expm1(total * math.log1p(-(2.0**-bits)))
    return float(total)  # N - N (N - 1) / (2 K) + ...: K is beyond the range of floats, N is not


def share_of_all(codes, bits):
    """codes / 2^bits."""
    return math.ldexp(codes, -bits)


def by_rank(counter):
    """Counts in falling order."""
    return sorted(counter.values(), reverse=True)


def ranks_shown(used):
    """round(2^(k/4)) for k = 0, 1, ... up to `used`, and `used` itself; each once, rising."""
    ranks, k = {used} if used else set(), 0
    while used and 2 ** (k / 4) <= used:
        ranks.add(round(2 ** (k / 4)))
        k += 1
    return sorted(ranks)


def slope(ranks, counts):
    """Of ln(count) on ln(rank), by least squares; None below 3 used codes."""
    if not ranks or ranks[-1] < 3:
        return None
    x, y = [math.log(rank) for rank in ranks], [math.log(count) for count in counts]
    x_mean, y_mean = math.fsum(x) / len(x), math.fsum(y) / len(y)
    above = math.fsum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    return above / math.fsum((a - x_mean) ** 2 for a in x)


def unseen_probability(counter, bits):
    """Codes seen once / N; 1 where nothing was counted, 0 where every code was."""
    total = sum(counter.values())
    if not total:
        return 1.0
    if len(counter) == 2**bits:
        return 0.0
    return sum(1 for n in counter.values() if n == 1) / total


def examples(counter, sign):
    """The codes of the largest (sign -1) or smallest (+1) counts; equal counts in rising order of codes."""
    order = sorted(counter.items(), key=lambda item: (sign * item[1], item[0]))
    return [{"code": code, "count": count} for code, count in order[:MOST_SHOWN]]


# Statistics of bits


def binary_entropy(share):
    return math.fsum(-p * math.log2(p) for p in (share, 1 - share) if p > 0)


def phi(both, i_ones, j_ones, total):
    """The correlation of two bits from whole numbers: how often both are one, each is one, and of how many."""
    if i_ones in (0, total) or j_ones in (0, total):
        return None
    spread = math.sqrt(i_ones * (total - i_ones)) * math.sqrt(j_ones * (total - j_ones))
    return (both * total - i_ones * j_ones) / spread


def bit_statistics(rows, entropy):
    """The statistics of bits [n][D]: `entropy` is that of their codes."""
    total = len(rows)
    if not total:
        return no_bit_statistics()
    width = len(rows[0])
    masks = [int("".join(str(row[j]) for row in rows), 2) for j in range(width)]  # a one for each index with bit j
    ones = [mask.bit_count() for mask in masks]
    shares = [one / total for one in ones]
    entropies = [binary_entropy(share) for share in shares]
    correlation = [
        [phi((masks[i] & masks[j]).bit_count(), ones[i], ones[j], total) for j in range(width)] for i in range(width)
    ]
    pairs = [
        {"bits": [i, j], "correlation": correlation[i][j]}
        for i in range(width)
        for j in range(i + 1, width)
        if correlation[i][j] is not None
    ]
    pairs.sort(key=lambda pair: -abs(pair["correlation"]))
    return {
        "ones": shares,
        "bit_entropies": entropies,
        "bit_correlation": correlation,
        "strongest_pairs": pairs[:MOST_SHOWN],
        "total_correlation_bits": max(0.0, math.fsum(entropies) - entropy),
    }


def no_bit_statistics():
    return {
        "ones": [],
        "bit_entropies": [],
        "bit_correlation": [],
        "strongest_pairs": [],
        "total_correlation_bits": None,
    }


# A codebook, a token, a tensor


def usage(codes, rows, bits, min_count=1):
    """The JSON object of one codebook, or of the joint token, from its codes [n] and their bits [n][bits]."""
    counter = Counter(codes)
    total, used = sum(counter.values()), len(counter)
    entropy = entropy_bits(list(counter.values()))
    missing = (used - 1) / (2 * total * math.log(2)) if total else 0.0
    uniform = used_if_uniform(total, bits)
    in_order = by_rank(counter)
    ranks = ranks_shown(used)
    counts = [in_order[rank - 1] for rank in ranks]
    hashed = bits > HASHED_ABOVE
    return {
        "bits": bits,
        "count": total,
        "exact": True,
        "estimated": {},
        "codes_used": used,
        "min_count": min_count,
        "codes_used_at_least": sum(1 for n in counter.values() if n >= min_count),
        "codes_used_if_uniform": uniform,
        "utilisation": share_of_all(used, bits),
        "utilisation_if_uniform": share_of_all(uniform, bits),
        "samples_per_code": share_of_all(total, bits),
        "perplexity": 2.0**entropy,
        "entropy_bits": entropy,
        "entropy_bits_corrected": min(float(bits), entropy + missing),
        "entropy_share": entropy / bits,
        "unseen_probability": unseen_probability(counter, bits),
        **(no_bit_statistics() if hashed else bit_statistics(rows, entropy)),
        "most_used": [] if hashed else examples(counter, -1),
        "least_used": [] if hashed else examples(counter, 1),
        "rank_frequency": {"ranks": ranks, "counts": counts},
        "rank_frequency_slope": slope(ranks, counts),
    }


def token_usage(bits, codebook_dims, bit_order, min_count=1):
    """{"codebooks": [...], "joint": ...} of bits [n][B]; no joint token where there is one codebook."""
    rows = [[int(bit) for bit in row] for row in bits]
    pieces, codes = columns_of(rows, codebook_dims), codes_of(rows, codebook_dims, bit_order)
    codebooks = [
        usage(codes_, piece, d, min_count) for codes_, piece, d in zip(codes, pieces, codebook_dims, strict=True)
    ]
    joint = usage(joint_codes(rows), rows, sum(codebook_dims), min_count) if len(codebook_dims) > 1 else None
    return {"codebooks": codebooks, "joint": joint}


# By position


def positions(codes, shape):
    """The JSON object of one codebook's codes [n] in C order of the index shape, (batch, *axes)."""
    batch, axes = shape[0], list(shape[1:])
    places = math.prod(axes)
    if len(codes) != batch * places:
        raise ValueError(f"{len(codes)} codes in shape {shape}")
    counters = [Counter(codes[place::places]) for place in range(places)]
    used = [len(counter) for counter in counters]
    return {
        "axes": axes,
        "count": batch,
        "codes_used": used,
        "entropy_bits": [entropy_bits(list(counter.values())) for counter in counters],
        "most_used_share": [max(counter.values()) / batch if batch else 0.0 for counter in counters],
        "constant": used.count(1) if batch > 1 else 0,
    }


# Two sets


def divergence_bits(a, b):
    """Jensen and Shannon's, of two Counters; None where one is empty."""
    a_total, b_total = sum(a.values()), sum(b.values())
    if not a_total or not b_total:
        return None
    terms = []
    for code in set(a) | set(b):
        p, q = a[code] / a_total, b[code] / b_total
        middle = (p + q) / 2
        terms.extend(share / 2 * math.log2(share / middle) for share in (p, q) if share > 0)
    return math.fsum(terms)


def divergence_by_chance(used, a_total, b_total):
    """What two samples of one source show on average where most codes occur several times in both."""
    return (used - 1) * (1 / a_total + 1 / b_total) / (8 * math.log(2))


def comparison(a, b, a_codes, b_codes):
    """The JSON object of two `usage` objects and their codes."""
    counters = Counter(a_codes), Counter(b_codes)
    entry = {
        "bits": a["bits"],
        "figures": {name: change(a[name], b[name]) for name in COMPARED},
        "ones_change": [y - x for x, y in zip(a["ones"], b["ones"], strict=True)] if a["ones"] and b["ones"] else [],
        "divergence_bits": divergence_bits(*counters),
        "divergence_bits_if_same": None,
    }
    if all(counters):
        sizes = [sum(counter.values()) for counter in counters]
        entry["divergence_bits_if_same"] = min(
            1.0, divergence_by_chance(len(set(counters[0]) | set(counters[1])), *sizes)
        )
    for name, counter, other in (("a", *counters), ("b", *reversed(counters))):
        only = [code for code in counter if code not in other]
        entry[f"codes_only_{name}"] = len(only) if counter and other else None
        entry[f"share_only_{name}"] = (
            sum(counter[code] for code in only) / sum(counter.values()) if counter and other else None
        )
    return entry


def change(a, b):
    return {"a": a, "b": b, "change": None if a is None or b is None else b - a}


# A sample of codes


def horvitz_thompson(values, probabilities):
    """(estimate, its standard error) of the sum over all, from the values held with these probabilities."""
    pairs = list(zip(values, probabilities, strict=True))
    estimate = math.fsum(value / p for value, p in pairs)
    return estimate, math.sqrt(math.fsum(value * value * (1 - p) / (p * p) for value, p in pairs))


def entropy_of_sample(total, counts, probabilities):
    """(entropy in bits, its standard error) of `total` indices, from the counts of the codes held."""
    estimate, error = horvitz_thompson([n * math.log2(n) for n in counts], probabilities)
    return math.log2(total) - estimate / total, error / total


# Comparing


def same(found, expected, where=""):
    """Asserts that two JSON values are the same, numbers but for rounding; and of the same types."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), where
        assert set(found) == set(expected), where
        for key, value in expected.items():
            if key == "strongest_pairs":
                same_pairs(found, expected, where)
            else:
                same(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        assert isinstance(found, list), where
        assert len(found) == len(expected), where
        for k, (one, other) in enumerate(zip(found, expected, strict=True)):
            same(one, other, f"{where}[{k}]")
    elif isinstance(expected, float):
        assert type(found) in (float, int), where
        assert found == pytest.approx(expected, **CLOSE), where
    else:
        assert type(found) is type(expected), where
        assert found == expected, where


def same_pairs(found, expected, where=""):
    """Pairs of equal strength may come in any order: their strengths and each pair's correlation are compared."""
    strongest, wanted = found["strongest_pairs"], expected["strongest_pairs"]
    strengths = [[abs(pair["correlation"]) for pair in pairs] for pairs in (strongest, wanted)]
    assert strengths[0] == pytest.approx(strengths[1], **CLOSE), where
    assert len({tuple(pair["bits"]) for pair in strongest}) == len(strongest), where
    for pair in strongest:
        i, j = pair["bits"]
        assert i < j, where
        assert pair["correlation"] == pytest.approx(expected["bit_correlation"][i][j], **CLOSE), where
