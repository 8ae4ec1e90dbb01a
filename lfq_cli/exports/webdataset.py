"""`webdataset`: tar shards of KEY.npy and KEY.cls, as webdataset and Energon read them.

A dot in a member's name ends its key, so keys with dots could collide: dots, and characters that a path cannot hold,
are written as %2E and so on, as in a URL. Source: github.com/webdataset/webdataset, README, "The WebDataset Format".
"""

from __future__ import annotations

import io
import re
import tarfile
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from lfq_cli.exports.format import Format, Part

_BUFFER_BYTES = 1 << 20
_CHECKSUM = 48
"""Where a header has its checksum, counted from the end of the name."""
_EMPTY_STEP = re.compile(r"^/+|/+$|/{2,}")


def member_name(key: str) -> str:
    """The key as the name of a member: without dots, control characters, or slashes that do not separate two names.

    `urllib.parse.unquote` restores the key, so no two keys have the same name.
    """
    name = quote(key, safe="/ !#$&'()+,;=@[]^_`{}~-").replace(".", "%2E")
    return _EMPTY_STEP.sub(lambda found: "%2F" * len(found[0]), name)


def write(part: Part, folder: Path, stem: str) -> None:
    """STEM.tar: for each sample its ids as .npy and its label as .cls."""
    with (folder / f"{stem}.tar").open("xb", buffering=_BUFFER_BYTES) as archive:
        for rows in part.rows():
            for k, (key, ids) in enumerate(zip(rows.keys, rows.ids, strict=True)):
                name = member_name(key)
                archive.write(_member(f"{name}.npy", _npy_header(ids.dtype, ids.shape) + ids.tobytes()))
                if rows.labels is not None:
                    archive.write(_member(f"{name}.cls", str(int(rows.labels[k])).encode()))
        archive.write(bytes(2 * tarfile.BLOCKSIZE))
        archive.write(bytes(-archive.tell() % tarfile.RECORDSIZE))


def _member(name: str, data: bytes) -> bytes:
    """A member of an archive: the bytes that tarfile writes, six times as fast."""
    return _header(name, len(data)) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _header(name: str, size: int) -> bytes:
    """A header for an ASCII name; all other fields depend only on the size."""
    if len(name) > tarfile.LENGTH_NAME:
        return _plain_header(name, size)
    other, checksum = _other_fields(size)
    letters = name.encode("ascii")
    field = b"%06o\0 " % (checksum + sum(letters))
    return letters.ljust(tarfile.LENGTH_NAME, b"\0") + other[:_CHECKSUM] + field + other[_CHECKSUM + len(field) :]


def _plain_header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.PAX_FORMAT)


@lru_cache(maxsize=1024)
def _other_fields(size: int) -> tuple[bytes, int]:
    """(the header after the name, checksum of a header without a name)."""
    header = _plain_header("", size)
    place = tarfile.LENGTH_NAME + _CHECKSUM
    return header[tarfile.LENGTH_NAME :], int(header[place : place + 6], 8)


@lru_cache(maxsize=1024)
def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """What precedes an array's bytes in a .npy, as np.save writes it."""
    head = io.BytesIO()
    facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, facts)
    return head.getvalue()


FORMAT = Format(
    write,
    ("int32", "int64", "uint16", "uint32"),
    readers="webdataset",
    shards=".tar",
    samples_per_file=10_000,
)
