"""What a codes file says of itself: records and their JSON."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np

from lfq_cli.bits import BitOrder, index_dtype, stream_bytes
from lfq_cli.container import DTYPES
from lfq_cli.errors import OptionError
from lfq_cli.layout import positions_shape
from lfq_cli.quantizer import canonical_json

FORMAT = "lfq-codes"
SUFFIX = ".codes.safetensors"
HEADER_DIGEST = "header_sha256"
INT_NAMES = {DTYPES[name]: name for name in ("U8", "I16", "I32", "I64", "U64")}
"""numpy's integers -> the container's names for those in which indices are stored."""

MOST_VALUES = 2**63 - 1
NO_DIGEST = "0" * 64
"""What stands for a digest before there is one."""


@dataclass(frozen=True)
class SourceInfo:
    """The tensor that was encoded; its features are on `channel_axis`, which nobody told if it `axis_is_assumed`."""

    shape: tuple[int, ...]
    dtype: str
    channel_axis: int
    axis_is_assumed: bool = False

    @property
    def layout(self) -> str | None:
        """How version 1 says where the features are; None where it cannot."""
        if self.axis_is_assumed:
            return None
        if self.channel_axis == len(self.shape) - 1:
            return "channel-last"
        return "channel-first" if self.channel_axis == 1 else None

    def entry(self, version: int) -> dict[str, Any]:
        """The object in the header."""
        told: dict[str, Any] = {"shape": list(self.shape), "dtype": self.dtype}
        if version == 1:
            return told | {"layout": self.layout}
        told["channel_axis"] = self.channel_axis
        return told | {"axis_is_assumed": True} if self.axis_is_assumed else told


@dataclass(frozen=True)
class MadeFrom:
    """The file that the codes were made from, and what was done about NaN: "error", or "zero", as which they count.

    zeroed: how many values were NaN. `fingerprint` is what fingerprint.py says of the file.
    """

    nbytes: int
    nan: str
    zeroed: int = 0
    fingerprint: str = NO_DIGEST

    def entry(self) -> dict[str, Any]:
        """The object in the header."""
        return {
            "bytes": self.nbytes,
            "fingerprint": self.fingerprint,
            "nan": {"policy": self.nan, "zeroed": self.zeroed},
        }


@dataclass(frozen=True)
class CodesTensor:
    """One tensor's codes. `shape` is the index tensor's; `dtype` that of the stored bytes."""

    name: str
    shape: tuple[int, ...]
    codebook_dims: tuple[int, ...]
    bit_order: BitOrder
    packing: str
    dtype: str
    source: SourceInfo
    sha256: str = NO_DIGEST

    @property
    def positions(self) -> tuple[int, ...]:
        """The index shape without its codebook axis."""
        return positions_shape(self.source.shape, self.source.channel_axis)

    @property
    def vectors(self) -> int:
        """Encoded vectors."""
        return prod(self.positions)

    @property
    def bits_per_vector(self) -> int:
        """B: the bits of all indices of one vector."""
        return sum(self.codebook_dims)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of the stored bytes in the container."""
        if self.packing == "bits":
            return (stream_bytes(self.vectors, self.bits_per_vector),)
        if self.packing == "rows":
            return (*self.positions, -(-self.bits_per_vector // 8))
        return self.shape

    @property
    def stored_bytes(self) -> int:
        """Bytes of the codes in the file."""
        return prod(self.stored_shape) * DTYPES[self.dtype].itemsize

    def entry(self, version: int) -> dict[str, Any]:
        """This tensor's object in the header."""
        return {
            "shape": list(self.shape),
            "codebook_dims": list(self.codebook_dims),
            "bit_order": self.bit_order,
            "packing": self.packing,
            "sha256": self.sha256,
            "source": self.source.entry(version),
        }


@dataclass(frozen=True)
class CodesHeader:
    """What a codes file says of itself. `quantizer` is the config without weights.

    `assumed` are facts that nobody told, with the values taken for them. Those that decide bits stand in `quantizer`
    too; the others do not: decode may still be told otherwise.
    """

    quantizer: dict[str, Any]
    checkpoint_sha256: str
    compute_dtype: str
    tensors: dict[str, CodesTensor]
    assumed: dict[str, Any] = field(default_factory=dict)
    made_from: MadeFrom | None = None

    @property
    def version(self) -> int:
        """The lowest version of the format that can say it."""
        plain = self.made_from is None and all(tensor.source.layout for tensor in self.tensors.values())
        return 1 if plain else 2

    def without_digests(self) -> CodesHeader:
        """The header as it is before any value is read."""
        bare = {name: replace(tensor, sha256=NO_DIGEST) for name, tensor in self.tensors.items()}
        origin = self.made_from and replace(self.made_from, zeroed=0, fingerprint=NO_DIGEST)
        return replace(self, tensors=bare, made_from=origin)

    def longest(self) -> CodesHeader:
        """The header with the longest numbers that may still come into it."""
        if self.made_from is None or self.made_from.nan == "error":
            return self
        return replace(self, made_from=replace(self.made_from, zeroed=MOST_VALUES))

    def metadata(self) -> dict[str, str]:
        """The container's metadata; its length does not depend on digests."""
        return {"lfq": json.dumps(self.as_json(), separators=(",", ":"), ensure_ascii=False)}

    def as_json(self) -> dict[str, Any]:
        """The JSON object in the metadata."""
        value: dict[str, Any] = {
            "format": FORMAT,
            "version": self.version,
            "quantizer": self.quantizer,
            "checkpoint_sha256": self.checkpoint_sha256,
            "compute_dtype": self.compute_dtype,
        }
        if self.assumed:
            value["assumed"] = self.assumed
        if self.made_from is not None:
            value["made_from"] = self.made_from.entry()
        value["tensors"] = {name: tensor.entry(self.version) for name, tensor in self.tensors.items()}
        return value | {HEADER_DIGEST: digest_of(value)}


def stored_dtype(packing: str, dims: tuple[int, ...], requested: str | None) -> str:
    """The container dtype of a packing; `requested` widens that of "ints". Raises OptionError if it is too narrow."""
    if packing != "ints":
        return "U8"
    smallest = index_dtype(dims)
    if requested is None:
        return INT_NAMES[smallest]
    wide = DTYPES[requested]
    if np.iinfo(wide).max < 2 ** max(dims) - 1:
        raise OptionError(
            f"indices of {max(dims)} bits do not fit {wide}",
            f"--index-dtype {smallest} is the smallest that holds them",
        )
    return requested


def digest_of(value: dict[str, Any]) -> str:
    """sha256 of a JSON object: sorted keys, no spaces, UTF-8."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
