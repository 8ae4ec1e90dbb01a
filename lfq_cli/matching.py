"""Which tensors of a file a quantizer encodes, and on which axis their features are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod

from lfq_cli.errors import TensorError
from lfq_cli.floats import FORMATS
from lfq_cli.layout import Layout, axis_of, usual_axis
from lfq_cli.quantizer import Quantizer
from lfq_cli.tensors import Source, StoredTensor
from lfq_cli.wording import counted

MAX_VALUES = 1 << 59


@dataclass(frozen=True)
class ChannelAxis:
    """The axis of a tensor's features.

    others: axes that have as many `entries`, if nothing states which axis is meant.
    """

    number: int
    others: tuple[int, ...] = ()
    entries: int = 0

    @property
    def is_assumed(self) -> bool:
        """Whether another axis may be meant."""
        return bool(self.others)

    @property
    def assumption(self) -> str:
        """The assumption as a message."""
        return (
            f"the features are taken to be on axis {self.number}; {_axes(self.others)} {self.entries} entries too"
            " (--channel-axis says where they are)"
        )


@dataclass(frozen=True)
class Selection:
    """The tensors to encode with the axes of their features, in file order; and the others: name -> reason."""

    chosen: list[tuple[StoredTensor, ChannelAxis]]
    left_alone: dict[str, str]

    def assumptions(self) -> list[str]:
        """A sentence for each assumption about an axis, without duplicates."""
        return list(dict.fromkeys(axis.assumption for _, axis in self.chosen if axis.is_assumed))


def select_tensors(
    source: Source, quantizer: Quantizer, *, patterns: Sequence[str] = (), layout: Layout | int | None = None
) -> Selection:
    """The float tensors (those that match one of `patterns`, if there are any) with `quantizer.dim` features.

    layout: where the features are, by name or number of the axis; None: as the checkpoint says, else by the reference's
    rule. Integers (labels, for instance) are left alone. Raises TensorError for a float tensor that does not fit, and
    if there is nothing to encode.
    """
    chosen: list[tuple[StoredTensor, ChannelAxis]] = []
    left_alone = dict(source.left_alone)
    for name, tensor in source.tensors.items():
        if patterns and not any(fnmatchcase(name, pattern) for pattern in patterns):
            left_alone[name] = "not selected"
        elif tensor.dtype not in FORMATS:
            left_alone[name] = f"{tensor.dtype}, not float"
        else:
            chosen.append((tensor, fitting_axis(f"{source.path}: {name!r}", tensor.shape, quantizer, layout)))
    if not chosen:
        raise TensorError(f"{source.path}: no float tensor to encode", f"it holds {_listing(left_alone) or 'nothing'}")
    return Selection(chosen, left_alone)


def fitting_axis(where: str, shape: tuple[int, ...], quantizer: Quantizer, layout: Layout | int | None) -> ChannelAxis:
    """The axis of the features of a tensor of this shape; raises TensorError unless it has `quantizer.dim` entries.

    where: the tensor's file and name, for messages.
    """
    dim = quantizer.dim
    if not shape:
        raise TensorError(f"{where} is a single number, expected {dim} features", "--tensor chooses other tensors")
    if prod(max(size, 1) for size in shape) >= MAX_VALUES:
        raise TensorError(f"{where} has a shape too large for any memory", "--tensor chooses other tensors")
    axis = _axis(where, shape, quantizer, layout)
    if shape[axis] != dim:
        place = "its last axis" if axis == len(shape) - 1 else f"axis {axis}"
        raise TensorError(
            f"{where} has {counted(shape[axis], 'feature')} on {place} (shape {'×'.join(map(str, shape))}), the"
            f" checkpoint expects {dim}",
            _hint(shape, axis, quantizer),
        )
    is_stated = layout is not None or (quantizer.channel_first is not None and len(shape) > 2)
    others = () if is_stated else tuple(k for k, size in enumerate(shape) if size == dim and k != axis)
    return ChannelAxis(axis, others, dim)


def _axis(where: str, shape: tuple[int, ...], quantizer: Quantizer, layout: Layout | int | None) -> int:
    if layout is None:
        return usual_axis(len(shape), quantizer.channel_first)
    try:
        return axis_of(len(shape), layout)
    except IndexError:
        option = f"--layout {layout}" if isinstance(layout, str) else f"--channel-axis {layout}"
        raise TensorError(
            f"{where} has {counted(len(shape), 'axis')} (shape {'×'.join(map(str, shape))}), which {option} does not"
            " fit",
            "--channel-axis N says where the features are; --tensor GLOB chooses which tensors are encoded",
        ) from None


def _hint(shape: tuple[int, ...], axis: int, quantizer: Quantizer) -> str:
    fitting = [k for k, size in enumerate(shape) if size == quantizer.dim]
    hints = [_option(shape, k) for k in fitting]
    if not quantizer.has_projections and shape[axis] and shape[axis] % quantizer.codebook_dim == 0:
        codebooks = shape[axis] // quantizer.codebook_dim
        hints.append(
            f"--num-codebooks {codebooks} if the model has that many codebooks of {quantizer.codebook_dim} bits"
        )
    if not fitting:
        hints.append(f"no axis has {quantizer.dim} entries")
    return "; ".join([*hints, "--tensor GLOB chooses which tensors are encoded"])


def _option(shape: tuple[int, ...], axis: int) -> str:
    """The option that states that the features are on this axis."""
    last = axis == len(shape) - 1
    if last and len(shape) > 1:
        return "--layout channel-last: the features are on the last axis"
    if axis == 1:
        return "--layout channel-first: the features are on axis 1"
    return f"--channel-axis {axis}: the features are on axis {axis}"


def _axes(numbers: tuple[int, ...]) -> str:
    if len(numbers) == 1:
        return f"axis {numbers[0]} has"
    return f"axes {', '.join(map(str, numbers[:-1]))} and {numbers[-1]} have"


def _listing(left_alone: dict[str, str]) -> str:
    shown = [f"{name!r} ({reason})" for name, reason in list(left_alone.items())[:8]]
    return ", ".join(shown) + (", …" if len(left_alone) > 8 else "")
