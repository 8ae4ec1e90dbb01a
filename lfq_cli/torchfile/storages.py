"""Persistent ids: how a pickle names the storages in its file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lfq_cli.dtypes import TORCH_BYTES
from lfq_cli.torchfile.values import BrokenError, Global, Storage, dtype_name

_TYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "QUInt8Storage": "quint8",
    "QInt8Storage": "qint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
    "UntypedStorage": "uint8",
}
"""Class of a storage, in any module -> torch's name of its dtype. Source: torch/storage.py."""


class Storages:
    """The storages that a pickle names, by key; as in torch, the first mention of a key counts."""

    def __init__(self) -> None:
        self.by_key: dict[str, Storage] = {}

    def find(self, identifier: Any) -> Any:
        """What a persistent id stands for.

        It is ("storage", class, key, location, elements). In the format before torch 1.6, (key, offset, elements) of a
        part of the storage, or None, follows; ("module", class, source file, source) occurs there as well.
        """
        if not isinstance(identifier, tuple) or len(identifier) < 2:
            raise BrokenError("a persistent id in its pickle is not a tuple")
        if identifier[0] == "module":
            return identifier[1]
        if identifier[0] != "storage" or len(identifier) not in (5, 6):
            raise BrokenError("a persistent id in its pickle names no storage")
        _, storage_class, key, _, elements = identifier[:5]
        whole = self.by_key.get(key) if type(key) is str else None
        if whole is None:
            whole = _storage(storage_class, key, elements)
            self.by_key[whole.key] = whole
        part = identifier[5] if len(identifier) == 6 else None
        return whole if part is None else _part(whole, part)


def _storage(storage_class: Any, key: Any, elements: Any) -> Storage:
    if not isinstance(storage_class, Global) or storage_class.name not in _TYPES:
        raise BrokenError("a storage in its pickle has an unknown class")
    if type(key) is not str or not _is_count(elements):
        raise BrokenError("a storage in its pickle has no key, or no number of elements")
    dtype = dtype_name(_TYPES[storage_class.name])
    return Storage(key, dtype, elements * TORCH_BYTES[dtype])


def _part(whole: Storage, part: Any) -> Storage:
    if not isinstance(part, tuple) or len(part) != 3 or not _is_count(part[1]) or not _is_count(part[2]):
        raise BrokenError("a part of a storage in its pickle is invalid")
    start, nbytes = part[1] * TORCH_BYTES[whole.dtype], part[2] * TORCH_BYTES[whole.dtype]
    if start + nbytes > whole.nbytes:
        raise BrokenError(f"a part of storage {whole.key!r} lies outside it")
    return replace(whole, start=start, nbytes=nbytes)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63
