"""Residual levels that only compare and subtract constants, in numpy. Never imports torch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
from einops import rearrange

from lfq_cli import bits as packed_bits
from lfq_cli import kernels
from lfq_cli.backends.extremes import SAFE_INPUTS, WHY_EXTREMES
from lfq_cli.bits import Packed
from lfq_cli.floats import FloatFormat, Floats, Raw, from_float32, has_extremes, has_nan, to_float32
from lfq_cli.numerics import residual_bits, residual_codes, residual_latents
from lfq_cli.quantizer import Quantizer

BLOCK_BYTES = 1 << 20
"""Of floats as stored: with their levels they stay in a core's cache. Processor time of encoding 256 MiB of float32
with 8 levels, in blocks of 1, 2 and 4 MiB: 0.160, 0.166 and 0.176 s. Memory for results is also taken from the system
less often; reusing it would save no more time.
"""


def is_plain_residual(quantizer: Quantizer) -> bool:
    """Whether the quantizer consists of levels only."""
    return has_plain_levels(quantizer) and not quantizer.has_projections


def has_plain_levels(quantizer: Quantizer) -> bool:
    """Whether its levels only compare and subtract a constant."""
    shaped = quantizer.has_rotation or quantizer.spherical or quantizer.soft_clamp_input_value is not None
    return quantizer.is_residual and not quantizer.stacked and not shaped


class ResidualNumpyBackend:
    """A comparison and a subtraction for every level; sums of ±2^-level to decode. Never imports torch."""

    compute_dtype = "float32"
    forks = True

    def __init__(self, quantizer: Quantizer) -> None:
        self.quantizer = quantizer

    def block_values(self, spec: FloatFormat) -> int:
        """As in Backend."""
        return BLOCK_BYTES // spec.itemsize

    def working(self) -> AbstractContextManager[object]:
        """As in Backend; nothing is set."""
        return nullcontext()

    def encode(self, raw: Raw, spec: FloatFormat) -> tuple[Packed, bool]:
        """As in Backend."""
        if "soft_clamp_input_value" in self.quantizer.assumed and has_extremes(raw, spec, *SAFE_INPUTS):
            self.quantizer.require("soft_clamp_input_value", why=WHY_EXTREMES)
        found = kernels.residual(raw, spec.name, self.quantizer.codebook_dim, self.quantizer.num_quantizers or 1)
        if found is not None:
            return found
        return packed_bits.pack(residual_bits(to_float32(raw, spec), self.quantizer)), has_nan(raw, spec)

    def latents(self, raw: Raw, spec: FloatFormat) -> Floats:
        """As in Backend: the residual that each level sees."""
        return residual_latents(to_float32(raw, spec), self.quantizer)

    def decode(self, stream: Packed, outer: int, inner: int, spec: FloatFormat, *, project_out: bool) -> Raw:
        """As in Backend; there is no projection."""
        bits = packed_bits.unpack(stream, outer * inner, self.quantizer.bits_per_vector)
        values = rearrange(residual_codes(bits, self.quantizer), "(o i) c -> o c i", o=outer)
        return from_float32(np.ascontiguousarray(values), spec)
