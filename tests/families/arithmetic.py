"""Signs, integers and products that every twin needs: numpy and Python integers, one value at a time where it matters.

`x > 0` is the only rule for a bit: 0, -0.0 and NaN give 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

State = dict[str, Tensor]
Array = NDArray[Any]


def bits_of(x: Array) -> Array:
    """x [...] float -> [...] bool."""
    return np.asarray(np.asarray(x) > 0)


def signs_of(bits: Array) -> Array:
    """bits [...] bool -> [...] float32 of ±1."""
    return np.where(bits, np.float32(1), np.float32(-1))


def weights(width: int, order: str) -> list[int]:
    """The weight of each channel's bit as Python integers, which do not overflow at 2^63."""
    powers = [2**j for j in range(width)]
    return {"lsb": powers, "msb": powers[::-1]}[order]


def integers_of(bits: Array, order: str) -> Array:
    """bits [..., width] -> [...] int64, or uint64 at 64 bits."""
    scale = weights(bits.shape[-1], order)
    rows = bits.reshape(-1, bits.shape[-1])
    sums = [sum(w for w, bit in zip(scale, row, strict=True) if bit) for row in rows]
    return np.array(sums, dtype=np.uint64 if bits.shape[-1] > 63 else np.int64).reshape(bits.shape[:-1])


def bits_from(integers: Array, width: int, order: str) -> Array:
    """integers [...] -> [..., width] bool. The inverse of integers_of."""
    scale = weights(width, order)
    rows = [[int(value) & w != 0 for w in scale] for value in np.asarray(integers).ravel()]
    return np.array(rows, dtype=bool).reshape(*np.shape(integers), width)


def fields_of(bits: Array, widths: Sequence[int], order: str) -> Array:
    """bits [..., sum(widths)] -> [..., len(widths)] integers of neighbouring runs of channels."""
    starts = np.cumsum([0, *widths])
    runs = [bits[..., start : start + width] for start, width in zip(starts, widths, strict=False)]
    return np.stack([integers_of(run, order) for run in runs], axis=-1)


def bits_from_fields(integers: Array, widths: Sequence[int], order: str) -> Array:
    """integers [..., len(widths)] -> [..., sum(widths)] bool."""
    runs = [bits_from(integers[..., k], width, order) for k, width in enumerate(widths)]
    return np.concatenate(runs, axis=-1)


def channel_last(x: Array) -> Array:
    """x [batch, channels, ...] -> [batch, ..., channels]."""
    return np.moveaxis(x, 1, -1)


def channel_first(x: Array) -> Array:
    """x [batch, ..., channels] -> [batch, channels, ...]."""
    return np.moveaxis(x, -1, 1)


def inverse_root(width: int) -> np.float32:
    """1 / sqrt(width), divided in double precision and rounded once."""
    return np.float32(1.0 / math.sqrt(width))


def normalized(magnitude: np.float32, width: int) -> np.float32:
    """What F.normalize makes of a vector of ±magnitude, every operation in float32, the squares added one by one.

    The sum is exact, and so is this twin, where magnitude is a power of two. Elsewhere torch's own result changes with
    the processor: of 64 widths at magnitude 1/sqrt(width), its AVX-512 and its scalar code differ at width 11.
    """
    total = np.float32(0)
    for _ in range(width):
        total = np.float32(total + magnitude * magnitude)
    return np.float32(magnitude / max(np.sqrt(total), np.float32(1e-12)))


def linear(x: Array, state: State, name: str) -> Array:
    """x [..., in] -> x @ weight.T + bias, float64; x itself where the state has no such layer."""
    if f"{name}.weight" not in state:
        return np.asarray(x, dtype=np.float64)
    y = np.asarray(x, dtype=np.float64) @ numpy_of(state[f"{name}.weight"]).T
    return y + numpy_of(state[f"{name}.bias"]) if f"{name}.bias" in state else y


def numpy_of(tensor: Tensor) -> Array:
    """tensor -> float64."""
    return np.asarray(tensor.detach().double().numpy())


def below(state: State, prefix: str) -> State:
    """The entries under a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def generator(seed: int) -> torch.Generator:
    """The one source of weights of a state dict."""
    return torch.Generator().manual_seed(seed)


def randomize(module: torch.nn.Module, seed: int) -> State:
    """Parameters drawn anew, by name and so the same in every version of torch -> the module's state dict."""
    source = generator(seed)
    with torch.no_grad():
        for _, parameter in sorted(module.named_parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=source) / math.sqrt(parameter.shape[-1]))
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
