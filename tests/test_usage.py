"""The records of lfq_cli.statistics, made here by plain numpy, against the slow twin of docs/statistics.md."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import stats_twin as twin
from hypothesis import given
from hypothesis import strategies as st
from stats_twin import CLOSE, same, same_pairs

from lfq_cli.statistics.comparison import UsageComparison
from lfq_cli.statistics.profile import Profile, expected_used, miller_madow_bits, profile_of
from lfq_cli.statistics.registry import BY_KEY, STATISTICS
from lfq_cli.statistics.usage import BitStatistics, Estimate, PositionStatistics, TokenUsage, Usage

WIDTHS = (1, 2, 3, 5, 8, 17, 64)


@pytest.mark.parametrize("row", STATISTICS, ids=lambda row: row.key)
def test_every_statistic_has_its_function_and_its_definition(row):
    """As the recipe of CONTRIBUTING.md says."""
    definitions = (Path(__file__).parent.parent / "docs" / "statistics.md").read_text(encoding="utf-8")
    assert row.key == "count" or isinstance(getattr(Usage, row.key), property)
    assert f"`{row.key}`" in definitions
    assert row.definition.endswith(".")
    assert row.share_of is None or row.share_of in BY_KEY


@st.composite
def bit_rows(draw, widths=WIDTHS):
    """bits [n, D] bool, of a few different rows that come again, and dead bits in some."""
    width = draw(st.sampled_from(widths))
    row = st.lists(st.booleans(), min_size=width, max_size=width)
    few = draw(st.lists(row, min_size=1, max_size=8))
    picked = draw(st.lists(st.integers(0, len(few) - 1), max_size=60))
    return np.array([few[k] for k in picked], bool).reshape(len(picked), width)


def counts_of(codes):
    """(codes rising, counts) of Python ints, by numpy."""
    return np.unique(np.array(codes, np.uint64), return_counts=True)


def bit_statistics_of(bits):
    ones = bits.astype(np.int64)
    return BitStatistics(len(bits), ones.T @ ones)


def usage_of(bits, order, min_count=1):
    """(the record, its codes)."""
    ((codes),) = twin.codes_of(bits.tolist(), [bits.shape[1]], order)
    seen, counts = counts_of(codes)
    pairs = list(zip(seen.tolist(), counts.tolist(), strict=True))
    usage = Usage(
        bits=bits.shape[1],
        count=len(bits),
        profile=profile_of(counts),
        bit_statistics=bit_statistics_of(bits),
        most_used=tuple(sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:10]),
        least_used=tuple(sorted(pairs, key=lambda pair: (pair[1], pair[0]))[:10]),
        min_count=min_count,
    )
    return usage, codes


def expected_of(bits, order, min_count=1):
    ((codes),) = twin.codes_of(bits.tolist(), [bits.shape[1]], order)
    return twin.usage(codes, bits.astype(int).tolist(), bits.shape[1], min_count)


# usage


@given(bit_rows(), st.sampled_from(["msb", "lsb"]), st.integers(1, 5))
def test_usage(bits, order, min_count):
    usage, _ = usage_of(bits, order, min_count)
    same(usage.as_json(), expected_of(bits, order, min_count))


@pytest.mark.slow
@pytest.mark.parametrize("width", [4, 10, 18, 64])
def test_usage_of_many(width):
    """20,000 skewed indices: long curves of ranks, all kinds of counts."""
    random = np.random.default_rng(width)
    bits = random.random((20_000, width)) < random.uniform(0.02, 0.98, width)
    bits[random.random(20_000) < 0.3] = bits[0]
    usage, _ = usage_of(bits, "msb", 3)
    same(usage.as_json(), expected_of(bits, "msb", 3))


def test_every_code_seen_leaves_none_unseen():
    """Codes seen once, but none is left: the next index cannot be a new one."""
    usage, _ = usage_of(np.array([[0], [1]], bool), "msb")
    assert usage.unseen_probability == 0


@pytest.mark.parametrize("width", [65, 144, 200, 1023, 1024, 4096])
def test_usage_of_tokens_that_are_told_apart_by_a_hash(width):
    random = np.random.default_rng(width)
    rows = random.integers(0, 2, (40, width)).tolist()
    rows += rows[:7] + rows[:3]
    codes = twin.joint_codes(rows)
    _, counts = np.unique(np.array([hash(code) for code in codes]), return_counts=True)
    usage = Usage(bits=width, count=50, profile=profile_of(counts), bit_statistics=None)
    same(usage.as_json(), twin.usage(codes, rows, width))


def test_token_usage():
    random = np.random.default_rng(0)
    bits = random.random((300, 9)) < 0.4
    parts = [bits[:, :4], bits[:, 4:6], bits[:, 6:]]
    token = TokenUsage(tuple(usage_of(part, "lsb")[0] for part in parts), usage_of(bits, "msb")[0])
    found = token.as_json()
    expected = twin.token_usage(bits.tolist(), [4, 2, 3], "lsb")
    same({key: found[key] for key in expected}, expected)
    assert token.bits_stored == 9
    assert token.token is token.joint
    alone = TokenUsage((usage_of(bits, "msb")[0],), None)
    assert alone.as_json()["joint"] is None
    assert alone.token is alone.codebooks[0]


# bits


@given(bit_rows())
def test_bits(bits):
    statistics = bit_statistics_of(bits)
    expected = twin.bit_statistics(bits.astype(int).tolist(), 0.0)
    assert statistics.ones.tolist() == expected["ones"]
    same(statistics.entropies.tolist(), expected["bit_entropies"])
    found = [[None if math.isnan(value) else value for value in row] for row in statistics.correlation.tolist()]
    same(found, expected["bit_correlation"])
    pairs = [{"bits": [i, j], "correlation": value} for i, j, value in statistics.strongest_pairs()]
    same_pairs({"strongest_pairs": pairs}, expected)


def test_correlation_of_rare_bits_in_many():
    """10^12 indices, bits that are one in a millionth of them: numbers that a product of counts would overflow."""
    total, rare = 10**12, 10**6
    both = np.array([[rare, rare // 2, 0], [rare // 2, rare, 0], [0, 0, total - rare]], np.int64)
    found = BitStatistics(total, both).correlation
    for i, j in ((0, 1), (0, 2)):
        exact = twin.phi(int(both[i, j]), int(both[i, i]), int(both[j, j]), total)
        assert found[i, j] == pytest.approx(exact, rel=1e-6, abs=1e-9)


def test_strongest_pairs_are_as_many_as_asked_for():
    bits = np.random.default_rng(0).random((100, 12)) < 0.5
    statistics = bit_statistics_of(bits)
    assert len(statistics.strongest_pairs()) == 10
    assert statistics.strongest_pairs(3) == statistics.strongest_pairs()[:3]
    assert len(statistics.strongest_pairs(1000)) == 66


# profiles


@given(st.lists(st.integers(0, 10**9), max_size=80), st.integers(1, 100))
def test_profile(counts, at_least):
    profile = profile_of(np.array(counts, np.int64))
    used = sorted((n for n in counts if n), reverse=True)
    assert profile.total == sum(used)
    assert profile.used() == len(used)
    assert profile.used(at_least) == sum(n >= at_least for n in used)
    assert profile.singletons() == used.count(1)
    assert profile.entropy_bits(sum(used)) == pytest.approx(twin.entropy_bits(used), **CLOSE)
    ranks = twin.ranks_shown(len(used))
    found_ranks, found_counts = profile.rank_frequency_curve()
    assert found_ranks.tolist() == ranks
    assert found_counts.tolist() == [used[rank - 1] for rank in ranks]
    expected = twin.slope(ranks, [used[rank - 1] for rank in ranks])
    assert profile.rank_frequency_slope() == (None if expected is None else pytest.approx(expected, **CLOSE))
    assert (np.diff(profile.counts) < 0).all()


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 2**40)), max_size=20, unique_by=lambda pair: pair[1]))
def test_profile_is_counts_of_counts(pairs):
    """A profile of counts of counts is that of all counts: many codes need no array."""
    counts = [count for codes, count in pairs for _ in range(codes)]
    found, direct = profile_of(np.array(counts, np.int64)), sorted(((c, n) for n, c in pairs if n), reverse=True)
    assert list(zip(found.counts.tolist(), found.codes.tolist(), strict=True)) == direct


def test_ranks_of_many_codes():
    """10^9 codes of two counts, which no array could hold here."""
    profile = Profile(np.array([7, 2]), np.array([1e6, 999e6]))
    ranks, counts = profile.rank_frequency_curve()
    assert ranks.tolist() == twin.ranks_shown(10**9)
    assert counts.tolist() == [7 if rank <= 10**6 else 2 for rank in ranks]
    assert profile.total == 7 * 10**6 + 2 * 999 * 10**6


@given(
    st.lists(st.tuples(st.integers(1, 1000), st.sampled_from([1.0, 0.5, 0.125])), min_size=1, max_size=60),
    st.integers(1, 9),
)
def test_profile_of_a_sample_of_codes(known, at_least):
    """Each known code stands for 1/π; entropy is log2 N - T/N, with the N that was counted."""
    counts, held = (np.array(column) for column in zip(*known, strict=True))
    profile = profile_of(counts, 1 / held)
    total = int((counts / held).sum()) + 17
    expected, _ = twin.entropy_of_sample(total, counts.tolist(), held.tolist())
    assert profile.entropy_bits(total) == pytest.approx(max(0.0, expected), **CLOSE)
    above = [float(n >= at_least) for n in counts.tolist()]
    assert profile.used(at_least) == pytest.approx(twin.horvitz_thompson(above, held.tolist())[0])
    assert profile.singletons() == pytest.approx(sum(1 / p for n, p in known if n == 1))


@given(st.integers(0, 3000), st.integers(1, 12))
def test_expected_used_is_the_formula(total, bits):
    codes = 2**bits
    exact = codes * (1 - (1 - Fraction(1, codes)) ** total)
    assert expected_used(total, bits) == pytest.approx(float(exact), **CLOSE)


@pytest.mark.parametrize("bits", [18, 40, 64, 200, 1023, 1024, 4096])
@pytest.mark.parametrize("total", [0, 1, 1000, 10**9])
def test_expected_used_of_wide_tokens(total, bits):
    assert expected_used(total, bits) == pytest.approx(twin.used_if_uniform(total, bits), **CLOSE)


def test_miller_madow():
    assert miller_madow_bits(100, 21) == pytest.approx(20 / (200 * math.log(2)))
    assert miller_madow_bits(0, 0) == miller_madow_bits(5, 1) == 0


# positions


@given(st.integers(1, 6), st.lists(st.integers(1, 4), max_size=3), st.data())
def test_positions(batch, axes, data):
    places = math.prod(axes)
    codes = data.draw(st.lists(st.integers(0, 3), min_size=batch * places, max_size=batch * places))
    grid = np.array(codes).reshape(batch, places)
    columns = [np.unique(column, return_counts=True)[1] for column in grid.T]
    statistics = PositionStatistics(
        axes=tuple(axes),
        count=batch,
        codes_used=np.array([len(counts) for counts in columns]).reshape(axes),
        entropy_bits=np.array([-(c / batch) @ np.log2(c / batch) for c in columns]).reshape(axes),
        most_used_share=np.array([counts.max() / batch for counts in columns]).reshape(axes),
    )
    same(statistics.as_json(), twin.positions(codes, (batch, *axes)))


# comparisons


@given(bit_rows([4]), bit_rows([4]))
def test_comparison(a_bits, b_bits):
    """What the record adds to the statistics of A and B: their changes. Divergence and the rest are given to it."""
    (a, a_codes), (b, b_codes) = usage_of(a_bits, "msb"), usage_of(b_bits, "msb")
    expected = twin.comparison(expected_of(a_bits, "msb"), expected_of(b_bits, "msb"), a_codes, b_codes)
    given_to_it = [
        expected[name] for name in ("divergence_bits", "codes_only_a", "codes_only_b", "share_only_a", "share_only_b")
    ]
    same(UsageComparison(a, b, *given_to_it).as_json(), expected)
    assert tuple(row.key for row in STATISTICS) == twin.COMPARED


def test_comparison_of_what_was_not_counted_exactly():
    usage, _ = usage_of(np.eye(4, dtype=bool), "msb")
    found = UsageComparison(usage, usage, None, None, None, None, None).as_json()
    assert found["divergence_bits"] is found["codes_only_a"] is found["share_only_b"] is None
    assert all(value["change"] in (0, None) for value in found["figures"].values())


# estimates


def estimated(bits, count, used):
    """A usage whose codes were estimated, from a sample of one code in 8."""
    return Usage(
        bits=bits,
        count=count,
        profile=profile_of(np.array([3, 1, 1]), np.array([8.0, 8.0, 8.0])),
        bit_statistics=None,
        estimated={"codes_used": Estimate("HyperLogLog", used * 0.0081)},
        codes_used_estimate=used,
    )


def test_estimates_are_reported():
    found = estimated(40, 44, 26.4).as_json()
    assert found["exact"] is False
    assert found["estimated"] == {"codes_used": {"method": "HyperLogLog", "standard_error": 26.4 * 0.0081}}
    assert found["codes_used"] == 26
    assert found["utilisation"] == 26 / 2**40
    assert found["unseen_probability"] == pytest.approx(16 / 44)


def test_an_estimate_is_no_more_than_there_can_be():
    """HyperLogLog errs either way: no more codes than there are, none without an index."""
    assert estimated(27, 10**9, 2**27 * 1.01).codes_used <= 2**27
    assert estimated(27, 10**9, 2**27 * 1.01).utilisation <= 1
    assert estimated(64, 10**6, 1.008e6).codes_used <= 10**6
