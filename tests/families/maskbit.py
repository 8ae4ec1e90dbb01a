"""MaskBit's tokenizer (stage 1).

Read: markweberdev/maskbit 5ea3d73, modeling/quantizer/lookup_free.py, modeling/conv_vqgan.py, modeling/bert.py,
modeling/modules/factorization.py and base_model.py, configs. Run: LookupFreeQuantizer.

In the file (save_pretrained: pytorch_model.bin, flat; the EMA has a folder of its own): `quantize.bits_to_indices`
int32 [K] **ascending** and `quantize.codebook` float32 [2^K, K] of ±1, both persistent. No quant_conv, no projection.

LSB-first. Value ±1 exactly. Nothing is asked. Published K: 10, 12, 14, 16, 18; `codebook_size` in the YAML of the 14,
16 and 18 bit tokenizers says 4096 and means nothing (the class takes `token_size` only). Layout: channel-first [batch,
K, h, w], indices [batch, h, w].

The generator cuts a token into `splits` fields (2 in every config), the low K / splits bits first: with LSB that is
the channels in order, so its fields are the factorised form [K / splits] * splits. Its own file also carries a
`bits_to_indices`, of K / splits entries, and no codebook: see `refused`.
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
    fields_of,
    integers_of,
    randomize,
    signs_of,
)

ORDER = "lsb"


class Quantizer(nn.Module):
    def __init__(self, bits: int) -> None:
        super().__init__()
        self.register_buffer("bits_to_indices", torch.pow(2.0, torch.arange(0, bits, dtype=torch.float32)).int())
        self.register_buffer("codebook", torch.from_numpy(signs_of(bits_from(np.arange(2**bits), bits, ORDER))))


class Tokenizer(nn.Module):
    def __init__(self, bits: int) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"conv_in": nn.Conv2d(3, 4, 3), "conv_out": nn.Conv2d(4, bits, 1)})
        self.decoder = nn.ModuleDict({"conv_in": nn.Conv2d(bits, 4, 3)})
        self.quantize = Quantizer(bits)


def state_dict(seed: int = 0, *, bits: int = 10) -> State:
    return randomize(Tokenizer(bits), seed)


def encode(state: State, x: Array) -> Array:
    """x [batch, K, h, w] -> [batch, h, w]."""
    assert x.shape[1] == len(state["quantize.bits_to_indices"])
    return integers_of(bits_of(channel_last(x)), ORDER)


def encode_splits(state: State, x: Array, *, splits: int = 2) -> Array:
    """x [batch, K, h, w] -> [batch, h, w, splits], as the generator reads a token."""
    width = len(state["quantize.bits_to_indices"]) // splits
    return fields_of(bits_of(channel_last(x)), [width] * splits, ORDER)


def decode(state: State, indices: Array) -> Array:
    """indices [batch, h, w] -> [batch, K, h, w] float32."""
    return channel_first(signs_of(bits_from(indices, len(state["quantize.bits_to_indices"]), ORDER)))
