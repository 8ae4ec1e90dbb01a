"""Residual lookup-free quantization as a torch module: a drop-in for `vector_quantize_pytorch.ResidualLFQ` 1.32.

Level 0 rounds a vector to a binary code, level 1 rounds the residual to a code half as large, and so on; the sum of the
codes is the quantized vector. Source: arXiv 2107.03312, algorithm 1; it also describes quantize dropout.

Knows levels; what one level does is in `LFQ`.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from lfq_cli.layout import usual_axis
from lfq_cli.nn import options
from lfq_cli.nn.distributed import shared_seed
from lfq_cli.nn.lfq import LFQ
from lfq_cli.nn.vectors import check_features, mask_vectors, without_autocast
from lfq_cli.nn.weights import weights_of
from lfq_cli.quantizer import Quantizer
from lfq_cli.quantizer.checks import MAX_LEVELS

DROPPED = -1  # the index of a dropped level, which adds nothing when decoded


class ResidualLFQ(nn.Module):
    """Rounds x to a sum of binary codes, one for each of Q levels; also converts between codes, indices and bits.

    Shapes: x is [..., dim], or [b, dim, ...] if `channel_first` (unset: if x has 4 axes or more; never with fewer than
    3). Indices have the shape of x without the channel axis, and a last axis for the levels. z, the vector that is
    rounded, is [n, D].

    Indices are int64 in [0, 2^D), or -1 for a level that quantize dropout dropped. With D = 64 no number is left for
    that: -1 is the index of 64 ones, as in `LFQ`, and dropout is refused.

    Level q is `layers[q]`, an LFQ of scale 2^-q; a soft clamp is halved from level to level too. `layer_options` are
    those of `LFQ` and apply to every level, but levels have one codebook, a fixed scale and no projections. Options of
    such projections (`projection_has_bias`, `cosine_sim_project_in`, ...) have no effect, as in the reference.

    Residuals are float32 whatever the dtype of x; with `force_quantization_f32=False` they have the dtype of z.

    A state dict holds `layers.{q}.mask`, and, if they exist, `project_in.*`, `project_out.*` and
    `layers.{q}.orthogonal_rot`. Raises ValueError for impossible options.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_quantizers: int,
        codebook_size: int,
        quantize_dropout: bool = False,
        quantize_dropout_cutoff_index: int = 0,
        quantize_dropout_multiple_of: int = 1,
        soft_clamp_input_value: float | None = None,
        channel_first: bool | None = None,
        **layer_options: Any,
    ) -> None:
        super().__init__()
        _check_layer_options(layer_options)
        self.dim = dim
        self.codebook_dim = options.codebook_bits(dim, codebook_size)
        self.codebook_size = 2**self.codebook_dim
        self.num_quantizers = _check_num_quantizers(num_quantizers)
        self.channel_first = channel_first

        self.quantize_dropout = bool(quantize_dropout) and num_quantizers > 1
        self.quantize_dropout_cutoff_index = quantize_dropout_cutoff_index
        self.quantize_dropout_multiple_of = quantize_dropout_multiple_of
        self._check_dropout()

        # Parameters are initialised in the reference's order, so the same seed gives the same weights.
        self.has_projections = options.has_projections(None, dim, self.codebook_dim)
        self.project_in: nn.Module = nn.Identity()
        self.project_out: nn.Module = nn.Identity()
        if self.has_projections:
            self.project_in = nn.Linear(dim, self.codebook_dim)
            self.project_out = nn.Linear(self.codebook_dim, dim)
        self.layers = nn.ModuleList(
            LFQ(
                dim=self.codebook_dim,
                codebook_scale=2.0**-level,
                soft_clamp_input_value=None if soft_clamp_input_value is None else soft_clamp_input_value * 2.0**-level,
                channel_first=channel_first,
                **layer_options,
            )
            for level in range(num_quantizers)
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that projecting and decoding compute in: float32 until the module is converted."""
        return self._first(1)[0].dtype

    @property
    def codebooks(self) -> Tensor:
        """Every code of every level [Q, 2^D, D]; see `LFQ.codebook`, also for the error."""
        return torch.stack([layer.codebook for layer in self._first(self.num_quantizers)])

    # x -> z -> levels of bits

    @torch.no_grad()
    def project(self, x: Tensor) -> Tensor:
        """x [n, dim] -> z [n, D], which level 0 rounds; computed in `self.dtype`, without autocast."""
        check_features(x, dim=self.dim, axis=-1, channel_first=self.channel_first)
        with without_autocast(x.device):
            z: Tensor = self.project_in(x.to(self.dtype))
        return z

    @torch.no_grad()
    def unproject(self, codes: Tensor) -> Tensor:
        """The sum of codes [n, D] -> vectors [n, dim], in `self.dtype`."""
        with without_autocast(codes.device):
            vectors: Tensor = self.project_out(codes.to(self.dtype))
        return vectors

    @torch.no_grad()
    def latents(self, x: Tensor, levels: int | None = None) -> Tensor:
        """x [n, dim] -> the latents that each level rounds [n, levels * D] float32, level 0 first; default: all levels.

        Their signs are the bits. Projections are computed in `self.dtype`, without autocast. Raises ValueError for a
        wrong number of features or levels.
        """
        with without_autocast(x.device):
            return torch.cat([latents.float() for latents in self._latents(x, levels)], dim=-1)

    @torch.no_grad()
    def encode_bits(self, x: Tensor, levels: int | None = None) -> Tensor:
        """x [n, dim] -> bits [n, levels * D] bool, level 0 first: `latents(x, levels) > 0`, in less memory."""
        with without_autocast(x.device):
            return torch.cat([latents > 0 for latents in self._latents(x, levels)], dim=-1)

    def _latents(self, x: Tensor, levels: int | None) -> Iterator[Tensor]:
        """x [n, dim] -> the latents that each level rounds [n, D], level by level."""
        z = self.project(x)
        residual = z.to(self._residual_dtype(z.dtype))
        for layer in self._first(self._check_levels(levels)):
            latents = rearrange(layer.project(residual), "n 1 d -> n d")
            yield latents
            residual = residual - layer.bits_to_latents(latents > 0, dtype=residual.dtype)

    def _residual_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype in which residuals and sums of codes are computed, for z of `dtype`."""
        return torch.float32 if self._first(1)[0].force_quantization_f32 else dtype

    # levels of bits -> codes -> x

    def decode_bits(self, bits: Tensor, project_out: bool = True, levels: int | None = None) -> Tensor:
        """bits [n, levels * D] bool, level 0 first -> vectors [n, dim], or [n, D] if not project_out.

        The result is what `forward` returns in eval mode for vectors with these bits, bit for bit; with fewer than Q
        levels, what it returns if the others are dropped. Raises ValueError if the number of bits does not fit `levels`
        (unset: as many as the bits are enough for).
        """
        levels = self._check_levels(bits.shape[-1] // self.codebook_dim if levels is None else levels)
        if bits.shape[-1] != levels * self.codebook_dim:
            raise ValueError(
                f"expected {levels * self.codebook_dim} bits for {levels} levels of {self.codebook_dim}, "
                f"found {bits.shape[-1]}"
            )
        by_level = rearrange(bits, "n (q d) -> q n d", d=self.codebook_dim)
        return self._decode(self._bits_to_latents(by_level), project_out=project_out)

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        """indices [..., levels] -> the code of each level [Q, ..., D]; zeros for levels that are dropped or not given.

        Channels are always last, as in the reference. Raises like `get_output_from_indices`.
        """
        codes = list(self._indices_to_latents(indices))
        codes += [torch.zeros_like(codes[0])] * (self.num_quantizers - len(codes))
        return torch.stack(codes).to(self.dtype).reshape(self.num_quantizers, *indices.shape[:-1], self.codebook_dim)

    def get_output_from_indices(self, indices: Tensor) -> Tensor:
        """indices [..., levels] of the first levels, or of all -> vectors [..., dim], in the layout of x in `forward`.

        -1 is a dropped level. Raises ValueError for other indices out of range and for more than Q levels, TypeError
        for indices that are not integers.
        """
        return self._from_vectors(self._decode(self._indices_to_latents(indices)), indices.shape[:-1])

    def _decode(self, codes: Iterable[Tensor], *, project_out: bool = True) -> Tensor:
        """The codes [n, D] of each level -> vectors [n, dim], or [n, D] if not project_out."""
        vectors = functools.reduce(torch.add, codes).to(self.dtype)
        decoded: Tensor = self.project_out(vectors) if project_out else vectors
        return decoded

    def _bits_to_latents(self, bits: Tensor) -> Iterator[Tensor]:
        """bits [levels, n, D] -> the code of each level [n, D], level by level."""
        dtype = self._residual_dtype(self.dtype)
        for layer, own in zip(self._first(len(bits)), bits, strict=True):
            yield layer.bits_to_latents(own, dtype=dtype)

    def _indices_to_latents(self, indices: Tensor) -> Iterator[Tensor]:
        """indices [..., levels] -> the code of each level [n, D], level by level."""
        self._check_indices(indices)
        by_level = rearrange(indices.to(torch.int64), "... q -> q (...) 1")
        masks = [layer.mask for layer in self._first(len(by_level))]
        bits = torch.stack([(own & mask) != 0 for own, mask in zip(by_level, masks, strict=True)])
        for own, codes in zip(by_level, self._bits_to_latents(bits), strict=True):
            yield codes.masked_fill(own == DROPPED, 0) if self._can_drop else codes

    # everything together

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        return_all_codes: bool = False,
        rand_quantize_dropout_fixed_seed: int | None = None,
    ) -> tuple[Tensor, ...]:
        """x, of any ndim >= 1 -> (quantized like x, indices [..., Q], losses [Q]); return_all_codes adds [Q, ..., D].

        In training, the gradient of every level passes straight through to x, and losses are those of `LFQ` over the
        vectors that `mask` selects (see there); in eval mode they are 0. Quantize dropout only happens in training with
        gradients: the last level used is drawn from the seed (unset: from torch's generator, the same in all
        processes). Raises ValueError for shapes that do not fit.
        """
        vectors, shape = self._to_vectors(x)
        counted = None if mask is None else mask_vectors(mask, shape)
        z = self.project_in(vectors)
        used = self._draw_levels(x.device, rand_quantize_dropout_fixed_seed)
        with without_autocast(x.device):
            summed, indices, losses = self._quantize(z.to(self._residual_dtype(z.dtype)), used, counted)
        quantized = self._from_vectors(self.project_out(summed.to(z.dtype)), shape)
        indices = indices.reshape(*shape, self.num_quantizers)
        result = (quantized, indices, losses)
        return (*result, self.get_codes_from_indices(indices)) if return_all_codes else result

    def _quantize(self, residual: Tensor, used: int, counted: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """z [n, D] -> the sum of the codes of the first `used` levels [n, D], indices [n, Q], losses [Q]."""
        codes, indices, losses = [], [], []
        for layer in self._first(used):
            quantized, index, loss = layer(residual, mask=counted)
            residual = residual - quantized.detach()
            codes.append(quantized)
            indices.append(index)
            losses.append(loss)
        dropped = self.num_quantizers - used
        indices += [torch.full_like(indices[0], DROPPED)] * dropped
        losses += [torch.zeros_like(losses[0])] * dropped
        return functools.reduce(torch.add, codes), torch.stack(indices, dim=-1), torch.stack(losses)

    def _draw_levels(self, device: torch.device, seed: int | None) -> int:
        """The number of levels that this call uses: all, unless quantize dropout drops some."""
        if not (self.training and self.quantize_dropout and torch.is_grad_enabled()):
            return self.num_quantizers
        drawn = random.Random(shared_seed(device) if seed is None else seed)
        last = drawn.randrange(self.quantize_dropout_cutoff_index, self.num_quantizers)
        whole_groups = -(-(last + 1) // self.quantize_dropout_multiple_of)
        return min(whole_groups * self.quantize_dropout_multiple_of, self.num_quantizers)

    def _first(self, levels: int) -> list[LFQ]:
        """The layers of the first `levels` levels."""
        return cast("list[LFQ]", list(self.layers)[:levels])

    # layouts: everything above works on [n, dim]; `shape` is that of the vectors' tensor without channels

    def _to_vectors(self, x: Tensor) -> tuple[Tensor, torch.Size]:
        """x, in its layout -> (vectors [n, dim], the shape of x without channels)."""
        axis = usual_axis(x.ndim, self.channel_first)
        check_features(x, dim=self.dim, axis=axis, channel_first=self.channel_first)
        x = x.movedim(axis, -1)
        return x.reshape(-1, self.dim), x.shape[:-1]

    def _from_vectors(self, vectors: Tensor, shape: torch.Size) -> Tensor:
        """vectors [n, dim] -> a tensor in the layout of x: the inverse of `_to_vectors`."""
        x = vectors.reshape(*shape, self.dim)
        return x.movedim(-1, usual_axis(x.ndim, self.channel_first))

    def save_pretrained(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Saves a native checkpoint: see `LFQ.save_pretrained`."""
        from lfq_cli import native

        native.write(self.to_quantizer(), Path(path), overwrite=overwrite)

    def to_quantizer(self) -> Quantizer:
        """The record for a checkpoint, with a copy of the weights in float32."""
        facts = self._first(1)[0].facts() | {"dim": self.dim, "keep_num_codebooks_dim": None}
        return Quantizer(**facts, num_quantizers=self.num_quantizers, weights=weights_of(self))

    # checks

    @property
    def _can_drop(self) -> bool:
        """Whether -1 can mean a dropped level; with 64 bits it is an index."""
        return self.codebook_dim < options.MAX_BITS

    def _check_dropout(self) -> None:
        cutoff, multiple = self.quantize_dropout_cutoff_index, self.quantize_dropout_multiple_of
        last = self.num_quantizers - 1
        if cutoff < 0 or (self.quantize_dropout and cutoff > last):
            raise ValueError(f"quantize_dropout_cutoff_index must be a level, 0 to {last}, found {cutoff}")
        if multiple < 1:
            raise ValueError(f"quantize_dropout_multiple_of must be at least 1, found {multiple}")
        if self.quantize_dropout and not self._can_drop:
            raise ValueError(f"quantize_dropout needs the index -1, which is a valid index of {self.codebook_dim} bits")

    def _check_levels(self, levels: int | None) -> int:
        levels = options.default(levels, self.num_quantizers)
        if not 1 <= levels <= self.num_quantizers:
            raise ValueError(f"expected 1 to {self.num_quantizers} levels, found {levels}")
        return levels

    def _check_indices(self, indices: Tensor) -> None:
        if indices.is_floating_point() or indices.is_complex():
            raise TypeError(f"indices must be integers, found {indices.dtype}")
        if indices.ndim == 0 or not 1 <= indices.shape[-1] <= self.num_quantizers:
            raise ValueError(
                f"expected 1 to {self.num_quantizers} levels on the last axis, found shape {tuple(indices.shape)}"
            )
        if not self._can_drop or indices.numel() == 0:
            return
        low, high = (int(bound) for bound in torch.aminmax(indices.to(torch.int64)))
        lowest = DROPPED if indices.dtype.is_signed else 0  # uint64 wraps in the conversion
        if low < lowest or high >= self.codebook_size:
            raise ValueError(
                f"indices must lie in the range [0, 2^{self.codebook_dim}), or be {DROPPED} for a dropped level; "
                f"found from {low} to {high}"
            )


def _check_num_quantizers(num_quantizers: int) -> int:
    if not 1 <= num_quantizers <= MAX_LEVELS:
        raise ValueError(f"num_quantizers must be 1 to {MAX_LEVELS}, found {num_quantizers}")
    return num_quantizers


def _check_layer_options(layer_options: dict[str, Any]) -> None:
    """Raises ValueError for options of LFQ that a level cannot have."""
    if "codebook_scale" in layer_options:
        raise ValueError("codebook_scale is fixed: that of level q is 2^-q")
    if layer_options.get("num_codebooks", 1) != 1:
        raise ValueError(f"a level has one codebook, found num_codebooks={layer_options['num_codebooks']}")
    if layer_options.get("factorized_bits") is not None:
        raise ValueError("factorized_bits is not possible: a level has one index")
    if layer_options.get("has_projections"):
        raise ValueError("has_projections=True is not possible: if dim needs projections, all levels share them")
    if layer_options.get("keep_num_codebooks_dim"):
        raise ValueError("keep_num_codebooks_dim=True is not possible: the last axis of the indices is for the levels")
