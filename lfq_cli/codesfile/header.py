"""What a codes file records about its contents: records and their JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np

from lfq_cli.bits import BitOrder, index_dtype
from lfq_cli.container import tensor_bytes
from lfq_cli.dtypes import NUMPY, OF_NUMPY
from lfq_cli.errors import OptionError
from lfq_cli.packings import PACKINGS
from lfq_cli.quantizer import canonical_json

FORMAT = "lfq-codes"
SUFFIX = ".codes.safetensors"
HEADER_DIGEST = "header_sha256"
"""numpy's integers -> the container's names for those in which indices are stored."""

MOST_VALUES = 2**63 - 1
NO_DIGEST = "0" * 64
"""What stands for a digest before there is one."""


@dataclass(frozen=True)
class SourceInfo:
    """The tensor that was encoded; its features are on `channel_axis`, a guess if `axis_is_assumed`.

    For a tensor of samples, it describes one of them; None stands for a size in which they differ.
    """

    shape: tuple[int | None, ...]
    dtype: str
    channel_axis: int
    axis_is_assumed: bool = False

    @property
    def layout(self) -> str | None:
        """The `layout` entry of version 1; None if it cannot express the axis."""
        if self.axis_is_assumed:
            return None
        if self.channel_axis == len(self.shape) - 1:
            return "channel-last"
        return "channel-first" if self.channel_axis == 1 else None

    @property
    def positions(self) -> tuple[int | None, ...]:
        """The shape without its channel axis."""
        return self.shape[: self.channel_axis] + self.shape[self.channel_axis + 1 :]

    def entry(self, version: int) -> dict[str, Any]:
        """The object in the header."""
        entry: dict[str, Any] = {"shape": list(self.shape), "dtype": self.dtype}
        if version == 1:
            return entry | {"layout": self.layout}
        entry["channel_axis"] = self.channel_axis
        return entry | {"axis_is_assumed": True} if self.axis_is_assumed else entry


FROM_CODES = {"from": "codes"}
"""The options of a file that was made of others, without encoding."""


@dataclass(frozen=True)
class MadeFrom:
    """What the codes were made from: one file, or the samples of several.

    `fingerprint` is that of the file, by fingerprint.py; of several inputs, the digest of a line for each. nan: the NaN
    policy, "error" or "zero"; `zeroed` values of the input were NaN and encoded as zero. `options` are those that
    decided how samples were encoded; `begin` samples of the first input belong to the file before, and `end` samples of
    the last to this file and those before (None: all of them).
    """

    nbytes: int
    nan: str
    zeroed: int = 0
    fingerprint: str = NO_DIGEST
    inputs: int = 1
    begin: int = 0
    end: int | None = None
    skipped: int = 0
    """Bad samples that were left out."""
    options: dict[str, Any] = field(default_factory=dict)

    def entry(self) -> dict[str, Any]:
        """The object in the header."""
        entry: dict[str, Any] = {
            "bytes": self.nbytes,
            "fingerprint": self.fingerprint,
            "nan": {"policy": self.nan, "zeroed": self.zeroed},
        }
        for name, usual in MADE_FROM_USUALLY.items():
            value = getattr(self, name)
            if value != usual:
                entry[name] = value
        return entry


MADE_FROM_USUALLY: dict[str, Any] = {"inputs": 1, "begin": 0, "end": None, "skipped": 0, "options": {}}
"""What is left out of the header, and what it is where it is left out."""


@dataclass(frozen=True)
class PartRows:
    """Which rows of a larger tensor these are: `first` to `last` of the `of` entries on axis 0."""

    first: int
    last: int
    of: int

    def entry(self) -> dict[str, Any]:
        """The object in the header."""
        return {"rows": [self.first, self.last], "of": self.of}


@dataclass(frozen=True)
class CodesTensor:
    """One tensor's codes. `shape` is the index tensor's; `dtype` that of the stored bytes.

    For a `part` of a larger tensor, all fields describe the part: only its rows are in `shape` and `source`.

    A tensor of `samples` holds them one after the other: of equal shape, with a leading axis that counts them; or
    ragged, where `offsets` names the column with the start of each, in vectors, and all vectors are on a single axis.
    """

    name: str
    shape: tuple[int, ...]
    codebook_dims: tuple[int, ...]
    bit_order: BitOrder
    packing: str
    dtype: str
    source: SourceInfo
    sha256: str = NO_DIGEST
    samples: int | None = None
    offsets: str | None = None
    part: PartRows | None = None

    @property
    def positions(self) -> tuple[int, ...]:
        """The index shape without its codebook axis."""
        if self.samples is None:
            return self.shape[: len(self.source.positions)]
        return self.shape[: 1 if self.offsets else 1 + len(self.source.positions)]

    @property
    def vectors(self) -> int:
        """The number of encoded vectors."""
        return prod(self.positions)

    @property
    def bits_per_vector(self) -> int:
        """B: the bits of all indices of one vector."""
        return sum(self.codebook_dims)

    @property
    def channel_axis(self) -> int:
        """The axis of the features in the whole tensor: after the samples' axis, or for ragged samples after the
        vectors'.
        """
        if self.samples is None:
            return self.source.channel_axis
        return 1 if self.offsets else 1 + self.source.channel_axis

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of the stored bytes in the container."""
        return PACKINGS[self.packing].shape(self.vectors, self.positions, self.shape, self.codebook_dims)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the codes in the file."""
        return prod(self.stored_shape) * NUMPY[self.dtype].itemsize

    @property
    def stored_bits_per_vector(self) -> int:
        """Bits that one vector takes in the file."""
        return PACKINGS[self.packing].row_bits(self.codebook_dims, self.dtype)

    def entry(self, version: int) -> dict[str, Any]:
        """This tensor's object in the header."""
        entry: dict[str, Any] = {
            "shape": list(self.shape),
            "codebook_dims": list(self.codebook_dims),
            "bit_order": self.bit_order,
            "packing": self.packing,
            "sha256": self.sha256,
            "source": self.source.entry(version),
        }
        if self.samples is not None:
            entry["samples"] = self.samples
        if self.offsets is not None:
            entry["sample_offsets"] = self.offsets
        if self.part is not None:
            entry["part"] = self.part.entry()
        return entry


@dataclass(frozen=True)
class Column:
    """A tensor stored unchanged beside the codes, with a row for each sample."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str = NO_DIGEST

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return tensor_bytes(self.dtype, self.shape)

    def entry(self) -> dict[str, Any]:
        """The object in the header."""
        return {"dtype": self.dtype, "shape": list(self.shape), "sha256": self.sha256}


OFFSETS = ".offsets"
"""What the name of a column of offsets ends in: those of text "keys" are "keys.offsets"."""


@dataclass(frozen=True)
class Samples:
    """The samples of a file: how many, and the names of the columns that describe them.

    `columns` holds all of them by name: a text is a column of concatenated UTF-8 bytes, and one of start positions,
    [count + 1]. `carried` are tensors that came with the samples, `texts` captions.
    """

    count: int
    keys: str
    columns: dict[str, Column]
    carried: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class CodesHeader:
    """The header of a codes file. `quantizer` is the config without weights.

    `assumed` are facts that were not stated, with the values assumed. Those that decide bits are also in `quantizer`;
    the others are not, so decoding may still override them.
    """

    quantizer: dict[str, Any]
    checkpoint_sha256: str
    compute_dtype: str
    tensors: dict[str, CodesTensor]
    assumed: dict[str, Any] = field(default_factory=dict)
    made_from: MadeFrom | None = None
    samples: Samples | None = None

    @property
    def is_part(self) -> bool:
        """Whether the tensors are parts of larger ones: either all or none are."""
        return any(tensor.part is not None for tensor in self.tensors.values())

    @property
    def version(self) -> int:
        """The lowest version of the format that can express it."""
        plain = self.made_from is None and self.samples is None
        return 1 if plain and all(tensor.source.layout for tensor in self.tensors.values()) else 2

    @property
    def stored(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Name -> dtype and shape of every tensor in the container, in order.

        Among columns the widest items come first, so each is aligned: readers that map the file need that.
        """
        codes = {name: (tensor.dtype, tensor.stored_shape) for name, tensor in self.tensors.items()}
        if self.samples is None:
            return codes
        columns = {name: (column.dtype, column.shape) for name, column in self.samples.columns.items()}
        return dict(sorted((codes | columns).items(), key=lambda item: -tensor_bytes(item[1][0], (8,))))

    @property
    def digests(self) -> dict[str, str]:
        """Name -> sha256 of every tensor in the container."""
        digests = {name: tensor.sha256 for name, tensor in self.tensors.items()}
        if self.samples is not None:
            digests |= {name: column.sha256 for name, column in self.samples.columns.items()}
        return digests

    @property
    def stored_bytes(self) -> int:
        """Bytes of all tensors in the container."""
        return sum(tensor_bytes(dtype, shape) for dtype, shape in self.stored.values())

    def with_digests(self, digests: Mapping[str, str], made_from: MadeFrom | None) -> CodesHeader:
        """The complete header: name of a stored tensor -> sha256."""
        tensors = {name: replace(tensor, sha256=digests[name]) for name, tensor in self.tensors.items()}
        samples = self.samples
        if samples is not None:
            columns = {name: replace(column, sha256=digests[name]) for name, column in samples.columns.items()}
            samples = replace(samples, columns=columns)
        return replace(self, tensors=tensors, samples=samples, made_from=made_from)

    def without_digests(self, *, keep_origin: bool = False) -> CodesHeader:
        """The header before any value is read; keep_origin: with what reading revealed of its source."""
        origin = self.made_from
        if origin is not None and not keep_origin:
            origin = replace(origin, zeroed=0, fingerprint=NO_DIGEST)
        return self.with_digests(dict.fromkeys(self.stored, NO_DIGEST), origin)

    def longest(self) -> CodesHeader:
        """The header with the longest numbers that it may still receive."""
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
        if self.samples is not None:
            value["samples"] = self.samples.count
            value["keys"] = self.samples.keys
            value["carried"] = list(self.samples.carried)
            value["carried_text"] = list(self.samples.texts)
            value["columns"] = {name: column.entry() for name, column in self.samples.columns.items()}
        value["tensors"] = {name: tensor.entry(self.version) for name, tensor in self.tensors.items()}
        return value | {HEADER_DIGEST: digest_of(value)}


def stored_dtype(packing: str, dims: tuple[int, ...], requested: str | None) -> str:
    """The container dtype of a packing; `requested` is a wider one. Raises OptionError if it is too narrow."""
    if not PACKINGS[packing].holds_indices:
        return "U8"
    smallest = index_dtype(dims)
    if requested is None:
        return OF_NUMPY[smallest]
    wide = NUMPY[requested]
    if np.iinfo(wide).max < 2 ** max(dims) - 1:
        raise OptionError(
            f"indices of {max(dims)} bits do not fit {wide}",
            f"--index-dtype {smallest} is the smallest that holds them",
        )
    return requested


def digest_of(value: dict[str, Any]) -> str:
    """sha256 of a JSON object: sorted keys, no spaces, UTF-8."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
