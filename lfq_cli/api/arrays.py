"""Arrays of numpy and torch as tensors in memory, with their bytes unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np

from lfq_cli.dtypes import NUMPY, OF_NUMPY, OF_TORCH
from lfq_cli.errors import TensorError
from lfq_cli.regions import MemoryRegion, bytes_of
from lfq_cli.tensors import StoredTensor


def is_torch(x: Any) -> bool:
    """Whether it is a torch tensor, without importing torch to find out."""
    return type(x).__module__.partition(".")[0] == "torch"


def tensor_of(name: str, x: Any) -> StoredTensor:
    """A numpy array, a torch tensor or anything numpy accepts. Raises TensorError for other dtypes."""
    if is_torch(x):
        dtype = OF_TORCH.get(str(x.dtype).removeprefix("torch."))
        if dtype is None:
            raise TensorError(f"{name!r} holds {x.dtype}", "expected floats; x.float() makes them")
        import torch

        held = x.detach().cpu().contiguous()
        data = held.view(torch.uint8).numpy() if held.ndim else held.reshape(1).view(torch.uint8).numpy()
        return StoredTensor(name, dtype, tuple(x.shape), MemoryRegion(bytes_of(data)))
    array = np.asarray(x)
    known = OF_NUMPY.get(array.dtype.newbyteorder("<"))
    dtype = known or OF_TORCH.get(array.dtype.name)
    if dtype is None:
        raise TensorError(f"{name!r} holds {array.dtype}", "expected floats: x.astype(numpy.float32)")
    little = array.astype(NUMPY[known], copy=False) if known else np.ascontiguousarray(array).view(np.uint8)
    return StoredTensor(name, dtype, array.shape, MemoryRegion(bytes_of(little)))
