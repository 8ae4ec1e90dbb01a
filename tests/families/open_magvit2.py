"""Open-MAGVIT2 and its children, whose quantizer leaves nothing in the file.

Read: TencentARC/SEED-Voken b9a17ea, src/Open_MAGVIT2 (modules/vqvae/lookup_free_quantize.py, models/lfqgan.py and
video_lfqgan.py, modules/diffusionmodules/improved_model.py and improved_video_model.py, modules/ema.py), its first
commit ec8fba5 and 6515009 (2024-09-09), configs; 1x-technologies/1xgpt 0069734, magvit2, visualize.py, data.py,
genie/factorization_utils.py; zhuangshaobin/WeTok caa2ad7; shallowdream204/BitDance 4c5ea90; kylesargent/FlowMo
d15029f. Run: every one of their quantizers.

In the file: no quantizer key; `mask`, `pre_mask`, `post_mask`, `mask_{i}`, `codebook`, `zero` are all non-persistent.
To guess D: `encoder.conv_out.weight` [D, _, 1, 1] for images, `encoder.conv_out.conv_1.weight` [D, _, 1, 1, 1] for
video; and `decoder.adaptive.{i}.gamma.weight` [_, D]. Lightning files hold `state_dict` with the discriminator under
`loss.` and the EMA as **buffers** `model_ema.encoderconv_outweight` (dots removed), `model_ema.decay`,
`model_ema.num_updates`. FlowMo has none of these: `encoder.final_layer_txt.linear.weight` [F, _] and
`decoder.txt_in.weight` [_, F + 1], with F channels a token; `model_state_dict` and `model_ema_state_dict` in its file.
Nothing stands between encoder and sign.

Fields, all of one vector's channels in order unless said otherwise:
| who | fields | order |
| Open-MAGVIT2 since 2024-09-09 | [D], or [6, 12] / [9, 9] when token_factorization (a tuple of two) | LSB |
| before | [D], or two halves | MSB |
| 1xgpt's published tokens | [18]; its model reads [9, 9], low bits first | LSB; its code is MSB, flips channels |
| WeTok, BitDance's GFQ | [8] * 4 or [8] * 8 | LSB |
| FlowMo | F / K indices; index h takes the channels h, h + F/K, h + 2 F/K, … (strided) | LSB |
BitDance's text-to-image models use the ±1 values and no integers. Value ±1 exactly, everywhere.

Asked: which of these. Published: D = 18 (2^18) and 14 (2^14 pretrain), 18 for video; WeTok 32 = 4 x 8 and 64 = 8 x 8;
FlowMo F = 18, K = 9 and F = 56, K = 14. Layout: channel-first [batch, D, ...]; FlowMo channel-last [batch, n, F]. The
modules flatten their indices to one axis; the twin keeps [batch, ..., fields].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from families.arithmetic import (
    Array,
    State,
    bits_from,
    bits_from_fields,
    bits_of,
    channel_first,
    channel_last,
    fields_of,
    integers_of,
    randomize,
    signs_of,
)


class Quantizer(nn.Module):
    """Leaves nothing in a state dict."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.register_buffer("mask", 2 ** torch.arange(bits), persistent=False)
        self.register_buffer("zero", torch.tensor(0.0), persistent=False)
        self.register_buffer("codebook", torch.zeros(2, bits), persistent=False)


class CausalConv(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv3d(inputs, outputs, kernel)


def convolution(inputs: int, outputs: int, kernel: int, *, video: bool) -> nn.Module:
    return CausalConv(inputs, outputs, kernel) if video else nn.Conv2d(inputs, outputs, kernel)


class Tokenizer(nn.Module):
    def __init__(self, bits: int, video: bool) -> None:
        super().__init__()
        adaptive = nn.ModuleDict({"gamma": nn.Linear(bits, 4), "beta": nn.Linear(bits, 4)})
        self.encoder = nn.ModuleDict(
            {"conv_in": convolution(3, 4, 3, video=video), "conv_out": convolution(4, bits, 1, video=video)}
        )
        self.decoder = nn.ModuleDict(
            {
                "conv_in": convolution(bits, 4, 3, video=video),
                "adaptive": nn.ModuleList([adaptive]),
                "conv_out": convolution(4, 3, 3, video=video),
            }
        )
        self.loss = nn.ModuleDict({"discriminator": nn.ModuleDict({"main": nn.ModuleList([nn.Conv2d(3, 1, 4)])})})
        self.quantize = Quantizer(bits)


class FlowMo(nn.Module):
    def __init__(self, channels: int, bits: int) -> None:
        super().__init__()
        self.quantizer = Quantizer(bits)
        self.encoder = nn.ModuleDict({side: nn.Linear(8, 8) for side in ("img_in",)})
        self.encoder["txt_in"] = nn.Linear(channels, 8)
        self.encoder["final_layer_txt"] = nn.ModuleDict({"linear": nn.Linear(8, channels)})
        self.decoder = nn.ModuleDict({"txt_in": nn.Linear(channels + 1, 8)})


def state_dict(seed: int = 0, *, bits: int = 18, video: bool = False, ema: bool = False) -> State:
    """Open-MAGVIT2, 1xgpt, WeTok and BitDance (bits: all channels of a vector). ema: with LitEma's buffers."""
    state = randomize(Tokenizer(bits, video), seed)
    if not ema:
        return state
    extra = {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(0, dtype=torch.int32)}
    shadow = {f"model_ema.{name.replace('.', '')}": tensor.clone() for name, tensor in state.items()}
    return {**state, **extra, **shadow}


def flowmo_state_dict(seed: int = 0, *, channels: int = 18, bits: int = 9) -> State:
    return randomize(FlowMo(channels, bits), seed)


def encode(x: Array, *, fields: Sequence[int], order: str = "lsb") -> Array:
    """x [batch, D, ...] -> [batch, ..., len(fields)]."""
    return fields_of(bits_of(channel_last(x)), fields, order)


def decode(indices: Array, *, fields: Sequence[int], order: str = "lsb") -> Array:
    """indices [batch, ..., len(fields)] -> [batch, D, ...] float32."""
    return channel_first(signs_of(bits_from_fields(indices, fields, order)))


def encode_1xgpt_code(x: Array) -> Array:
    """x [batch, D, ...] -> what the LFQ in 1xgpt's repository computes (MSB), which is not what its data set holds."""
    return integers_of(bits_of(channel_last(x)), "msb")


def factored_1xgpt(tokens: Array, *, vocabularies: int = 2, size: int = 512) -> Array:
    """tokens [...] of the data set -> [..., vocabularies], the low part first."""
    return np.stack([tokens // size**k % size for k in range(vocabularies)], axis=-1)


def encode_flowmo(x: Array, *, bits: int = 9) -> Array:
    """x [batch, n, F] -> [batch, n, F / bits]; each index takes every (F / bits)-th channel."""
    indices = x.shape[-1] // bits
    strided = [x[..., first::indices] for first in range(indices)]
    return np.stack([integers_of(bits_of(part), "lsb") for part in strided], axis=-1)


def decode_flowmo(indices: Array, *, bits: int = 9) -> Array:
    """indices [batch, n, F / bits] -> [batch, n, F] float32."""
    values = np.zeros((*indices.shape[:-1], indices.shape[-1] * bits), dtype=np.float32)
    for first in range(indices.shape[-1]):
        values[..., first :: indices.shape[-1]] = signs_of(bits_from(indices[..., first], bits, "lsb"))
    return values
