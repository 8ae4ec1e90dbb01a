"""Stages for Ray Data: `dataset.map_batches(Encoder, fn_constructor_args=("lfq.safetensors",), ...)`.

`map_batches` constructs these callable classes once in each of its actors. A batch is a dict of arrays with a row per
sample; a column of tensors is an array [n, ...], or an object array [n] if shapes differ. Nothing here imports Ray.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lfq_cli.api.codec import load
from lfq_cli.api.tokens import Tokens
from lfq_cli.bits import index_dtype
from lfq_cli.cpus import use_threads
from lfq_cli.errors import OptionError
from lfq_cli.packings import PACKINGS

Array: TypeAlias = NDArray[Any]
Batch: TypeAlias = dict[str, Array]


class Encoder:
    """Replaces the column of floats in a batch by a column of their tokens."""

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        column: str = "data",
        into: str = "tokens",
        channel_axis: int | None = None,
        packing: Literal["ints", "rows"] = "ints",
        nan: Literal["error", "zero"] = "error",
        keep: bool = False,
        **options: Any,
    ) -> None:
        """channel_axis: the features' axis in one sample; unset: by the rule for a batch, [n, D, ...] or [n, ..., D].

        packing: "ints" gives indices [n, ...] in the smallest integers that hold them; "rows" gives uint8
        [n, ..., bytes], every vector starting at a byte. keep: keep the column of floats. options: those of
        `lfq_cli.load`.
        """
        self._codec = load(checkpoint, **options)
        self._column, self._into, self._keep = column, into, keep
        self._axis = channel_axis
        self._packing = packing
        self._nan: Literal["error", "zero"] = nan

    def __call__(self, batch: Batch) -> Batch:
        """The batch with its tokens. Raises LfqError as `Codec.encode` does."""
        return _replaced(batch, self._column, self._into, self._encode, keep=self._keep)

    def _encode(self, x: Array) -> Array:
        axis = self._axis if self._axis is None or self._axis < 0 else self._axis + 1
        tokens = self._codec.encode(x, channel_axis=axis, nan=self._nan)
        if PACKINGS[self._packing].holds_indices:
            return tokens.indices.astype(index_dtype(tokens.dims))
        vectors = int(np.prod(tokens.positions, dtype=np.int64))
        rows = PACKINGS["rows"].pack(tokens.packed, vectors, tokens.dims, tokens.order, np.dtype(np.uint8))
        return rows.reshape(*tokens.positions, -1 if vectors else -(-tokens.bits_per_vector // 8))


class Decoder:
    """Replaces the column of tokens in a batch by a column of the floats that they decode to."""

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        column: str = "tokens",
        into: str = "data",
        channel_axis: int = -1,
        packing: Literal["ints", "rows"] = "ints",
        dtype: Literal["float32", "float16", "float64"] = "float32",
        keep: bool = False,
        **options: Any,
    ) -> None:
        """channel_axis: the features' axis in one sample. packing: as for `Encoder`. options: of `lfq_cli.load`."""
        self._codec = load(checkpoint, **options)
        self._column, self._into, self._keep = column, into, keep
        self._axis = channel_axis
        self._packing = packing
        self._dtype: Literal["float32", "float16", "float64"] = dtype

    def __call__(self, batch: Batch) -> Batch:
        """The batch with its floats. Raises LfqError as `Codec.decode` does."""
        return _replaced(batch, self._column, self._into, self._decode, keep=self._keep)

    def _decode(self, array: Array) -> Array:
        tokens: Any = array
        if not PACKINGS[self._packing].holds_indices:
            quantizer = self._codec.quantizer
            positions, dims, order = array.shape[:-1], quantizer.codebook_dims, quantizer.bit_order
            if array.dtype != np.uint8 or array.shape[-1] != -(-quantizer.bits_per_vector // 8):
                raise OptionError(
                    f"{self._column!r} is {array.dtype} {list(array.shape)}, expected uint8 [..., "
                    f"{-(-quantizer.bits_per_vector // 8)}]"
                )
            vectors = int(np.prod(positions, dtype=np.int64))
            tokens = Tokens(PACKINGS["rows"].unpack(array, vectors, dims, order), positions, dims, order)
        axis = self._axis if self._axis < 0 else self._axis + 1
        decoded: Array = self._codec.decode(tokens, dtype=self._dtype, channel_axis=axis)
        return decoded


def _replaced(batch: Batch, column: str, into: str, work: Callable[[Array], Array], *, keep: bool) -> Batch:
    """The batch with work(column) as the column `into`, and without the original column unless `keep` is set."""
    with use_threads(_threads()):
        made = _mapped(work, _column(batch, column))
    rest = {name: each for name, each in batch.items() if keep or name != column}
    return rest | {into: made}


def _column(batch: Batch, name: str) -> Array:
    if name not in batch:
        raise OptionError(f"the batch has no column {name!r}", f"it has {', '.join(map(repr, batch))}")
    return np.asarray(batch[name])


def _mapped(work: Callable[[Array], Array], column: Array) -> Array:
    """work(column); if shapes differ, sample by sample."""
    if column.dtype != object:
        return work(column)
    done = np.empty(len(column), object)
    for k, sample in enumerate(column):
        done[k] = work(np.asarray(sample)[None])[0]
    return done


def _threads() -> int | None:
    """The number of CPUs that Ray gave this actor; None outside Ray."""
    ray: Any = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    return max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))
