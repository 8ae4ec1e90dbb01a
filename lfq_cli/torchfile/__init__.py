"""Files of torch.save, read without torch and without running anything in them.

What is not a tensor is passed over and named: an optimizer's numbers, a Namespace of arguments, objects of any class.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any

from lfq_cli.dtypes import TORCH_BYTES
from lfq_cli.errors import LfqError
from lfq_cli.regions import FileRegion, InputFile, Region
from lfq_cli.torchfile.names import named_values
from lfq_cli.torchfile.saved import Saved, read_saved
from lfq_cli.torchfile.strided import StridedRegion
from lfq_cli.torchfile.values import Global, OddTensor, Opaque, Storage, View

__all__ = ["OddTensor", "TorchContents", "TorchTensor", "read_torch_file"]

MAX_EXPANDED_BYTES = 1 << 28


@dataclass(frozen=True)
class TorchTensor:
    """A tensor of the file. `dtype` is safetensors' name, or torch's own where it has none."""

    dtype: str
    shape: tuple[int, ...]
    region: Region


@dataclass(frozen=True)
class TorchContents:
    """What a file holds, by dotted names: tensors, tensors of other kinds, and of everything else what it is."""

    tensors: dict[str, TorchTensor] = field(default_factory=dict)
    odd: dict[str, OddTensor] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)


def read_torch_file(file: InputFile, sole: str, error: type[LfqError]) -> TorchContents:
    """Every value; no data is read yet. A value that has no name is called `sole`.

    Raises `error` for what torch.save did not write, and for what is damaged.
    """
    saved = read_saved(file, error)
    contents = TorchContents()
    for name, value in named_values(file, saved.value, sole, error).items():
        if isinstance(value, View) and not _is_blown_up(value):
            contents.tensors[name] = TorchTensor(value.dtype, value.shape, _region(file, saved, value))
        elif isinstance(value, View):
            contents.odd[name] = OddTensor("tensor expanded from few numbers", "save x.contiguous()", value.shape)
        elif isinstance(value, OddTensor):
            contents.odd[name] = value
        else:
            contents.others[name] = _what(value)
    return contents


def _region(file: InputFile, saved: Saved, view: View) -> Region:
    """In place in the file where the tensor lies there in C order, else from memory."""
    item_bytes = TORCH_BYTES[view.dtype]
    start = saved.starts[view.storage.key] + view.storage.start + view.offset * item_bytes
    swapped = saved.is_big_endian and item_bytes > 1
    if not view.span or (view.is_contiguous and not swapped and not view.negated):
        return FileRegion(file, start)
    return StridedRegion(file, view, start, swapped)


def _is_blown_up(view: View) -> bool:
    """Whether a tensor is far larger than what is stored of it: one number expanded to any size."""
    nbytes = prod(view.shape) * TORCH_BYTES[view.dtype]
    return nbytes > MAX_EXPANDED_BYTES and nbytes > 2 * view.storage.nbytes


def _what(value: Any) -> str:
    if isinstance(value, Opaque):
        return value.what
    if isinstance(value, Global):
        return value.path[:200]
    return "torch storage" if isinstance(value, Storage) else type(value).__name__
