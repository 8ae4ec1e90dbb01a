"""Family 5: BSQ-ViT's binary spherical quantizer, and its copies in TaDiCodec and UniAR.

`basis` and `group_basis` descend. The codes are ±1/sqrt(D), or ±1 where the model does not normalise them (its
`post_q_l2_norm`, which no file holds), channel 0 the most significant bit. `group_basis` has the bits of one of
BSQ-ViT's group indices; groups of a single bit are how the loss counts, not tokens (UniAR, whose indices have 64 bits).
TaDiCodec's tokens are whole codes (2^14 of them) whatever its groups are.

Read: zhaoyue-zephyrus/bsq-vit, transcoder/models/quantizer/bsq.py; ShareLab-SII/UniAR, uniar/vision_encoder/bsq.py;
ebisuke/Diffusion-Speech-Tokenizer, tadicodec/models/tts/tadicodec/modeling_tadicodec.py.
"""

from __future__ import annotations

from typing import Any

from lfq_cli.checkpoints.facts import Facts, cut_codes, settle
from lfq_cli.checkpoints.powers import joined, order_of, owner_of, owners
from lfq_cli.checkpoints.statefile import StateFile
from lfq_cli.errors import CheckpointError
from lfq_cli.quantizer import Quantizer

DESCRIPTION = "BSQ-ViT, TaDiCodec, UniAR"
ONLY_IF_NAMED = False
_TADICODEC, _TADICODEC_INPUT = "bsq", "vq_in_linear.weight"


def find(state: StateFile) -> dict[str, list[str]]:
    """As in Family."""
    signs = {module: [joined(module, "basis"), joined(module, "group_basis")] for module in owners(state, "basis")}
    return {module: names for module, names in signs.items() if all(_descends(state, name) for name in names)}


def build(state: StateFile, module: str, facts: Facts) -> Quantizer:
    """As in Family."""
    bits = state.tensors[joined(module, "basis")].shape[0]
    cut = cut_codes(facts.codebook_dims, bits, facts.num_codebooks) or _groups(state, module, bits)
    fixed = {"spherical": False, "soft_clamp_input_value": None}
    config = settle(facts, fixed=fixed | cut, assumed={"codebook_scale": bits**-0.5})
    return Quantizer(
        dim=bits * config.get("num_codebooks", 1),
        codebook_dim=bits,
        channel_first=facts.channel_first,
        usual_of="normalised codes, as in every published config of BSQ-ViT; else --codebook-scale 1",
        **config,
    )


def _groups(state: StateFile, module: str, bits: int) -> dict[str, Any]:
    """The cut of a code into the model's group indices; nothing if its tokens are whole codes."""
    group = state.tensors[joined(module, "group_basis")].shape[0]
    if bits % group:
        raise CheckpointError(
            f"{joined(module, 'group_basis')} has {group} bits, of which {bits} are not a multiple",
            f"--codebook-dims {bits} takes whole codes",
        )
    is_tadicodec = joined(owner_of(module, _TADICODEC), _TADICODEC_INPUT) in state.tensors
    return {} if group in (1, bits) or is_tadicodec else {"factorized_bits": (group,) * (bits // group)}


def _descends(state: StateFile, name: str) -> bool:
    return name in state.tensors and order_of(state.tensors[name]) == "msb"
