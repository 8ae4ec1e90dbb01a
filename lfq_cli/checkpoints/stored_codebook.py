"""Families 3 and 7: Show-o, MMaDA and MaskBit, which keep their codebook of signs in the file beside the powers of two.

A file with such powers but without codebook is MaskBit's generator, which quantizes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lfq_cli.bits import BitOrder, indices_to_bits
from lfq_cli.checkpoints.facts import Facts, cut_codes, settle
from lfq_cli.checkpoints.powers import joined, order_of, owners
from lfq_cli.checkpoints.statefile import StateFile
from lfq_cli.errors import CheckpointError
from lfq_cli.quantizer import Quantizer

_MOST_BITS = 24


def _check_codebook(state: StateFile, name: str, bits: int, order: BitOrder) -> None:
    """Raises CheckpointError unless row i of the tensor [2^bits, bits] is index i as ±1."""
    shape = state.tensors[name].shape
    if bits > _MOST_BITS or shape != (2**bits, bits):
        raise CheckpointError(f"{name} has shape {shape}, expected a row of {bits} for each of 2^{bits} indices")
    signs = indices_to_bits(np.arange(2**bits)[:, None], (bits,), order)
    if not np.array_equal(state.tensors[name].read(), np.where(signs, np.float32(1), np.float32(-1))):
        raise CheckpointError(
            f"{name} is not a table of every sign, {order} first: a learned codebook, or its bits are in another order",
            "lfq reads lookup-free quantizers only",
        )


@dataclass(frozen=True)
class StoredCodebook:
    """The rule of one project: the buffers of powers and codes, and the bit orders that the powers may tell.

    The first order is that of a single bit, which tells none.
    """

    DESCRIPTION: str
    powers: str
    codebook: str
    orders: tuple[BitOrder, ...]
    ONLY_IF_NAMED: bool = False

    def find(self, state: StateFile, /) -> dict[str, list[str]]:
        """As in Family."""
        signs = {m: [joined(m, self.powers), joined(m, self.codebook)] for m in owners(state, self.powers)}
        return {
            module: names
            for module, names in signs.items()
            if self._order(state, module) in self.orders and names[1] in state.tensors
        }

    def build(self, state: StateFile, module: str, facts: Facts, /) -> Quantizer:
        """As in Family."""
        bits, order = state.tensors[joined(module, self.powers)].shape[0], self._order(state, module)
        _check_codebook(state, joined(module, self.codebook), bits, order)
        fixed = {"codebook_scale": 1.0, "spherical": False, "soft_clamp_input_value": None, "bit_order": order}
        config = settle(facts, fixed=fixed | cut_codes(facts.codebook_dims, bits, facts.num_codebooks))
        return Quantizer(dim=bits, codebook_dim=bits, channel_first=facts.channel_first, **config)

    def _order(self, state: StateFile, module: str) -> BitOrder:
        powers = state.tensors[joined(module, self.powers)]
        return self.orders[0] if powers.shape[0] == 1 else order_of(powers) or self.orders[0]


SHOW_O = StoredCodebook("Show-o, MMaDA", "power_vals", "embedding", ("msb",))
MASKBIT = StoredCodebook("MaskBit", "bits_to_indices", "codebook", ("lsb", "msb"))
