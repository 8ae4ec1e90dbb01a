"""Family 10: quantizers of which the file holds nothing, and which `--family` has to name.

A file of these proves nothing: FSQ and learned codebooks leave the same tensors. So every fact but the family's own
rule is an option, the bits (`--codebook-dims`) above all.

Read: NVlabs/QLIP, QLIP/bsq.py; lucadellalib/focalcodec, focalcodec/bsq.py; baaivision/URSA,
diffnext/models/autoencoders/quantizers.py; vector-quantize-pytorch 1.9.0, 1.9.2 and 1.9.4; NVIDIA/cosmos-framework,
cosmos_framework/model/tokenizer/models/modules/quantizers/lfq.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from lfq_cli.bits import BitOrder
from lfq_cli.checkpoints.facts import Facts, cut_codes, settle
from lfq_cli.checkpoints.powers import joined, owner_of
from lfq_cli.checkpoints.reference import DEFAULTS, read_weights
from lfq_cli.checkpoints.statefile import StateFile
from lfq_cli.errors import CheckpointError, OptionError
from lfq_cli.quantizer import Quantizer

_PROJECTIONS = ("project_in.weight", "project_in.bias", "project_out.weight", "project_out.bias")


@dataclass(frozen=True)
class Unstored:
    """The rule of one project: ±1/sqrt(D) or ±1, and the order of its bits."""

    DESCRIPTION: str
    on_sphere: bool
    channel_first: bool | None = None
    bit_order: BitOrder = "msb"
    ONLY_IF_NAMED: bool = True

    def find(self, state: StateFile, /) -> dict[str, list[str]]:
        """As in Family: the whole file."""
        return {"": []}

    def build(self, state: StateFile, module: str, facts: Facts, /) -> Quantizer:
        """As in Family."""
        if facts.codebook_dims is None:
            raise CheckpointError(
                f"nothing in it says how many bits a code of {self.DESCRIPTION} has",
                "--codebook-dims D gives the bits of an index",
            )
        bits = facts.codebook_dims[0] if len(set(facts.codebook_dims)) == 1 else sum(facts.codebook_dims)
        cut = cut_codes(facts.codebook_dims, bits, facts.num_codebooks)
        total = bits * cut.get("num_codebooks", 1)
        usual = {"codebook_scale": total**-0.5 if self.on_sphere else 1.0, "spherical": False}
        config = settle(facts, fixed=cut, usual=usual | {"bit_order": self.bit_order})
        first = self.channel_first if facts.channel_first is None else facts.channel_first
        return Quantizer(dim=total, codebook_dim=bits, channel_first=first, **config)


@dataclass(frozen=True)
class Projected:
    """The rule of a project that stores projections where dim is not D, and nothing else. Codes are ±1."""

    DESCRIPTION: str
    bit_order: BitOrder = "msb"
    ONLY_IF_NAMED: bool = True

    def find(self, state: StateFile, /) -> dict[str, list[str]]:
        """As in Family: where both projections are; the whole file where none are."""
        ends = [owner_of(name, _PROJECTIONS[0]) for name in state.tensors if f".{name}".endswith(f".{_PROJECTIONS[0]}")]
        found = {m: [joined(m, _PROJECTIONS[0])] for m in ends if joined(m, _PROJECTIONS[2]) in state.tensors}
        return found or {"": []}

    def build(self, state: StateFile, module: str, facts: Facts, /) -> Quantizer:
        """As in Family. The rows of project_in are the bits of all codebooks together."""
        weights = read_weights(state, module, _PROJECTIONS)
        if not weights:
            whole = Unstored(self.DESCRIPTION, on_sphere=False, bit_order=self.bit_order)
            return whole.build(state, module, facts)
        if weights["project_in.weight"].ndim != 2:
            raise CheckpointError("project_in.weight must have two axes")
        rows, dim = weights["project_in.weight"].shape
        bits, rest = divmod(rows, facts.num_codebooks or 1)
        if rest or not bits:
            raise OptionError(
                f"--num-codebooks {facts.num_codebooks} does not fit: project_in gives {rows} bits",
                f"expected a number of codebooks that divides {rows}",
            )
        fixed = DEFAULTS | cut_codes(facts.codebook_dims, bits, facts.num_codebooks or 1)
        config = settle(facts, fixed=fixed, usual={"bit_order": self.bit_order})
        return Quantizer(dim=dim, codebook_dim=bits, channel_first=facts.channel_first, weights=weights, **config)


QLIP = Unstored("QLIP", on_sphere=True)
FOCALCODEC = Unstored("FocalCodec", on_sphere=True)
URSA = Unstored("URSA", on_sphere=False, channel_first=True)
LUCIDRAINS_1_9 = Projected("LFQ of vector-quantize-pytorch 1.9.0 to 1.9.4")
COSMOS = Projected("NVIDIA's cosmos-framework", bit_order="lsb")
