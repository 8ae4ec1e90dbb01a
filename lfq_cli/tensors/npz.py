"""The arrays of a .npz file. Stored members are read in place, compressed ones as a stream."""

from __future__ import annotations

import zipfile
from typing import IO, Any

import numpy as np

from lfq_cli.errors import TensorError
from lfq_cli.regions import FileRegion, InputFile, Region
from lfq_cli.signatures import unreadable
from lfq_cli.tensors.npy import check_size, dtype_name, is_known, read_array_header, reordered
from lfq_cli.tensors.source import Source, StoredTensor
from lfq_cli.zipread import BROKEN, member_start

MAX_REORDERED_BYTES = 1 << 30
"""The limit for a compressed array whose bytes are not in C order, since it has to be held in memory."""

_SKIPPED_BYTES = 1 << 20


class MemberRegion:
    """The data of a compressed member, read once, from first byte to last."""

    seekable = False

    def __init__(self, member: IO[bytes], where: str) -> None:
        self._member = member
        self._where = where
        self._position = 0

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fills `view`; `offset` must not be before the end of the last call. Bytes in between are read and dropped."""
        if offset < self._position:
            raise ValueError(f"{self._where} is read out of order")
        while self._position < offset:
            self._read_next(memoryview(bytearray(min(offset - self._position, _SKIPPED_BYTES))))
        self._read_next(view)

    def _read_next(self, view: memoryview) -> None:
        self._position += len(view)
        try:
            while view:
                part = self._member.read(len(view))
                if not part:
                    raise TensorError(f"{self._where}: ends {len(view)} bytes early")
                view[: len(part)] = part
                view = view[len(part) :]
        except BROKEN as reason:
            raise TensorError(f"{self._where}: damaged: {reason}") from reason


def open_file(file: InputFile) -> Source:
    """Every array, in file order, by the member's name without ".npy"."""
    with file.closed_on_error():
        archive = _open_archive(file)
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        named = {info.filename.removesuffix(".npy"): _tensor(archive, info, file) for info in members}
        if len(named) != len(members):
            raise TensorError(f"{file.path}: holds two arrays of one name")
    tensors = {name: found for name, found in named.items() if isinstance(found, StoredTensor)}
    left_alone = {name: str(found) for name, found in named.items() if isinstance(found, np.dtype)}
    return Source(file.path, tensors, left_alone, close=file.close)


def _open_archive(file: InputFile) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file.file)  # does not close what it did not open
    except BROKEN as reason:
        raise unreadable(file, "an npz file", reason, TensorError) from reason
    except OSError as reason:
        raise file.refused(reason) from reason


def _tensor(archive: zipfile.ZipFile, info: zipfile.ZipInfo, file: InputFile) -> StoredTensor | np.dtype[Any]:
    """The member's array, or the dtype of one that is not a tensor: strings, objects."""
    name = info.filename.removesuffix(".npy")
    where = f"{file.path}: {name!r}"
    try:
        member = archive.open(info)
        shape, fortran_order, dtype = read_array_header(member, where)
    except BROKEN as reason:
        raise TensorError(f"{where}: damaged: {reason}") from reason
    if not is_known(dtype):
        return dtype
    header_bytes = member.tell()
    stored = info.compress_type == zipfile.ZIP_STORED
    if stored and (info.compress_size != info.file_size or info.file_size > file.size):
        raise TensorError(f"{where}: damaged: its size is not what the archive's directory says")
    check_size(where, shape, dtype, info.file_size - header_bytes)
    region: Region = MemberRegion(member, where)
    if info.compress_type == zipfile.ZIP_STORED:
        region = FileRegion(file, member_start(file, info) + header_bytes)
    if fortran_order or dtype.byteorder == ">":
        if info.compress_type != zipfile.ZIP_STORED and info.file_size > MAX_REORDERED_BYTES:
            raise TensorError(
                f"{where}: compressed, not in C order, and larger than {MAX_REORDERED_BYTES >> 30} GiB",
                "save it as .npy, or in C order",
            )
        data = bytearray(info.file_size - header_bytes)
        region.read_into(0, memoryview(data))
        region = reordered(bytes(data), shape, dtype, fortran_order)
    return StoredTensor(name, dtype_name(dtype, where), shape, region)
