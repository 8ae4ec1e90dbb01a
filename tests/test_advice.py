"""advice.py: each line on a distribution that was built for it, and none where nothing is wrong."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stats_records import positions_of, random_bits, token_of, usage_of

from lfq_cli.statistics import advice as module
from lfq_cli.statistics.advice import advice, bit_name, faults
from lfq_cli.statistics.usage import TokenUsage


def every_code(bits, times=1):
    """[times * 2^bits, bits]: every code equally often."""
    return np.array([*product([False, True], repeat=bits)] * times)


def advised(usage, *words):
    """The one line of advice with the first word, which has the others too."""
    (line,) = [text for text in advice(usage) if words[0] in text]
    for word in words[1:]:
        assert word in line, line
    return line


# nothing


@given(st.integers(1, 9), st.integers(0, 2**32))
def test_nothing_of_codes_that_are_used_equally_in_any_order(bits, seed):
    codes = np.random.default_rng(seed).permutation(every_code(bits, max(2, 64 >> bits)))
    assert advice(token_of(codes)) == []


@pytest.mark.parametrize("bits", [1, 4, 10, 13])
@pytest.mark.parametrize("seed", range(3))
def test_nothing_of_uniform_random_codes(bits, seed):
    assert advice(token_of(random_bits(12 << bits, bits, seed) if bits > 2 else random_bits(400, bits, seed))) == []


@pytest.mark.parametrize("dims", [(4, 4), (8, 6, 4), (6,) * 40])
def test_nothing_of_several_codebooks_of_uniform_random_codes(dims):
    assert advice(token_of(*(random_bits(4000, bits, 10 + k) for k, bits in enumerate(dims)))) == []


@given(st.integers(1, 64), st.integers(1, 3), st.integers(30, 300), st.integers(0, 2**32))
def test_uniform_random_codes_never_have_a_fault(bits, codebooks, count, seed):
    """Whatever the sample's size: too few samples are not the fault of the codes."""
    assert faults(token_of(*(random_bits(count, bits, [seed, k]) for k in range(codebooks)))) == []


def test_nothing_where_nothing_was_counted():
    assert advice(token_of(random_bits(0, 8))) == []
    assert advice(TokenUsage((), None)) == []


def test_natural_skew_is_no_fault():
    assert advice(token_of(random_bits(200_000, 10, ones=np.linspace(0.3, 0.7, 10)))) == []


# the sample


def test_too_few_to_say_anything():
    constant = random_bits(module.FEW_INDICES - 1, 8, ones=0)
    assert advice(token_of(constant)) == [f"{len(constant)} vectors: too few to say anything about the codes"]


def test_the_sample_limits_utilisation():
    line = advised(token_of(random_bits(2048, 10)), "2 vectors a code", "limited by the sample", "14% of further codes")
    assert "codebook" not in line


def test_which_codebooks_the_sample_is_too_small_for():
    advised(token_of(random_bits(1000, 10), random_bits(1000, 4)), "0.98 vectors a code in codebook 0 of 2")


def test_of_codes_that_no_sample_fills():
    assert advice(token_of(random_bits(500, 64))) == [
        advised(token_of(random_bits(500, 64)), "no sample fills 2^64 codes")
    ]


def test_a_small_sample_of_few_codes_is_not_limited():
    """Good and Turing: nothing new is to be expected."""
    codes = random_bits(16, 18)[np.random.default_rng(0).integers(0, 16, 5000)]
    assert not any("sample" in line for line in advice(token_of(codes)))


# bits


@pytest.mark.parametrize("value", [0, 1])
def test_constant_bits(value):
    codes = random_bits(40_000, 10)
    codes[:, [3, 7]] = value
    advised(token_of(codes), "bits 3 and 7 are constant", "halves")
    codes[:, 7] = codes[::-1, 6]
    advised(token_of(codes), "bit 3 is constant")


def test_a_constant_codebook_of_one_bit():
    advised(token_of(random_bits(100, 1, ones=1)), "bit 0 is constant")


def test_nearly_constant_bits():
    advised(token_of(random_bits(60_000, 10, ones=[*[0.5] * 8, 0.005, 0.995])), "bits 8 and 9 are nearly constant")


def test_bits_of_several_codebooks_are_named_with_their_codebook():
    codes = [random_bits(5000, 6, k) for k in range(3)]
    codes[0][:, 1] = codes[2][:, 5] = True
    advised(token_of(*codes), "bits 0:1 and 2:5 are constant")


@pytest.mark.parametrize("flipped", [False, True])
def test_bits_that_say_the_same(flipped):
    codes = random_bits(40_000, 10)
    codes[:, 2] = codes[:, 7] ^ flipped
    codes[:, 5] = codes[:, 7]
    advised(token_of(codes), "bits 2, 5 and 7 say the same or the opposite", "one of them")


def test_bits_that_are_strongly_correlated():
    codes = random_bits(40_000, 10)
    codes[:, 4] = codes[:, 1] ^ (random_bits(40_000, 1, 5)[:, 0] & random_bits(40_000, 1, 6, ones=0.2)[:, 0])
    advised(token_of(codes), "bits 1 and 4 (+0.80) are strongly correlated")


@given(st.integers(30, 100), st.integers(0, 2**32))
def test_chance_correlates_no_bits(count, seed):
    assert not any(
        "say the same" in line or "correlated" in line for line in advice(token_of(random_bits(count, 64, seed)))
    )


def test_long_lists_are_cut():
    codes = random_bits(4000, 20)
    codes[:, :12] = False
    advised(token_of(codes), "bits 0, 1, 2, 3, 4, 5 and 6 more are constant")


@given(st.lists(st.integers(1, 64), min_size=1, max_size=5), st.data())
def test_bit_names(dims, data):
    k = data.draw(st.integers(0, len(dims) - 1))
    bit = data.draw(st.integers(0, dims[k] - 1))
    usage = TokenUsage(tuple(usage_of(random_bits(1, bits)) for bits in dims), None)
    assert bit_name(usage, sum(dims[:k]) + bit) == (f"{k}:{bit}" if len(dims) > 1 else str(bit))


# codes


def few_codes(count, bits, codes, seed=0):
    random = np.random.default_rng(seed)
    return every_code(bits)[random.choice(2**bits, codes, replace=False)][random.integers(0, codes, count)]


def test_a_collapsed_codebook():
    advised(token_of(few_codes(20_000, 10, 9)), "the codebook collapsed", "9.0 equally used codes", "1,024")


def test_one_of_several_collapsed():
    codes = [random_bits(5000, 8, k) for k in range(4)]
    codes[2] = few_codes(5000, 8, 3)
    lines = advice(token_of(*codes))
    assert "codebook 2 of 4 collapsed" in lines[0]
    assert not any("correlated" in line or "say the same" in line for line in lines)  # three codes correlate all bits


def test_a_codebook_of_one_code_is_reported_once():
    lines = advice(token_of(np.ones((500, 8), bool)))
    assert "collapsed" in lines[0]
    assert not any("bit 0" in line or "bits 0" in line for line in lines)


def test_all_collapsed():
    advised(token_of(few_codes(5000, 8, 2), few_codes(5000, 8, 3, 1)), "both codebooks collapsed", "2.0 to 3.0")


def test_a_small_sample_is_no_collapse():
    assert not any("collapsed" in line for line in advice(token_of(random_bits(100, 18))))


def test_codes_that_are_never_used():
    advised(token_of(few_codes(40_000, 10, 600)), "leaves 41% of the codes unused")


def test_codes_that_constant_bits_forbid_are_not_reported_twice():
    codes = random_bits(40_000, 10)
    codes[:, 3] = True
    assert not any("unused" in line for line in advice(token_of(codes)))


def test_one_code_that_is_much_of_all():
    codes = random_bits(40_000, 10)
    codes[: 40_000 // 4] = every_code(10)[17]
    advised(token_of(codes), "code 17 is 25% of all", "padding")


def test_one_token_that_is_much_of_all():
    codes = [random_bits(40_000, 4, k) for k in range(3)]
    for codebook in codes:
        codebook[: 40_000 // 8] = True
    advised(token_of(*codes), "code 4095 of the joint token is 13% of all")


def test_compressible():
    line = advised(
        token_of(random_bits(400_000, 10, ones=0.8)), "compressible by 28%", "at most 7.2 bits of information"
    )
    assert "10 bits stored" in line


def test_a_sample_that_is_too_small_makes_nothing_compressible():
    assert not any("compressible" in line for line in advice(token_of(random_bits(1000, 18))))


def test_single_bits_show_what_is_compressible_where_the_sample_is_too_small_for_codes():
    advised(token_of(random_bits(1000, 48, ones=0.9)), "compressible by 5", "bits of information")


def test_a_codebook_that_repeats_another():
    codes = random_bits(20_000, 6)
    advised(token_of(codes, random_bits(20_000, 6, 1), ~codes), "codebook 2 repeats codebook 0")


def test_codebooks_that_say_the_same_in_another_way():
    """Joint entropy sees what no pair of bits does: the second is a permutation of the first's codes."""
    numbers = np.random.default_rng(0).integers(0, 64, 20_000)
    other = np.random.default_rng(1).permutation(64)[numbers]
    usage = token_of(every_code(6)[numbers], every_code(6)[other])
    advised(usage, "codebooks repeat each other", "12.0 bits of entropy, together 6.0")


# positions


def test_positions_that_never_change():
    codes = random_bits(60, 5 * 6 * 8).reshape(60, 5, 6, 8)
    codes[:, 0, 5] = codes[:, 3, 2] = True
    usage = token_of(codes.reshape(-1, 8), positions=(positions_of(codes),))
    advised(usage, "2 of 30 positions never change", "(0, 5), (3, 2)")


def test_a_position_of_a_sequence():
    codes = random_bits(60, 50 * 8).reshape(60, 50, 8)
    codes[:, 7] = False
    advised(token_of(codes.reshape(-1, 8), positions=(positions_of(codes),)), "1 of 50 positions never changes: 7;")


def test_positions_of_one_codebook():
    codes = [random_bits(60, 50 * 4, k).reshape(60, 50, 4) for k in range(3)]
    codes[1][:, 4:8] = True
    usage = token_of(*(c.reshape(-1, 4) for c in codes), positions=tuple(map(positions_of, codes)))
    advised(usage, "codebook 1 of 3 does not change at 4 of 50 positions")
    assert not any("never change" in line for line in advice(usage))


def test_a_small_batch_says_nothing_of_positions():
    codes = np.ones((5, 50, 8), bool)
    assert not any(
        "position" in line for line in advice(token_of(codes.reshape(-1, 8), positions=(positions_of(codes),)))
    )
