"""Where arithmetic runs. A backend turns one block of floats into a run of the stream, and back.

Blocks are [outer, channels, inner] (layout.py). Without projection and rotation bits are a comparison, which numpy
does; with them the torch modules of `nn` compute, the one owner of the matrix product.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from einops import rearrange

from lfq_cli import bits as packed_bits
from lfq_cli.bits import Packed
from lfq_cli.errors import DeviceError
from lfq_cli.floats import FORMATS, Bools, FloatFormat, Raw, from_float32, has_extremes, positive, to_float32
from lfq_cli.quantizer import Quantizer

if TYPE_CHECKING:
    import torch

COMPUTE_DTYPES = ("float32", "bfloat16", "float16")


class Backend(Protocol):
    """One place to compute. `threads` blocks of about `block_bytes` may be in work at once."""

    threads: int
    block_bytes: int
    quantizer: Quantizer

    def encode(self, raw: Raw, spec: FloatFormat) -> Packed:
        """raw [outer, dim, inner] as stored -> the stream of its outer * inner vectors; NaN gives bit 0."""
        ...

    def decode(self, stream: Packed, outer: int, inner: int, spec: FloatFormat, *, project_out: bool) -> Raw:
        """The stream of outer * inner vectors -> floats as stored [outer, dim, inner]."""
        ...


def select(device: str, quantizer: Quantizer, compute_dtype: str, *, decoding: bool) -> Backend:
    """The backend for `device` ("auto", "cpu", "cuda", "cuda:N", "mps"). Raises DeviceError where it is not there."""
    torch_needed = quantizer.is_linear or (decoding and quantizer.code_magnitude() is None)
    if device in ("auto", "cpu") and not torch_needed:
        return NumpyBackend(quantizer)
    return TorchBackend(quantizer, _torch_device(device), compute_dtype)


class NumpyBackend:
    """Comparison and packing, a table look-up on the way back. Never imports torch."""

    threads = os.cpu_count() or 1
    block_bytes = 1 << 20

    def __init__(self, quantizer: Quantizer) -> None:
        self.quantizer = quantizer
        self._magnitude = quantizer.code_magnitude()

    def encode(self, raw: Raw, spec: FloatFormat) -> Packed:
        """As in Backend."""
        if self._needs_formula(raw, spec):
            above = _bits_by_formula(to_float32(raw, spec), self.quantizer)
        else:
            above = positive(raw, spec)
        if raw.shape[2] > 1:
            above = np.ascontiguousarray(rearrange(above, "o c i -> o i c"))
        return packed_bits.pack(above)

    def decode(self, stream: Packed, outer: int, inner: int, spec: FloatFormat, *, project_out: bool) -> Raw:
        """As in Backend; there is nothing to project."""
        width = self.quantizer.bits_per_vector
        if inner > 1:
            by_vector = packed_bits.unpack(stream, outer * inner, width)
            stream = packed_bits.pack(np.ascontiguousarray(rearrange(by_vector, "(o i) c -> o c i", o=outer)))
        values = np.take(self._table(spec), stream, axis=0).reshape(-1)
        return values[: outer * inner * width].reshape(outer, width, inner)

    def _needs_formula(self, raw: Raw, spec: FloatFormat) -> bool:
        """Whether clamping or normalising could make a bit other than `x > 0`."""
        quantizer = self.quantizer
        unknown = quantizer.unknown & {"spherical", "soft_clamp_input_value"}
        if unknown and has_extremes(raw, spec, *_SAFE_INPUTS):
            quantizer.require(*sorted(unknown), why="; infinite, huge or subnormal values in the input make it matter")
        scales = [quantizer.codebook_scale] if quantizer.spherical else []
        if quantizer.soft_clamp_input_value is not None:
            scales.append(quantizer.soft_clamp_input_value)
        if not scales:
            return False
        usual = all(_USUAL_SCALES[0] <= scale <= _USUAL_SCALES[1] for scale in scales)
        return not usual or has_extremes(raw, spec, *_SAFE_INPUTS)

    def _table(self, spec: FloatFormat) -> Raw:
        """The eight values of every byte of the stream, as stored: [256, 8]."""
        assert self._magnitude is not None  # select() gives such quantizers to torch
        every_byte = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
        return from_float32(np.where(every_byte, self._magnitude, -self._magnitude), spec)


class TorchBackend:
    """The torch module of the quantizer on a device, in a compute dtype."""

    threads = 1  # torch uses the cores itself

    def __init__(self, quantizer: Quantizer, device: torch.device, compute_dtype: str) -> None:
        import torch

        from lfq_cli.nn.saved import module_of

        torch.set_float32_matmul_precision("highest")  # TF32 changes tokens
        self.quantizer = quantizer
        self._dtype: torch.dtype = getattr(torch, compute_dtype)
        self._device = device
        self._module = module_of(quantizer).to(device, self._dtype)
        self.block_bytes = (8 << 20) if device.type == "cpu" else (64 << 20)

    def encode(self, raw: Raw, spec: FloatFormat) -> Packed:
        """As in Backend."""
        import torch

        with torch.inference_mode():
            x = torch.from_numpy(to_float32(raw, spec)).to(self._device, self._dtype)
            above = self._module.encode_bits(rearrange(x, "o c i -> (o i) c"))
            if self._device.type == "cpu":
                return packed_bits.pack(above.numpy())
            packed: Packed = pack_on_device(above).cpu().numpy()
            return packed

    def decode(self, stream: Packed, outer: int, inner: int, spec: FloatFormat, *, project_out: bool) -> Raw:
        """As in Backend."""
        import torch

        width = self.quantizer.bits_per_vector
        with torch.inference_mode():
            by_vector = torch.from_numpy(packed_bits.unpack(stream, outer * inner, width)).to(self._device)
            y = self._module.decode_bits(by_vector, project_out=project_out)
            y = rearrange(y, "(o i) c -> o c i", o=outer).float().contiguous()
        return from_float32(y.cpu().numpy(), spec)


def pack_on_device(above: torch.Tensor) -> torch.Tensor:
    """bits [n, B] bool on any device -> their stream, uint8, on that device: an eighth of the bytes to move."""
    import torch
    from torch.nn.functional import pad

    flat = above.flatten().to(torch.uint8)
    octets = pad(flat, (0, -flat.numel() % 8)).view(-1, 8)
    weights = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=above.device)
    return (octets * weights).sum(-1, dtype=torch.uint8)


def _torch_device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as reason:
        raise DeviceError(f"--device {name} is no device", "expected auto, cpu, cuda, cuda:N or mps") from reason
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise DeviceError(f"--device {name} is not there", "--device auto takes what is")
    return device


# Normalising and clamping keep signs, but for values at the ends of float32: beside infinity or a huge value
# everything becomes 0, and a subnormal may. With inputs and scales in these bounds and at most 64 values a norm,
# neither happens: 2^-80 / (2^3 * 2^40) * 2^-20 is still a normal number.
_SAFE_INPUTS = 2.0**-80, 2.0**40
_USUAL_SCALES = 2.0**-20, 2.0**20


def _bits_by_formula(z: Any, quantizer: Quantizer) -> Bools:
    """z float32 [outer, C*D, inner] -> bits, with clamp and normalisation as the reference computes them."""
    with np.errstate(all="ignore"):
        clamp = quantizer.soft_clamp_input_value
        if clamp is not None:
            z = np.tanh(z / np.float32(clamp)) * np.float32(clamp)
        if quantizer.spherical:
            fields = rearrange(z, "o (c d) i -> o c d i", c=quantizer.num_codebooks)
            squares = np.sum(fields * fields, axis=2, keepdims=True)
            norm = np.abs(fields) if quantizer.codebook_dim == 1 else np.sqrt(squares)  # torch squares no single value
            fields = fields / np.maximum(norm, np.float32(1e-12)) * np.float32(quantizer.codebook_scale)
            z = rearrange(fields, "o c d i -> o (c d) i")
    return positive(z, FORMATS["F32"])
