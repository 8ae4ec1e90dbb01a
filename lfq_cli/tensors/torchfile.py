"""The tensors of a .pt or .pth file: one tensor, or a mapping of them. Never unpickles anything else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfq_cli.errors import TensorError
from lfq_cli.regions import FileRegion, InputFile, MemoryRegion, Region, bytes_of
from lfq_cli.tensors.source import SOLE_TENSOR, Source, StoredTensor
from lfq_cli.torchload import dtype_name, load_weights_only, record_offsets

if TYPE_CHECKING:
    from torch import Tensor


def open_source(path: Path) -> Source:
    """Every tensor; nested mappings give dotted names. What is no tensor is named in `left_alone`."""
    file = InputFile(path, TensorError)
    held = load_weights_only(file, TensorError)
    flat = dict(_flatten(held, ""))
    tensors, left_alone = {}, {}
    offsets = record_offsets(file, [value for value in flat.values() if _is_tensor(value)])
    for name, value in flat.items():
        if _is_tensor(value):
            region = _region(value, file, offsets)
            tensors[name] = StoredTensor(name, dtype_name(value), tuple(value.shape), region)
        else:
            left_alone[name] = type(value).__name__
    return Source(path, tensors, left_alone, close=file.close)


def _flatten(value: Any, prefix: str) -> Any:
    if not isinstance(value, Mapping):
        yield prefix or SOLE_TENSOR, value
        return
    for key, item in value.items():
        yield from _flatten(item, f"{prefix}.{key}" if prefix else str(key))


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.layout == torch.strided


def _region(tensor: Tensor, file: InputFile, offsets: dict[int, int]) -> Region:
    """In place in the file where the tensor lies there in C order, else from memory."""
    start = offsets.get(tensor.untyped_storage().data_ptr())
    if start is not None and tensor.is_contiguous():
        return FileRegion(file, start + int(tensor.storage_offset()) * tensor.element_size())
    import torch

    return MemoryRegion(bytes_of(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()))
