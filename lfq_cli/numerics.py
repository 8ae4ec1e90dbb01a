"""The numerics of record in numpy, for quantizers without a matrix product: floats to bits, bits to codes.

Arrays only. z is float32 [outer, channels, inner] (layout.py). The same arithmetic, operation for operation, as the
modules of `nn`, which the tests hold it against.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from einops import rearrange

from lfq_cli.floats import FORMATS, Bools, Floats, positive
from lfq_cli.quantizer import Quantizer

_LEVELS_AT_ONCE = 1 << 16  # values: the rest that levels hand on stays in L2, as do the bits


def bits_by_formula(z: Floats, quantizer: Quantizer) -> Bools:
    """z -> bits of the same shape, with clamp and normalisation as the reference computes them."""
    with np.errstate(all="ignore"):
        if quantizer.soft_clamp_input_value is not None:
            clamp = np.float32(quantizer.soft_clamp_input_value)
            z = np.tanh(z / clamp) * clamp
        if quantizer.spherical:
            fields: Any = rearrange(z, "o (c d) i -> o c d i", c=quantizer.num_codebooks)
            squares = np.sum(fields * fields, axis=2, keepdims=True)
            norm = np.abs(fields) if quantizer.codebook_dim == 1 else np.sqrt(squares)  # torch squares no single value
            fields = fields / np.maximum(norm, np.float32(1e-12)) * np.float32(quantizer.codebook_scale)
            z = rearrange(fields, "o c d i -> o (c d) i")
    return positive(z, FORMATS["F32"], has_nan=True)


def level_scales(levels: int) -> list[np.float32]:
    """Magnitude of each level's codes: 1, 1/2, 1/4, ..."""
    return [np.float32(2.0**-level) for level in range(levels)]


def residual_bits(z: Floats, quantizer: Quantizer) -> Bools:
    """z -> bits [outer, inner, (g q d)] of a plain residual quantizer: no clamp, no sphere, no rotation.

    Level q codes the sign of what is left, and leaves that minus its code: arXiv 2107.03312, algorithm 1.
    """
    levels = quantizer.num_quantizers or 1
    fields = rearrange(z, "o (g d) i -> o g d i", d=quantizer.codebook_dim)
    outer, groups, depth, inner = fields.shape
    bits = np.empty((outer, inner, groups, levels, depth), np.bool_)
    by_level = rearrange(bits, "o i g q d -> q o g d i")
    step = max(1, _LEVELS_AT_ONCE // max(1, groups * depth * inner))
    for first in range(0, outer, step):
        _code_levels(fields[first : first + step], by_level[:, first : first + step])
    return bits.reshape(outer, inner, groups * levels * depth)


def _code_levels(fields: Floats, bits: Bools) -> None:
    """fields [o, g, d, i] -> their bits, into `bits` [q, o, g, d, i]."""
    rest = fields.copy()
    code = np.empty_like(rest)
    with np.errstate(invalid="ignore"):  # inf - inf
        for level, scale in enumerate(level_scales(len(bits))):
            np.greater(rest, 0, out=bits[level])
            code.fill(-scale)
            np.copyto(code, scale, where=bits[level])
            rest -= code


def residual_codes(bits: Bools, quantizer: Quantizer) -> Floats:
    """bits [n, (g q d)] -> the sum of their levels' codes [n, (g d)] float32, added in the order of the levels."""
    levels: Any = rearrange(bits, "n (g q d) -> q n g d", q=quantizer.num_quantizers or 1, d=quantizer.codebook_dim)
    total = np.zeros(levels.shape[1:], np.float32)
    for level, scale in zip(levels, level_scales(len(levels)), strict=True):
        total += np.where(level, scale, -scale)
    return rearrange(total, "n g d -> n (g d)")
