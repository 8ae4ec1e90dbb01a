"""Tensor containers: one module each, chosen by the file's suffix."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from lfq_cli.errors import TensorError
from lfq_cli.regions import InputFile, MemoryFile
from lfq_cli.tensors.head import Head, head_for
from lfq_cli.tensors.source import SOLE_TENSOR, Source, StoredTensor

__all__ = ["FORMATS", "SOLE_TENSOR", "Head", "Source", "StoredTensor", "head_for", "open_bytes", "open_source"]

FORMATS = {
    ".safetensors": "lfq_cli.tensors.safetensors",
    ".npy": "lfq_cli.tensors.npy",
    ".npz": "lfq_cli.tensors.npz",
    ".pt": "lfq_cli.tensors.torchfile",
    ".pth": "lfq_cli.tensors.torchfile",
}
"""suffix -> module with `open_file(file) -> Source`; imported when a file of its kind is opened."""


def open_source(path: Path) -> Source:
    """The tensors of the file at `path`. Raises TensorError where it cannot be read."""
    module = _module_for(path)
    return _opened(module, InputFile(path, TensorError))


def open_bytes(path: Path, data: bytes) -> Source:
    """The tensors of a file that is in memory; `path` says what it is called. Raises TensorError."""
    return _opened(_module_for(path), MemoryFile(path, data, TensorError))


def _module_for(path: Path) -> str:
    module = FORMATS.get(path.suffix.lower())
    if module is None:
        raise TensorError(f"{path}: not a tensor file lfq knows", f"expected one of {', '.join(FORMATS)}")
    return module


def _opened(module: str, file: InputFile) -> Source:
    source: Source = import_module(module).open_file(file)
    return source
