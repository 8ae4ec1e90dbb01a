"""floats.py against torch: every pattern of the 16 and 8 bit formats, and the edges of float32 and float64."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lfq_cli import floats
from lfq_cli.dtypes import PLAIN_FLOATS
from lfq_cli.floats import FORMATS

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
}
NARROW = [name for name, spec in FORMATS.items() if spec.itemsize <= 2]
WIDE = [name for name, spec in FORMATS.items() if spec.itemsize > 2]
# where normalising and clamping are sure to keep signs: backends/extremes.py asks has_extremes with these
LOW, HIGH = 2.0**-80, 2.0**40

WIDE_EDGES = {  # patterns
    "F32": [0, 1, 2, 0x007FFFFF, 0x00800000, 0x3F800000, 0x7F7FFFFF, 0x7F800000, 0x7FC00000, 0x7FFFFFFF]
    + [int(np.float32(x).view(np.uint32)) + d for x in (LOW, HIGH) for d in (-1, 0, 1)],
    "F64": [0, 1, 0x000FFFFFFFFFFFFF, 0x7FEFFFFFFFFFFFFF, 0x7FF0000000000000, 0x7FF8000000000000, 0x7FFFFFFFFFFFFFFF]
    + [int(np.float64(x).view(np.uint64)) + d for x in (LOW, HIGH, 2.0**-149, 2.0**-150, 2.0**128) for d in (-1, 0, 1)],
}
SIGNALLING = {"F32": [0x7F800001, 0x7FBFFFFF], "F64": [0x7FF0000000000001, 0x7FF0000020000000, 0x7FF7FFFFFFFFFFFF]}


def every_pattern(name):
    """All patterns of a narrow format; of a wide one its edges with both signs and 10,000 random ones."""
    spec = FORMATS[name]
    bits = 8 * spec.itemsize
    if name in NARROW:
        return np.arange(1 << bits).astype(spec.storage)
    edges = np.array(WIDE_EDGES[name], f"u{spec.itemsize}")
    anything = np.random.default_rng(0).integers(0, 1 << bits, 10_000, dtype=edges.dtype)
    numbers = anything[~np.isnan(anything.view(spec.storage))]
    return np.concatenate([edges, negative(edges), numbers]).view(spec.storage)


def negative(patterns):
    return patterns | np.array(1 << (8 * patterns.itemsize - 1), patterns.dtype)


def values_of(raw, name):
    """What torch reads in those bytes, as float32."""
    return torch.from_numpy(raw.copy().view(np.uint8)).view(TORCH[name]).float().numpy()


def raw_of(tensor, spec):
    return tensor.view(torch.uint8).numpy().view(spec.storage)


def same_floats(a, b):
    """Equal bit for bit; one NaN is as good as another."""
    return np.array_equal(np.isnan(a), np.isnan(b)) and np.array_equal(
        a[~np.isnan(a)].view(np.uint32), b[~np.isnan(b)].view(np.uint32)
    )


def any_extreme(raw, name):
    values = raw if name == "F64" else values_of(raw, name)
    return np.isnan(values) | ((values > 0) & (values < LOW)) | (np.abs(values) >= HIGH)


def test_every_format_is_compared():
    assert set(TORCH) == set(FORMATS)
    assert all(spec.itemsize == TORCH[name].itemsize for name, spec in FORMATS.items())


@pytest.mark.parametrize("name", FORMATS)
def test_positive(name):
    raw = every_pattern(name)
    above = floats.positive(raw, FORMATS[name])
    assert above.dtype == np.bool_
    assert np.array_equal(above, values_of(raw, name) > 0)


@pytest.mark.parametrize("name", FORMATS)
def test_is_nan(name):
    raw = every_pattern(name)
    where = floats.is_nan(raw, FORMATS[name])
    assert where.dtype == np.bool_
    assert np.array_equal(where, np.isnan(values_of(raw, name)))
    assert where.any()


@pytest.mark.parametrize("name", FORMATS)
def test_has_nan_tells_every_pattern(name):
    raw, spec = every_pattern(name), FORMATS[name]
    found = [floats.has_nan(raw[i : i + 1], spec) for i in range(raw.size)]
    assert all(type(item) is bool for item in found)
    assert np.array_equal(found, np.isnan(values_of(raw, name)))


@pytest.mark.parametrize("name", FORMATS)
def test_has_nan_finds_one_among_all_others(name):
    raw, spec = every_pattern(name), FORMATS[name]
    where = np.isnan(values_of(raw, name))
    numbers = raw[~where]
    assert not floats.has_nan(numbers, spec)
    assert not floats.has_nan(numbers[:0], spec)
    for i in np.flatnonzero(where)[:64]:
        assert floats.has_nan(np.concatenate([numbers, raw[i : i + 1], numbers]), spec)


@pytest.mark.parametrize("name", FORMATS)
def test_to_float32(name):
    raw = every_pattern(name)
    values = floats.to_float32(raw, FORMATS[name])
    assert values.dtype == np.float32
    assert same_floats(values, values_of(raw, name))


@pytest.mark.parametrize("name", FORMATS)
def test_any_shape_and_any_strides(name):
    spec = FORMATS[name]
    cube = every_pattern(name)[: 2 * 5 * 6 * 4].copy()
    cube = cube[: 4 * (cube.size // 4)].reshape(2, -1, 2).transpose(2, 1, 0)[:, ::-1]
    assert not cube.flags.c_contiguous
    for function in (floats.positive, floats.is_nan, floats.to_float32):
        answer = function(cube, spec)
        assert answer.shape == cube.shape
        assert np.array_equal(answer, function(np.ascontiguousarray(cube).reshape(-1), spec).reshape(cube.shape), True)
    assert floats.has_nan(cube, spec) == floats.is_nan(cube, spec).any()


# float64 counts as the float32 that it rounds to


@pytest.mark.parametrize(
    ("value", "above"),
    [
        (2.0**-150, False),  # half of the smallest float32: rounds to even, 0
        (math.nextafter(2.0**-150, 1), True),
        (2.0**-149, True),
        (2.0**-1074, False),
        (-(2.0**-149), False),
        (1e300, True),  # infinity
        (-1e300, False),
        (math.inf, True),
        (math.nan, False),
        (-0.0, False),
    ],
)
def test_float64_at_the_threshold(value, above):
    raw = np.array([value])
    assert floats.positive(raw, FORMATS["F64"]).tolist() == [above]
    assert (torch.tensor([value], dtype=torch.float64).float() > 0).tolist() == [above]


@given(st.lists(st.floats() | st.floats(-(2.0**-148), 2.0**-148), min_size=1))
def test_float64_is_rounded_first(values):
    raw, spec = np.array(values, np.float64), FORMATS["F64"]
    rounded = floats.to_float32(raw, spec)
    assert same_floats(rounded, values_of(raw, "F64"))
    assert np.array_equal(floats.positive(raw, spec), rounded > 0)


# extremes


@pytest.mark.parametrize("name", FORMATS)
def test_has_extremes_never_misses_one(name):
    raw, spec = every_pattern(name), FORMATS[name]
    extreme = np.flatnonzero(any_extreme(raw, name))
    usual = np.array([1, 0, -1], np.float32)
    usual_raw = raw_of(torch.from_numpy(usual).to(TORCH[name]), spec)
    assert not floats.has_extremes(usual_raw, spec, LOW, HIGH)
    for i in extreme:
        assert floats.has_extremes(np.concatenate([usual_raw, raw[i : i + 1], usual_raw]), spec, LOW, HIGH), raw[i]


@pytest.mark.parametrize("name", FORMATS)
def test_has_extremes_lets_everything_else_pass(name):
    raw, spec = every_pattern(name), FORMATS[name]
    usual = raw[~any_extreme(raw, name)]
    assert usual.size > 100
    flagged = [floats.has_extremes(usual[i : i + 1], spec, LOW, HIGH) for i in range(usual.size)]
    assert values_of(usual[flagged], name).tolist() == []
    assert not floats.has_extremes(usual, spec, LOW, HIGH)
    assert not floats.has_extremes(usual[:0], spec, LOW, HIGH)


# from float32


def halfway(name):
    """float32 values around every tie of a 16-bit format, and the format's own values."""
    values = values_of(np.arange(1 << 15).astype(np.uint16), name)
    values = values[np.isfinite(values)].astype(np.float64)
    ties = np.append((values[1:] + values[:-1]) / 2, values[-1] + (values[-1] - values[-2]) / 2).astype(np.float32)
    below, above = np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(np.inf))
    positive = np.concatenate([below, ties, above, values.astype(np.float32)])
    return np.concatenate([positive, -positive])


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_every_tie_rounds_to_even(name):
    values, spec = halfway(name), FORMATS[name]
    assert np.array_equal(floats.from_float32(values, spec), raw_of(torch.from_numpy(values).to(TORCH[name]), spec))


@pytest.mark.parametrize("name", PLAIN_FLOATS.values())
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_from_float32_rounds_as_torch(name, patterns):
    values, spec = np.array(patterns, np.uint32).view(np.float32), FORMATS[name]
    values = np.where(np.isnan(values), np.float32(np.nan), values)
    stored = floats.from_float32(values, spec)
    assert (stored.dtype, stored.shape) == (spec.storage, values.shape)
    theirs = torch.from_numpy(values).to(TORCH[name])
    assert same_floats(values_of(stored, name), theirs.float().numpy())


@pytest.mark.parametrize("name", PLAIN_FLOATS.values())
def test_infinity_and_nan_stay(name):
    spec = FORMATS[name]
    values = np.array([np.inf, -np.inf, np.nan, -np.nan, 3.4e38, -0.0], np.float32)
    back = floats.to_float32(floats.from_float32(values, spec), spec)
    assert np.array_equal(back[:2], values[:2])
    assert np.isnan(back[2:4]).all()
    assert back[4] == (values[4] if spec.itemsize > 2 else np.inf)
    assert np.signbit(back[5])


def test_a_nan_in_the_bits_that_bfloat16_drops_stays_nan():
    patterns = np.array([0x7F800001, 0xFF80FFFF, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32)
    assert floats.is_nan(floats.from_float32(patterns.view(np.float32), FORMATS["BF16"]), FORMATS["BF16"]).all()


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_every_number_survives_the_round_trip(name):
    spec = FORMATS[name]
    raw = every_pattern(name)
    numbers = raw[~floats.is_nan(raw, spec)]
    assert np.array_equal(floats.from_float32(floats.to_float32(numbers, spec), spec), numbers)


@pytest.mark.parametrize("name", sorted(set(FORMATS) - set(PLAIN_FLOATS.values())))
def test_the_other_formats_are_not_written(name):
    with pytest.raises(ValueError, match=name):
        floats.from_float32(np.zeros(1, np.float32), FORMATS[name])


@pytest.mark.parametrize("sign", ["+", "-"])
@pytest.mark.parametrize("name", SIGNALLING)
def test_a_signalling_nan_is_a_nan_and_warns_nobody(name, sign):
    """Warnings are errors here, but say so: numpy's would reach the user's terminal."""
    spec = FORMATS[name]
    patterns = np.array(SIGNALLING[name], f"u{spec.itemsize}")
    raw = (negative(patterns) if sign == "-" else patterns).view(spec.storage)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not floats.positive(raw, spec).any()
        assert floats.is_nan(raw, spec).all()
        assert floats.has_nan(raw, spec)
        assert floats.has_extremes(raw, spec, LOW, HIGH)
        assert np.isnan(floats.to_float32(raw, spec)).all()
