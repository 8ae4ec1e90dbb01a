"""Family 2: Open-MAGVIT2, and WeTok, UniWeTok, BitDance and 1xgpt after it: nothing of the quantizer is in the file.

What shows it is the autoencoder: as many channels out of `encoder.conv_out` as into `decoder.adaptive`. All of them are
bits of one code, ±1, unless `--codebook-dims` cuts it (WeTok 8,8,8,8; 1xgpt and the autoregressive models 9,9 or 6,12).
The least significant bit is channel 0 since 2024-09-09; code of before has it the other way round.
"""

from __future__ import annotations

from lfq_cli.bits import MAX_INDEX_BITS
from lfq_cli.checkpoints.facts import Facts, cut_codes, settle
from lfq_cli.checkpoints.powers import joined, owner_of
from lfq_cli.checkpoints.statefile import StateFile
from lfq_cli.errors import CheckpointError
from lfq_cli.quantizer import Quantizer
from lfq_cli.wording import counted

DESCRIPTION = "Open-MAGVIT2, WeTok, UniWeTok, BitDance, 1xgpt"
ONLY_IF_NAMED = False
_OUT = {"encoder.conv_out.weight": 4, "encoder.conv_out.conv_1.weight": 5}
"""The last convolution of the image and of the video encoder, and its axes."""
_IN = "decoder.adaptive.0.gamma.weight"
_LEARNED = ("quantize.embedding.weight", "quantizer.embedding.weight", "quant_conv.weight")


def find(state: StateFile) -> dict[str, list[str]]:
    """As in Family: the path of the autoencoder."""
    found = {}
    for end, axes in _OUT.items():
        for name in (name for name in state.tensors if name == end or name.endswith(f".{end}")):
            module = owner_of(name, end)
            if _is_bottleneck(state, module, name, axes):
                found[module] = [name, joined(module, _IN)]
    return found


def build(state: StateFile, module: str, facts: Facts) -> Quantizer:
    """As in Family."""
    channels = state.tensors[find(state)[module][0]].shape[0]
    dims = facts.codebook_dims
    codebooks = facts.num_codebooks or (len(dims) if dims is not None and len(set(dims)) == 1 else 1)
    if channels % codebooks or channels // codebooks > MAX_INDEX_BITS:
        raise CheckpointError(
            f"the encoder gives {channels} channels, which cannot be split into {counted(codebooks, 'codebook')} of 1"
            " to 64 bits",
            "--codebook-dims gives the bits of each index",
        )
    bits = channels // codebooks
    fixed = {"codebook_scale": 1.0, "spherical": False, "soft_clamp_input_value": None}
    open_cut = {"factorized_bits": None} if dims is None and facts.num_codebooks is None else {}
    cut = cut_codes(dims, bits, codebooks)
    config = settle(facts, fixed=fixed | cut, assumed={"bit_order": "lsb"} | open_cut)
    return Quantizer(
        dim=channels,
        codebook_dim=bits,
        channel_first=True if facts.channel_first is None else facts.channel_first,
        usual_of="Open-MAGVIT2's since 2024-09-09, one index",
        **config,
    )


def _is_bottleneck(state: StateFile, module: str, name: str, axes: int) -> bool:
    """Whether as many channels leave the encoder as enter the decoder, and no learned codebook is between them."""
    gamma = joined(module, _IN)
    if gamma not in state.tensors or any(joined(module, learned) in state.tensors for learned in _LEARNED):
        return False
    out, into = state.tensors[name].shape, state.tensors[gamma].shape
    return len(out) == axes and len(into) == 2 and out[0] == into[1]
