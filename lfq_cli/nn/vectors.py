"""Checks and helpers for the input tensors of all modules."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def check_features(x: Tensor, *, dim: int, axis: int, channel_first: bool | None) -> None:
    """Raises TypeError for integers, and ValueError unless x has `dim` features on that axis."""
    if not x.is_floating_point():
        raise TypeError(f"LFQ quantizes floating-point tensors, found {x.dtype}")
    found = x.shape[axis] if x.ndim else 0
    if found != dim:
        raise ValueError(
            f"expected {dim} features on axis {axis}, found {found} (shape {tuple(x.shape)}, "
            f"channel_first={channel_first})"
        )


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context in which autocast is disabled on the device."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def mask_vectors(mask: Tensor, shape: torch.Size) -> Tensor:
    """mask -> bool [vectors]. shape: that of the vectors' tensor without channels, (b, ...).

    The mask has the leading axes of that shape (for instance [b]) and selects all vectors below them; or it is [b, n]
    with all other axes flattened. Raises ValueError for any other shape.
    """
    found = tuple(mask.shape)
    if found != (*shape[:1], math.prod(shape[1:])):
        if not found or found != tuple(shape[: mask.ndim]):
            expected = " or ".join(str(tuple(shape[:k])) for k in range(1, len(shape) + 1)) or "()"
            raise ValueError(f"mask must have shape {expected}, found {found}")
        mask = mask.reshape(*found, *[1] * (len(shape) - mask.ndim)).expand(shape)
    return mask.bool().flatten()
