"""Show-o's and MMaDA's image tokenizer, `MAGVITv2` (showlab/magvitv2).

Read: showlab/Show-o 45a5a2d, models/modeling_magvitv2.py (LFQuantizer, MAGVITv2); Gen-Verse/MMaDA 3cdb870, the same
file byte for byte. Run: LFQuantizer at 13 bits.

In the file (a diffusers ModelMixin, flat): `quantize.embedding` float32 [2^D, D] of ±1 and `quantize.power_vals` int64
[D] descending, both persistent. Nothing stands between the encoder and the sign: no quant_conv, no projection.

MSB-first. Value: the row of `quantize.embedding`, ±1 exactly. Nothing is asked. D = 13 always (2^13 = 8192, the
class's constant). Layout: channel-first [batch, D, h, w]; the model flattens the indices to [batch, h * w]. The module
compares `z + (sign - z) > 0`, which is the sign rule to |z| = 2^24; from there on the sum can be 0.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from families.arithmetic import (
    Array,
    State,
    bits_from,
    bits_of,
    channel_first,
    channel_last,
    integers_of,
    randomize,
    signs_of,
)

ORDER = "msb"


class Quantizer(nn.Module):
    def __init__(self, bits: int) -> None:
        super().__init__()
        rows = signs_of(bits_from(np.arange(2**bits), bits, ORDER))
        self.register_buffer("embedding", torch.from_numpy(rows))
        self.register_buffer("power_vals", 2 ** torch.arange(bits - 1, -1, -1))


class Tokenizer(nn.Module):
    def __init__(self, bits: int) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"conv_in": nn.Conv2d(3, 4, 3), "conv_out": nn.Conv2d(4, bits, 1)})
        self.decoder = nn.ModuleDict({"conv_in": nn.Conv2d(bits, 4, 3)})
        self.quantize = Quantizer(bits)


def state_dict(seed: int = 0, *, bits: int = 13) -> State:
    return randomize(Tokenizer(bits), seed)


def encode(state: State, x: Array) -> Array:
    """x [batch, D, h, w] -> [batch, h, w]."""
    assert x.shape[1] == len(state["quantize.power_vals"])
    return integers_of(bits_of(channel_last(x)), ORDER)


def decode(state: State, indices: Array) -> Array:
    """indices [batch, h, w] -> [batch, D, h, w] float32, looked up in the stored codebook as the model does."""
    return channel_first(state["quantize.embedding"].numpy()[indices])
