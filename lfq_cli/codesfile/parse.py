"""A reader's checks of a codes file's header. It trusts nothing."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any, get_args

import numpy as np

from lfq_cli.bits import MAX_INDEX_BITS, BitOrder
from lfq_cli.codesfile.header import (
    FORMAT,
    HEADER_DIGEST,
    MADE_FROM_USUALLY,
    OFFSETS,
    CodesHeader,
    CodesTensor,
    Column,
    MadeFrom,
    PartRows,
    Samples,
    SourceInfo,
    digest_of,
)
from lfq_cli.container import Header, no_duplicates
from lfq_cli.dtypes import NUMPY
from lfq_cli.errors import CodesFileError
from lfq_cli.layout import Layout, axis_of
from lfq_cli.packings import PACKINGS

_KEYS_OF_1 = {"format", "version", "quantizer", "checkpoint_sha256", "compute_dtype", "assumed", "tensors"}
_KEYS_OF_SAMPLES = {"samples", "keys", "carried", "carried_text", "columns"}
_KEYS = {1: _KEYS_OF_1 | {HEADER_DIGEST}, 2: _KEYS_OF_1 | {HEADER_DIGEST, "made_from", *_KEYS_OF_SAMPLES}}
"""version -> the keys that its header may have."""
_OTHERS = {
    "lfq-checkpoint": ("a checkpoint", "lfq decode takes it first, then the codes; lfq inspect shows what it holds"),
    "lfq-counts": ("a file of saved counts", "lfq stats reads it"),
    "lfq-training": ("a saved run of lfq train", "lfq train goes on with it"),
}
"""What else lfq writes in this container: the format in its metadata -> what it is, and what to do with it."""


def parse_header(container: Header, path: Path) -> CodesHeader:
    """The codes header in a container's; raises CodesFileError if it is missing, invalid or of an unknown
    version.
    """
    try:
        value = json.loads(container.metadata["lfq"], object_pairs_hook=no_duplicates)
    except KeyError:
        raise CodesFileError(f"{path}: not a codes file: its metadata has no 'lfq'", "lfq encode writes them") from None
    except (ValueError, RecursionError) as reason:
        raise CodesFileError(f"{path}: not a codes file: its 'lfq' metadata is not JSON: {reason}") from reason
    format_name = value.get("format") if isinstance(value, dict) else None
    if isinstance(format_name, str) and format_name in _OTHERS:
        what, remedy = _OTHERS[format_name]
        raise CodesFileError(f"{path}: is {what}, expected a codes file", remedy)
    try:
        return _header_of(value, container)
    except (_InvalidError, CodesFileError, UnicodeEncodeError) as reason:
        raise CodesFileError(f"{path}: not a valid codes file: {reason}") from reason


class _InvalidError(Exception):
    """A header that contradicts itself or the file; the text explains how."""


def _header_of(value: Any, container: Header) -> CodesHeader:
    _need(isinstance(value, dict) and value.get("format") == FORMAT, f"format is not {FORMAT!r}")
    version = value.get("version")
    _need(type(version) is int, "version is not an integer")
    _need(version in _KEYS, f"it has version {version}, this lfq reads versions 1 to {max(_KEYS)}: update lfq")
    surplus = sorted(set(value) - _KEYS[version])
    _need(not surplus, f"it has unknown keys {', '.join(map(repr, surplus))}")
    _need(version == 1 or HEADER_DIGEST in value, f"it has no {HEADER_DIGEST}")
    if HEADER_DIGEST in value:
        rest = {key: item for key, item in value.items() if key != HEADER_DIGEST}
        _need(value[HEADER_DIGEST] == digest_of(rest), "its header has another sha256 than it says: it is damaged")
    quantizer, digest, compute = (value.get(key) for key in ("quantizer", "checkpoint_sha256", "compute_dtype"))
    _need(isinstance(quantizer, dict), "quantizer is not an object")
    _need(_is_digest(digest), "checkpoint_sha256 is not a sha256")
    _need(isinstance(compute, str), "compute_dtype is not a string")
    assumed = value.get("assumed", {})
    _need(isinstance(assumed, dict), "assumed is not an object")
    tensors = value.get("tensors")
    _need(isinstance(tensors, dict), "tensors is not an object")
    samples = _samples_of(value, container) if _KEYS_OF_SAMPLES & set(value) else None
    columns = {} if samples is None else samples.columns
    _need(not set(tensors) & set(columns), "a tensor and a column have the same name")
    _need({*tensors, *columns} == set(container.entries), "its tensors and columns are not those in the container")
    parsed = {
        name: _tensor_of(name, tensors[name], container, version) for name in container.entries if name in tensors
    }
    for tensor in parsed.values():
        _check_samples_of(tensor, samples)
    made_from = _made_from_of(value["made_from"]) if "made_from" in value else None
    _check_parts(parsed, made_from)
    return CodesHeader(quantizer, digest, compute, parsed, assumed, made_from, samples)


def _made_from_of(value: Any) -> MadeFrom:
    required, known = {"bytes", "fingerprint", "nan"}, set(MADE_FROM_USUALLY)
    _need(
        isinstance(value, dict) and required <= set(value) <= required | known, "made_from has missing or unknown keys"
    )
    nan = value["nan"]
    _need(isinstance(nan, dict) and set(nan) == {"policy", "zeroed"}, "made_from: nan has no policy and zeroed")
    _need(nan["policy"] in ("error", "zero"), f"made_from: the policy for NaN is {nan['policy']!r}")
    _need(_is_shape([value["bytes"], nan["zeroed"]]), "made_from: bytes and zeroed are not natural numbers")
    _need(nan["zeroed"] == 0 or nan["policy"] == "zero", "made_from: NaN values were zeroed, but the policy is error")
    _need(_is_digest(value["fingerprint"]), "made_from: fingerprint is not a sha256")
    more = {name: value.get(name, usual) for name, usual in MADE_FROM_USUALLY.items()}
    counts = [more["inputs"], more["begin"], more["skipped"], *([] if more["end"] is None else [more["end"]])]
    _need(_is_shape(counts), "made_from: a number of samples is not a natural number")
    _need(isinstance(more["options"], dict), "made_from: options is not an object")
    return MadeFrom(value["bytes"], nan["policy"], nan["zeroed"], value["fingerprint"], **more)


def _tensor_of(name: str, value: Any, container: Header, version: int) -> CodesTensor:
    _need(isinstance(value, dict), f"{name!r} is not an object")
    source = value.get("source")
    _need(isinstance(source, dict), f"{name!r}: source is not an object")
    ragged = value.get("sample_offsets") is not None
    shape, sizes = value.get("shape"), source.get("shape")
    _need(isinstance(sizes, list) and len(sizes) >= 1, f"{name!r}: its source has no axis")
    known = [size for size in sizes if size is not None]
    _need(len(sizes) - len(known) == ragged, f"{name!r}: its source has {len(sizes) - len(known)} unknown sizes")
    _need(_is_shape(shape) and _is_shape(known), f"{name!r}: shape is not a list of sizes")
    _need(prod(max(size, 1) for size in (*known, *shape)) < 2**59, f"{name!r}: its shape is too large for any memory")
    _need(isinstance(source.get("dtype"), str), f"{name!r}: the source's dtype is not a string")
    dims = value.get("codebook_dims")
    _need(
        isinstance(dims, list) and len(dims) > 0 and all(type(d) is int and 1 <= d <= MAX_INDEX_BITS for d in dims),
        f"{name!r}: codebook_dims is {dims!r}",
    )
    _need(value.get("bit_order") in get_args(BitOrder), f"{name!r}: bit_order is {value.get('bit_order')!r}")
    _need(value.get("packing") in tuple(PACKINGS), f"{name!r}: packing is {value.get('packing')!r}")
    _need(_is_digest(value.get("sha256")), f"{name!r}: sha256 is not a digest")
    _need(value.get("samples") is None or _is_shape([value["samples"]]), f"{name!r}: samples is not a natural number")
    _need(not ragged or isinstance(value["sample_offsets"], str), f"{name!r}: sample_offsets is not a name")
    entry = container.entries[name]
    tensor = CodesTensor(
        name=name,
        shape=tuple(value["shape"]),
        codebook_dims=tuple(dims),
        bit_order=value["bit_order"],
        packing=value["packing"],
        dtype=entry.dtype,
        source=_source_of(name, source, version),
        sha256=value["sha256"],
        samples=value.get("samples"),
        offsets=value.get("sample_offsets"),
        part=_part_of(name, value["part"], version) if "part" in value else None,
    )
    _check_part(tensor)
    _need(
        not ragged or tensor.source.positions[:1] == (None,), f"{name!r}: samples differ in another axis than the first"
    )
    tail = tensor.shape[len(tensor.positions) :]
    expected = tensor.source.positions if tensor.samples is None else (tensor.samples, *tensor.source.positions)
    _need(
        (ragged or tensor.positions == expected) and tail in ((), (len(dims),)) and (len(dims) == 1 or tail != ()),
        f"{name!r}: index shape {tensor.shape} does not belong to source shape {tensor.source.shape}",
    )
    packing = PACKINGS[tensor.packing]
    _need(entry.dtype in packing.dtypes, f"{name!r}: dtype {entry.dtype} does not belong to packing {tensor.packing!r}")
    _need(
        not packing.holds_indices or np.iinfo(NUMPY[entry.dtype]).max >= 2 ** max(dims) - 1,
        f"{name!r}: {entry.dtype} does not hold indices of {max(dims)} bits",
    )
    _need(entry.shape == tensor.stored_shape, f"{name!r} is stored as {entry.shape}, expected {tensor.stored_shape}")
    return tensor


def _part_of(name: str, value: Any, version: int) -> PartRows:
    _need(version > 1, f"{name!r}: version 1 has no parts")
    _need(isinstance(value, dict) and set(value) == {"rows", "of"}, f"{name!r}: part has other keys than rows and of")
    rows, of = value["rows"], value["of"]
    _need(_is_shape(rows) and len(rows) == 2 and _is_shape([of]), f"{name!r}: part is not a range of rows")
    first, last = rows
    _need(first < last <= of or first == last == of == 0, f"{name!r}: rows {first} to {last} are not part of {of}")
    return PartRows(first, last, of)


def _check_part(tensor: CodesTensor) -> None:
    """Raises unless the tensor has the rows of a larger one that it claims, cut on an axis without features."""
    part, name = tensor.part, tensor.name
    if part is None:
        return
    _need(tensor.samples is None, f"{name!r}: samples are not part of a larger tensor")
    _need(tensor.source.channel_axis != 0, f"{name!r}: a part cannot have its features on axis 0, which is cut")
    rows = part.last - part.first
    _need(
        tensor.source.shape[0] == rows, f"{name!r}: its source has {tensor.source.shape[0]} rows, its part has {rows}"
    )
    sizes = (part.of, *tensor.source.shape[1:])
    _need(prod(max(size or 0, 1) for size in sizes) < 2**59, f"{name!r}: its shape is too large for any memory")


def _check_parts(tensors: dict[str, CodesTensor], made_from: MadeFrom | None) -> None:
    """Raises unless all tensors are parts, or none, and parts name their file."""
    parts = [tensor.part is not None for tensor in tensors.values()]
    _need(all(parts) or not any(parts), "some of its tensors are parts of larger ones, and some are not")
    _need(made_from is not None or not any(parts), "it holds parts but not what they were made from")


def _samples_of(value: dict[str, Any], container: Header) -> Samples:
    """The samples of a header that has some; the content of keys and offsets is checked when they are read."""
    _need(set(value) >= _KEYS_OF_SAMPLES, "some of the entries about samples are missing")
    count, keys = value["samples"], value["keys"]
    carried, texts, columns = value["carried"], value["carried_text"], value["columns"]
    _need(_is_shape([count]), "samples is not a natural number")
    _need(isinstance(columns, dict), "columns is not an object")
    parsed = {name: _column_of(name, columns[name], container) for name in columns if name in container.entries}
    _need(len(parsed) == len(columns), "its columns are not those in the container")
    _need(isinstance(keys, str) and _are_names(carried) and _are_names(texts), "keys or carried are not names")
    for name in (keys, *texts):
        text, offsets = parsed.get(name), parsed.get(name + OFFSETS)
        _need(text is not None and (text.dtype, len(text.shape)) == ("U8", 1), f"{name!r} is not text")
        _need(
            offsets is not None and (offsets.dtype, offsets.shape) == ("I64", (count + 1,)),
            f"{name!r}: its offsets are not I64 [samples + 1]",
        )
    for name in carried:
        _need(name in parsed and parsed[name].shape[:1] == (count,), f"{name!r} has no row for each sample")
    return Samples(count, keys, parsed, tuple(carried), tuple(texts))


def _column_of(name: str, value: Any, container: Header) -> Column:
    entry = container.entries[name]
    _need(isinstance(value, dict) and set(value) == {"dtype", "shape", "sha256"}, f"{name!r}: not a column")
    _need(
        (value["dtype"], value["shape"]) == (entry.dtype, list(entry.shape)),
        f"{name!r}: its dtype or shape is not that of the stored tensor",
    )
    _need(_is_digest(value["sha256"]), f"{name!r}: sha256 is not a digest")
    return Column(entry.dtype, entry.shape, value["sha256"])


def _check_samples_of(tensor: CodesTensor, samples: Samples | None) -> None:
    """Raises unless the tensor has as many samples as the file, and offsets where it needs them."""
    count = None if samples is None else samples.count
    _need(tensor.samples == count, f"{tensor.name!r} has {tensor.samples} samples, the file has {count}")
    if tensor.offsets is not None:
        column = None if samples is None else samples.columns.get(tensor.offsets)
        stored = None if column is None else (column.dtype, column.shape)
        _need(
            stored == ("I64", ((count or 0) + 1,)),
            f"{tensor.name!r}: sample_offsets is not a column of I64 [samples + 1]",
        )


def _source_of(name: str, value: dict[str, Any], version: int) -> SourceInfo:
    shape, dtype = tuple(value["shape"]), value["dtype"]
    if version == 1:
        _need(value.get("layout") in get_args(Layout), f"{name!r}: layout is {value.get('layout')!r}")
        # with one axis, version 1 names it the only one too
        return SourceInfo(shape, dtype, axis_of(len(shape), value["layout"] if len(shape) > 1 else "channel-last"))
    axis: Any = value.get("channel_axis")
    assumed = value.get("axis_is_assumed", False)
    _need(type(axis) is int and 0 <= axis < len(shape), f"{name!r}: channel_axis is {axis!r}")
    _need(type(assumed) is bool, f"{name!r}: axis_is_assumed is {assumed!r}")
    return SourceInfo(shape, dtype, axis, assumed)


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _InvalidError(otherwise)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value) and len(set(value)) == len(value)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 2**63 for size in value)
