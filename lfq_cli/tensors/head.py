"""The beginning of a tensor file that is about to be written: header bytes, and where each tensor's bytes go."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lfq_cli.container import header_bytes, tensor_bytes
from lfq_cli.dtypes import NUMPY
from lfq_cli.errors import OptionError


@dataclass(frozen=True)
class Head:
    """`data` is the file up to the first tensor; `starts` are positions in the file; tensors follow each other.

    tells_origin: whether `data` says what the tensors were made from, so that files with the same head are equal.
    """

    data: bytes
    starts: dict[str, int]
    tells_origin: bool


def head_for(path: Path, dtype: str, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> Head:
    """The head of a .safetensors or .npy file of float tensors. Raises OptionError for what the format cannot hold."""
    writers = {".safetensors": _safetensors, ".npy": _npy}
    if path.suffix not in writers:
        raise OptionError(f"{path}: expected a name that ends in {' or '.join(writers)}")
    data = writers[path.suffix](path, dtype, shapes, metadata)
    starts, position = {}, len(data)
    for name, shape in shapes.items():
        starts[name] = position
        position += tensor_bytes(dtype, shape)
    return Head(data, starts, tells_origin=path.suffix == ".safetensors")


def _safetensors(path: Path, dtype: str, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> bytes:
    return header_bytes(metadata, {name: (dtype, shape) for name, shape in shapes.items()})


def _npy(path: Path, dtype: str, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> bytes:
    if len(shapes) != 1:
        raise OptionError(
            f"{path}: a .npy file holds one array, there are {len(shapes)}: {', '.join(shapes)}",
            "a .safetensors file holds all of them",
        )
    if dtype not in NUMPY:
        raise OptionError(f"{path}: numpy has no {dtype}", "a .safetensors file does")
    head = io.BytesIO()
    (shape,) = shapes.values()
    np.lib.format.write_array_header_1_0(head, {"descr": NUMPY[dtype].str, "fortran_order": False, "shape": shape})
    return head.getvalue()
