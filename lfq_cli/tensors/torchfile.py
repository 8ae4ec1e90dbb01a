"""The tensors of a .pt or .pth file: one tensor, or mappings and lists of them. Never unpickles anything."""

from __future__ import annotations

from lfq_cli.errors import TensorError
from lfq_cli.regions import InputFile
from lfq_cli.tensors.source import SOLE_TENSOR, Source, StoredTensor
from lfq_cli.torchfile import read_torch_file


def open_file(file: InputFile) -> Source:
    """Every tensor, by its path with dots. What is not a plain tensor is named in `left_alone`."""
    with file.closed_on_error():
        held = read_torch_file(file, SOLE_TENSOR, TensorError)
    tensors = {name: StoredTensor(name, found.dtype, found.shape, found.region) for name, found in held.tensors.items()}
    left_alone = {name: found.what for name, found in held.odd.items()} | held.others
    return Source(file.path, tensors, left_alone, close=file.close)
