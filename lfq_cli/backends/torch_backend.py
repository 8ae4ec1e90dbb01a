"""The torch modules of `nn` on the CPU; the only place that multiplies matrices there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from einops import rearrange

from lfq_cli import bits as packed_bits
from lfq_cli.backends.backend import widening
from lfq_cli.backends.lanes import HostMemory
from lfq_cli.backends.residual_numpy_backend import has_plain_levels
from lfq_cli.backends.torch_settings import exact_products
from lfq_cli.bits import Packed
from lfq_cli.floats import FloatFormat, Floats, Raw, from_float32, to_float32
from lfq_cli.numerics import residual_bits, residual_codes
from lfq_cli.quantizer import Quantizer

if TYPE_CHECKING:
    import torch

BLOCK_VALUES = 2 << 20
"""However they are stored, they are float32 when they are multiplied. Encoding 512 -> 18 on eight threads of 16 cores
with 2^20, 2^21 and 2^22: 6.6, 9.8 and 7.8 GB/s of float32; with 2^21 and 2^22 4.8 and 3.9 GB/s of float16.
"""

LARGE_ITEM = 64
"""Positions of a channel-first item from which the product reads it as it lies, one item at a time: with 256 positions
1.9 times as fast as transposing the floats of a block first, with 16 positions 0.8 times (512 -> 18, one thread)."""


class TorchBackend:
    """The torch module of the quantizer on the CPU, in a compute dtype."""

    forks = False

    def __init__(self, quantizer: Quantizer, compute_dtype: str) -> None:
        import torch

        from lfq_cli.nn.saved import module_of
        from lfq_cli.nn.transposed import transpose_projections

        self.quantizer = quantizer
        self.compute_dtype = compute_dtype
        self._dtype: torch.dtype = getattr(torch, compute_dtype)
        self._module: Any = module_of(quantizer).to(self._dtype)
        self._scratch = _Scratch()
        # the same bits and sums as the module's (tests/test_numerics.py), in a third of the time
        self._numpy_levels = compute_dtype == "float32" and has_plain_levels(quantizer)
        transpose_projections(self._module)

    def block_values(self, spec: FloatFormat) -> int:
        """As in Backend."""
        return BLOCK_VALUES // widening(self.quantizer)

    def working(self) -> AbstractContextManager[object]:
        """As in Backend."""
        return exact_products(one_thread=True)

    def encode(self, raw: Raw, spec: FloatFormat) -> tuple[Packed, bool]:
        """As in Backend."""
        with _computing():
            z = _of_vectors(self._projected if self._numpy_levels else self._latents, self._as_tensor(raw, spec))
            # a NaN in x gives one in z, which has fewer other values; a maximum is NaN if any value is
            nan = z.numel() > 0 and bool(z.max().isnan())
            bits = residual_bits(z.numpy()[..., None], self.quantizer) if self._numpy_levels else (z > 0).numpy()
            return packed_bits.pack(bits), nan

    def latents(self, raw: Raw, spec: FloatFormat) -> Floats:
        """As in Backend."""
        with _computing():
            z = _of_vectors(self._latents, self._as_tensor(raw, spec))
            return np.asarray(z.numpy().copy())  # z may lie in scratch memory

    def decode(self, stream: Packed, outer: int, inner: int, spec: FloatFormat, *, project_out: bool) -> Raw:
        """As in Backend."""
        import torch

        width = self.quantizer.bits_per_vector
        with _computing():
            by_vector = packed_bits.unpack(stream, outer * inner, width)
            if self._numpy_levels:
                codes = torch.from_numpy(residual_codes(by_vector, self.quantizer))
                y = self._module.unproject(codes) if project_out else codes
            else:
                y = self._module.decode_bits(torch.from_numpy(by_vector), project_out=project_out).float()
            y = rearrange(y, "(o i) c -> o c i", o=outer).contiguous()
        return from_float32(y.numpy(), spec)

    def _as_tensor(self, raw: Raw, spec: FloatFormat) -> torch.Tensor:
        """raw as stored -> float32, or what is computed in; shares raw's memory or is valid until this thread's next
        call.
        """
        import torch

        from lfq_cli.nn import blocks

        if spec.name not in ("F16", "BF16"):
            return torch.from_numpy(to_float32(raw, spec))
        x = torch.from_numpy(raw.view(np.int16)).view(blocks.DTYPES[spec.name])
        if x.dtype == self._dtype:
            return x
        return self._scratch.get(x.shape).copy_(x)  # torch widens them 10 times as fast as numpy

    def _projected(self, x: torch.Tensor) -> torch.Tensor:
        z: torch.Tensor = self._module.project(x.to(self._dtype))
        return z

    def _latents(self, x: torch.Tensor) -> torch.Tensor:
        latents: torch.Tensor = self._module.latents(x.to(self._dtype))
        return latents


@contextmanager
def _computing() -> Iterator[None]:
    """Without gradients, and without the caller's autocast, which would change the compute dtype."""
    import torch

    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        yield


def _of_vectors(compute: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """compute(vectors) for x [outer, dim, inner], without moving its floats if items are large enough."""
    import torch

    if x.shape[2] < LARGE_ITEM:
        return compute(rearrange(x, "o c i -> (o i) c"))
    return torch.cat([compute(rearrange(item, "c i -> i c")) for item in x])


class _Scratch(threading.local):
    """float32 memory of each thread, used again for every block: new memory costs as much as what is done in it."""

    def __init__(self) -> None:
        self._memory = HostMemory(pinned=False)

    def get(self, shape: Sequence[int]) -> torch.Tensor:
        """float32 of this shape; what it held before is lost."""
        import torch

        return self._memory.get(prod(shape) * torch.float32.itemsize).view(torch.float32).view(shape)
