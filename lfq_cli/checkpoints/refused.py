"""Why a checkpoint without a quantizer that lfq knows is refused: what kind of checkpoint it looks like."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from lfq_cli.bits import MAX_INDEX_BITS
from lfq_cli.checkpoints.statefile import StateFile, StateTensor
from lfq_cli.dtypes import PLAIN_FLOATS

_BUFFERS = ("mask", "basis", "bit_mask", "power_vals", "bits_to_indices")


@dataclass(frozen=True)
class Reason:
    """What the file looks like, and what to do."""

    looks_like: str
    hint: str


@dataclass(frozen=True)
class Sign:
    """A pattern that the end of a tensor's name matches, and what it tells if the tensor `fits`."""

    name: str
    reason: Reason
    fits: Callable[[StateTensor], bool] = lambda tensor: True


_ONLY_SIGNS = "lfq reads lookup-free quantizers only: codes that are the signs of the input"
_LEARNED = Reason("a learned codebook (VQ, IBQ): it picks the nearest of stored vectors", _ONLY_SIGNS)


def _is_cast_mask(tensor: StateTensor) -> bool:
    floats = tensor.dtype in PLAIN_FLOATS.values() and len(tensor.shape) == 1
    if not floats or not 1 <= tensor.shape[0] <= MAX_INDEX_BITS:
        return False
    values = tensor.read().tolist()
    return values[-1] == 1 and all(a == 2 * b or a == float("inf") for a, b in pairwise(values))


def _is_vector(tensor: StateTensor) -> bool:
    return len(tensor.shape) == 1 and tensor.dtype.startswith(("I", "U"))


SIGNS = (
    Sign(
        rf"({'|'.join(_BUFFERS)})",
        Reason(
            "a mask that was cast to floats, with the rest of the model",
            "save the state dict uncast: large powers of two do not survive, and rounded weights give other tokens",
        ),
        _is_cast_mask,
    ),
    Sign(
        r"bits_to_indices",
        Reason("MaskBit's generator: it has bits_to_indices, but no codebook", "its tokenizer is another file"),
        _is_vector,
    ),
    Sign(
        r"embedding\.emb_s1\.weight",
        Reason("the language model of Kronos, which has no quantizer", "its tokenizer is another checkpoint"),
    ),
    Sign(
        r"quantizers\.\d+\.codebook\.weight",
        Reason("quantizers with learned codebooks behind projections (RVQ; MOSS calls it LFQ)", _ONLY_SIGNS),
    ),
    Sign(
        r"quantizers\.\d+\.in_project\.weight(_v)?",
        Reason("Amphion's quantizer, which rounds a sigmoid and has codes of 0 and 1", _ONLY_SIGNS),
    ),
    Sign(
        r"quantizer?\.proj\.0\.weight",
        Reason(
            "a binary autoencoder (BiGR, Instella-T2I): its bits are a sigmoid above 0.5, and its codes 0 and 1 times"
            " learned vectors",
            _ONLY_SIGNS,
        ),
    ),
    Sign(
        r"quantizes?(\.\d+)?\.scaler",
        Reason(
            "XQ-GAN's LFQ (ImageFolder), whose tokens are signs of residuals that the model resizes and convolves",
            "lfq reads quantizers of a single scale",
        ),
    ),
    Sign(r"(quantize|quantizer|vq|codebook|_codebook)\.(embedding\.weight|embedding|embed|weight|embed_avg)", _LEARNED),
    Sign(r"_codebook\.embed", _LEARNED),
    Sign(
        r"basis",
        Reason("FSQ: its basis holds the radices of levels, not powers of two", _ONLY_SIGNS),
        _is_vector,
    ),
    Sign(
        r"encoder\.final_layer_txt\.linear\.weight",
        Reason(
            "FlowMo, whose indices take every so many channels, not neighbouring ones",
            "a codes file cannot hold its indices",
        ),
    ),
    Sign(
        r"vision_model\.quant_embed\.c_proj\.weight",
        Reason("QLIP, of whose quantizer nothing is in the file", "--family qlip --codebook-dims 28"),
    ),
    Sign(
        r"decompressor\.in_proj\.weight",
        Reason("FocalCodec, of whose quantizer nothing is in the file", "--family focalcodec --codebook-dims D"),
    ),
    Sign(
        r"post_quant_conv\.weight",
        Reason(
            "an autoencoder whose quantizer left nothing in the file: LFQ, FSQ and others look the same",
            "if it is URSA with LFQ: --family ursa --codebook-dims D",
        ),
    ),
    Sign(
        r"project_in\.weight",
        Reason(
            "projections around a quantizer that left no buffer: FSQ, or LFQ of NVIDIA's cosmos-framework or of"
            " vector-quantize-pytorch 1.9.0 to 1.9.4",
            "if it is LFQ: --family lucidrains-1.9 (channel 0 is the highest bit)"
            " or --family cosmos-framework (the lowest)",
        ),
    ),
    Sign(
        r"mask",
        Reason("a `mask` that does not hold every power of two once, in order", "expected 2^(D-1), ..., 2, 1"),
        _is_vector,
    ),
)
"""In order: the first that is there tells."""


def explain(state: StateFile) -> Reason | None:
    """What the file looks like; None if nothing shows it."""
    for sign in SIGNS:
        pattern = re.compile(rf"(.*\.)?{sign.name}")
        if any(pattern.fullmatch(name) and sign.fits(tensor) for name, tensor in state.tensors.items()):
            return sign.reason
    return None
