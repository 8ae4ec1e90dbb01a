"""The tensors of a .pt or .pth file: one tensor, or a mapping of them. Never unpickles anything else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lfq_cli.errors import TensorError
from lfq_cli.regions import FileRegion, InputFile, MemoryRegion, Region, bytes_of
from lfq_cli.tensors.source import SOLE_TENSOR, Source, StoredTensor
from lfq_cli.torchload import dtype_name, is_blown_up, is_plain, load_weights_only, named_values, record_offsets

if TYPE_CHECKING:
    from torch import Tensor


def open_file(file: InputFile) -> Source:
    """Every tensor; nested mappings give dotted names. What is no tensor is named in `left_alone`."""
    with file.closed_on_error():
        loaded = load_weights_only(file, TensorError)
        flat = named_values(file, loaded, SOLE_TENSOR, TensorError)
        held = {name: value for name, value in flat.items() if is_plain(value) and not is_blown_up(value)}
        offsets = record_offsets(file, list(_tensors_in(loaded)))
        tensors = {
            name: StoredTensor(name, dtype_name(tensor), tuple(tensor.shape), _region(tensor, file, offsets))
            for name, tensor in held.items()
        }
        left_alone = {name: type(value).__name__ for name, value in flat.items() if name not in held}
    return Source(file.path, tensors, left_alone, close=file.close)


def _tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor, those in lists too: all of them together tell where the file is mapped."""
    pending, seen = [value], set()
    while pending:
        item = pending.pop()
        if is_plain(item):
            yield item
        elif isinstance(item, Mapping | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            pending += item.values() if isinstance(item, Mapping) else item


def _region(tensor: Tensor, file: InputFile, offsets: dict[int, int]) -> Region:
    """In place in the file where the tensor lies there in C order, else from memory."""
    start = offsets.get(tensor.untyped_storage().data_ptr())
    as_stored = not tensor.is_neg() and not tensor.is_conj()
    if start is not None and tensor.is_contiguous() and as_stored:
        return FileRegion(file, start + int(tensor.storage_offset()) * tensor.element_size())
    import torch

    plain = tensor.detach().resolve_neg().resolve_conj().contiguous()
    return MemoryRegion(bytes_of(plain.reshape(-1).view(torch.uint8).numpy()))
