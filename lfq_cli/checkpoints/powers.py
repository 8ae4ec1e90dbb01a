"""Buffers that hold powers of two: how a state dict shows a lookup-free quantizer, its bits and its bit order."""

from __future__ import annotations

import numpy as np

from lfq_cli.bits import MAX_INDEX_BITS, BitOrder
from lfq_cli.checkpoints.statefile import StateFile, StateTensor


def owners(state: StateFile, buffer: str) -> list[str]:
    """The paths ("" for the top) of the modules with a buffer of that name which holds powers of two, in file order."""
    names = [name for name in state.tensors if name == buffer or name.endswith(f".{buffer}")]
    return [owner_of(name, buffer) for name in names if order_of(state.tensors[name]) is not None]


def owner_of(name: str, tensor: str) -> str:
    """The module path of a tensor's full name: "a.b.mask", "mask" -> "a.b"."""
    return name.removesuffix(tensor).removesuffix(".")


def joined(module: str, name: str) -> str:
    """The full name of a module's tensor or child."""
    return f"{module}.{name}" if module else name


def order_of(tensor: StateTensor) -> BitOrder | None:
    """ "msb" for integers 2^(D-1), ..., 2, 1 and "lsb" for the reverse; None for anything else. A single 1 is "msb"."""
    if tensor.dtype not in ("I64", "I32", "U64", "U32", "I16", "U8") or len(tensor.shape) != 1:
        return None
    bits = tensor.shape[0]
    if not 1 <= bits <= MAX_INDEX_BITS:
        return None
    values = tensor.read().astype(np.int64).view(np.uint64).tolist()  # bit 63 is int64's sign
    ascending = [1 << k for k in range(bits)]
    if values == ascending[::-1]:
        return "msb"
    return "lsb" if values == ascending else None
