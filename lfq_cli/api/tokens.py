"""`Tokens`: codes in memory, as the bit stream of a codes file; every other form is made from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lfq_cli.bits import MAX_INDEX_BITS, BitOrder, Indices, Packed, indices_to_bits, pack, stream_to_indices, unpack
from lfq_cli.codesfile import CodesHeader, CodesTensor, MadeFrom, SourceInfo, TensorCodes, check_cut, create
from lfq_cli.errors import OptionError
from lfq_cli.storage.urlpath import path_of
from lfq_cli.wording import counted

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Tokens:
    """Codes of one tensor. `packed` is the stream: bits of vector 0, then of vector 1, ..., uint8, with a zero tail.

    positions: the tensor's shape without its features, which were on `channel_axis`. dims, order: how a vector's bits
    are grouped into indices. Two are equal if their bits and positions are.
    """

    packed: Packed
    positions: tuple[int, ...]
    dims: tuple[int, ...]
    order: BitOrder
    channel_axis: int = -1
    source_dtype: str = "F32"
    checkpoint: CodesHeader | None = None
    """What made them, for `save`."""
    tail: tuple[int, ...] | None = None
    """The last axes of `indices`; None: one for the codebooks where there are several."""

    @classmethod
    def of(cls, codes: TensorCodes) -> Tokens:
        """All codes of a tensor in a codes file: `Tokens.of(open_codes(path)["latents"])`."""
        info = codes.info
        axis, dtype = info.channel_axis, info.source.dtype
        return cls(codes.stream(0, info.vectors), info.positions, info.codebook_dims, info.bit_order, axis, dtype)

    @property
    def vectors(self) -> int:
        """The number of vectors."""
        return prod(self.positions)

    @property
    def bits_per_vector(self) -> int:
        """B, the bits of a vector."""
        return sum(self.dims)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of `indices`: the positions, and an axis for the codebooks where there are several."""
        tail = self.tail if self.tail is not None else () if len(self.dims) == 1 else (len(self.dims),)
        return self.positions + tail

    @cached_property
    def indices(self) -> Indices:
        """Indices in this grouping: int64 (uint64 for 64 bits), of `shape`."""
        dtype = np.dtype(np.uint64 if max(self.dims) == MAX_INDEX_BITS else np.int64)
        return stream_to_indices(self.packed, self.vectors, self.dims, self.order, dtype).reshape(self.shape)

    @cached_property
    def bits(self) -> NDArray[np.bool_]:
        """Bits in channel order: bool [*positions, B]."""
        return unpack(self.packed, self.vectors, self.bits_per_vector).reshape(*self.positions, self.bits_per_vector)

    def cut(self, dims: Sequence[int] | None = None, order: BitOrder | None = None) -> Tokens:
        """The same tokens with other indices. Raises OptionError unless dims use every bit of a vector once."""
        if order not in (None, "msb", "lsb"):
            raise OptionError(f"order {order!r} is unknown", 'expected "msb" or "lsb"')
        if dims is None:
            return replace(self, order=order or self.order)
        cut = check_cut(tuple(dims), self.bits_per_vector)
        return replace(self, dims=cut, order=order or self.order, tail=self.tail if cut == self.dims else None)

    def torch(self) -> Tensor:
        """The indices as a torch tensor, int64 [*shape]."""
        import torch

        return torch.from_numpy(self.indices.astype(np.int64, copy=False))

    def save(self, path: str | Path, *, name: str = "data", overwrite: bool = False) -> None:
        """Writes a codes file with these tokens as tensor `name`. Raises OutputError if it cannot be written."""
        if self.checkpoint is None:
            raise OptionError(
                "these tokens do not say which checkpoint made them", "save tokens that Codec.encode returned"
            )
        axis = self.channel_axis % (len(self.positions) + 1)
        features = self.checkpoint.quantizer["dim"]
        source = SourceInfo((*self.positions[:axis], features, *self.positions[axis:]), self.source_dtype, axis)
        info = CodesTensor(name, self.shape, self.dims, self.order, "bits", "U8", source)
        header = replace(
            self.checkpoint, tensors={name: info}, made_from=MadeFrom(0, "error", options={"from": "python"})
        )
        with create(path_of(path), header, overwrite=overwrite) as writer, writer.tensor(name) as out:
            out.append(self.packed)

    def __len__(self) -> int:
        if not self.positions:
            raise TypeError("a single vector's tokens have no length")
        return self.positions[0]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tokens):
            return NotImplemented
        return (self.positions, self.bits_per_vector) == (other.positions, other.bits_per_vector) and np.array_equal(
            self.packed, other.packed
        )

    __hash__ = None  # type: ignore[assignment]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Indices:
        return self.indices if dtype is None else self.indices.astype(dtype)

    def __repr__(self) -> str:
        cut = "+".join(map(str, self.dims))
        return (
            f"<Tokens: {list(self.positions)} of {cut} bits, {self.order} first, {counted(self.packed.nbytes, 'byte')}>"
        )


def stream_of(indices: Any, dims: tuple[int, ...], order: BitOrder) -> Packed:
    """Plain indices [..., len(dims)], or [...] for one codebook, as a stream. Raises OptionError outside a codebook."""
    array = np.asarray(indices)
    if array.dtype.kind not in "iu":
        raise OptionError(f"indices are {array.dtype}, expected integers")
    rows = array.reshape(-1, len(dims))
    for k, bits in enumerate(dims):
        column = rows[:, k]
        if column.size and (int(column.min()) < 0 or int(column.max()) >= 2**bits):
            raise OptionError(
                f"indices of codebook {k} are {column.min()} to {column.max()}, expected 0 to {2**bits - 1}"
            )
    return pack(indices_to_bits(rows, dims, order))
