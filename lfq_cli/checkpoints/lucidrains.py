"""Family 1: state dicts of the reference's `LFQ` (vector-quantize-pytorch), alone or inside a larger model.

A quantizer is where a buffer `mask` holds descending powers of two. The file does not say codebook_scale, spherical or
the soft clamp, nor, without projections, the number of codebooks.
"""

from __future__ import annotations

from typing import Any

from lfq_cli.checkpoints.facts import Facts, cut_codes, settle
from lfq_cli.checkpoints.powers import joined, order_of
from lfq_cli.checkpoints.reference import DEFAULTS, WEIGHTS, masks_of, read_weights, refuse_other_projections
from lfq_cli.checkpoints.statefile import StateFile
from lfq_cli.errors import CheckpointError
from lfq_cli.quantizer import Quantizer

DESCRIPTION = "LFQ of vector-quantize-pytorch; magvit2-pytorch, O2-MAGVIT2, Seed-VC, SpeechBrain's FocalCodec, ..."
ONLY_IF_NAMED = False
_TWO_READINGS = (
    "plain LFQ with codes ±1: --no-spherical --codebook-scale 1; a binary spherical quantizer, BSQ, with codes"
    " ±1/sqrt(D): --spherical --codebook-scale 1"
)
"""What a mask without projections may belong to: SpeechBrain's recipe for FocalCodec saves nothing else, and is BSQ.

Read: speechbrain/speechbrain, speechbrain/lobes/models/bsq.py, recipes/LibriTTS/focalcodec/hparams/bsq.yaml.
"""


def find(state: StateFile) -> dict[str, list[str]]:
    """Module path ("" for the top) of each of this family's quantizers -> the buffer that shows it."""
    return masks_of(state)


def build(state: StateFile, module: str, facts: Facts) -> Quantizer:
    """The quantizer at `module`, completed by `facts`."""
    found = {name: state.tensors[joined(module, name)] for name in WEIGHTS if joined(module, name) in state.tensors}
    shapes = {name: tensor.shape for name, tensor in found.items()}
    mask = state.tensors[joined(module, "mask")]
    if order_of(mask) == "lsb" and facts.bit_order is None:
        raise CheckpointError(
            "its mask ascends, the reference's descends: a fork whose bit order is unknown",
            "--bit-order lsb if channel 0 is the lowest bit of an index, as in the mask",
        )
    codebook_dim = mask.shape[0]
    fixed, dim = _fixed(shapes, codebook_dim, facts)
    cut = cut_codes(facts.codebook_dims, codebook_dim, fixed.get("num_codebooks", facts.num_codebooks))
    assumed = DEFAULTS | ({"cosine_sim_project_in_scale": None} if fixed["cosine_sim_project_in"] else {})
    config = settle(facts, fixed=fixed | cut, usual={"num_codebooks": 1}, assumed=assumed)
    if not found and "spherical" in config["assumed"]:
        config["usual_of"] = _TWO_READINGS
    refuse_other_projections(state, module, WEIGHTS)
    return Quantizer(
        dim=codebook_dim * config["num_codebooks"] if dim is None else dim,
        codebook_dim=codebook_dim,
        channel_first=facts.channel_first,
        weights=read_weights(state, module, WEIGHTS),
        **config,
    )


def _fixed(shapes: dict[str, tuple[int, ...]], codebook_dim: int, facts: Facts) -> tuple[dict[str, Any], int | None]:
    """(what the weights say, dim or None if there are no projections)."""
    if "project_out.weight" not in shapes:
        return {"cosine_sim_project_in": False}, None
    if len(shapes["project_out.weight"]) != 2:
        raise CheckpointError(f"project_out.weight has shape {shapes['project_out.weight']}, expected two axes")
    dim, bits = shapes["project_out.weight"]
    if bits % codebook_dim:
        raise CheckpointError(f"project_out takes {bits} bits, expected a multiple of {codebook_dim} (mask's length)")
    return {"num_codebooks": bits // codebook_dim, "cosine_sim_project_in": _is_cosine(shapes, facts)}, dim


def _is_cosine(shapes: dict[str, tuple[int, ...]], facts: Facts) -> bool:
    """Whether project_in is the reference's cosine projection: its weight is [dim, bits] and it has no bias.

    The reference gives project_in and project_out biases together, but the cosine projection never has one.
    """
    dim, bits = shapes["project_out.weight"]
    if dim != bits:
        return shapes.get("project_in.weight") == (dim, bits)
    if "project_in.bias" in shapes or "project_out.bias" in shapes:
        return "project_in.bias" not in shapes
    if facts.cosine is None:
        raise CheckpointError(
            f"project_in is square ({dim}×{bits}) and without bias: a linear and a cosine projection look the same",
            "give --cosine or --no-cosine",
        )
    return facts.cosine
