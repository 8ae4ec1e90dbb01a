"""open-genie's LookupFreeQuantization, in its video tokenizer and in its latent actions.

Read: myscience/open-genie 732b9f9, genie/module/quantization.py, genie/{tokenizer,action,genie}.py,
config/tokenize.yaml. Run: quantization.py.

In the file (Lightning: `state_dict`): `quant.bit_mask` int64 [D] descending; `quant.proj_inp.{weight [C*D, dim],
bias}` and `quant.proj_out.{weight [dim, C*D], bias}` unless dim = C*D; the bias is an option. C = rows / D, unknown
without them. A whole Genie has two quantizers: `tokenizer.quant.` and `latent_action.quant.`.

MSB-first. Value: x.sign() in forward, so ±1, but 0 at exactly 0 and NaN at NaN, where the index says -1; decoding
gives ±1 (the family has no decoder from indices but `codebook[idxs]`). Nothing is asked. Defaults: D = 18, 10 in the
config; C = 1. The input size of the latent actions defaults to 2^D * C, a bug that makes the projection huge and fail
in use. Layout: the tokenizer calls it channel-first (transpose=True), the latent actions channel-last. The indices
come squeezed: a batch of one loses its axis in the module. The twin keeps [batch, ..., C], [batch, ...] at C = 1.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from families.arithmetic import (
    Array,
    State,
    below,
    bits_from,
    bits_of,
    channel_first,
    channel_last,
    integers_of,
    linear,
    randomize,
    signs_of,
)

ORDER = "msb"
PREFIX = "quant."


class Quantizer(nn.Module):
    def __init__(self, bits: int, codebooks: int, dim: int, bias: bool) -> None:
        super().__init__()
        rows = bits * codebooks
        if dim != rows:
            self.proj_inp = nn.Linear(dim, rows, bias=bias)
            self.proj_out = nn.Linear(rows, dim, bias=bias)
        self.register_buffer("bit_mask", 2 ** torch.arange(bits - 1, -1, -1))
        self.register_buffer("codebook", torch.zeros(2, bits), persistent=False)


class Tokenizer(nn.Module):
    def __init__(self, quantizer: nn.Module) -> None:
        super().__init__()
        self.enc_layers = nn.ModuleList([nn.Conv3d(3, 4, 3)])
        self.dec_layers = nn.ModuleList([nn.Conv3d(4, 3, 3)])
        self.quant = quantizer


def state_dict(seed: int = 0, *, bits: int = 10, codebooks: int = 1, dim: int = 16, bias: bool = True) -> State:
    return randomize(Tokenizer(Quantizer(bits, codebooks, dim, bias)), seed)


def latents(state: State, x: Array, *, transpose: bool = True) -> Array:
    """x [batch, dim, ...] -> [batch, ..., C, D] float64."""
    state = below(state, PREFIX)
    z = linear(channel_last(x) if transpose else x, state, "proj_inp")
    return np.asarray(z.reshape(*z.shape[:-1], -1, len(state["bit_mask"])))


def margin(state: State, x: Array, *, transpose: bool = True) -> Array:
    return np.asarray(np.abs(latents(state, x, transpose=transpose)).min(axis=(-2, -1)))


def encode(state: State, x: Array, *, transpose: bool = True) -> Array:
    """x [batch, dim, ...] -> [batch, ..., C], without the last axis when C is 1."""
    indices = integers_of(bits_of(latents(state, x, transpose=transpose)), ORDER)
    return indices[..., 0] if indices.shape[-1] == 1 else indices


def decode(state: State, indices: Array, *, codebooks: int = 1, transpose: bool = True) -> Array:
    """indices [batch, ..., C] -> [batch, dim, ...] float32; proj_out in float64."""
    state = below(state, PREFIX)
    indices = indices[..., None] if codebooks == 1 else indices
    codes = signs_of(bits_from(indices, len(state["bit_mask"]), ORDER))
    values = linear(codes.reshape(*codes.shape[:-2], -1), state, "proj_out").astype(np.float32)
    return channel_first(values) if transpose else values
