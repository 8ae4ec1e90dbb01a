"""What a codes file says of itself: records, their JSON, and the checks that a reader makes of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, get_args

import numpy as np

from lfq_cli.bits import MAX_INDEX_BITS, PACKINGS, BitOrder, index_dtype, stream_bytes
from lfq_cli.container import DTYPES, Header, no_duplicates
from lfq_cli.errors import CodesFileError, OptionError
from lfq_cli.layout import Layout, positions_shape
from lfq_cli.quantizer import canonical_json

FORMAT = "lfq-codes"
VERSION = 1
SUFFIX = ".codes.safetensors"

_NO_DIGEST = "0" * 64
_HEADER_DIGEST = "header_sha256"
_KEYS = {"format", "version", "quantizer", "checkpoint_sha256", "compute_dtype", "assumed", "tensors", _HEADER_DIGEST}
_INT_NAMES = {DTYPES[name]: name for name in ("U8", "I16", "I32", "I64", "U64")}


@dataclass(frozen=True)
class SourceInfo:
    """The tensor that was encoded; `layout` says where its features are."""

    shape: tuple[int, ...]
    dtype: str
    layout: Layout


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
    sha256: str = _NO_DIGEST

    @property
    def positions(self) -> tuple[int, ...]:
        """The index shape without its codebook axis."""
        return positions_shape(self.source.shape, self.source.layout)

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

    def entry(self) -> dict[str, Any]:
        """This tensor's object in the header."""
        return {
            "shape": list(self.shape),
            "codebook_dims": list(self.codebook_dims),
            "bit_order": self.bit_order,
            "packing": self.packing,
            "sha256": self.sha256,
            "source": {
                "shape": list(self.source.shape),
                "dtype": self.source.dtype,
                "layout": self.source.layout,
            },
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

    def without_digests(self) -> CodesHeader:
        """The header as it is before any codes are written."""
        bare = {name: replace(tensor, sha256=_NO_DIGEST) for name, tensor in self.tensors.items()}
        return replace(self, tensors=bare)

    def metadata(self) -> dict[str, str]:
        """The container's metadata; its length does not depend on the digests."""
        return {"lfq": json.dumps(self.as_json(), separators=(",", ":"), ensure_ascii=False)}

    def as_json(self) -> dict[str, Any]:
        """The JSON object in the metadata."""
        value: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "quantizer": self.quantizer,
            "checkpoint_sha256": self.checkpoint_sha256,
            "compute_dtype": self.compute_dtype,
        }
        if self.assumed:
            value["assumed"] = self.assumed
        value["tensors"] = {name: tensor.entry() for name, tensor in self.tensors.items()}
        return value | {_HEADER_DIGEST: _digest_of(value)}


def stored_dtype(packing: str, dims: tuple[int, ...], requested: str | None) -> str:
    """The container dtype of a packing; `requested` widens that of "ints". Raises OptionError if it is too narrow."""
    if packing != "ints":
        return "U8"
    smallest = index_dtype(dims)
    if requested is None:
        return _INT_NAMES[smallest]
    wide = DTYPES[requested]
    if np.iinfo(wide).max < 2 ** max(dims) - 1:
        raise OptionError(
            f"indices of {max(dims)} bits do not fit {wide}",
            f"--index-dtype {smallest} is the smallest that holds them",
        )
    return requested


def parse_header(container: Header, path: Path) -> CodesHeader:
    """The codes header in a container's; raises CodesFileError where it is missing, wrong or of another version."""
    try:
        value = json.loads(container.metadata["lfq"], object_pairs_hook=no_duplicates)
    except KeyError:
        raise CodesFileError(f"{path}: not a codes file: its metadata has no 'lfq'", "lfq encode writes them") from None
    except (ValueError, RecursionError) as reason:
        raise CodesFileError(f"{path}: not a codes file: its 'lfq' metadata is no JSON: {reason}") from reason
    try:
        return _header_of(value, container)
    except (_InvalidError, CodesFileError, UnicodeEncodeError) as reason:
        raise CodesFileError(f"{path}: not a valid codes file: {reason}") from reason


class _InvalidError(Exception):
    """A header that contradicts itself or the file; the text says how."""


def _header_of(value: Any, container: Header) -> CodesHeader:
    _need(isinstance(value, dict) and value.get("format") == FORMAT, f"format is not {FORMAT!r}")
    version = value.get("version")
    _need(type(version) is int, "version is no integer")
    _need(version == VERSION, f"it has version {version}, this lfq reads version {VERSION}: update lfq")
    surplus = sorted(set(value) - _KEYS)
    _need(not surplus, f"it has unknown keys {', '.join(map(repr, surplus))}")
    if _HEADER_DIGEST in value:
        rest = {key: item for key, item in value.items() if key != _HEADER_DIGEST}
        _need(value[_HEADER_DIGEST] == _digest_of(rest), "its header has another sha256 than it says: it is damaged")
    quantizer, digest, compute = (value.get(key) for key in ("quantizer", "checkpoint_sha256", "compute_dtype"))
    _need(isinstance(quantizer, dict), "quantizer is no object")
    _need(_is_digest(digest), "checkpoint_sha256 is no sha256")
    _need(isinstance(compute, str), "compute_dtype is no string")
    assumed = value.get("assumed", {})
    _need(isinstance(assumed, dict), "assumed is no object")
    tensors = value.get("tensors")
    _need(isinstance(tensors, dict), "tensors is no object")
    _need(set(tensors) == set(container.entries), "its tensors are not those of the container")
    parsed = {name: _tensor_of(name, tensors[name], container) for name in container.entries}
    return CodesHeader(quantizer, digest, compute, parsed, assumed)


def _tensor_of(name: str, value: Any, container: Header) -> CodesTensor:
    _need(isinstance(value, dict), f"{name!r} is no object")
    source = value.get("source")
    _need(isinstance(source, dict), f"{name!r}: source is no object")
    _need(_is_shape(value.get("shape")) and _is_shape(source.get("shape")), f"{name!r}: shape is no list of sizes")
    _need(prod(max(size, 1) for size in source["shape"]) < 2**59, f"{name!r}: sizes that no memory holds")
    _need(len(source["shape"]) >= 1, f"{name!r}: its source has no axis")
    _need(source.get("layout") in get_args(Layout), f"{name!r}: layout is {source.get('layout')!r}")
    _need(isinstance(source.get("dtype"), str), f"{name!r}: the source's dtype is no string")
    dims = value.get("codebook_dims")
    _need(
        isinstance(dims, list) and len(dims) > 0 and all(type(d) is int and 1 <= d <= MAX_INDEX_BITS for d in dims),
        f"{name!r}: codebook_dims is {dims!r}",
    )
    _need(value.get("bit_order") in get_args(BitOrder), f"{name!r}: bit_order is {value.get('bit_order')!r}")
    _need(value.get("packing") in tuple(PACKINGS), f"{name!r}: packing is {value.get('packing')!r}")
    _need(_is_digest(value.get("sha256")), f"{name!r}: sha256 is no digest")
    entry = container.entries[name]
    tensor = CodesTensor(
        name=name,
        shape=tuple(value["shape"]),
        codebook_dims=tuple(dims),
        bit_order=value["bit_order"],
        packing=value["packing"],
        dtype=entry.dtype,
        source=SourceInfo(tuple(source["shape"]), source["dtype"], source["layout"]),
        sha256=value["sha256"],
    )
    _need(
        tensor.shape == tensor.positions + tensor.shape[len(tensor.positions) :]
        and tensor.shape[len(tensor.positions) :] in ((), (len(dims),))
        and (len(dims) == 1 or len(tensor.shape) > len(tensor.positions)),
        f"{name!r}: index shape {tensor.shape} does not belong to source shape {tensor.source.shape}",
    )
    dtypes = set(_INT_NAMES.values()) if tensor.packing == "ints" else {"U8"}
    _need(entry.dtype in dtypes, f"{name!r}: dtype {entry.dtype} does not belong to packing {tensor.packing!r}")
    _need(
        tensor.packing != "ints" or np.iinfo(DTYPES[entry.dtype]).max >= 2 ** max(dims) - 1,
        f"{name!r}: {entry.dtype} does not hold indices of {max(dims)} bits",
    )
    _need(entry.shape == tensor.stored_shape, f"{name!r} is stored as {entry.shape}, expected {tensor.stored_shape}")
    return tensor


def _digest_of(value: dict[str, Any]) -> str:
    """sha256 of a JSON object: sorted keys, no spaces, UTF-8."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _InvalidError(otherwise)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 2**63 for size in value)
