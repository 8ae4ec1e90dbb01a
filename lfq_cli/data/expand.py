"""Packed bits to a model's inputs: indices in any grouping, bits, code vectors on a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lfq_cli.bits import BitOrder, Indices, Packed, from_rows, stream_to_indices
from lfq_cli.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor

    from lfq_cli.quantizer import Quantizer


def to_indices(rows: Packed, vectors: int, dims: tuple[int, ...], order: BitOrder, dtype: np.dtype[Any]) -> Indices:
    """rows [n, bytes], each of `vectors` from its own first byte on -> indices [n, vectors, len(dims)] of `dtype`."""
    count = len(rows)
    bits = vectors * sum(dims)
    indices = stream_to_indices(from_rows(rows, bits), count * vectors, dims, order, dtype)
    return indices.reshape(count, vectors, len(dims))


def to_bits(rows: Packed, vectors: int, bits_per_vector: int) -> NDArray[np.uint8]:
    """rows [n, bytes] -> bits [n, vectors, B] uint8, 0 or 1, in the order of the stream."""
    count = vectors * bits_per_vector
    return np.unpackbits(rows, axis=1, count=count).reshape(len(rows), vectors, bits_per_vector)


def narrowest(dims: tuple[int, ...], dtype: str | np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of indices. Raises OptionError if it is too narrow."""
    found = np.dtype(dtype)
    if found.kind not in "iu" or np.iinfo(found).max < 2 ** max(dims) - 1:
        raise OptionError(
            f"indices of {max(dims)} bits do not fit {found}", "a wider dtype, or dims=(...) (--codebook-dims)"
        )
    return found


def codes_of(packed: Any, quantizer: Quantizer, vectors: int | None = None) -> Tensor:
    """Packed bits -> code vectors, on the bits' device: equal to `indices_to_codes`, without making indices.

    packed: uint8 [..., bytes], a torch tensor or numpy array, as from `CodesDataset(format="packed")`; vectors: per
    row, by default all that fit. Returns float32 [..., vectors, D] of codes before project_out: ±scale for a plain
    quantizer. Raises OptionError for a quantizer whose codes are not constants.
    """
    import torch

    scale = quantizer.code_magnitude()
    if scale is None or quantizer.is_residual:
        raise OptionError(
            "its codes are not ± one number", "decode the indices with the module: lfq_cli.load(...).indices_to_codes"
        )
    width = quantizer.bits_per_vector
    data = torch.as_tensor(packed)
    count = data.shape[-1] * 8 // width if vectors is None else vectors
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=data.device)
    bits = (data.unsqueeze(-1) >> shifts) & 1
    bits = bits.flatten(-2)[..., : count * width]
    codes: Tensor = (bits.reshape(*data.shape[:-1], count, width).float() * 2 - 1) * float(scale)
    return codes
