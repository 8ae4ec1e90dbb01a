"""Blocks of floats and bits on a device: stored formats, packing, layouts. Knows nothing of quantizers.

Nothing here makes the host wait: no constants are copied to the device, and no values are read from it.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad

from lfq_cli.dtypes import OF_TORCH
from lfq_cli.floats import FORMATS

DTYPES = {name: getattr(torch, of_torch) for of_torch, name in OF_TORCH.items() if name in FORMATS}
"""Stored format -> the torch dtype with the same bytes."""


def pack(bits: Tensor) -> Tensor:
    """bits [n, B] bool -> their stream, uint8 [ceil(n * B / 8)]; see `lfq_cli.bits.pack`."""
    octets = pad(bits.flatten().to(torch.uint8), (0, -bits.numel() % 8)).view(-1, 8)
    return (octets * (1 << _places(bits.device))).sum(-1, dtype=torch.uint8)


def unpack(stream: Tensor, skip: int, vectors: int, bits_per_vector: int) -> Tensor:
    """A uint8 stream, from bit `skip` on -> the bits of its vectors [vectors, B] bool; see `lfq_cli.bits.unpack`."""
    octets = (rearrange(stream, "m -> m 1") >> _places(stream.device)) & 1
    return octets.flatten()[skip : skip + vectors * bits_per_vector].view(vectors, bits_per_vector).bool()


def _places(device: torch.device) -> Tensor:
    """The shift of each of the eight bits of a byte [8]: 7 for the first, 0 for the last."""
    return torch.arange(7, -1, -1, dtype=torch.uint8, device=device)


def to_vectors(x: Tensor) -> Tensor:
    """x [outer, dim, inner] -> vectors [outer * inner, dim]."""
    return rearrange(x, "o c i -> (o i) c")


def from_vectors(vectors: Tensor, outer: int) -> Tensor:
    """The inverse of `to_vectors`."""
    return rearrange(vectors, "(o i) c -> o c i", o=outer)


def count_nan(x: Tensor) -> Tensor:
    """The number of NaN in x, as the eight bytes of an int64 on the device."""
    return rearrange(torch.isnan(x).sum(), "-> 1").view(torch.uint8)
