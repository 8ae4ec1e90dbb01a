"""Float formats as stored, and two questions about them: is a value above zero, is it NaN.

Knows bytes, not tensors or files. Answers are those for the value as float32: `x > 0` is False for 0, -0.0 and NaN and
True for the smallest subnormal. Formats of 16 and 8 bits are held as unsigned integers. Neither question needs a
conversion, since sign and order of floats follow from their bit patterns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Raw: TypeAlias = NDArray[Any]
Bools: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class FloatFormat:
    """One stored format. `storage` is how numpy holds it; the other fields say which bit patterns are NaN.

    All patterns whose magnitude is above `largest` are NaN; with `nan_is_minus_zero` only the pattern of -0.0 is.
    """

    name: str
    storage: np.dtype[Any]
    largest: int = 0
    """The bit pattern of the largest positive value, including infinity; 0 if numpy itself has the format."""
    has_infinity: bool = True
    nan_is_minus_zero: bool = False

    @property
    def itemsize(self) -> int:
        """Bytes of one value."""
        return self.storage.itemsize


FORMATS = {
    spec.name: spec
    for spec in (
        FloatFormat("F64", np.dtype("<f8")),
        FloatFormat("F32", np.dtype("<f4")),
        FloatFormat("F16", np.dtype("<u2"), largest=0x7C00),
        FloatFormat("BF16", np.dtype("<u2"), largest=0x7F80),
        FloatFormat("F8_E5M2", np.dtype("u1"), largest=0x7C),
        FloatFormat("F8_E4M3", np.dtype("u1"), largest=0x7E, has_infinity=False),
        FloatFormat("F8_E5M2FNUZ", np.dtype("u1"), largest=0x7F, has_infinity=False, nan_is_minus_zero=True),
        FloatFormat("F8_E4M3FNUZ", np.dtype("u1"), largest=0x7F, has_infinity=False, nan_is_minus_zero=True),
    )
}

_MINUS_ZERO = 0x80  # in a format of 8 bits

# float64 inputs are rounded to float32 first: 2^-150 and smaller become 0 (round half to even)
_LARGEST_FLOAT64_ROUNDED_TO_ZERO = 2.0**-150


def positive(raw: Raw, spec: FloatFormat, *, has_nan: bool = True) -> Bools:
    """raw (any shape) -> bool of the same shape: value > 0 as float32; NaN gives False.

    has_nan: False promises that no value is NaN, which saves a pass.
    """
    if spec.name == "F64":
        return np.greater(raw, _LARGEST_FLOAT64_ROUNDED_TO_ZERO)
    if spec.name == "F32":
        return np.greater(raw, np.float32(0))
    above = np.greater(raw.view(_signed(spec)), 0)
    if has_nan and _has_nan_pattern(raw, spec):
        above &= raw <= spec.largest
    return np.asarray(above)


def has_nan(raw: Raw, spec: FloatFormat) -> bool:
    """Whether any value is NaN; one pass over data in cache (a maximum is NaN if any value is)."""
    if raw.size == 0:
        return False
    if spec.nan_is_minus_zero:
        return bool((raw == _MINUS_ZERO).any())
    if spec.largest:
        sign = 1 << (8 * spec.itemsize - 1)
        return _has_nan_pattern(raw, spec) or bool(raw.max() > sign + spec.largest)
    with np.errstate(invalid="ignore"):
        return bool(np.isnan(raw.max()))


def is_nan(raw: Raw, spec: FloatFormat) -> Bools:
    """raw (any shape) -> bool of the same shape: whether each value is NaN."""
    if not spec.largest:
        return np.isnan(raw)
    if spec.nan_is_minus_zero:
        return np.asarray(raw == _MINUS_ZERO)
    magnitude = raw & ((1 << (8 * spec.itemsize - 1)) - 1)
    return np.asarray(magnitude > spec.largest)


def has_extremes(raw: Raw, spec: FloatFormat, low: float, high: float) -> bool:
    """Whether any value is NaN, lies in (0, low), or has a magnitude of `high` or more."""
    if raw.size == 0:
        return False
    if spec.nan_is_minus_zero:
        return has_nan(raw, spec)  # other values are far from both limits
    if not spec.largest:
        with np.errstate(invalid="ignore"):
            largest = np.maximum(raw.max(), -raw.min())
        return not largest < high or not np.array_equal(raw > 0, raw >= low)
    low_pattern, high_pattern = 1, spec.largest + (not spec.has_infinity)  # F8, F16: all finite values lie between
    if spec.name == "BF16":
        low_pattern, high_pattern = (np.array([low, high], np.float32).view(np.uint32) >> 16).tolist()
    signed = raw.view(_signed(spec))
    sign = 1 << (8 * spec.itemsize - 1)
    huge = signed.max() >= high_pattern or raw.max() >= sign + high_pattern
    return bool(huge) or not np.array_equal(signed > 0, signed >= low_pattern)


def to_float32(raw: Raw, spec: FloatFormat) -> Floats:
    """raw (any shape) -> float32 of the same shape; exact except for F64, which is rounded."""
    if spec.name == "F32":
        return raw
    if spec.name == "F64":
        with np.errstate(all="ignore"):
            return raw.astype(np.float32)
    if spec.name == "F16":
        return raw.view(np.float16).astype(np.float32)
    if spec.name == "BF16":
        return np.left_shift(raw, 16, dtype=np.uint32).view(np.float32)
    return np.take(_float8_values(spec), raw)


def from_float32(values: Floats, spec: FloatFormat) -> Raw:
    """float32 (any shape) -> the stored form, rounded to nearest even.

    Raises ValueError for formats that decode cannot write.
    """
    if spec.name == "F32":
        return values
    if spec.name == "F64":
        return values.astype(np.float64)
    if spec.name == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint16)
    if spec.name == "BF16":
        return _round_to_bfloat16(values)
    raise ValueError(f"{spec.name} cannot be written")


def _signed(spec: FloatFormat) -> np.dtype[Any]:
    return np.dtype(f"<i{spec.itemsize}")


def _has_nan_pattern(raw: Raw, spec: FloatFormat) -> bool:
    """Whether there is a NaN without a sign bit: the only patterns for which `> 0` on integers is wrong."""
    return raw.size > 0 and bool(raw.view(_signed(spec)).max() > spec.largest)


def _round_to_bfloat16(values: Floats) -> Raw:
    patterns = np.ascontiguousarray(values).view(np.uint32)
    rounded = (patterns + (np.uint32(0x7FFF) + ((patterns >> 16) & 1))) >> 16
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


def _float8_values(spec: FloatFormat) -> Floats:
    """The values of all 256 bit patterns, float32 [256].

    Sources: OCP 8-bit floating point, revision 1.0; for FNUZ, Noune et al., 8-bit numerical formats (arXiv 2206.02915).
    """
    exponent_bits, mantissa_bits, bias = _FLOAT8[spec.name]
    patterns = np.arange(256)
    mantissa = patterns & ((1 << mantissa_bits) - 1)
    exponent = (patterns >> mantissa_bits) & ((1 << exponent_bits) - 1)
    hidden = np.where(exponent > 0, 1 << mantissa_bits, 0)
    magnitude = np.ldexp((hidden + mantissa).astype(np.float32), np.maximum(exponent, 1) - bias - mantissa_bits)
    if spec.has_infinity:
        magnitude = np.where(patterns & 0x7F == spec.largest, np.float32(np.inf), magnitude)
    values = np.where(patterns & 0x80, -magnitude, magnitude).astype(np.float32)
    return np.where(is_nan(patterns.astype(np.uint8), spec), np.float32(np.nan), values)


_FLOAT8 = {"F8_E5M2": (5, 2, 15), "F8_E4M3": (4, 3, 7), "F8_E5M2FNUZ": (5, 2, 16), "F8_E4M3FNUZ": (4, 3, 8)}
"""Format -> exponent bits, mantissa bits, exponent bias."""
