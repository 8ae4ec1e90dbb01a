"""Tensors of a safetensors file."""

from __future__ import annotations

from lfq_cli.container import read_header
from lfq_cli.errors import LfqError, TensorError
from lfq_cli.regions import FileRegion, InputFile
from lfq_cli.tensors.source import Source, StoredTensor


def open_file(file: InputFile) -> Source:
    """Every tensor, in file order. Raises TensorError for a codes file too."""
    source = open_any(file, TensorError)
    if '"lfq-codes"' in source.metadata.get("lfq", ""):
        source.close()
        raise TensorError(f"{file.path}: is a codes file, expected float tensors", "lfq decode makes tensors of it")
    return source


def open_any(file: InputFile, error: type[LfqError]) -> Source:
    """Every tensor, in file order, whatever the tensors mean. Raises `error` for what is damaged."""
    with file.closed_on_error():
        header = read_header(file, error)
    tensors = {
        name: StoredTensor(name, entry.dtype, entry.shape, FileRegion(file, entry.start))
        for name, entry in header.entries.items()
    }
    return Source(file.path, tensors, metadata=header.metadata, close=file.close)
