"""The two formats of torch.save: where the pickle is, and where the bytes of each storage are.

Since torch 1.6 it is a zip archive with uncompressed members `NAME/data.pkl`, `NAME/data/KEY` and `NAME/byteorder`.
Before that, and with `_use_new_zipfile_serialization=False`, it is five pickles followed by the storages, each preceded
by its number of elements. Source: torch/serialization.py (_save, _legacy_save, _load, _legacy_load).
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lfq_cli.dtypes import TORCH_BYTES
from lfq_cli.errors import LfqError
from lfq_cli.regions import InputFile
from lfq_cli.signatures import unreadable
from lfq_cli.torchfile.machine import unpickle
from lfq_cli.torchfile.storages import Storages
from lfq_cli.torchfile.stream import Stream
from lfq_cli.torchfile.values import BrokenError
from lfq_cli.zipread import BROKEN, member_start

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
_PICKLE = "data.pkl"
_ZIP_START = b"PK\x03\x04"
_FIRST_BYTES = (b"P", b"\x80", b"L")
"""First bytes of a zip archive, and of the pickled magic number in protocols from 2 on and in 0 and 1."""
_ENCRYPTED = 1


@dataclass(frozen=True)
class Saved:
    """The value that was saved, and where the bytes of each storage are in the file."""

    value: Any
    starts: Mapping[str, int]
    is_big_endian: bool = False


def read_saved(file: InputFile, error: type[LfqError]) -> Saved:
    """The contents of the file. Raises `error` if torch.save did not write it, or if it is damaged."""
    try:
        members = _members(file)
        return _read_stream(file, error) if members is None else _read_archive(file, members, error)
    except BrokenError as reason:
        begins = file.read(0, min(file.size, 1)) in _FIRST_BYTES
        why = reason if begins else "it begins as neither a zip archive nor a pickle"
        raise unreadable(file, "a torch file", why, error) from reason
    except OSError as reason:
        raise file.refused(reason) from reason


def _read_archive(file: InputFile, members: Mapping[str, zipfile.ZipInfo], error: type[LfqError]) -> Saved:
    name = min((name for name in members if f"/{name}".endswith(f"/{_PICKLE}")), key=len, default=None)
    if name is None:
        raise error(f"{file.path}: a zip archive that torch.save did not write: no {_PICKLE} is in it")
    prefix = name.removesuffix(_PICKLE)
    if f"{prefix}constants.pkl" in members:
        raise error(
            f"{file.path}: a TorchScript archive: a program, with its weights as that program's objects",
            f"save its tensors: torch.save(torch.jit.load({file.path.name!r}).state_dict(), 'state.pt')",
        )
    pickle, storages = _stored(file, members[name], error), Storages()
    value = unpickle(Stream(file, pickle, pickle + members[name].file_size), storages.find)
    starts = {}
    for key, storage in storages.by_key.items():
        member = members.get(f"{prefix}data/{key}")
        if member is None or member.file_size < storage.nbytes:
            raise BrokenError(
                f"storage {key!r} has {member.file_size if member else 'no'} bytes, expected {storage.nbytes}"
            )
        starts[key] = _stored(file, member, error)
    return Saved(value, starts, _byte_order(file, members.get(f"{prefix}byteorder"), error) == b"big")


def _members(file: InputFile) -> dict[str, zipfile.ZipInfo] | None:
    """The members of a zip archive by name; None if the file does not begin like one, which is also torch's test."""
    if file.read(0, min(file.size, len(_ZIP_START))) != _ZIP_START:
        return None
    try:
        return {info.filename: info for info in zipfile.ZipFile(file.file).infolist()}
    except BROKEN as reason:
        raise BrokenError(f"its archive's directory is damaged ({reason})") from reason


def _stored(file: InputFile, member: zipfile.ZipInfo, error: type[LfqError]) -> int:
    """Where a member's bytes begin. Raises `error` if they are not stored uncompressed inside the file."""
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & _ENCRYPTED:
        raise error(
            f"{file.path}: its records are compressed", "save it again with torch.save, which does not compress"
        )
    if member.header_offset + 30 > file.size:
        raise BrokenError(f"{member.filename!r} lies behind its end")
    start = member_start(file, member)
    if start + member.file_size > file.size:
        raise BrokenError(f"{member.filename!r} has {member.file_size} bytes from byte {start}, the file {file.size}")
    return start


def _byte_order(file: InputFile, member: zipfile.ZipInfo | None, error: type[LfqError]) -> bytes:
    if member is None:
        return b"little"
    order = file.read(_stored(file, member, error), min(member.file_size, len(b"little")))
    if order not in (b"little", b"big"):
        raise BrokenError(f"its byte order is {order!r}")
    return order


def _read_stream(file: InputFile, error: type[LfqError]) -> Saved:
    stream, storages = Stream(file, 0, file.size), Storages()
    if unpickle(stream, storages.find) != MAGIC_NUMBER:
        raise error(
            f"{file.path}: a pickle that torch.save did not write",
            "lfq runs no code from files; save tensors with torch.save or as .safetensors",
        )
    if unpickle(stream, storages.find) != PROTOCOL_VERSION:
        raise BrokenError(f"its version is not {PROTOCOL_VERSION}")
    unpickle(stream, storages.find)  # of the machine that wrote it; storages are always little-endian
    value = unpickle(stream, storages.find)
    keys = unpickle(stream, storages.find)
    if not isinstance(keys, list) or not all(type(key) is str for key in keys):
        raise BrokenError("its list of storages is invalid")
    return Saved(value, _starts(stream, keys, storages))


def _starts(stream: Stream, keys: list[str], storages: Storages) -> dict[str, int]:
    """Where each storage begins: after its number of elements."""
    starts = {}
    for key in keys:
        storage = storages.by_key.get(key)
        if storage is None:
            raise BrokenError(f"storage {key!r} belongs to no tensor")
        elements = stream.number(8)
        if elements * TORCH_BYTES[storage.dtype] != storage.nbytes:
            raise BrokenError(f"storage {key!r} has {elements} elements, its tensors expect another number")
        starts[key] = stream.position
        stream.skip(storage.nbytes)
    missing = storages.by_key.keys() - starts.keys()
    if missing:
        raise BrokenError(f"storage {min(missing)!r} is not there")
    return starts
