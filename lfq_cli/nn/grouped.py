"""Grouped residual quantization as a torch module: a drop-in for `vector_quantize_pytorch.GroupedResidualLFQ` 1.32.

The features are cut into groups of equal size, each with a residual quantizer of its own. Source: arXiv 2305.02765
(HiFi-Codec).

Knows groups; what one group does is in `ResidualLFQ`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from lfq_cli.layout import usual_axis
from lfq_cli.nn.distributed import shared_seed
from lfq_cli.nn.residual import ResidualLFQ
from lfq_cli.nn.vectors import check_features
from lfq_cli.nn.weights import weights_of
from lfq_cli.quantizer import Quantizer


class GroupedResidualLFQ(nn.Module):
    """Rounds each of G groups of x's features to a sum of binary codes; also converts between codes, indices and bits.

    Shapes are those of `ResidualLFQ`, except that indices, losses and codes have a first axis for the groups: indices
    are [G, ..., Q], where x is [..., dim] or [b, dim, ...]. Group g is `rvqs[g]` and takes the dim / G features from
    g * dim / G on.

    `accept_image_fmap=True` means `channel_first=True`; the other options are those of `ResidualLFQ` and apply to every
    group. A state dict holds the groups' entries with the prefix `rvqs.{g}.`. Raises ValueError for impossible options.
    """

    def __init__(
        self,
        *,
        dim: int,
        groups: int = 1,
        accept_image_fmap: bool = False,
        channel_first: bool | None = None,
        **residual_options: Any,
    ) -> None:
        super().__init__()
        if groups < 1 or dim % groups:
            raise ValueError(f"dim must be a multiple of groups, found dim {dim} and {groups} groups")
        if accept_image_fmap and channel_first is False:
            raise ValueError("accept_image_fmap=True means channel_first=True, found channel_first=False")
        self.dim = dim
        self.groups = groups
        self.accept_image_fmap = accept_image_fmap
        self.channel_first = True if accept_image_fmap else channel_first
        self.rvqs = nn.ModuleList(
            ResidualLFQ(dim=dim // groups, channel_first=self.channel_first, **residual_options) for _ in range(groups)
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that projecting and decoding compute in: float32 until the module is converted."""
        return self._groups()[0].dtype

    @property
    def codebooks(self) -> Tensor:
        """Every code of every group and level [G, Q, 2^D, D]; raises LfqError like `LFQ.codebook`."""
        return torch.stack([group.codebooks for group in self._groups()])

    def project(self, x: Tensor) -> Tensor:
        """x [n, dim] -> z [n, G * D]: `ResidualLFQ.project`, group by group."""
        parts = zip(self._groups(), self._split(x, axis=-1), strict=True)
        return torch.cat([group.project(part) for group, part in parts], dim=-1)

    def unproject(self, codes: Tensor) -> Tensor:
        """The sums of codes [n, G * D] -> vectors [n, dim]: `ResidualLFQ.unproject`, group by group."""
        parts = zip(self._groups(), codes.chunk(self.groups, dim=-1), strict=True)
        return torch.cat([group.unproject(part) for group, part in parts], dim=-1)

    def latents(self, x: Tensor, levels: int | None = None) -> Tensor:
        """x [n, dim] -> the latents that each level of each group rounds [n, G * levels * D] float32.

        Group by group, and level by level within a group: see `ResidualLFQ.latents`.
        """
        parts = zip(self._groups(), self._split(x, axis=-1), strict=True)
        return torch.cat([group.latents(part, levels) for group, part in parts], dim=-1)

    def encode_bits(self, x: Tensor, levels: int | None = None) -> Tensor:
        """x [n, dim] -> bits [n, G * levels * D] bool, group by group, levels within: `latents(x, levels) > 0`."""
        parts = zip(self._groups(), self._split(x, axis=-1), strict=True)
        return torch.cat([group.encode_bits(part, levels) for group, part in parts], dim=-1)

    def decode_bits(self, bits: Tensor, project_out: bool = True, levels: int | None = None) -> Tensor:
        """bits [n, G * levels * D] bool -> vectors [n, dim], or [n, G * D] if not project_out.

        See `ResidualLFQ.decode_bits`, also for the errors.
        """
        if bits.shape[-1] % self.groups:
            raise ValueError(
                f"expected the same number of bits for each of {self.groups} groups, found {bits.shape[-1]}"
            )
        parts = zip(self._groups(), rearrange(bits, "n (g b) -> g n b", g=self.groups), strict=True)
        return torch.cat([group.decode_bits(part, project_out, levels) for group, part in parts], dim=-1)

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        """indices [G, ..., levels] -> codes [G, Q, ..., D], channels last; raises like `get_output_from_indices`."""
        self._check_groups(indices)
        parts = zip(self._groups(), indices, strict=True)
        return torch.stack([group.get_codes_from_indices(part) for group, part in parts])

    def get_output_from_indices(self, indices: Tensor) -> Tensor:
        """indices [G, ..., levels] -> vectors [..., dim], or [b, dim, ...]: in the layout of x in `forward`.

        Raises like `ResidualLFQ.get_output_from_indices`, and ValueError for another number of groups.
        """
        self._check_groups(indices)
        parts = zip(self._groups(), indices, strict=True)
        decoded = [group.get_output_from_indices(part) for group, part in parts]
        return torch.cat(decoded, dim=self._channel_axis(decoded[0].ndim))

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        return_all_codes: bool = False,
        rand_quantize_dropout_fixed_seed: int | None = None,
    ) -> tuple[Tensor, ...]:
        """x -> (quantized like x, indices [G, ..., Q], losses [G, Q]), and codes [G, Q, ..., D] if return_all_codes.

        See `ResidualLFQ.forward`. Quantize dropout drops the same levels of every group.
        """
        axis = self._channel_axis(x.ndim)
        parts = self._split(x, axis=axis)
        seed = rand_quantize_dropout_fixed_seed
        if seed is None and self.training:  # even without dropout, as in the reference, so later draws are the same
            seed = shared_seed(x.device)
        results = [group(part, mask, return_all_codes, seed) for group, part in zip(self._groups(), parts, strict=True)]
        quantized, *rest = zip(*results, strict=True)
        return torch.cat(quantized, dim=axis), *(torch.stack(each) for each in rest)

    def save_pretrained(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Saves a native checkpoint: see `LFQ.save_pretrained`."""
        from lfq_cli import native

        native.write(self.to_quantizer(), Path(path), overwrite=overwrite)

    def to_quantizer(self) -> Quantizer:
        """The record for a checkpoint, with a copy of the weights in float32."""
        group = self._groups()[0].to_quantizer()
        return replace(group, dim=self.dim, groups=self.groups, weights=weights_of(self))

    def _groups(self) -> list[ResidualLFQ]:
        return cast("list[ResidualLFQ]", list(self.rvqs))

    def _channel_axis(self, ndim: int) -> int:
        """The axis of the features of a tensor of `ndim` axes."""
        return usual_axis(ndim, self.channel_first)

    def _split(self, x: Tensor, *, axis: int) -> tuple[Tensor, ...]:
        """x -> the features of each group; axis: where the features are."""
        check_features(x, dim=self.dim, axis=axis, channel_first=self.channel_first)
        return x.chunk(self.groups, dim=axis)

    def _check_groups(self, indices: Tensor) -> None:
        if indices.ndim < 2 or indices.shape[0] != self.groups:
            raise ValueError(
                f"expected {self.groups} groups on the first axis of the indices and levels on the last, "
                f"found shape {tuple(indices.shape)}"
            )
