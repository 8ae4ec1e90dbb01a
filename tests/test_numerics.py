"""numerics.py: residual levels as digits, against the loop over levels and the torch module."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lfq_cli.nn import GroupedResidualLFQ, ResidualLFQ
from lfq_cli.numerics import EXACT_LEVELS, residual_bits, residual_codes
from lfq_cli.quantizer import Quantizer

levels = st.integers(1, EXACT_LEVELS + 3)


def edges(count):
    """Values on, just above and just below the places where a level changes its mind, and the odd ones."""
    places = np.arange(-(2**11), 2**11 + 1, dtype=np.float32) / 2**9
    beside = [np.nextafter(places, np.float32(far)) for far in (-9, 9)]
    odd = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1e-38, 3e38, -3e38, 2**24 + 2], np.float32)
    near = np.float32(1) - np.float32(2) ** -np.arange(1, 30, dtype=np.float32)
    return np.resize(np.concatenate([places, *beside, odd, near, -near]), count).reshape(-1, 4)


def slow_bits(z, count):
    """z [n, d] -> bits [n, count, d]: the recurrence, one value and level at a time in float32."""
    rest, bits = z.copy(), []
    with np.errstate(invalid="ignore"):
        for level in range(count):
            bits.append(rest > 0)
            rest = rest - np.where(bits[-1], np.float32(2.0**-level), -np.float32(2.0**-level))
    return np.stack(bits, axis=1)


def check(z, count):
    quantizer = Quantizer(dim=z.shape[1], codebook_dim=z.shape[1], num_quantizers=count)
    bits = residual_bits(z[..., None], quantizer)
    expected = slow_bits(z, count)
    assert np.array_equal(bits, expected.reshape(len(z), -1))
    total = np.zeros_like(z)
    for level in range(count):
        total = total + np.where(expected[:, level], np.float32(2.0**-level), -np.float32(2.0**-level))
    assert np.array_equal(residual_codes(bits, quantizer), total)


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(width=32)), levels
)
def test_digits_are_what_the_loop_over_levels_finds(z, count):
    check(z, count)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 16, 17, EXACT_LEVELS - 1, EXACT_LEVELS, EXACT_LEVELS + 1, 40])
def test_digits_at_the_edges(count):
    check(edges(4 * 4000), count)


@given(
    st.integers(1, 3), st.integers(1, 9), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(0, 99)
)
def test_groups_and_positions_are_the_modules(groups, count, depth, outer, inner, seed):
    z = np.random.default_rng(seed).standard_normal((outer, groups * depth, inner)).astype(np.float32)
    module = GroupedResidualLFQ(dim=groups * depth, groups=groups, codebook_size=2**depth, num_quantizers=count)
    quantizer = Quantizer(dim=groups * depth, codebook_dim=depth, num_quantizers=count, groups=groups)
    vectors = torch.from_numpy(z.transpose(0, 2, 1).reshape(-1, groups * depth).copy())
    bits = residual_bits(z, quantizer)
    assert np.array_equal(bits, module.encode_bits(vectors).numpy())
    assert np.array_equal(residual_codes(bits, quantizer), module.decode_bits(torch.from_numpy(bits)).numpy())


def test_one_level_more_than_digits_hold_is_the_modules():
    z = edges(4 * 4000)
    quantizer = Quantizer(dim=4, codebook_dim=4, num_quantizers=EXACT_LEVELS + 1)
    module = ResidualLFQ(dim=4, codebook_size=16, num_quantizers=EXACT_LEVELS + 1)
    assert np.array_equal(residual_bits(z[..., None], quantizer), module.encode_bits(torch.from_numpy(z)).numpy())
