"""Stacked lookup-free quantization as a torch module: a sum of LFQs, each with its own projections.

Level 0 is an LFQ of x, level 1 an LFQ of the residual that level 0 leaves, and so on; the quantized vector is the sum
of what all levels decode to. In `ResidualLFQ` all levels share one projection, and scales are halved from level to
level; here every level projects the residual in the space of x, with its own directions and scales. docs/training.md
shows the gain.

Knows levels; what one level does is in `LFQ`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from lfq_cli.layout import usual_axis
from lfq_cli.nn import options
from lfq_cli.nn.lfq import LFQ
from lfq_cli.nn.vectors import check_features, mask_vectors, without_autocast
from lfq_cli.nn.weights import weights_of
from lfq_cli.quantizer import Quantizer
from lfq_cli.quantizer.checks import MAX_LEVELS


class StackedLFQ(nn.Module):
    """Rounds x to a sum of Q decoded codes; also decodes indices and bits.

    Shapes are those of `ResidualLFQ`: x is [..., dim], or [b, dim, ...] if `channel_first` (unset: if x has 4 axes or
    more). Indices have the shape of x without the channel axis, and a last axis for the levels. The codes before
    project_out are those of all levels, [n, Q * D].

    Level q is `layers[q]`, an LFQ of scale 1 with projections. `layer_options` are those of `LFQ` and apply to every
    level; a level has one codebook. A state dict holds `layers.{q}.mask`, `layers.{q}.project_in.*` and
    `layers.{q}.project_out.*`. Raises ValueError for impossible options.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_quantizers: int,
        codebook_size: int,
        channel_first: bool | None = None,
        **layer_options: Any,
    ) -> None:
        super().__init__()
        refused = {
            "num_codebooks",
            "codebook_scale",
            "has_projections",
            "soft_clamp_input_value",
            "orthogonal_rotation",
        }
        if refused & set(layer_options):
            raise ValueError(f"a stacked level cannot have {', '.join(sorted(refused & set(layer_options)))}")
        if not 1 <= num_quantizers <= MAX_LEVELS:
            raise ValueError(f"num_quantizers must be 1 to {MAX_LEVELS}, found {num_quantizers}")
        self.dim = dim
        self.codebook_dim = options.codebook_bits(dim, codebook_size)
        self.codebook_size = 2**self.codebook_dim
        self.num_quantizers = num_quantizers
        self.channel_first = channel_first
        self.layers = nn.ModuleList(
            LFQ(
                dim=dim,
                codebook_size=self.codebook_size,
                has_projections=True,
                channel_first=channel_first,
                **layer_options,
            )
            for _ in range(num_quantizers)
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that projecting and decoding compute in: float32 until the module is converted."""
        return self._first(1)[0].dtype

    @torch.no_grad()
    def latents(self, x: Tensor, levels: int | None = None) -> Tensor:
        """x [n, dim] -> the latents that each level rounds [n, levels * D] float32, level 0 first; default: all levels.

        Their signs are the bits. Raises ValueError for a wrong number of features or levels.
        """
        return torch.cat(list(self._latents(x, levels)), dim=-1)

    @torch.no_grad()
    def encode_bits(self, x: Tensor, levels: int | None = None) -> Tensor:
        """x [n, dim] -> bits [n, levels * D] bool, level 0 first: `latents(x, levels) > 0`."""
        return torch.cat([latents > 0 for latents in self._latents(x, levels)], dim=-1)

    def _latents(self, x: Tensor, levels: int | None) -> Iterator[Tensor]:
        """x [n, dim] -> the latents that each level rounds [n, D], level by level."""
        check_features(x, dim=self.dim, axis=-1, channel_first=self.channel_first)
        layers = self._first(self._check_levels(levels))
        residual = x.to(self.dtype)
        for layer in layers:
            latents = layer.latents(residual)
            yield latents
            if layer is not layers[-1]:
                residual = residual - layer.decode_bits(latents > 0)

    def decode_bits(self, bits: Tensor, project_out: bool = True, levels: int | None = None) -> Tensor:
        """bits [n, levels * D] bool, level 0 first -> vectors [n, dim], or codes [n, levels * D] if not project_out.

        The result is what `forward` returns in eval mode for vectors with these bits, bit for bit. Raises ValueError if
        the number of bits does not fit `levels` (unset: as many as the bits are enough for).
        """
        levels = self._check_levels(bits.shape[-1] // self.codebook_dim if levels is None else levels)
        if bits.shape[-1] != levels * self.codebook_dim:
            raise ValueError(
                f"expected {levels * self.codebook_dim} bits for {levels} levels of {self.codebook_dim}, "
                f"found {bits.shape[-1]}"
            )
        by_level = rearrange(bits, "n (q d) -> q n d", q=levels)
        with without_autocast(bits.device):
            decoded = [
                layer.decode_bits(own, project_out=project_out)
                for layer, own in zip(self._first(levels), by_level, strict=True)
            ]
        return functools.reduce(torch.add, decoded) if project_out else torch.cat(decoded, dim=-1)

    def get_output_from_indices(self, indices: Tensor) -> Tensor:
        """indices [..., levels] of the first levels, or of all -> vectors [..., dim], in the layout of x in `forward`.

        Raises ValueError for indices out of range and for more than Q levels.
        """
        levels = self._check_levels(indices.shape[-1] if indices.ndim else 0)
        flat = rearrange(indices, "... q -> q (...)")
        decoded = [
            layer.indices_to_codes(rearrange(own, "n -> n 1") if layer.keep_num_codebooks_dim else own)
            for layer, own in zip(self._first(levels), flat, strict=True)
        ]
        return self._from_vectors(functools.reduce(torch.add, decoded), indices.shape[:-1])

    def forward(self, x: Tensor, mask: Tensor | None = None, **loss_options: Any) -> tuple[Tensor, Tensor, Tensor]:
        """x, of any ndim >= 1 -> (quantized like x, indices int64 [..., Q], losses [Q]).

        In training the gradient passes straight through every level, and residuals stay differentiable: what one level
        decodes to changes the input of the next. Use `straight_through_activation=torch.tanh`; without it the gradient
        does not vanish where a bit is certain, and training diverges. Losses are those of `LFQ` (`loss_options`:
        inv_temperature) over the vectors that `mask` selects; in eval mode they are 0.
        """
        axis = usual_axis(x.ndim, self.channel_first)
        check_features(x, dim=self.dim, axis=axis, channel_first=self.channel_first)
        moved = x.movedim(axis, -1)
        shape = moved.shape[:-1]
        residual = moved.reshape(-1, self.dim)
        counted = None if mask is None else mask_vectors(mask, shape)
        decoded, indices, losses = [], [], []
        for layer in self._first(self.num_quantizers):
            quantized, index, loss = layer(residual, mask=counted, **loss_options)
            residual = residual - quantized
            decoded.append(quantized)
            indices.append(index)
            losses.append(loss)
        stacked = torch.stack([index.reshape(shape) for index in indices], dim=-1)
        return self._from_vectors(functools.reduce(torch.add, decoded), shape), stacked, torch.stack(losses)

    def save_pretrained(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Saves a native checkpoint: see `LFQ.save_pretrained`."""
        from lfq_cli import native

        native.write(self.to_quantizer(), Path(path), overwrite=overwrite)

    def to_quantizer(self) -> Quantizer:
        """The record for a checkpoint, with a copy of the weights in float32."""
        facts = self._first(1)[0].facts() | {"dim": self.dim, "keep_num_codebooks_dim": None}
        return Quantizer(**facts, num_quantizers=self.num_quantizers, stacked=True, weights=weights_of(self))

    def _first(self, levels: int) -> list[LFQ]:
        """The layers of the first `levels` levels."""
        return cast("list[LFQ]", list(self.layers)[:levels])

    def _from_vectors(self, vectors: Tensor, shape: torch.Size) -> Tensor:
        """vectors [n, dim] -> the tensor of shape `shape` plus channels, in the module's layout."""
        x = vectors.reshape(*shape, self.dim)
        return x.movedim(-1, usual_axis(x.ndim, self.channel_first))

    def _check_levels(self, levels: int | None) -> int:
        levels = options.default(levels, self.num_quantizers)
        if not 1 <= levels <= self.num_quantizers:
            raise ValueError(f"expected 1 to {self.num_quantizers} levels, found {levels}")
        return levels
