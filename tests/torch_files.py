"""Files of torch.save for tests: written by torch or by hand, and read by lfq's reader."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lfq_cli.dtypes import TORCH_BYTES
from lfq_cli.errors import TensorError
from lfq_cli.regions import InputFile
from lfq_cli.tensors import Source
from lfq_cli.tensors.torchfile import open_file
from lfq_cli.torchfile.machine import unpickle
from lfq_cli.torchfile.stream import Stream
from lfq_cli.torchfile.values import Opaque

_OPEN: list[InputFile] = []


def opened(path: Path) -> InputFile:
    """A file that `close_all` closes."""
    _OPEN.append(InputFile(path, TensorError))
    return _OPEN[-1]


def close_all() -> None:
    while _OPEN:
        _OPEN.pop().close()


def read(path: Path) -> Source:
    return open_file(opened(path))


def saved(value: Any, path: Path, **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, path, **options)
    return path


def bytes_of(contents: Source, name: str) -> bytes:
    tensor = contents.tensors[name]
    data = bytearray(int(np.prod(tensor.shape, dtype=object)) * TORCH_BYTES[tensor.dtype])
    half = len(data) // 2
    tensor.region.read_into(half, memoryview(data)[half:])
    tensor.region.read_into(0, memoryview(data)[:half])
    return bytes(data)


def stored_bytes(x: Tensor) -> bytes:
    if not x.numel():
        return b""
    plain = x.detach().resolve_neg().resolve_conj().contiguous()
    return plain.reshape(-1).clone(memory_format=torch.contiguous_format).view(torch.uint8).numpy().tobytes()


def unpickled(data: bytes, folder: Path) -> Any:
    path = folder / "pickle"
    path.write_bytes(data)
    return unpickle(Stream(opened(path), 0, len(data)), lambda identifier: Opaque("storage"))


def archive(path: Path, data: bytes, **members: bytes) -> Path:
    """An archive like torch's with this pickle; members by their name in it."""
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("x/data.pkl", data)
        target.writestr("x/version", b"3\n")
        for name, content in members.items():
            target.writestr(f"x/{name.replace('__', '/')}", content)
    return path
