"""Tensor containers: one module each, chosen by the file's suffix."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from lfq_cli.errors import TensorError
from lfq_cli.tensors.head import Head, head_for
from lfq_cli.tensors.source import SOLE_TENSOR, Source, StoredTensor

__all__ = ["FORMATS", "SOLE_TENSOR", "Head", "Source", "StoredTensor", "head_for", "open_source"]

FORMATS = {
    ".safetensors": "lfq_cli.tensors.safetensors",
    ".npy": "lfq_cli.tensors.npy",
    ".npz": "lfq_cli.tensors.npz",
    ".pt": "lfq_cli.tensors.torchfile",
    ".pth": "lfq_cli.tensors.torchfile",
}
"""suffix -> module with `open_source(path) -> Source`; imported when a file of its kind is opened."""


def open_source(path: Path) -> Source:
    """The tensors of the file at `path`. Raises TensorError where it cannot be read."""
    module = FORMATS.get(path.suffix.lower())
    if module is None:
        raise TensorError(f"{path}: not a tensor file lfq knows", f"expected one of {', '.join(FORMATS)}")
    source: Source = import_module(module).open_source(path)
    return source
