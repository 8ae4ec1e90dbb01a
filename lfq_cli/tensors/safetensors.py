"""Tensors of a safetensors file."""

from __future__ import annotations

from lfq_cli.container import read_header
from lfq_cli.errors import TensorError
from lfq_cli.regions import FileRegion, InputFile
from lfq_cli.tensors.source import Source, StoredTensor


def open_file(file: InputFile) -> Source:
    """Every tensor, in file order."""
    with file.closed_on_error():
        header = read_header(file, TensorError)
        if '"lfq-codes"' in header.metadata.get("lfq", ""):
            raise TensorError(f"{file.path}: is a codes file, expected float tensors", "lfq decode makes tensors of it")
    tensors = {
        name: StoredTensor(name, entry.dtype, entry.shape, FileRegion(file, entry.start))
        for name, entry in header.entries.items()
    }
    return Source(file.path, tensors, close=file.close)
