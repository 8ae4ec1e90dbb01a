"""Families whose file holds no buffer of powers: QLIP, FocalCodec, URSA, cosmos-framework, lucidrains 1.9.0 to 1.9.4.

Read: NVlabs/QLIP cf86fcc, QLIP/{bsq,modeling_qlip}.py; lucadellalib/focalcodec 912b7f2, focalcodec/{bsq,codec}.py;
baaivision/URSA 29284bb, diffnext/models/autoencoders/{quantizers,autoencoder_vq}.py; vector-quantize-pytorch 1.9.0,
1.9.2 and 1.9.4 from PyPI; NVIDIA/cosmos-framework 5eee9ed, cosmos_framework/model/tokenizer/models/
{sparse_autoencoder,modules/quantizers/lfq}.py. Run: every one of these quantizers.

| who | what the file does say | value | layout; published D |
| QLIP | `quant_embed.c_proj` [D, width], `quant_embed_post.c_fc` [_, D] | ±float32(1/sqrt(D)) | last; 28 |
| FocalCodec | D only as the rows of `compressor.out_proj.weight` [D, _] | ±float32(1/sqrt(D)) | last; 11, 12, 13, 16 |
| URSA | `quant_conv.weight` [D, _, 1, 1], `post_quant_conv.weight` [_, D, 1, 1] | ±1 | channel-first; unknown |
| 1.9.0, 1.9.1 | nothing | ±1 | first from 4-D, codebook dim = dim |
| 1.9.2 to 1.9.4 | `project_in` [D, dim], `project_out` [dim, D], if dim != D; C is always 1 | ±1 | first from 4-D |
| cosmos-framework | `quantizer.project_in` [C*D, dim], `project_out`, if dim != C*D | ±1 | last; D = 14 by default |

MSB-first, but for cosmos-framework: LSB-first. QLIP divides by the norm before the sign when `quantizer_l2_norm` is
set, FocalCodec always. QLIP sums its integers in float32: at its 28 bits 80 % of 2000 tokens were wrong (run). The
twin's are exact.

All of it is asked: family, D, and for QLIP whether it is normalised (l2_norm, by default yes).

Ambiguous: URSA's AutoencoderVQ writes the same keys around a learned VQ (which has `quantizer.embedding.weight`
besides) and around FSQ (which has nothing besides); vector-quantize-pytorch's FSQ(levels, dim=dim) writes exactly the
four project_in / project_out keys of LFQ 1.9.2, and so does cosmos-framework's FSQ (what it has released is residual
VQ). A file of this table proves nothing about its quantizer.
"""

from __future__ import annotations

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
    inverse_root,
    linear,
    randomize,
    signs_of,
)

ORDER = "msb"


class Unstored(nn.Module):
    """A quantizer with every buffer left out of the file."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.register_buffer("basis", 2 ** torch.arange(bits - 1, -1, -1), persistent=False)


def mlp(inputs: int, width: int, outputs: int) -> nn.ModuleDict:
    return nn.ModuleDict({"c_fc": nn.Linear(inputs, width), "c_proj": nn.Linear(width, outputs)})


def qlip_state_dict(seed: int = 0, *, bits: int = 28) -> State:
    vision = {
        "encoder": nn.ModuleList([nn.Linear(8, 8)]),
        "quantizer": Unstored(bits),
        "quant_embed": mlp(8, 8, bits),
        "quant_embed_post": mlp(bits, 8, 8),
    }
    return randomize(nn.ModuleDict({"vision_model": nn.ModuleDict(vision)}), seed)


def focalcodec_state_dict(seed: int = 0, *, bits: int = 13) -> State:
    parts = {
        "encoder": nn.ModuleList([nn.Linear(8, 8)]),
        "compressor": nn.ModuleDict({"out_proj": nn.Linear(8, bits)}),
        "quantizer": Unstored(bits),
        "decompressor": nn.ModuleDict({"in_proj": nn.Linear(bits, 8)}),
    }
    return randomize(nn.ModuleDict(parts), seed)


def ursa_state_dict(seed: int = 0, *, bits: int = 16) -> State:
    parts = {
        "encoder": nn.ModuleDict({"conv_in": nn.Conv2d(3, 4, 3), "conv_out": nn.Conv2d(4, 16, 3)}),
        "decoder": nn.ModuleDict({"conv_in": nn.Conv2d(16, 4, 3)}),
        "quant_conv": nn.Conv2d(16, bits, 1),
        "post_quant_conv": nn.Conv2d(bits, 16, 1),
        "quantizer": Unstored(bits),
    }
    return randomize(nn.ModuleDict(parts), seed)


def early_lucidrains_state_dict(seed: int = 0, *, bits: int = 10, dim: int | None = 16) -> State:
    """1.9.2 to 1.9.4; dim None: 1.9.0, 1.9.1 or no projection, whose bare state dict is empty."""
    parts = {} if dim is None else {"project_in": nn.Linear(dim, bits), "project_out": nn.Linear(bits, dim)}
    return randomize(nn.ModuleDict(parts), seed)


def cosmos_state_dict(seed: int = 0, *, bits: int = 14, codebooks: int = 1, dim: int = 48) -> State:
    parts = {"project_in": nn.Linear(dim, bits * codebooks), "project_out": nn.Linear(bits * codebooks, dim)}
    return randomize(nn.ModuleDict({"quantizer": nn.ModuleDict(parts), "proj": nn.Linear(4, 4)}), seed)


def encode_cosmos(state: State, x: Array, *, codebooks: int = 1) -> Array:
    """x [vectors, dim] -> [vectors], or [vectors, C] of several codebooks."""
    bits = bits_of(linear(x, state, "quantizer.project_in"))
    found = integers_of(bits.reshape(*bits.shape[:-1], codebooks, -1), "lsb")
    return found if codebooks > 1 else found[..., 0]


def decode_cosmos(state: State, indices: Array, *, bits: int, codebooks: int = 1) -> Array:
    """indices as encode_cosmos gives them -> [vectors, dim] float32."""
    signs = signs_of(bits_from(indices if codebooks > 1 else indices[..., None], bits, "lsb"))
    return linear(signs.reshape(*signs.shape[:-2], -1), state, "quantizer.project_out").astype("float32")


def encode(x: Array, *, first: bool = False) -> Array:
    """x [..., D], or [batch, D, ...] with first -> [...]: QLIP, FocalCodec (first false), URSA (first true)."""
    return integers_of(bits_of(channel_last(x) if first else x), ORDER)


def decode(indices: Array, *, bits: int, spherical: bool, first: bool = False) -> Array:
    """indices [...] -> [..., D] float32. spherical: ±1/sqrt(D) (QLIP, FocalCodec), else ±1 (URSA)."""
    values = signs_of(bits_from(indices, bits, ORDER))
    values = values * inverse_root(bits) if spherical else values
    return channel_first(values) if first else values


def encode_early_lucidrains(state: State, x: Array, *, codebooks: int = 1) -> Array:
    """x [..., dim] -> [...]; [..., C] where the bits are taken for those of several codebooks."""
    bits = bits_of(linear(x, state, "project_in"))
    found = integers_of(bits.reshape(*bits.shape[:-1], codebooks, -1), ORDER)
    return found if codebooks > 1 else found[..., 0]


def decode_early_lucidrains(state: State, indices: Array, *, bits: int, codebooks: int = 1) -> Array:
    """indices [...] or [..., C] of `bits` each -> [..., dim] float32."""
    signs = signs_of(bits_from(indices if codebooks > 1 else indices[..., None], bits, ORDER))
    return linear(signs.reshape(*signs.shape[:-2], -1), state, "project_out").astype("float32")
