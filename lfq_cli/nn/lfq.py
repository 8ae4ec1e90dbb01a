"""Lookup-free quantization as a torch module: a drop-in for `vector_quantize_pytorch.LFQ` 1.32.

Every vector is rounded to the nearest of the 2^D codes {-s, s}^D, which means taking the sign of each coordinate. So
there is no codebook to search, and none is built. Sources: arXiv 2310.05737 (MAGVIT-v2); spherical: arXiv 2406.07548.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from lfq_cli.bits import BitOrder
from lfq_cli.errors import LfqError
from lfq_cli.layout import usual_axis
from lfq_cli.nn import entropy, options
from lfq_cli.nn.cosine import CosineProjection
from lfq_cli.nn.vectors import check_features, mask_vectors, without_autocast
from lfq_cli.nn.weights import weights_of
from lfq_cli.quantizer import Quantizer

MAX_CODEBOOK_BITS = 24  # 2^24 codes of 24 float32 are 1.6 GB


class Return(NamedTuple):
    """What `LFQ.forward` returns: quantized like x, indices int64, and a 0-dim loss to add to the caller's."""

    quantized: Tensor
    indices: Tensor
    entropy_aux_loss: Tensor


class LossBreakdown(NamedTuple):
    """The 0-dim parts of the auxiliary loss, unweighted; entropies are in nats. Parts that are not computed are 0."""

    per_sample_entropy: Tensor
    batch_entropy: Tensor
    commitment: Tensor


class LFQ(nn.Module):
    """Rounds x to binary codes; also converts between codes, indices and bits.

    Shapes: x is [..., dim], or [b, dim, ...] if `channel_first` (unset: if x has 4 axes or more; never with fewer than
    3). Indices have the shape of x without the channel axis, and with `keep_num_codebooks_dim` (unset: if a vector has
    several) a last axis of i indices, one per codebook. z, the vector that is rounded, is [..., c, d]: c codebooks of
    d = D bits.

    Indices are int64 in [0, 2^D), and bit 0 is the most significant. With D = 64 they wrap to two's complement: the
    mask begins with -2^63, and indices from 2^63 on are negative.

    Options are those of the reference, and three more. `entropy_group_size` replaces the exact batch entropy by its
    bound over groups of so many bits, which training with more than 24 bits needs (`entropy.batch_entropy`).
    `factorized_bits` cuts the C*D bits of a vector into indices of other sizes, for example [6, 12], in order.
    `bit_order="lsb"` makes bit 0 the least significant bit of an index; the mask of a loaded state dict overrides it.
    The last two change neither bits nor codes.

    A state dict holds `mask`, and, if they exist, `project_in.*`, `project_out.*` and `orthogonal_rot`. Scale,
    spherical and soft clamp are not in it. Raises ValueError for options that contradict each other.
    """

    mask: Tensor
    zero: Tensor
    orthogonal_rot: Tensor

    def __init__(
        self,
        *,
        dim: int | None = None,
        codebook_size: int | None = None,
        entropy_loss_weight: float = 0.1,
        commitment_loss_weight: float = 0.0,
        diversity_gamma: float = 1.0,
        straight_through_activation: Callable[[Tensor], Tensor] | None = None,
        num_codebooks: int = 1,
        keep_num_codebooks_dim: bool | None = None,
        codebook_scale: float = 1.0,
        frac_per_sample_entropy: float = 1.0,
        has_projections: bool | None = None,
        projection_has_bias: bool = True,
        soft_clamp_input_value: float | None = None,
        cosine_sim_project_in: bool = False,
        cosine_sim_project_in_scale: float | None = None,
        channel_first: bool | None = None,
        experimental_softplus_entropy_loss: bool = False,
        entropy_loss_offset: float = 5.0,
        spherical: bool = False,
        force_quantization_f32: bool = True,
        orthogonal_rotation: bool = False,
        entropy_group_size: int | None = None,
        factorized_bits: Sequence[int] | None = None,
        bit_order: BitOrder = "msb",
    ) -> None:
        super().__init__()
        self.num_codebooks = options.check_num_codebooks(num_codebooks)
        self.codebook_dim = options.codebook_bits(dim, codebook_size)
        self.codebook_size = 2**self.codebook_dim
        self.factorized_bits = options.check_factors(factorized_bits, self.codebook_dim * num_codebooks)
        self.keep_num_codebooks_dim = options.keep_num_codebooks_dim(keep_num_codebooks_dim, len(self.codebook_dims))
        self._bit_order = options.check_bit_order(bit_order)
        self.codebook_scale = options.check_scale(codebook_scale, soft_clamp_input_value)
        self.soft_clamp_input_value = soft_clamp_input_value
        self.spherical = spherical
        self.channel_first = channel_first
        self.force_quantization_f32 = force_quantization_f32
        self.activation = nn.Identity() if straight_through_activation is None else straight_through_activation

        self.entropy_loss_weight = entropy_loss_weight
        self.commitment_loss_weight = commitment_loss_weight
        self.diversity_gamma = diversity_gamma
        self.frac_per_sample_entropy = options.check_fraction(frac_per_sample_entropy)
        self.experimental_softplus_entropy_loss = experimental_softplus_entropy_loss
        self.entropy_loss_offset = entropy_loss_offset
        self.entropy_group_size = options.check_group_size(entropy_group_size)

        # Parameters are initialised in the reference's order, so the same seed gives the same weights.
        bits = self.codebook_dim * num_codebooks
        self.dim = options.default(dim, bits)
        self.has_projections = options.has_projections(has_projections, self.dim, bits)
        self.project_in: nn.Module = nn.Identity()
        self.project_out: nn.Module = nn.Identity()
        if self.has_projections:
            if cosine_sim_project_in:
                scale = options.default(cosine_sim_project_in_scale, codebook_scale)
                self.project_in = CosineProjection(self.dim, bits, scale=scale)
            else:
                self.project_in = nn.Linear(self.dim, bits, bias=projection_has_bias)
            self.project_out = nn.Linear(bits, self.dim, bias=projection_has_bias)

        self.orthogonal_rotation = orthogonal_rotation
        if orthogonal_rotation:
            rotation = nn.init.orthogonal_(torch.empty(self.codebook_dim, self.codebook_dim))
            self.register_buffer("orthogonal_rot", rotation)
        self.register_buffer("mask", _place_values(self.codebook_dim, bit_order))
        self.register_buffer("zero", torch.tensor(0.0), persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that decoding computes in: float32 until the module is converted."""
        return self.zero.dtype

    @property
    def codebook_dims(self) -> tuple[int, ...]:
        """Bits of each index of one vector."""
        return self.factorized_bits or (self.codebook_dim,) * self.num_codebooks

    @property
    def bit_order(self) -> BitOrder:
        """Whether bit 0 is the most or least significant bit of an index: as the mask says if it has several bits."""
        if self.codebook_dim == 1:
            return self._bit_order
        return "lsb" if int(self.mask[0]) == 1 else "msb"

    @property
    def codebook(self) -> Tensor:
        """Every code [2^D, D] float32; row i is that of the uncut index i. ±s even if spherical, as in the reference.

        Built at each access. Raises LfqError for more than MAX_CODEBOOK_BITS bits.
        """
        if self.codebook_dim > MAX_CODEBOOK_BITS:
            raise LfqError(
                f"a codebook of 2^{self.codebook_dim} codes does not fit in memory; "
                f"at most {MAX_CODEBOOK_BITS} bits are possible",
                hint="indices_to_codes gives the codes of the indices you need",
            )
        indices = torch.arange(self.codebook_size, device=self.mask.device)
        codes = torch.empty(self.codebook_size, self.codebook_dim, device=self.mask.device)
        for column, value in zip(codes.unbind(1), self.mask, strict=True):  # without a second table, of int64
            column.copy_(self.bits_to_codes((indices & value) != 0))
        return codes

    # x -> z -> bits -> indices

    def project(self, x: Tensor) -> Tensor:
        """x [..., dim] -> z [..., c, d], whose signs are the bits; in the dtype of x, differentiable.

        Raises ValueError for a wrong number of features and TypeError for integers.
        """
        check_features(x, dim=self.dim, axis=-1, channel_first=self.channel_first)
        z = self.project_in(x)
        if self.soft_clamp_input_value is not None:
            z = (z / self.soft_clamp_input_value).tanh() * self.soft_clamp_input_value
        z = rearrange(z, "... (c d) -> ... c d", c=self.num_codebooks)
        if self.orthogonal_rotation:
            z = z @ self._rotation(z.dtype)
        return self._to_sphere(z)

    @torch.no_grad()
    def latents(self, x: Tensor) -> Tensor:
        """x [n, dim] -> z [n, C*D] float32, codebook 0 first: the vectors whose signs are the bits.

        Computed in `self.dtype` (float32 unless the module was converted), whatever the dtype of x, and without
        autocast.
        """
        with without_autocast(x.device):
            z = self.project(x.to(self.dtype))
        return rearrange(z.float(), "n c d -> n (c d)")

    def encode_bits(self, x: Tensor) -> Tensor:
        """x [n, dim] -> bits [n, C*D] bool, codebook 0 first; NaN, 0 and -0.0 give False."""
        return self.latents(x) > 0

    def _bits_to_indices(self, bits: Tensor) -> Tensor:
        """bits [n, c, d] bool -> indices [n, i] int64, exact for every D; 64 bits wrap to two's complement."""
        if self.factorized_bits is None:
            return reduce(bits * self.mask, "n c d -> n c", "sum")
        parts = torch.split(rearrange(bits, "n c d -> n (c d)"), list(self.factorized_bits), dim=-1)
        summed = [reduce(part * values, "n d -> n", "sum") for part, values in zip(parts, self._places(), strict=True)]
        return torch.stack(summed, dim=-1)

    def _indices_to_bits(self, indices: Tensor) -> Tensor:
        """indices [..., i] -> bits [n, C*D] bool, codebook 0 first; the inverse of `_bits_to_indices`."""
        indices = rearrange(indices.to(torch.int64), "... i -> (...) i 1")
        if self.factorized_bits is None:
            return rearrange((indices & self.mask) != 0, "n c d -> n (c d)")
        parts = zip(indices.unbind(dim=1), self._places(), strict=True)
        return torch.cat([(part & values) != 0 for part, values in parts], dim=-1)

    def _places(self) -> list[Tensor]:
        """The place values of the bits [d] of each index of a cut vector."""
        order = self.bit_order
        return [_place_values(bits, order).to(self.mask.device) for bits in self.codebook_dims]

    # indices -> bits -> codes -> x

    def bits_to_codes(self, bits: Tensor) -> Tensor:
        """bits [...] of 0 and 1, any dtype -> codes [...] of ±s, not normalised; float32 or the float dtype of bits."""
        bits = bits if bits.is_floating_point() else bits.to(torch.float32)
        return (2 * bits - 1) * self.codebook_scale

    def decode_bits(self, bits: Tensor, project_out: bool = True) -> Tensor:
        """bits [n, C*D] bool, codebook 0 first -> vectors [n, dim], or [n, C*D] if not project_out.

        The result is what `forward` returns in eval mode for vectors with these bits, bit for bit: it runs the same
        code.
        """
        bits = rearrange(bits, "n (c d) -> n c d", c=self.num_codebooks, d=self.codebook_dim)
        codes = self._codes(bits, dtype=torch.float32 if self.force_quantization_f32 else self.dtype)
        return self._unproject(codes.to(self.dtype), project_out=project_out)

    def bits_to_latents(self, bits: Tensor, *, dtype: torch.dtype) -> Tensor:
        """bits [n, C*D] bool -> their codes as z [n, C*D], computed in `dtype`, without autocast."""
        bits = rearrange(bits, "n (c d) -> n c d", c=self.num_codebooks, d=self.codebook_dim)
        with without_autocast(bits.device):
            return self._unproject(self._codes(bits, dtype=dtype), project_out=False)

    def indices_to_codes(self, indices: Tensor, project_out: bool = True) -> Tensor:
        """indices [...], or [..., i] if keep_num_codebooks_dim -> vectors [..., dim] (C*D if not project_out).

        Channels go to axis 1 if `channel_first` (unset: if the result has 4 axes or more). Raises ValueError for
        indices out of range, TypeError for indices that are not integers.
        """
        self._check_indices(indices)
        if not self.keep_num_codebooks_dim:
            indices = rearrange(indices, "... -> ... 1")
        codes = self.decode_bits(self._indices_to_bits(indices), project_out=project_out)
        return self._from_vectors(codes, indices.shape[:-1])

    def _codes(self, bits: Tensor, *, dtype: torch.dtype) -> Tensor:
        """bits [..., d] bool -> codes [..., d], normalised if spherical, before any rotation."""
        return self._to_sphere(self.bits_to_codes(bits.to(dtype)))

    def _to_sphere(self, t: Tensor) -> Tensor:
        """t [..., d] -> t, of length s if spherical. For codes, s / sqrt(D) would be an ulp off at D = 6, 7, 17, 18."""
        return F.normalize(t, dim=-1) * self.codebook_scale if self.spherical else t

    def _rotation(self, dtype: torch.dtype) -> Tensor:
        """`orthogonal_rot` for vectors of `dtype`; not converted to half precision, which would change tokens."""
        return self.orthogonal_rot if torch.finfo(dtype).bits < 32 else self.orthogonal_rot.to(dtype)

    def _unproject(self, codes: Tensor, *, project_out: bool = True) -> Tensor:
        """codes [n, c, d] -> vectors [n, dim] (C*D if not project_out)."""
        if self.orthogonal_rotation:
            codes = codes @ self._rotation(codes.dtype).T
        vectors = rearrange(codes, "n c d -> n (c d)")
        projected: Tensor = self.project_out(vectors) if project_out else vectors
        return projected

    # everything together

    def forward(
        self,
        x: Tensor,
        inv_temperature: float = 100.0,
        return_loss_breakdown: bool = False,
        mask: Tensor | None = None,
    ) -> Return | tuple[Return, LossBreakdown]:
        """x, of any ndim >= 1 -> (quantized like x, indices, loss), and a LossBreakdown if return_loss_breakdown.

        In training, gradients pass straight through to x, and the loss is that of the vectors that `mask` selects:
        bool, with one or more leading axes of x without channels, or [b, n] with all axes but the first flattened. In
        eval mode losses are 0.

        Raises ValueError for shapes that do not fit, LfqError for a batch entropy of too many bits.
        """
        vectors, shape = self._to_vectors(x)
        z = self.project(vectors)
        with without_autocast(x.device) if self.force_quantization_f32 else nullcontext():
            latents = z.float() if self.force_quantization_f32 else z
            bits = latents > 0
            codes = self._codes(bits, dtype=latents.dtype)
            losses = self._losses(
                latents,
                codes,
                counted=None if mask is None else mask_vectors(mask, shape),
                inv_temperature=inv_temperature,
                report=return_loss_breakdown,
            )
            rounded = self._straight_through(latents, codes) if self.training else codes
        quantized = self._from_vectors(self._unproject(rounded.to(z.dtype)), shape)
        indices = self._from_index_vectors(self._bits_to_indices(bits), shape)
        result = Return(quantized, indices, self._weigh(losses))
        return (result, losses) if return_loss_breakdown else result

    def _straight_through(self, latents: Tensor, codes: Tensor) -> Tensor:
        """A tensor with the value of `codes` and the gradient of `activation(latents)`; all [n, c, d]."""
        passed = self.activation(latents)
        return passed + (codes - passed).detach()

    # layouts: everything above works on [n, dim]; `shape` is that of the vectors' tensor without channels

    def _is_channel_first(self, ndim: int) -> bool:
        """Whether the channels of a tensor of `ndim` axes are on axis 1; with fewer than 3 axes they are last."""
        return usual_axis(ndim, self.channel_first) != ndim - 1

    def _to_vectors(self, x: Tensor) -> tuple[Tensor, torch.Size]:
        """x, in its layout -> (vectors [n, dim], the shape of x without channels)."""
        channel_first = self._is_channel_first(x.ndim)
        check_features(x, dim=self.dim, axis=1 if channel_first else -1, channel_first=self.channel_first)
        if channel_first:
            x = rearrange(x, "b d ... -> b ... d")
        return rearrange(x, "... d -> (...) d"), x.shape[:-1]

    def _from_vectors(self, vectors: Tensor, shape: torch.Size) -> Tensor:
        """vectors [n, dim] -> a tensor in the layout of x: the inverse of `_to_vectors`."""
        x = vectors.reshape((*shape, vectors.shape[-1]))
        return rearrange(x, "b ... d -> b d ...") if self._is_channel_first(x.ndim) else x

    def _from_index_vectors(self, indices: Tensor, shape: torch.Size) -> Tensor:
        """indices [n, i] -> [..., i], or [...] without keep_num_codebooks_dim."""
        return indices.reshape((*shape, *indices.shape[1:]) if self.keep_num_codebooks_dim else shape)

    # losses

    def _losses(
        self,
        latents: Tensor,
        codes: Tensor,
        *,
        counted: Tensor | None,
        inv_temperature: float,
        report: bool,
    ) -> LossBreakdown:
        """The unweighted losses of latents and codes [n, c, d], over the vectors that `counted` [n] bool selects."""
        if not self.training:
            return LossBreakdown(self.zero, self.zero, self.zero)
        if counted is not None:
            latents, codes = latents[counted], codes[counted]
        commitment = self._commitment(latents, codes) if self.commitment_loss_weight > 0 else self.zero
        return LossBreakdown(*self._entropies(latents, inv_temperature, report), commitment)

    def _commitment(self, latents: Tensor, codes: Tensor) -> Tensor:
        """The mean squared difference of latents and codes, both [n, c, d]; 0 for no vectors."""
        return (latents - codes.detach()).square().sum() / max(latents.numel(), 1)

    def _entropies(self, latents: Tensor, inv_temperature: float, report: bool) -> tuple[Tensor, Tensor]:
        """Per-sample and batch entropy of latents [n, c, d]; if their weight is 0, only for a report, if possible."""
        group_bits = min(self.codebook_dim, self.entropy_group_size or self.codebook_dim)
        reported = report and group_bits <= entropy.MAX_EXACT_ENTROPY_BITS
        if self.entropy_loss_weight == 0 and not reported:
            return self.zero, self.zero
        sample = self._sample(latents)
        logits = entropy.bit_logits(
            sample if sample.dtype == torch.float64 else sample.float(),
            magnitude=self.codebook_scale / (math.sqrt(self.codebook_dim) if self.spherical else 1),
            inv_temperature=inv_temperature,
        )
        return entropy.per_sample_entropy(logits), entropy.batch_entropy(logits, group_size=self.entropy_group_size)

    def _sample(self, latents: Tensor) -> Tensor:
        """latents [n, c, d] -> a random share `frac_per_sample_entropy`, at least one; drawn as in the reference."""
        vectors = latents.shape[0]
        if self.frac_per_sample_entropy == 1 or vectors == 0:
            return latents
        count = max(int(vectors * self.frac_per_sample_entropy), 1)
        return latents[torch.randn(vectors).argsort(dim=-1) < count]

    def _weigh(self, losses: LossBreakdown) -> Tensor:
        """The auxiliary loss: low for confident vectors, diverse batches and latents near their codes."""
        aux = losses.per_sample_entropy - self.diversity_gamma * losses.batch_entropy
        if self.training and self.experimental_softplus_entropy_loss:
            aux = F.softplus(aux + self.entropy_loss_offset)
        return aux * self.entropy_loss_weight + losses.commitment * self.commitment_loss_weight

    def save_pretrained(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Saves a native checkpoint, which `lfq_cli.load` and the command line read.

        It is a file if `path` ends in .safetensors, else a folder. Raises OutputError if something is in the way.
        """
        from lfq_cli import native

        native.write(self.to_quantizer(), Path(path), overwrite=overwrite)

    def to_quantizer(self) -> Quantizer:
        """The record for a checkpoint, with a copy of the weights in float32."""
        own = {"num_codebooks": self.num_codebooks, "factorized_bits": self.factorized_bits}
        return Quantizer(**self.facts() | own, weights=weights_of(self))

    def facts(self) -> dict[str, Any]:
        """The fields of a quantizer's record that describe this module, except codebooks and weights."""
        cosine = self.project_in if isinstance(self.project_in, CosineProjection) else None
        return {
            "dim": self.dim,
            "codebook_dim": self.codebook_dim,
            "keep_num_codebooks_dim": self.keep_num_codebooks_dim,
            "codebook_scale": self.codebook_scale,
            "soft_clamp_input_value": self.soft_clamp_input_value,
            "cosine_sim_project_in": cosine is not None,
            "cosine_sim_project_in_scale": None if cosine is None else cosine.scale,
            "channel_first": self.channel_first,
            "spherical": self.spherical,
            "bit_order": self.bit_order,
        }

    # checks

    def _check_indices(self, indices: Tensor) -> None:
        if indices.is_floating_point() or indices.is_complex():
            raise TypeError(f"indices must be integers, found {indices.dtype}")
        dims = self.codebook_dims
        if self.keep_num_codebooks_dim and (indices.ndim == 0 or indices.shape[-1] != len(dims)):
            raise ValueError(
                f"expected {len(dims)} indices on the last axis, of {', '.join(map(str, dims))} bits, "
                f"found shape {tuple(indices.shape)}"
            )
        if self.factorized_bits is None:
            _check_range(indices, self.codebook_dim)
            return
        for part, bits in zip(indices.unbind(dim=-1) if self.keep_num_codebooks_dim else [indices], dims, strict=True):
            _check_range(part, bits)


def _place_values(bits: int, order: BitOrder) -> Tensor:
    """The place values of the bits of an index [bits] int64; of 64 bits, the highest is -2^63."""
    values = torch.ones((), dtype=torch.int64) << torch.arange(bits)
    return values if order == "lsb" else values.flip(0)


def _check_range(indices: Tensor, bits: int) -> None:
    """Raises ValueError if an index is not in [0, 2^bits)."""
    if bits == options.MAX_BITS or indices.numel() == 0:
        return
    low, high = (int(bound) for bound in torch.aminmax(indices.to(torch.int64)))
    if low < 0 or high >= 2**bits:
        raise ValueError(f"indices must lie in [0, 2^{bits}), found from {low} to {high}")
