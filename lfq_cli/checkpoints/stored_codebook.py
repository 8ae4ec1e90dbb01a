"""A codebook that stands in the file: whether its rows are the codes that the buffers of bits say."""

from __future__ import annotations

import numpy as np

from lfq_cli.bits import BitOrder, indices_to_bits
from lfq_cli.checkpoints.statefile import StateFile
from lfq_cli.errors import CheckpointError

_MOST_BITS = 24


def check_codebook(state: StateFile, name: str, bits: int, order: BitOrder) -> None:
    """Raises CheckpointError unless row i of the tensor [2^bits, bits] is index i as ±1."""
    shape = state.tensors[name].shape
    if bits > _MOST_BITS or shape != (2**bits, bits):
        raise CheckpointError(f"{name} has shape {shape}, expected a row of {bits} for each of 2^{bits} indices")
    signs = indices_to_bits(np.arange(2**bits)[:, None], (bits,), order)
    if not np.array_equal(state.tensors[name].read(), np.where(signs, np.float32(1), np.float32(-1))):
        raise CheckpointError(
            f"{name} is no table of every sign, {order} first: a learned codebook, or its bits are in another order",
            "lfq reads lookup-free quantizers only",
        )
