"""The numerics of record in numpy, for quantizers without a matrix product: floats to bits, bits to codes.

Arrays only. z is float32 [outer, channels, inner] (layout.py). The arithmetic is that of the modules of `nn`, operation
for operation, and is tested against them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from einops import rearrange

from lfq_cli.floats import Bools, Floats
from lfq_cli.quantizer import Quantizer


def latents_by_formula(z: Floats, quantizer: Quantizer) -> Floats:
    """z -> the values whose signs are the bits, with soft clamp and normalisation computed as in the reference."""
    with np.errstate(all="ignore"):
        if quantizer.soft_clamp_input_value is not None:
            clamp = np.float32(quantizer.soft_clamp_input_value)
            z = np.tanh(z / clamp) * clamp
        if quantizer.spherical:
            fields: Any = rearrange(z, "o (c d) i -> o c d i", c=quantizer.num_codebooks)
            squares = np.sum(fields * fields, axis=2, keepdims=True)
            norm = np.abs(fields) if quantizer.codebook_dim == 1 else np.sqrt(squares)  # as in torch
            fields = fields / np.maximum(norm, np.float32(1e-12)) * np.float32(quantizer.codebook_scale)
            z = rearrange(fields, "o c d i -> o (c d) i")
    return z


# residual quantizers without soft clamp, normalisation or rotation
#
# Level q takes the sign of the residual and subtracts its code, ±2^-q (arXiv 2107.03312, algorithm 1). Only the first
# subtraction rounds: its result is a multiple of 2^-24, and so are all later residuals that matter. The bits of all
# further levels are therefore the digits of one number, exactly as the loop over levels would find them. From 25 levels
# on codes are finer than 2^-24, and the loop is used.

EXACT_LEVELS = 24
_LEVELS_AT_ONCE = 1 << 16  # values: intermediate results stay in cache


def residual_bits(z: Floats, quantizer: Quantizer) -> Bools:
    """z -> bits [outer * inner, (g q d)], level by level within each group."""
    levels, depth = quantizer.num_quantizers or 1, quantizer.codebook_dim
    vectors = np.ascontiguousarray(rearrange(z, "o (g d) i -> (o i g) d", d=depth))
    by_level = np.empty((len(vectors), levels, depth), np.bool_)
    step = max(1, _LEVELS_AT_ONCE // depth)
    for first in range(0, len(vectors), step):
        part = vectors[first : first + step]
        planes = _digit_planes(part, levels) if levels <= EXACT_LEVELS else _loop_planes(part, levels)
        _as_runs(by_level[first : first + step])[:] = _as_runs(planes).T
    return by_level.reshape(z.shape[0] * z.shape[2], -1)


def residual_latents(z: Floats, quantizer: Quantizer) -> Floats:
    """z -> the residual that each level rounds [outer * inner, (g q d)]; its signs are `residual_bits`."""
    rest = rearrange(z, "o (g d) i -> (o i) g d", d=quantizer.codebook_dim)
    latents = []
    with np.errstate(invalid="ignore"):  # inf - inf
        for level in range(quantizer.num_quantizers or 1):
            latents.append(rest)
            rest = rest - np.where(rest > 0, _scale(level), -_scale(level))
    return rearrange(latents, "q n g d -> n (g q d)")


def residual_codes(bits: Bools, quantizer: Quantizer) -> Floats:
    """bits [n, (g q d)] -> the sum of the codes of all levels [n, (g d)] float32, as if added level by level."""
    levels, depth = quantizer.num_quantizers or 1, quantizer.codebook_dim
    by_level = np.ascontiguousarray(bits).reshape(-1, levels, depth)
    sums = np.empty((len(by_level), depth), np.float32)
    step = max(1, _LEVELS_AT_ONCE // depth)
    for first in range(0, len(by_level), step):
        part = by_level[first : first + step]
        planes = np.empty((levels, len(part), depth), np.bool_)
        _as_runs(planes)[:] = _as_runs(part).T
        sums[first : first + step] = _sum_digits(planes) if levels <= EXACT_LEVELS else _sum_loop(planes)
    return sums.reshape(len(bits), -1)


def _as_runs(bits: Bools) -> Any:
    """bits [a, b, d] -> a view [a, b] of items of d bytes, which numpy copies as a whole."""
    return bits.view(f"V{bits.shape[2]}")[..., 0]


def _digit_planes(z: Floats, levels: int) -> Bools:
    """z [n, d] -> the bits of each level [levels, n, d], for at most EXACT_LEVELS levels."""
    planes = np.empty((levels, *z.shape), np.bool_)
    first = np.greater(z, 0, out=planes[0])
    if levels == 1:
        return planes
    half = np.float32(2.0 ** (levels - 2))
    with np.errstate(invalid="ignore", over="ignore"):  # of huge values only the sign matters
        rest = first.astype(np.float32)
        rest *= -2
        rest += 1
        rest += z  # z - 1 where z > 0, z + 1 elsewhere: the one rounding
        rest *= half
        np.ceil(rest, out=rest)
        rest += half - 1
    # with arrays, since numpy takes three times as long with scalars
    np.fmax(rest, np.zeros_like(rest), out=rest)  # the bits of NaN are 0
    np.fmin(rest, np.full_like(rest, 2 * half - 1), out=rest)
    digits = rest.astype(_holding(levels - 1))
    for level in range(1, levels):
        np.not_equal(digits & digits.dtype.type(1 << (levels - 1 - level)), 0, out=planes[level])
    return planes


def _loop_planes(z: Floats, levels: int) -> Bools:
    """z [n, d] -> the bits of each level [levels, n, d]."""
    planes, rest = np.empty((levels, *z.shape), np.bool_), z
    with np.errstate(invalid="ignore"):  # inf - inf
        for level, plane in enumerate(planes):
            np.greater(rest, 0, out=plane)
            rest = rest - np.where(plane, _scale(level), -_scale(level))
    return planes


def _sum_digits(planes: Bools) -> Floats:
    """bits [levels, n, d] -> sums of codes [n, d]: integers with these binary digits, scaled; nothing is rounded."""
    levels = len(planes)
    digits = np.zeros(planes.shape[1:], _holding(levels))
    for plane in planes:
        digits += digits  # 8 times as fast as a shift by one
        digits |= plane.view(np.uint8)
    sums = digits.astype(np.float32)
    sums *= np.float32(2.0 ** (2 - levels))
    sums -= np.float32(2 - 2.0 ** (1 - levels))
    return sums


def _sum_loop(planes: Bools) -> Floats:
    total = np.zeros(planes.shape[1:], np.float32)
    for level, plane in enumerate(planes):
        total += np.where(plane, _scale(level), -_scale(level))
    return total


def _scale(level: int) -> np.float32:
    """The magnitude of a level's codes."""
    return np.float32(2.0**-level)


def _holding(digits: int) -> type[np.unsignedinteger[Any]]:
    """The smallest unsigned type that holds so many binary digits."""
    return np.uint8 if digits <= 8 else np.uint16 if digits <= 16 else np.uint32
