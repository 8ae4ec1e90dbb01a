"""Which tensors of a file a quantizer takes, and on which axis their features are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod

from lfq_cli.errors import TensorError
from lfq_cli.floats import FORMATS
from lfq_cli.layout import Layout, channel_axis, layout_of
from lfq_cli.quantizer import Quantizer
from lfq_cli.tensors import Source, StoredTensor

MAX_VALUES = 1 << 59


@dataclass(frozen=True)
class Selection:
    """The tensors to encode with their layouts, in file order, and what is left alone: name -> what it is."""

    chosen: list[tuple[StoredTensor, Layout]]
    left_alone: dict[str, str]


def select_tensors(
    source: Source, quantizer: Quantizer, *, patterns: Sequence[str] = (), layout: Layout | None = None
) -> Selection:
    """The float tensors (those that match one of `patterns`, if there are any) with `quantizer.dim` features.

    Integers, labels for instance, are left alone. Raises TensorError for a float tensor that does not fit, and where
    nothing is left to encode.
    """
    chosen: list[tuple[StoredTensor, Layout]] = []
    left_alone = dict(source.left_alone)
    for name, tensor in source.tensors.items():
        if patterns and not any(fnmatchcase(name, pattern) for pattern in patterns):
            left_alone[name] = "not asked for"
        elif tensor.dtype not in FORMATS:
            left_alone[name] = f"{tensor.dtype}, not float"
        else:
            chosen.append((tensor, fitting_layout(source, tensor, quantizer, layout)))
    if not chosen:
        raise TensorError(f"{source.path}: no float tensor to encode", f"it holds {_listing(left_alone) or 'nothing'}")
    return Selection(chosen, left_alone)


def fitting_layout(source: Source, tensor: StoredTensor, quantizer: Quantizer, layout: Layout | None) -> Layout:
    """Where the tensor's features are; raises TensorError where there are not `quantizer.dim` of them."""
    where = f"{source.path}: {tensor.name!r}"
    if not tensor.shape:
        raise TensorError(f"{where} is a single number, expected {quantizer.dim} features", "--tensor chooses others")
    if prod(max(size, 1) for size in tensor.shape) >= MAX_VALUES:
        raise TensorError(f"{where} has sizes that no memory holds", "--tensor chooses others")
    told = quantizer.channel_first if layout is None else layout == "channel-first"
    found = layout_of(len(tensor.shape), told)
    axis = channel_axis(len(tensor.shape), found)
    if tensor.shape[axis] != quantizer.dim:
        place = "its last axis" if axis == len(tensor.shape) - 1 else f"axis {axis}"
        raise TensorError(
            f"{where} has {tensor.shape[axis]} features on {place} (shape {'×'.join(map(str, tensor.shape))}),"
            f" the checkpoint expects {quantizer.dim}",
            _hint(tensor.shape, axis, found, quantizer),
        )
    return found


def _hint(shape: tuple[int, ...], axis: int, layout: Layout, quantizer: Quantizer) -> str:
    dim = quantizer.dim
    hints = []
    if layout == "channel-last" and len(shape) >= 3 and shape[1] == dim:
        hints.append("--layout channel-first: the features are on axis 1")
    if layout == "channel-first" and shape[-1] == dim:
        hints.append("--layout channel-last: the features are on the last axis")
    if not quantizer.has_projections and shape[axis] and shape[axis] % quantizer.codebook_dim == 0:
        codebooks = shape[axis] // quantizer.codebook_dim
        hints.append(
            f"--num-codebooks {codebooks} if the model has that many codebooks of {quantizer.codebook_dim} bits"
        )
    if not any("--layout" in hint for hint in hints):
        hints.append("no --layout makes it fit")
    return "; ".join([*hints, "--tensor GLOB chooses which tensors are encoded"])


def _listing(left_alone: dict[str, str]) -> str:
    shown = [f"{name!r} ({reason})" for name, reason in list(left_alone.items())[:8]]
    return ", ".join(shown) + (", …" if len(left_alone) > 8 else "")
