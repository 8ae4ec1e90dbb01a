"""What families share that took over names and defaults of the reference's `LFQ` (vector-quantize-pytorch)."""

from __future__ import annotations

from typing import Any

import numpy as np

from lfq_cli.checkpoints.powers import joined, owners
from lfq_cli.checkpoints.statefile import StateFile
from lfq_cli.dtypes import PLAIN_FLOATS
from lfq_cli.errors import CheckpointError

WEIGHTS = ("project_in.weight", "project_in.bias", "project_out.weight", "project_out.bias", "orthogonal_rot")
DEFAULTS = {"codebook_scale": 1.0, "spherical": False, "soft_clamp_input_value": None}
"""The reference constructor's, for what no state dict holds."""


def masks_of(state: StateFile) -> dict[str, list[str]]:
    """Module path ("" for the top) -> its buffer `mask`, wherever one holds powers of two."""
    return {module: [joined(module, "mask")] for module in owners(state, "mask")}


def read_weights(state: StateFile, module: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Those of a module's tensors that are there, float32, by their name within the module."""
    there = [name for name in names if joined(module, name) in state.tensors]
    wrong = [name for name in there if state.tensors[joined(module, name)].dtype not in PLAIN_FLOATS.values()]
    if wrong:
        tensor = state.tensors[joined(module, wrong[0])]
        raise CheckpointError(f"{joined(module, wrong[0])} is {tensor.dtype}, expected plain floats", tensor.remedy)
    return {name: state.tensors[joined(module, name)].read().astype(np.float32, copy=False) for name in there}


def refuse_other_projections(state: StateFile, module: str, names: tuple[str, ...]) -> None:
    """Raises CheckpointError if the module has project_... tensors that are none of `names`: it is another kind."""
    prefix = joined(module, "project_")
    other = [name for name in state.tensors if name.startswith(prefix) and name.removeprefix(f"{module}.") not in names]
    if other:
        raise CheckpointError(
            f"{other[0]} is not a projection of this kind of quantizer", "lfq knows single linear layers"
        )
