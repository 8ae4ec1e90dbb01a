"""Without projection and rotation, bits are comparisons in numpy. Never imports torch."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from einops import rearrange

from lfq_cli import bits as packed_bits
from lfq_cli import kernels
from lfq_cli.backends.backend import BLOCK_BYTES
from lfq_cli.backends.extremes import SAFE_INPUTS, USUAL_SCALES, WHY_EXTREMES
from lfq_cli.bits import Packed
from lfq_cli.floats import FORMATS, FloatFormat, Floats, Raw, from_float32, has_extremes, has_nan, positive, to_float32
from lfq_cli.numerics import latents_by_formula
from lfq_cli.quantizer import Quantizer


class NumpyBackend:
    """Comparison and packing; a table look-up to decode. Never imports torch."""

    compute_dtype = "float32"
    forks = True

    def __init__(self, quantizer: Quantizer) -> None:
        self.quantizer = quantizer
        self._magnitude = quantizer.code_magnitude()
        self._scratch = threading.local()

    def block_values(self, spec: FloatFormat) -> int:
        """As in Backend."""
        return BLOCK_BYTES // spec.itemsize

    def working(self) -> AbstractContextManager[object]:
        """As in Backend; nothing is set."""
        return nullcontext()

    def encode(self, raw: Raw, spec: FloatFormat) -> tuple[Packed, bool]:
        """As in Backend."""
        if self._needs_formula(raw, spec):  # which makes NaN of infinity where it normalises
            raw, spec = latents_by_formula(to_float32(raw, spec), self.quantizer), FORMATS["F32"]
        elif (found := kernels.signs(raw, spec.name)) is not None:
            return found
        nan = has_nan(raw, spec)
        above = positive(raw, spec, has_nan=nan)
        if raw.shape[2] > 1:
            above = np.ascontiguousarray(rearrange(above, "o c i -> o i c"))
        return packed_bits.pack(above), nan

    def latents(self, raw: Raw, spec: FloatFormat) -> Floats:
        """As in Backend; clamping and normalising change no sign."""
        return rearrange(to_float32(raw, spec), "o c i -> (o i) c")

    def decode(self, stream: Packed, outer: int, inner: int, spec: FloatFormat, *, project_out: bool) -> Raw:
        """As in Backend; there is no projection."""
        width = self.quantizer.bits_per_vector
        table = self._table(spec)
        if inner > 1:
            out = self._buffer(outer * inner * width, spec).reshape(outer, width, inner)
            if kernels.decode(stream, table[0, :1], table[255, :1], out):
                return out
            by_vector = packed_bits.unpack(stream, outer * inner, width)
            stream = packed_bits.pack(np.ascontiguousarray(rearrange(by_vector, "(o i) c -> o c i", o=outer)))
        octets = self._buffer(8 * stream.size, spec).reshape(-1, 8)
        np.take(table, stream, axis=0, out=octets, mode="clip")  # "raise" would make a copy
        return octets.reshape(-1)[: outer * inner * width].reshape(outer, width, inner)

    def _buffer(self, count: int, spec: FloatFormat) -> Raw:
        """This thread's buffer for `count` values: fresh memory for every block would cost page faults."""
        held: Raw | None = getattr(self._scratch, "values", None)
        if held is None or held.dtype != spec.storage or held.size < count:
            held = self._scratch.values = np.empty(count, spec.storage)
        return held[:count]

    def _needs_formula(self, raw: Raw, spec: FloatFormat) -> bool:
        """Whether clamping or normalising could make a bit differ from `x > 0`."""
        quantizer = self.quantizer
        assumed = quantizer.assumed & {"spherical", "soft_clamp_input_value"}
        if assumed and has_extremes(raw, spec, *SAFE_INPUTS):
            quantizer.require(*sorted(assumed), why=WHY_EXTREMES)
        scales = [quantizer.codebook_scale] if quantizer.spherical else []
        if quantizer.soft_clamp_input_value is not None:
            scales.append(quantizer.soft_clamp_input_value)
        if not scales:
            return False
        usual = all(USUAL_SCALES[0] <= scale <= USUAL_SCALES[1] for scale in scales)
        return not usual or has_extremes(raw, spec, *SAFE_INPUTS)

    def _table(self, spec: FloatFormat) -> Raw:
        """The eight values of every byte of the stream, as stored: [256, 8]."""
        assert self._magnitude is not None  # select() gives such quantizers to the torch backend
        every_byte = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
        return from_float32(np.where(every_byte, self._magnitude, -self._magnitude), spec)
