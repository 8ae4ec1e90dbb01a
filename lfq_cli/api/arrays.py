"""Arrays of numpy and torch as tensors in memory, their bytes as they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from lfq_cli.container import DTYPES
from lfq_cli.errors import TensorError
from lfq_cli.regions import MemoryRegion, bytes_of
from lfq_cli.tensors import StoredTensor

_TORCH = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.float8_e5m2": "F8_E5M2",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2fnuz": "F8_E5M2FNUZ",
    "torch.float8_e4m3fnuz": "F8_E4M3FNUZ",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}
_OTHERS = {"bfloat16": "BF16", "float8_e5m2": "F8_E5M2", "float8_e4m3fn": "F8_E4M3"}
"""Names of dtypes that the package ml_dtypes adds to numpy."""


def is_torch(x: Any) -> bool:
    """Whether it is a tensor of torch, which is not imported to find out."""
    return type(x).__module__.partition(".")[0] == "torch"


def tensor_of(name: str, x: Any) -> StoredTensor:
    """An array of numpy, a tensor of torch or what numpy makes an array of. Raises TensorError for other dtypes."""
    if is_torch(x):
        dtype = _TORCH.get(str(x.dtype))
        if dtype is None:
            raise TensorError(f"{name!r} holds {x.dtype}", "expected floats; x.float() makes them")
        import torch

        held = x.detach().cpu().contiguous()
        data = held.view(torch.uint8).numpy() if held.ndim else held.reshape(1).view(torch.uint8).numpy()
        return StoredTensor(name, dtype, tuple(x.shape), MemoryRegion(bytes_of(data)))
    array = np.asarray(x)
    known = next((each for each, found in DTYPES.items() if found == array.dtype.newbyteorder("<")), None)
    dtype = known or _OTHERS.get(array.dtype.name)
    if dtype is None:
        raise TensorError(f"{name!r} holds {array.dtype}", "expected floats: x.astype(numpy.float32)")
    little = array.astype(DTYPES[known], copy=False) if known else np.ascontiguousarray(array).view(np.uint8)
    return StoredTensor(name, dtype, array.shape, MemoryRegion(bytes_of(little)))
