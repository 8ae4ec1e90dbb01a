"""Tensors of a safetensors file."""

from __future__ import annotations

from lfq_cli.container import read_header
from lfq_cli.errors import LfqError, TensorError
from lfq_cli.regions import FileRegion, InputFile
from lfq_cli.tensors.source import Source, StoredTensor

_NO_TENSORS = {
    "lfq-codes": ("a codes file", "lfq decode makes tensors of it"),
    "lfq-checkpoint": ("a checkpoint", "lfq encode takes it first, then the inputs; lfq inspect shows what it holds"),
}
"""Other files that lfq writes in this container: format in the metadata -> what it is, and what to do with it."""


def open_file(file: InputFile) -> Source:
    """Every tensor, in file order. Raises TensorError, also for a codes file or a native checkpoint."""
    source = open_any(file, TensorError)
    for format_name, (what, remedy) in _NO_TENSORS.items():
        if f'"{format_name}"' in source.metadata.get("lfq", ""):
            source.close()
            raise TensorError(f"{file.path}: is {what}, expected float tensors", remedy)
    return source


def open_any(file: InputFile, error: type[LfqError]) -> Source:
    """Every tensor, in file order, whatever the tensors mean. Raises `error` for a damaged file."""
    with file.closed_on_error():
        header = read_header(file, error)
    tensors = {
        name: StoredTensor(name, entry.dtype, entry.shape, FileRegion(file, entry.start))
        for name, entry in header.entries.items()
    }
    return Source(file.path, tensors, metadata=header.metadata, close=file.close)
