"""The tensors of a .pt or .pth file: one tensor, or mappings and lists of them. Never unpickles anything."""

from __future__ import annotations

from math import prod
from typing import Any

from lfq_cli.dtypes import TORCH_BYTES
from lfq_cli.errors import LfqError, TensorError
from lfq_cli.regions import FileRegion, InputFile, Region
from lfq_cli.tensors.source import SOLE_TENSOR, Source, StoredTensor
from lfq_cli.torchfile.names import named_values
from lfq_cli.torchfile.saved import Saved, read_saved
from lfq_cli.torchfile.strided import StridedRegion
from lfq_cli.torchfile.values import Global, OddTensor, Opaque, Storage, View

MAX_EXPANDED_BYTES = 1 << 28


def open_file(file: InputFile, error: type[LfqError] = TensorError, sole: str = SOLE_TENSOR) -> Source:
    """Every tensor, by its dotted path; dtypes without a name in safetensors keep that of torch.

    A value without a name is called `sole`; everything that is not a plain tensor is named in `left_alone`. Raises
    `error` if torch.save did not write the file, or if it is damaged.
    """
    tensors: dict[str, StoredTensor] = {}
    odd: dict[str, OddTensor] = {}
    others: dict[str, str] = {}
    with file.closed_on_error():
        saved = read_saved(file, error)
        for name, value in named_values(file, saved.value, sole, error).items():
            if isinstance(value, View) and not _is_blown_up(value):
                tensors[name] = StoredTensor(name, value.dtype, value.shape, _region(file, saved, value))
            elif isinstance(value, View):
                odd[name] = OddTensor("tensor expanded from few numbers", "save x.contiguous()", value.shape)
            elif isinstance(value, OddTensor):
                odd[name] = value
            else:
                others[name] = _what(value)
    left_alone = {name: found.what for name, found in odd.items()} | others
    return Source(file.path, tensors, left_alone, odd, close=file.close)


def _region(file: InputFile, saved: Saved, view: View) -> Region:
    """A region in the file if the tensor is stored in C order, else one in memory."""
    item_bytes = TORCH_BYTES[view.dtype]
    start = saved.starts[view.storage.key] + view.storage.start + view.offset * item_bytes
    swapped = saved.is_big_endian and item_bytes > 1
    if not view.span or (view.is_contiguous and not swapped and not view.negated):
        return FileRegion(file, start)
    return StridedRegion(file, view, start, swapped)


def _is_blown_up(view: View) -> bool:
    """Whether a tensor is far larger than what is stored of it, such as one number expanded to any size."""
    nbytes = prod(view.shape) * TORCH_BYTES[view.dtype]
    return nbytes > MAX_EXPANDED_BYTES and nbytes > 2 * view.storage.nbytes


def _what(value: Any) -> str:
    if isinstance(value, Opaque):
        return value.what
    if isinstance(value, Global):
        return value.path[:200]
    return "torch storage" if isinstance(value, Storage) else type(value).__name__
