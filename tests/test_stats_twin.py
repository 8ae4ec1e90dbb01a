"""The slow twin of docs/statistics.md against scipy, numpy and distributions with statistics in closed form."""

import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import stats_twin as twin
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import binom, entropy, linregress

pytestmark = pytest.mark.slow

DOCS = (Path(__file__).parents[1] / "docs" / "statistics.md").read_text(encoding="utf-8")
COUNTS = st.lists(st.integers(1, 10**6), min_size=1, max_size=60)


def rows_of(codes, bits):
    """Codes -> bits, the first most significant."""
    return [[code >> (bits - 1 - j) & 1 for j in range(bits)] for code in codes]


def statistics(codes, bits, **options):
    return twin.usage(codes, rows_of(codes, bits), bits, **options)


# against libraries


@given(COUNTS)
def test_entropy_is_scipys(counts):
    assert twin.entropy_bits(counts) == pytest.approx(entropy(counts, base=2), abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1, max_size=60))
def test_divergence_is_the_square_of_scipys_distance(pairs):
    a, b = np.array(pairs).T
    found = twin.divergence_bits(*(Counter({i: int(n) for i, n in enumerate(side) if n}) for side in (a, b)))
    if a.sum() and b.sum():
        assert found == pytest.approx(jensenshannon(a, b, base=2) ** 2, abs=1e-9)
    else:
        assert found is None


@pytest.mark.parametrize("seed", range(5))
def test_correlation_is_numpys(seed):
    random = np.random.default_rng(seed)
    bits = random.random((200, 7)) < random.uniform(0.05, 0.95, 7)
    bits[:, 3] = bits[:, 1] ^ (random.random(200) < 0.1)
    bits[:, 5] = True
    correlation = twin.bit_statistics(bits.astype(int).tolist(), 0.0)["bit_correlation"]
    with np.errstate(invalid="ignore"):
        expected = np.corrcoef(bits.T.astype(float))
    found = np.array([[math.nan if value is None else value for value in row] for row in correlation])
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert [row[5] for row in correlation] == correlation[5] == [None] * 7


@given(st.lists(st.integers(1, 10**6), min_size=3, max_size=300))
def test_slope_is_that_of_scipys_line(counts):
    counts = sorted(counts, reverse=True)
    ranks = twin.ranks_shown(len(counts))
    shown = [counts[rank - 1] for rank in ranks]
    assert twin.slope(ranks, shown) == pytest.approx(linregress(np.log(ranks), np.log(shown)).slope, abs=1e-9)


# known distributions


@pytest.mark.parametrize("bits", [1, 2, 6])
def test_uniform(bits):
    found = statistics(list(range(2**bits)) * 5, bits)
    assert found["entropy_bits"] == found["entropy_bits_corrected"] == bits
    assert found["perplexity"] == 2**bits
    assert found["utilisation"] == found["entropy_share"] == 1
    assert found["unseen_probability"] == found["total_correlation_bits"] == 0
    assert found["ones"] == [0.5] * bits
    assert found["bit_correlation"] == np.eye(bits).tolist()
    assert found["rank_frequency_slope"] == (0 if bits > 1 else None)
    assert [item["code"] for item in found["most_used"]] == list(range(2**bits))[:10]
    assert found["most_used"] == found["least_used"]


def test_one_code():
    found = statistics([5] * 9, 3)
    assert (found["entropy_bits"], found["perplexity"], found["codes_used"]) == (0, 1, 1)
    assert found["entropy_bits_corrected"] == 0
    assert found["ones"] == [1, 0, 1]
    assert found["bit_entropies"] == [0, 0, 0]
    assert found["bit_correlation"] == [[None] * 3] * 3
    assert found["strongest_pairs"] == []
    assert found["total_correlation_bits"] == found["unseen_probability"] == 0
    assert found["rank_frequency"] == {"ranks": [1], "counts": [9]}
    assert found["most_used"] == found["least_used"] == [{"code": 5, "count": 9}]


def test_nothing():
    found = statistics([], 4)
    assert (found["count"], found["codes_used"], found["entropy_bits"], found["perplexity"]) == (0, 0, 0, 1)
    assert found["unseen_probability"] == 1
    assert found["ones"] == found["bit_entropies"] == found["bit_correlation"] == []
    assert found["total_correlation_bits"] is found["rank_frequency_slope"] is None
    assert found["rank_frequency"] == {"ranks": [], "counts": []}


def test_independent_biased_bits():
    """Every code as often as the product of its bits' shares says: 1/4, 1/2 and 3/4."""
    codes = [code for code in range(8) for _ in range((3 if not code & 4 else 1) * (3 if code & 1 else 1))]
    found = statistics(codes, 3)
    quarter = 2 - 0.75 * math.log2(3)  # entropy of a coin of 1/4
    assert found["ones"] == [0.25, 0.5, 0.75]
    assert found["bit_entropies"] == pytest.approx([quarter, 1, quarter])
    assert found["entropy_bits"] == pytest.approx(1 + 2 * quarter)
    assert found["total_correlation_bits"] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(found["bit_correlation"], np.eye(3), atol=1e-12)


def test_two_identical_bits():
    found = statistics([0b000, 0b001, 0b110, 0b111] * 3, 3)
    assert found["bit_correlation"][0][1] == 1
    assert found["strongest_pairs"][0] == {"bits": [0, 1], "correlation": 1}
    assert found["total_correlation_bits"] == 1
    opposite = statistics([0b010, 0b100] * 3, 3)
    assert opposite["strongest_pairs"] == [{"bits": [0, 1], "correlation": -1}]


def test_pairs_do_not_see_a_xor():
    found = statistics([0b000, 0b011, 0b101, 0b110], 3)
    assert found["bit_correlation"] == np.eye(3).tolist()
    assert found["total_correlation_bits"] == 1


@pytest.mark.parametrize("exponent", [0.5, 1, 2])
def test_zipf(exponent):
    counts = {rank: round(10**9 / rank**exponent) for rank in range(1, 1001)}
    ranks = twin.ranks_shown(1000)
    assert twin.slope(ranks, [counts[rank] for rank in ranks]) == pytest.approx(-exponent, abs=1e-4)
    harmonic = sum(rank**-exponent for rank in counts)
    expected = math.log2(harmonic) + exponent / harmonic * sum(math.log2(r) / r**exponent for r in counts)
    assert twin.entropy_bits(list(counts.values())) == pytest.approx(expected, abs=1e-4)


def test_ranks():
    assert twin.ranks_shown(1) == [1]
    assert twin.ranks_shown(7) == [1, 2, 3, 4, 5, 6, 7]
    assert twin.ranks_shown(8) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert twin.ranks_shown(20) == [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13, 16, 19, 20]


# samples


def test_correction_is_what_entropy_lacks():
    """A thousand samples of 400 among 16 biased codes: the mean of the corrected entropy is nearer, by ten times."""
    random = np.random.default_rng(0)
    shares = random.dirichlet(np.full(16, 3))
    samples = [np.random.default_rng(seed).multinomial(400, shares) for seed in range(1000)]
    estimates = [(twin.entropy_bits([n for n in sample.tolist() if n]), (sample > 0).sum()) for sample in samples]
    plain = np.mean([h for h, _ in estimates])
    corrected = np.mean([h + (used - 1) / (800 * math.log(2)) for h, used in estimates])
    truth = entropy(shares, base=2)
    assert abs(corrected - truth) < abs(plain - truth) / 10


def test_unseen_probability_is_what_is_missing():
    shares = 1 / np.arange(1, 2001)
    shares /= shares.sum()
    missing, estimated = [], []
    for seed in range(200):
        sample = np.random.default_rng(seed).multinomial(1000, shares)
        counter = Counter({code: n for code, n in enumerate(sample.tolist()) if n})
        estimated.append(twin.unseen_probability(counter, 11))
        missing.append(shares[sample == 0].sum())
    assert np.mean(estimated) == pytest.approx(np.mean(missing), abs=0.003)


def test_divergence_by_chance():
    shares = np.random.default_rng(0).dirichlet(np.full(64, 5))
    found = []
    for seed in range(200):
        sides = np.random.default_rng(seed)
        a, b = (dict(enumerate(sides.multinomial(n, shares).tolist())) for n in (5000, 2000))
        found.append(twin.divergence_bits(Counter(a), Counter(b)))
    assert np.mean(found) == pytest.approx(twin.divergence_by_chance(64, 5000, 2000), rel=0.05)


def test_a_sample_of_codes_is_unbiased_and_knows_its_error():
    counts = np.random.default_rng(0).zipf(1.5, 3000).clip(max=5000)
    total, truth = int(counts.sum()), entropy(counts, base=2)
    held = np.where(counts > 100, 1.0, 0.1)
    found = []
    for seed in range(300):
        kept = np.random.default_rng(seed).random(3000) < held
        found.append(twin.entropy_of_sample(total, counts[kept].tolist(), held[kept].tolist()))
    values, errors = np.array(found).T
    assert values.mean() == pytest.approx(truth, abs=3 * values.std() / math.sqrt(300))
    assert errors.mean() == pytest.approx(values.std(), rel=0.15)


# codes and tokens


def test_codes_and_the_joint_token():
    bits = [[1, 0, 1, 1, 0], [0, 0, 1, 0, 1]]
    assert twin.codes_of(bits, [2, 3], "msb") == [[2, 0], [6, 5]]
    assert twin.codes_of(bits, [2, 3], "lsb") == [[1, 0], [3, 5]]
    assert twin.joint_codes(bits) == [0b10110, 0b00101]
    found = twin.token_usage(bits, [2, 3], "lsb")
    assert found["joint"]["bits"] == 5
    assert [usage["bits"] for usage in found["codebooks"]] == [2, 3]
    assert twin.token_usage(bits, [5], "msb")["joint"] is None
    with pytest.raises(ValueError, match="rows of 5 bits"):
        twin.codes_of(bits, [2, 2], "msb")
    with pytest.raises(ValueError, match="bit_order"):
        twin.codes_of(bits, [2, 3], "big")


def test_wide_tokens():
    rows = np.random.default_rng(0).integers(0, 2, (50, 200)).tolist()
    found = twin.token_usage([*rows, *rows[:10]], [50] * 4, "msb")["joint"]
    assert (found["bits"], found["codes_used"], found["count"]) == (200, 50, 60)
    assert found["codes_used_if_uniform"] == pytest.approx(60)
    assert found["ones"] == found["most_used"] == found["strongest_pairs"] == []
    assert found["total_correlation_bits"] is None
    assert found["unseen_probability"] == pytest.approx(40 / 60)


def test_positions():
    codes = [7, 1, 2, 7, 3, 2, 7, 1, 0, 7, 0, 2]  # [4, 3]: 7777, 1310, 2202
    found = twin.positions(codes, (4, 3))
    assert (found["axes"], found["count"], found["codes_used"], found["constant"]) == ([3], 4, [1, 3, 2], 1)
    assert found["entropy_bits"] == pytest.approx([0, 1.5, 2 - 0.75 * math.log2(3)])
    assert found["most_used_share"] == [1, 0.5, 0.75]
    assert twin.positions([1, 2, 3], (1, 3))["constant"] == 0


def test_comparison():
    a, b = [0, 0, 1, 2], [0, 3, 3, 3, 3, 1]
    found = twin.comparison(statistics(a, 2), statistics(b, 2), a, b)
    assert (found["codes_only_a"], found["codes_only_b"]) == (1, 1)
    assert found["share_only_a"] == 0.25
    assert found["share_only_b"] == pytest.approx(4 / 6)
    assert found["figures"]["count"] == {"a": 4, "b": 6, "change": 2}
    assert found["ones_change"] == pytest.approx([4 / 6 - 0.25, 5 / 6 - 0.25])
    same = twin.comparison(statistics(a, 2), statistics(a, 2), a, a)
    assert same["divergence_bits"] == 0
    apart = twin.comparison(statistics([0, 1], 2), statistics([2], 2), [0, 1], [2])
    assert apart["divergence_bits"] == apart["share_only_a"] == apart["share_only_b"] == 1


# the numbers in the text


def table_rows(title):
    """The numbers of each row of the table under the line that starts so."""
    lines = DOCS[DOCS.index(title) :].splitlines()
    for line in lines[2:]:
        if not line.startswith("|"):
            return
        yield [float(re.sub(r"[^\d.]", "", cell)) for cell in line.strip("|").split("|")]


def test_codes_that_random_use_would_show():
    rows = list(table_rows("| N / K | D = 10"))
    assert len(rows) == 5
    for ratio, *codes, share in rows:
        for bits, expected in zip((10, 13, 16, 18), codes, strict=True):
            assert round(twin.used_if_uniform(round(ratio * 2**bits), bits)) == expected
        assert twin.used_if_uniform(ratio * 2**18, 18) / 2**18 == pytest.approx(share / 100, abs=5e-4)


@pytest.mark.parametrize("bits", [10, 18])
def test_statistics_that_random_use_would_show(bits):
    """Means over uniform samples: counts are binomial."""
    rows = list(table_rows("| N / K | entropy lacks"))
    assert len(rows) == 5
    for ratio, lacks, corrected, unseen, correlation in rows:
        total = round(ratio * 2**bits)
        n = np.arange(1, int(ratio + 20 * math.sqrt(ratio) + 60))
        codes = 2**bits * binom.pmf(n, total, 2.0**-bits)
        mean_entropy = math.log2(total) - (codes * n * np.log2(n)).sum() / total
        mean_correction = (codes.sum() - 1) / (2 * total * math.log(2))
        assert bits - mean_entropy == pytest.approx(lacks, abs=0.006)
        assert lacks == correlation
        assert bits - mean_entropy - mean_correction == pytest.approx(corrected, abs=0.016)
        assert codes[0] / total == pytest.approx(unseen / 100, abs=0.01)
