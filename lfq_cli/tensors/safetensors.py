"""Tensors of a safetensors file."""

from __future__ import annotations

from pathlib import Path

from lfq_cli.container import read_header
from lfq_cli.errors import TensorError
from lfq_cli.regions import FileRegion, InputFile
from lfq_cli.tensors.source import Source, StoredTensor


def open_source(path: Path) -> Source:
    """Every tensor, in file order."""
    file = InputFile(path, TensorError)
    with file.closed_on_error():
        header = read_header(file, TensorError)
        if '"lfq-codes"' in header.metadata.get("lfq", ""):
            raise TensorError(f"{path}: is a codes file, expected float tensors", "lfq decode makes tensors of it")
    tensors = {
        name: StoredTensor(name, entry.dtype, entry.shape, FileRegion(file, entry.start))
        for name, entry in header.entries.items()
    }
    return Source(path, tensors, close=file.close)
