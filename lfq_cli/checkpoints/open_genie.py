"""Family 9: open-genie's LookupFreeQuantization: descending `bit_mask`, projections `proj_inp` and `proj_out`."""

from __future__ import annotations

from lfq_cli.checkpoints.facts import Facts, cut_codes, settle
from lfq_cli.checkpoints.powers import joined, order_of, owners
from lfq_cli.checkpoints.reference import read_weights
from lfq_cli.checkpoints.statefile import StateFile
from lfq_cli.errors import CheckpointError
from lfq_cli.quantizer import Quantizer

DESCRIPTION = "open-genie"
ONLY_IF_NAMED = False
_NAMES = {"proj_inp": "project_in", "proj_out": "project_out"}
_WEIGHTS = tuple(f"{side}.{part}" for side in _NAMES for part in ("weight", "bias"))


def find(state: StateFile) -> dict[str, list[str]]:
    """As in Family."""
    masks = {module: joined(module, "bit_mask") for module in owners(state, "bit_mask")}
    return {module: [mask] for module, mask in masks.items() if order_of(state.tensors[mask]) == "msb"}


def build(state: StateFile, module: str, facts: Facts) -> Quantizer:
    """As in Family."""
    bits = state.tensors[joined(module, "bit_mask")].shape[0]
    found = read_weights(state, module, _WEIGHTS)
    fixed = {"codebook_scale": 1.0, "spherical": False, "soft_clamp_input_value": None, "bit_order": "msb"}
    dim = None
    if "proj_inp.weight" in found:
        rows, dim = found["proj_inp.weight"].shape if found["proj_inp.weight"].ndim == 2 else (0, 0)
        if not rows or rows % bits:
            raise CheckpointError(f"proj_inp.weight has {rows} rows, expected a multiple of {bits} (bit_mask's length)")
        fixed["num_codebooks"] = rows // bits
    cut = cut_codes(facts.codebook_dims, bits, fixed.get("num_codebooks", facts.num_codebooks))  # type: ignore[arg-type]
    config = settle(facts, fixed=fixed | cut, usual={"num_codebooks": 1})
    return Quantizer(
        dim=bits * config["num_codebooks"] if dim is None else dim,
        codebook_dim=bits,
        channel_first=facts.channel_first,
        weights={_NAMES[name.split(".")[0]] + name[8:]: weight for name, weight in found.items()},
        **config,
    )
