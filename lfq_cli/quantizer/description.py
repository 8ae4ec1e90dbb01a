"""The facts of a quantizer and what follows from them. Nothing here checks that they agree.

The config's keys are the reference constructors' (vector-quantize-pytorch: `LFQ`, `ResidualLFQ`, `GroupedResidualLFQ`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lfq_cli.bits import BitOrder

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Description:
    """A lookup-free quantizer: some indices of `codebook_dim` bits for a vector of `dim` features.

    `num_codebooks` indices of one vector; or, where `num_quantizers` is set, that many levels, of which each codes what
    the ones before left over; or such levels for each of `groups` parts of the vector. Levels share one projection and
    halve their scale; where they are `stacked`, each has scale 1 and projections of its own, and what is left over is
    left of the vector itself. `factorized_bits` cuts the bits of a vector into indices of other sizes than its
    codebooks have, which changes no bit; levels are not cut.

    weights: float32, under their names in the reference's state dict: project_in.weight, project_in.bias,
    project_out.weight, project_out.bias, orthogonal_rot (residual: layers.0.orthogonal_rot, ...; grouped: all of these
    behind rvqs.0., ...; stacked: the projections behind layers.0., ...).
    """

    dim: int
    codebook_dim: int
    num_codebooks: int = 1
    num_quantizers: int | None = None
    groups: int | None = None
    stacked: bool = False
    factorized_bits: tuple[int, ...] | None = None
    codebook_scale: float = 1.0
    spherical: bool = False
    channel_first: bool | None = None
    keep_num_codebooks_dim: bool | None = None
    soft_clamp_input_value: float | None = None
    cosine_sim_project_in: bool = False
    cosine_sim_project_in_scale: float | None = None
    bit_order: BitOrder = "msb"
    weights: Weights = field(default_factory=dict)
    assumed: frozenset[str] = frozenset()
    origin: str = "the checkpoint"
    """Where it was loaded from, for messages."""
    usual_of: str = "the reference's defaults"
    """Whose usual values the assumed facts have, for messages."""

    @property
    def type(self) -> str:
        """The config's `type`."""
        if self.num_quantizers is None:
            return "lfq"
        if self.stacked:
            return "stacked_lfq"
        return "residual_lfq" if self.groups is None else "grouped_residual_lfq"

    @property
    def is_residual(self) -> bool:
        """Whether levels code what the levels before them left over."""
        return self.num_quantizers is not None

    @property
    def codebook_size(self) -> int:
        """Codes of one codebook: 2^D."""
        return int(2**self.codebook_dim)

    @property
    def codebook_dims(self) -> tuple[int, ...]:
        """Bits of each index of one vector."""
        if self.factorized_bits is not None:
            return self.factorized_bits
        return (self.codebook_dim,) * (self.num_codebooks * (self.num_quantizers or 1) * (self.groups or 1))

    @property
    def bits_per_vector(self) -> int:
        """B, the sum of `codebook_dims`."""
        return sum(self.codebook_dims)

    @property
    def code_dim(self) -> int:
        """Coordinates of a vector's code before project_out; levels add up to one code, unless they are stacked."""
        levels = self.num_quantizers or 1 if self.stacked else 1
        return self.codebook_dim * self.num_codebooks * (self.groups or 1) * levels

    @property
    def index_tail(self) -> tuple[int, ...]:
        """What an index tensor has behind the positions: the number of indices, or nothing if the axis is dropped."""
        count = len(self.codebook_dims)
        keep = self.is_residual or count > 1 if self.keep_num_codebooks_dim is None else self.keep_num_codebooks_dim
        return (count,) if keep else ()

    @property
    def group_prefixes(self) -> tuple[str, ...]:
        """What the names of each group's weights begin with."""
        return ("",) if self.groups is None else tuple(f"rvqs.{g}." for g in range(self.groups))

    @property
    def layer_prefixes(self) -> tuple[str, ...]:
        """What the names of each level's weights begin with, behind the group's."""
        return ("",) if self.num_quantizers is None else tuple(f"layers.{q}." for q in range(self.num_quantizers))

    @property
    def projection_prefixes(self) -> tuple[str, ...]:
        """What the names of every pair of projections begin with."""
        return self.layer_prefixes if self.stacked else self.group_prefixes

    @property
    def has_projections(self) -> bool:
        """Whether vectors pass through project_in and project_out."""
        return any(name.endswith("project_in.weight") for name in self.weights)

    @property
    def has_rotation(self) -> bool:
        """Whether bits are taken along rotated axes."""
        return any(name.endswith("orthogonal_rot") for name in self.weights)

    @property
    def is_linear(self) -> bool:
        """Whether encoding needs a matrix product."""
        return self.has_projections or self.has_rotation

    @property
    def bits_are_signs(self) -> bool:
        """Whether an ordinary input's bits are `x > 0`: a comparison, whatever scale and sphere are."""
        return not self.is_linear and not self.is_residual
