"""BSQ-ViT's BinarySphericalQuantizer (`quantize.`) and its copies in TaDiCodec (`bsq.`) and UniAR (`visual.bsq.`).

Read: zhaoyue-zephyrus/bsq-vit 37d212d, transcoder/models/quantizer/bsq.py, transcoder/models/bsqvit.py,
configs/tokenizer, scripts/main_image_tokenizer.py; TaDiCodec's models/tts/tadicodec/modeling_tadicodec.py
(ebisuke/Diffusion-Speech-Tokenizer 3aeafb0; its bsq.py could not be had, so its buffers and its group size are taken
from BSQ-ViT's code; "codebook size 2^vq_emb_dim", so its tokens are whole codes); ShareLab-SII/UniAR 09341a0,
uniar/vision_encoder/{bsq,modeling_vision_encoder}.py. Run: both bsq.py.

In the file: `basis` int64 [D] descending; `group_basis` int64 [D / G] descending, of length 1 in two of the three
published BSQ configs (embed_group_size 1) and equal to `basis` if a group is all of D. `group_codebook` is not
persistent. A group of more than one bit is a token (`group_indices`, which get_group_codebook_entry takes); groups of
one bit are what the loss counts. Before the sign, outside the quantizer: `quant_embed` [D, width] with bias, then
F.normalize when the model's `l2_norm` is set (all published configs); after it `post_quant_embed` [width, D].
TaDiCodec: `vq_in_linear`, `vq_out_linear`.

Not in the file: the quantizer's own `l2_norm` (`post_q_l2_norm` in the config): values ±1/sqrt(D), or ±1 without. It
is True in every published BSQ-ViT config and False by default; TaDiCodec uses the constructor's default of its copy.

MSB-first. Published D: 18 and 36 (BSQ-ViT), 14 (TaDiCodec), 64 in groups of 1 (UniAR). Layout: channel-last
[batch, n, D] ("blc") in all three models; the class alone defaults to channel-first. Indices [batch, n]; a second form,
group_indices [batch, n, D / G], MSB in each group. Values: ±1 times the Python float 1 / D**0.5, which float32
arithmetic rounds once: exactly float32(1/sqrt(D)).

BSQ-ViT's own whole-code integers are a float32 sum: right to D = 24, at D = 25 in 75.9 %, at D = 36 in 0.2 % of 8000
tokens; its group indices are right in all (run). UniAR sums in int64, right at 64 (run). The twin's are exact.
A norm above 1.8e19 makes F.normalize return zeros before the module sees the vector; not normalised,
its straight-through sum loses the code where |z| > 2^24.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from families.arithmetic import (
    Array,
    State,
    bits_from,
    bits_from_fields,
    bits_of,
    fields_of,
    integers_of,
    inverse_root,
    randomize,
    signs_of,
)

ORDER = "msb"


class Quantizer(nn.Module):
    def __init__(self, bits: int, group_bits: int) -> None:
        super().__init__()
        self.register_buffer("basis", 2 ** torch.arange(bits - 1, -1, -1))
        self.register_buffer("group_basis", 2 ** torch.arange(group_bits - 1, -1, -1))
        self.register_buffer("group_codebook", torch.zeros(2, group_bits), persistent=False)


class BsqVit(nn.Module):
    def __init__(self, bits: int, group_bits: int) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"conv1": nn.Conv2d(3, 8, 4, bias=False), "ln_pre": nn.LayerNorm(8)})
        self.decoder = nn.ModuleDict({"ln_pre": nn.LayerNorm(8)})
        self.quantize = Quantizer(bits, group_bits)
        self.quant_embed = nn.Linear(8, bits)
        self.post_quant_embed = nn.Linear(bits, 8)


class TaDiCodec(nn.Module):
    def __init__(self, bits: int, group_bits: int) -> None:
        super().__init__()
        self.text_emb = nn.Embedding(6, 8)
        self.vq_in_linear = nn.Linear(8, bits)
        self.bsq = Quantizer(bits, group_bits)
        self.vq_out_linear = nn.Linear(bits, 8)


class UniAr(nn.Module):
    def __init__(self, bits: int, group_bits: int) -> None:
        super().__init__()
        vision = {
            "bsq_input_proj": nn.ModuleDict({"linear_fc2": nn.Linear(8, bits)}),
            "bsq": Quantizer(bits, group_bits),
        }
        self.visual = nn.ModuleDict(vision)
        self.lm_head = nn.Linear(4, 4)


MODELS = {None: Quantizer, "bsq_vit": BsqVit, "tadicodec": TaDiCodec, "uniar": UniAr}
"""The bare module, `quantize.basis`, `bsq.basis`, `visual.bsq.basis`."""


def state_dict(seed: int = 0, *, bits: int = 18, group_bits: int = 9, model: str | None = "bsq_vit") -> State:
    return randomize(MODELS[model](bits, group_bits), seed)


def width_of(state: State) -> int:
    return next(len(tensor) for name, tensor in state.items() if name.endswith("basis") and "group" not in name)


def encode(state: State, x: Array) -> Array:
    """x [..., D], after quant_embed -> [...]."""
    assert x.shape[-1] == width_of(state)
    return integers_of(bits_of(x), ORDER)


def encode_groups(x: Array, *, group_bits: int) -> Array:
    """x [..., D] -> the module's group_indices, [..., D / group_bits]."""
    return fields_of(bits_of(x), [group_bits] * (x.shape[-1] // group_bits), ORDER)


def decode_groups(indices: Array, *, group_bits: int, normalized: bool = True) -> Array:
    """group_indices [..., D / group_bits] -> [..., D] float32."""
    signs = signs_of(bits_from_fields(indices, [group_bits] * indices.shape[-1], ORDER))
    return signs * (inverse_root(signs.shape[-1]) if normalized else np.float32(1))


def decode(state: State, indices: Array, *, normalized: bool = True) -> Array:
    """indices [...] -> [..., D] float32, before post_quant_embed."""
    width = width_of(state)
    magnitude = inverse_root(width) if normalized else np.float32(1)
    return signs_of(bits_from(indices, width, ORDER)) * magnitude
