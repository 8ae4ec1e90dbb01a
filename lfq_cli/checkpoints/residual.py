"""Family 4: state dicts of the reference's `ResidualLFQ` and `GroupedResidualLFQ`, alone or inside a larger model.

A quantizer is where `layers.0.mask`, `layers.1.mask`, ... hold the same descending powers of two; a grouped one where
`rvqs.0`, `rvqs.1`, ... are such. The level's scale is 2^-level. The file does not say spherical or the soft clamp.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from lfq_cli.checkpoints import reference
from lfq_cli.checkpoints.facts import Facts, settle
from lfq_cli.checkpoints.powers import joined, order_of
from lfq_cli.checkpoints.statefile import StateFile
from lfq_cli.errors import CheckpointError, OptionError
from lfq_cli.quantizer import Quantizer
from lfq_cli.quantizer.checks import weight_shapes

DESCRIPTION = "ResidualLFQ and GroupedResidualLFQ of vector-quantize-pytorch; SoundStream, MeshGPT"
ONLY_IF_NAMED = False


def find(state: StateFile) -> dict[str, list[str]]:
    """Module path ("" for the top) of each of this family's quantizers -> the buffers that show it; groups as one."""
    residual = _lists(reference.masks_of(state), "layers")
    grouped = _lists(residual, "rvqs")
    parts = {part for found in grouped.values() for part in found}
    found = {module: [joined(layer, "mask") for layer in layers] for module, layers in residual.items()}
    alone = {module: masks for module, masks in found.items() if module not in parts}
    return {
        module: [mask for part in found_parts for mask in found[part]] for module, found_parts in grouped.items()
    } | alone


def build(state: StateFile, module: str, facts: Facts) -> Quantizer:
    """The quantizer at `module`, completed by `facts`."""
    residual = _lists(reference.masks_of(state), "layers")
    parts = _lists(residual, "rvqs").get(module)
    groups = None if parts is None else _count(module, parts, "rvqs")
    parts = [module] if parts is None else parts
    for layer in (layer for part in parts for layer in residual[part]):
        if order_of(state.tensors[joined(layer, "mask")]) != "msb":
            raise CheckpointError(f"{layer}.mask ascends, the reference's descends", "lfq does not know this fork")
    sizes = {(_count(part, residual[part], "layers"), _bits(state, residual[part])) for part in parts}
    if len(sizes) != 1:
        raise CheckpointError(f"the groups of {module!r} differ in levels or bits, expected equal ones")
    ((levels, codebook_dim),) = sizes
    _refuse_codebooks(facts)
    first = joined(parts[0], "project_in.weight")
    features = codebook_dim
    if first in state.tensors:
        if len(state.tensors[first].shape) != 2:
            raise CheckpointError(f"{first} has shape {state.tensors[first].shape}, expected two axes")
        features = state.tensors[first].shape[1]
    config = settle(facts, fixed={"codebook_scale": 1.0}, assumed={"spherical": False, "soft_clamp_input_value": None})
    for part in parts:
        reference.refuse_other_projections(state, part, reference.WEIGHTS)
        for layer in residual[part]:
            reference.refuse_other_projections(state, layer, ())
    shape = Quantizer(dim=codebook_dim * len(parts), codebook_dim=codebook_dim, num_quantizers=levels, groups=groups)
    return Quantizer(
        dim=features * len(parts),
        codebook_dim=codebook_dim,
        num_quantizers=levels,
        groups=groups,
        channel_first=facts.channel_first,
        weights=reference.read_weights(state, module, tuple(weight_shapes(shape))),
        **config,
    )


def _lists(modules: Iterable[str], attribute: str) -> dict[str, list[str]]:
    """Owner -> those of the modules that are in its list `attribute`, by number."""
    numbered: dict[str, dict[int, str]] = defaultdict(dict)
    for module in modules:
        match = re.fullmatch(rf"(?:(.*)\.)?{attribute}\.(\d{{1,6}})", module)
        if match:
            numbered[match[1] or ""][int(match[2])] = module
    return {owner: [found[k] for k in sorted(found)] for owner, found in numbered.items()}


def _count(owner: str, found: list[str], attribute: str) -> int:
    """How many there are; raises CheckpointError if one in between is missing."""
    expected = [joined(owner, f"{attribute}.{k}") for k in range(len(found))]
    if found != expected:
        missing = sorted(set(expected) - set(found))
        raise CheckpointError(
            f"{joined(owner, attribute)} has a gap: {', '.join(missing)} is missing", "a level cannot be left out"
        )
    return len(found)


def _bits(state: StateFile, layers: list[str]) -> int:
    found = {state.tensors[joined(layer, "mask")].shape[0] for layer in layers}
    if len(found) != 1:
        raise CheckpointError(f"{layers[0]!r} and the layers after it have {sorted(found)} bits, expected equal ones")
    return found.pop()


def _refuse_codebooks(facts: Facts) -> None:
    if facts.num_codebooks is not None or facts.codebook_dims is not None:
        raise OptionError("a residual quantizer has a codebook for every level", "--num-quantizers N takes the first N")
