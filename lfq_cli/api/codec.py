"""`Codec`: a checkpoint in Python, from arrays to tokens and back."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lfq_cli import backends, checkpoints
from lfq_cli.api.arrays import is_torch, tensor_of
from lfq_cli.api.tokens import Tokens, stream_of
from lfq_cli.bits import BitOrder
from lfq_cli.checkpoints import Facts
from lfq_cli.codesfile import CodesHeader, CodesTensor, SourceInfo
from lfq_cli.dtypes import PLAIN_FLOATS
from lfq_cli.errors import LfqNote, OptionError, TensorError
from lfq_cli.floats import FORMATS
from lfq_cli.jobs.encode import require_certain_bits
from lfq_cli.layout import Layout, positions_shape
from lfq_cli.matching import fitting_axis
from lfq_cli.pipeline.encode import EncodeTask, Encoding
from lfq_cli.pipeline.workers import start_workers
from lfq_cli.quantizer import Quantizer
from lfq_cli.storage.urlpath import path_of

if TYPE_CHECKING:
    from lfq_cli.nn.saved import AnyLFQ

_DECODED_VALUES = 1 << 22


def load(
    path: str | Path,
    *,
    module: str | None = None,
    family: str | None = None,
    codebook_scale: float | None = None,
    spherical: bool | None = None,
    soft_clamp: float | Literal["none"] | None = None,
    num_codebooks: int | None = None,
    codebook_dims: Sequence[int] | None = None,
    keep_num_codebooks_dim: bool | None = None,
    bit_order: BitOrder | None = None,
    cosine: bool | None = None,
    cosine_scale: float | None = None,
    channel_first: bool | None = None,
    device: str = "auto",
    compute_dtype: str = "float32",
) -> Codec:
    """The quantizer saved at `path`, any checkpoint that the command line reads.

    Facts that a state dict does not hold are given as with the command line's options (`lfq encode --help`). Warns
    (LfqNote) of assumptions. Raises CheckpointError for any other file, or where a fact is missing.
    """
    facts = Facts(
        module,
        family,
        codebook_scale,
        spherical,
        soft_clamp,
        num_codebooks,
        None if codebook_dims is None else codebook_dims,  # type: ignore[arg-type]  # any sequence
        keep_num_codebooks_dim,
        bit_order,
        cosine,
        cosine_scale,
        channel_first,
    )
    quantizer = checkpoints.load(path_of(path), facts)
    if quantizer.assumed:
        warnings.warn("; ".join(quantizer.assumption_text()), LfqNote, stacklevel=2)
    return Codec(quantizer, device=device, compute_dtype=compute_dtype)


class Codec:
    """A quantizer that encodes and decodes arrays, with exactly the tokens of the command line.

    quantizer: the checkpoint's record. Other attributes are those of `module`, the torch module in eval mode, so a
    codec can replace the module: `codec(x)`, `codec.indices_to_codes(indices)`.
    """

    def __init__(self, quantizer: Quantizer, *, device: str = "auto", compute_dtype: str = "float32") -> None:
        """device: "auto", "cpu", "cuda", "cuda:N", "mps". compute_dtype: of products."""
        self.quantizer = quantizer
        self._device = device
        self._compute_dtype = compute_dtype

    @cached_property
    def module(self) -> AnyLFQ:
        """The torch module in eval mode, on the CPU in float32."""
        from lfq_cli.nn.saved import module_of

        return module_of(self.quantizer)

    def encode(
        self,
        x: Any,
        *,
        layout: Layout | None = None,
        channel_axis: int | None = None,
        nan: Literal["error", "zero"] = "error",
    ) -> Tokens:
        """Floats of numpy or torch, [..., D] or [b, D, ...] or as `layout` or `channel_axis` say -> tokens.

        Any float dtype; torch tensors on any device. Raises TensorError if there are not D features, and for NaN and
        infinite values that a projection turns into NaN, unless `nan="zero"`, which encodes NaN as bit 0.
        """
        if layout is not None and channel_axis is not None:
            raise OptionError("layout and channel_axis both say where the features are", "give one of them")
        tensor = tensor_of("x", x)
        if tensor.dtype not in FORMATS:
            raise TensorError(f"'x' holds {tensor.dtype}", "expected floats")
        axis = fitting_axis("'x'", tensor.shape, self.quantizer, layout if channel_axis is None else channel_axis)
        quantizer = self.quantizer
        require_certain_bits(quantizer)
        source = SourceInfo(tensor.shape, tensor.dtype, axis.number, axis.is_assumed)
        shape = positions_shape(tensor.shape, axis.number) + quantizer.index_tail
        info = CodesTensor("x", shape, quantizer.codebook_dims, quantizer.bit_order, "bits", "U8", source)
        backend = backends.select(self._device, quantizer, self._compute_dtype, decoding=False)
        task = EncodeTask(Path("x"), tensor, axis.number, backend, zero_nan=nan == "zero")
        with start_workers() as workers, backend.working():
            encoding = Encoding(task, info, workers, lambda _: None)
            with closing(encoding.runs()) as runs:
                parts = [np.array(run) for run in runs]
        packed = np.concatenate(parts) if parts else np.empty(0, np.uint8)
        return Tokens(
            packed,
            info.positions,
            info.codebook_dims,
            info.bit_order,
            axis.number,
            tensor.dtype,
            self.header(backend.compute_dtype),
            quantizer.index_tail,
        )

    def header(self, compute_dtype: str) -> CodesHeader:
        """The checkpoint's entry in a codes file of these tokens."""
        quantizer = self.quantizer
        return CodesHeader(quantizer.config(), quantizer.digest, compute_dtype, {}, quantizer.assumptions())

    def decode(
        self,
        tokens: Any,
        *,
        dtype: Literal["float32", "float16", "bfloat16", "float64"] = "float32",
        channel_axis: int | None = None,
        project_out: bool = True,
    ) -> Any:
        """Tokens, or plain indices grouped as in the checkpoint -> floats, in the layout of the encoded tensor.

        Plain indices [..., codebooks], or [...] for one codebook, give [..., D], or D on `channel_axis`. The result is
        a torch tensor for torch indices and for bfloat16, else a numpy array. project_out False gives the codes before
        projection.
        """
        dims, order = self.quantizer.codebook_dims, self.quantizer.bit_order
        wants_torch = is_torch(tokens) or dtype == "bfloat16"
        if not isinstance(tokens, Tokens):
            array = tokens.detach().cpu().numpy() if is_torch(tokens) else np.asarray(tokens)
            tail = len(self.quantizer.index_tail)
            positions = array.shape[: array.ndim - tail]
            if array.shape[array.ndim - tail :] != self.quantizer.index_tail:
                raise OptionError(f"indices are {list(array.shape)}, expected [..., {len(dims)}]")
            tokens = Tokens(stream_of(array, dims, order), positions, dims, order)
        if tokens.bits_per_vector != self.quantizer.bits_per_vector:
            raise OptionError(
                f"tokens have {tokens.bits_per_vector} bits a vector, the checkpoint {self.quantizer.bits_per_vector}"
            )
        axis = tokens.channel_axis if channel_axis is None else channel_axis
        raw = self._decoded(tokens, axis % (len(tokens.positions) + 1), PLAIN_FLOATS[dtype], project_out=project_out)
        if not wants_torch:
            return raw
        import torch

        return torch.from_numpy(raw).view(torch.bfloat16) if dtype == "bfloat16" else torch.from_numpy(raw)

    def _decoded(self, tokens: Tokens, axis: int, dtype: str, *, project_out: bool) -> NDArray[Any]:
        """The floats as stored, with features on `axis`, several items at a time."""
        from lfq_cli.bits import cut_stream

        spec, width = FORMATS[dtype], self.quantizer.bits_per_vector
        positions = tokens.positions
        outer, inner = (int(np.prod(sizes, dtype=np.int64)) for sizes in (positions[:axis], positions[axis:]))
        channels = self.quantizer.dim if project_out else self.quantizer.code_dim
        out = np.empty((outer, channels, inner), spec.storage)
        backend = backends.select(self._device, self.quantizer, self._compute_dtype, decoding=True)
        step = max(1, _DECODED_VALUES // max(channels * inner, 1))
        with backend.working():
            for first in range(0, outer if inner else 0, step):
                last = min(first + step, outer)
                begin, end = first * inner * width, last * inner * width
                stream = cut_stream(tokens.packed[begin // 8 : -(-end // 8)], begin % 8, end - begin)
                out[first:last] = backend.decode(stream, last - first, inner, spec, project_out=project_out)
        shaped = out.reshape(*positions[:axis], channels, *positions[axis:])
        return shaped.view(np.float16) if dtype == "F16" else shaped

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """The module's result."""
        return self.module(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("quantizer", "module"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.module, name)

    def __repr__(self) -> str:
        quantizer = self.quantizer
        cut = "+".join(map(str, quantizer.codebook_dims))
        return f"<Codec: {quantizer.dim} features to {cut} bits, {quantizer.bit_order} first, {quantizer.digest[:12]}>"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<code>{escape(repr(self))}</code>"
