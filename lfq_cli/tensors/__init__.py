"""Tensor containers: one module each, chosen by the file's suffix."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path

from lfq_cli.errors import TensorError
from lfq_cli.regions import InputFile, MemoryFile
from lfq_cli.storage.remote import open_input
from lfq_cli.tensors.head import Head, head_for
from lfq_cli.tensors.source import SOLE_TENSOR, Source, StoredTensor

__all__ = ["FORMATS", "SOLE_TENSOR", "Head", "Source", "StoredTensor", "head_for", "open_bytes", "open_source"]

FORMATS = {
    ".safetensors": "lfq_cli.tensors.safetensors",
    ".npy": "lfq_cli.tensors.npy",
    ".npz": "lfq_cli.tensors.npz",
    ".pt": "lfq_cli.tensors.torchfile",
    ".pth": "lfq_cli.tensors.torchfile",
    ".h5": "lfq_cli.tensors.hdf5",
    ".hdf5": "lfq_cli.tensors.hdf5",
}
"""suffix -> module with `open_file(file) -> Source`; imported when a file of its kind is opened."""


STAGED = frozenset({".npz", ".pt", ".pth", ".h5", ".hdf5"})
"""Files that are not read in order, or whose reader needs a local file: an object is copied to a temporary folder."""


def open_source(path: Path, *, known: bool = False) -> Source:
    """The tensors of the file at `path`; `known` as in `open_input`. Raises TensorError if it cannot be read."""
    open_file = _opener(path)
    return open_file(open_input(path, TensorError, staged=path.suffix.lower() in STAGED, known=known))


def open_bytes(path: Path, data: bytes) -> Source:
    """The tensors of a file that is in memory; `path` is its name. Raises TensorError."""
    return _opener(path)(MemoryFile(path, data, TensorError))


def _opener(path: Path) -> Callable[[InputFile], Source]:
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise TensorError(f"{path}: not a tensor format that lfq knows", f"expected one of {', '.join(FORMATS)}")
    return _opener_of(suffix)


@cache
def _opener_of(suffix: str) -> Callable[[InputFile], Source]:
    open_file: Callable[[InputFile], Source] = import_module(FORMATS[suffix]).open_file
    return open_file
