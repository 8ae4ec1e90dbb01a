"""The safetensors container: header bytes <-> entries. Knows nothing of what the tensors mean.

Not done with the safetensors library: it cannot write a file as a stream, cannot read BF16 into numpy, and maps its
input (if a mapped file shrinks, the process is killed). Headers are validated as strictly as the library does: offsets
without holes or overlaps, sizes that match the shapes. Source: github.com/huggingface/safetensors, README, section
"Format".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from lfq_cli.dtypes import SAFETENSORS_BITS
from lfq_cli.errors import LfqError, OutputError
from lfq_cli.regions import InputFile
from lfq_cli.signatures import unreadable
from lfq_cli.storage.remote import open_input

MAX_HEADER_BYTES = 100_000_000
"""The limit that the safetensors library sets."""


@dataclass(frozen=True)
class Entry:
    """One tensor; `start` is its offset in bytes from the beginning of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """Everything that comes before the data; `entries` are in file order."""

    metadata: dict[str, str]
    entries: dict[str, Entry]


def read_header(
    file: InputFile, error: type[LfqError], expected: str = "a safetensors file", remedy: str | None = None
) -> Header:
    """The validated header; raises `error` if the file is not a complete safetensors file.

    expected: what the file should be, for the message. remedy: what to do with a file of another format.
    """
    try:
        if file.size < 8:
            raise ValueError(f"it has {file.size} bytes")
        length = int.from_bytes(file.read(0, 8), "little")
        if length > min(MAX_HEADER_BYTES, file.size - 8):
            if file.size > 8 and file.read(8, 1) != b"{":
                raise ValueError("it does not begin with a safetensors header")
            raise ValueError(f"its header should have {length} bytes, the file has {file.size}")
        parsed = json.loads(file.read(8, length).decode("utf-8"), object_pairs_hook=no_duplicates, parse_int=_natural)
        return _validated(parsed, start=8 + length, size=file.size)
    except (ValueError, RecursionError) as reason:
        raise unreadable(file, expected, reason, error, remedy) from reason


def metadata_entry(path: Path, key: str) -> str | None:
    """The metadata entry `key` of the file at `path`; None if it is missing or this is not a safetensors file."""
    try:
        file = open_input(path, LfqError, known=True)
    except LfqError:
        return None
    try:
        return read_header(file, LfqError).metadata.get(key)
    except LfqError:
        return None
    finally:
        file.close()


def header_bytes(
    metadata: Mapping[str, str], tensors: Mapping[str, tuple[str, tuple[int, ...]]], nbytes: int = 0
) -> bytes:
    """The bytes before the data of a file with these tensors (name -> dtype, shape), in this order.

    Padded with spaces to at least `nbytes` and to a multiple of 8 bytes. Raises OutputError for the one name that the
    format reserves.
    """
    if "__metadata__" in tensors:
        raise OutputError("a tensor in a safetensors file cannot be called '__metadata__'")
    layout: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        end = offset + tensor_bytes(dtype, shape)
        layout[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(layout, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(nbytes - 8)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def tensor_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """The size of a tensor in bytes; raises ValueError for an unknown dtype, a huge shape or a fraction of a byte."""
    if dtype not in SAFETENSORS_BITS:
        raise ValueError(f"dtype {dtype!r} is unknown")
    if prod(size or 1 for size in shape) >= 2**63:
        raise ValueError(f"a shape of {len(shape)} axes has 2^63 values or more")
    nbytes, rest = divmod(prod(shape) * SAFETENSORS_BITS[dtype], 8)
    if rest:
        raise ValueError(f"shape {list(shape)} in {dtype} ends within a byte")
    return nbytes


def _natural(digits: str) -> int:
    if digits.startswith("-") or len(digits) > 20:
        raise ValueError(f"{digits[:24]} is not a natural number below 2^63")
    return int(digits)


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs of a JSON object as a dict, for `json.loads`.

    Raises ValueError for a repeated key and for strings that are not valid Unicode.
    """
    found = dict(pairs)
    for key, value in pairs:
        f"{key}{value if isinstance(value, str) else ''}".encode()  # raises ValueError for a lone surrogate
    if len(found) != len(pairs):
        raise ValueError("the header has a repeated key")
    return found


def _validated(parsed: Any, *, start: int, size: int) -> Header:
    if not isinstance(parsed, dict):
        raise ValueError("the header is not a JSON object")
    metadata = parsed.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("__metadata__ is not a mapping of strings to strings")
    entries = sorted((_entry(name, value, start) for name, value in parsed.items()), key=_file_order)
    position = start
    for entry in entries:
        if entry.start != position:
            raise ValueError(f"{entry.name!r} starts at byte {entry.start}, expected {position}")
        position += entry.nbytes
    if position != size:
        raise ValueError(f"the header describes {position} bytes, the file has {size}")
    return Header(metadata, {entry.name: entry for entry in entries})


def _entry(name: str, value: Any, start: int) -> Entry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} has no dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not _is_naturals(shape) or not _is_naturals(offsets) or len(offsets) != 2:
        raise ValueError(f"{name!r} has a shape or offsets that are not lists of natural numbers")
    if not isinstance(dtype, str):
        raise ValueError(f"{name!r} has a dtype that is not a string")
    nbytes = tensor_bytes(dtype, tuple(shape))
    if offsets[1] - offsets[0] != nbytes:
        raise ValueError(f"{name!r} of shape {shape} in {dtype} needs {nbytes} bytes, has {offsets}")
    return Entry(name, dtype, tuple(shape), start + offsets[0], nbytes)


def _is_naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _file_order(entry: Entry) -> tuple[int, int]:
    return entry.start, entry.nbytes
